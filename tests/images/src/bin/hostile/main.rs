//! Every hypercall with every hostile argument, by a domain without authority and by one with all of it.
//!
//! Made from the declarations: each argument in turn takes every value that its kind makes interesting, then all arguments
//! at random (boot line: `rounds=` for each call, `seed=`). The core must answer with a declared error, or carry out what the
//! caller may ask for; a refused call must have changed nothing.
#![cfg_attr(freestanding, no_std, no_main)]
#![forbid(unsafe_code)]

extern crate alloc;

mod stage;
mod values;

use alloc::format;
use alloc::vec::Vec;

use protocol::answer::decode;
use protocol::declaration::{COUNT, DECLARATIONS, Declaration, Kind};
use protocol::error::Error;
use test_images::random::Random;
use test_images::{Outcome, number, verdict};
use unikernel::Domain;

use stage::{Authority, Silence, Stage};
use values::{Value, usual, values};

/// Most slices of a long call.
const SLICES: u32 = 10_000;

unikernel::main!(start);

async fn start(domain: Domain) {
    let outcome = hostile(number(&domain, "rounds", 20), number(&domain, "seed", 1)).await;
    verdict::conclude(&domain, "hostile", outcome);
}

async fn hostile(rounds: u64, seed: u64) -> Outcome {
    let mut random = Random::new(seed);
    for authority in [Authority::None, Authority::All] {
        let mut stage = Stage::set(authority).await?;
        for declaration in DECLARATIONS {
            one_at_a_time(&mut stage, declaration).await?;
            for _ in 0..rounds {
                at_random(&mut stage, declaration, &mut random).await?;
            }
        }
        unknown_numbers(&mut stage).await?;
        log::info!("hostile: {} calls with authority {authority:?}, {} stages", stage.calls, stage.settings);
        stage.strike().await?;
    }
    Ok(())
}

/// Each argument takes each of its values while the others are as they should be.
async fn one_at_a_time(stage: &mut Stage, declaration: &Declaration) -> Outcome {
    let kinds: Vec<Kind> = declaration.arguments.iter().map(|(_, kind, _)| *kind).collect();
    // The other arguments name each domain in turn: itself, a running one, one in building.
    let of_domain = |kind| matches!(kind, Kind::Domain | Kind::AnyDomain | Kind::Live | Kind::Other | Kind::Building);
    let scenes = if kinds.iter().copied().any(of_domain) { 3 } else { 1 };
    for scene in 0..scenes {
        if kinds.is_empty() {
            attempt(stage, declaration, &[]).await?;
        }
        for (position, kind) in kinds.iter().enumerate() {
            for value in 0..values(*kind, &stage.given).len() {
                // Handles change when the stage is set anew, so the values are asked for each time.
                let mut arguments: Vec<Value> = kinds.iter().map(|kind| usual(*kind, &stage.given, scene)).collect();
                if let Some(value) = values(*kind, &stage.given).get(value) {
                    arguments[position] = *value;
                    attempt(stage, declaration, &arguments).await?;
                }
            }
        }
    }
    Ok(())
}

async fn at_random(stage: &mut Stage, declaration: &Declaration, random: &mut Random) -> Outcome {
    let mut arguments = Vec::new();
    for (_, kind, _) in declaration.arguments {
        arguments.push(*random.pick(&values(*kind, &stage.given)));
    }
    attempt(stage, declaration, &arguments).await
}

async fn unknown_numbers(stage: &mut Stage) -> Outcome {
    for number in [COUNT as u64, COUNT as u64 + 1, 1 << 31, 1 << 32, 1 << 63, u64::MAX] {
        let before = stage.state()?;
        let result = stage.call(number, &[Value::fine(0); 5]);
        match result.map(|answer| decode(answer.result)) {
            Ok(Err(Error::NoSuchCall)) if stage.state()? == before => {}
            other => return Err(format!("call {number:#x}, which does not exist, gave {other:?}")),
        }
    }
    Ok(())
}

/// Makes one call and judges what came of it.
async fn attempt(stage: &mut Stage, declaration: &Declaration, arguments: &[Value]) -> Outcome {
    stage.paint();
    let before = stage.state()?;
    let mut answer = stage.call(declaration.number, arguments);
    let mut slices = 0;
    // A long call is not refused by `Again`: its caller repeats it.
    while answer.is_ok_and(|answer| decode(answer.result) == Err(Error::Again)) && slices < SLICES {
        answer = stage.call(declaration.number, arguments);
        slices += 1;
    }
    let wrong = |text: &str| {
        let numbers: Vec<_> = arguments.iter().map(|value| value.number).collect();
        Err(format!("{}{numbers:x?}: {text}", declaration.name))
    };
    let result = match answer {
        Ok(answer) if answer.left_over != 0 => return wrong(&format!("left {:#x} in registers", answer.left_over)),
        Ok(answer) => decode(answer.result),
        Err(silence) if may_be_silent(declaration.name, silence) => return stage.reset().await,
        Err(silence) => return wrong(&format!("does not return ({silence:?})")),
    };
    let after = stage.state()?;
    match result {
        Err(error) if !declared(declaration, error) => wrong(&format!("gives {error:?}, which is not declared")),
        Err(_) if after != before => wrong(&format!("was refused, but something changed: {before:?} {after:?}")),
        Err(_) if !stage.is_painted() => wrong("was refused, but memory of the caller changed"),
        Err(_) => Ok(()),
        Ok(value) if refusal_due(declaration, arguments) => wrong(&format!("must be refused, but gives {value:#x}")),
        Ok(_) if after == before => Ok(()),
        Ok(value) if stage.authority == Authority::None && after.others != before.others => {
            wrong(&format!("gives {value:#x}, and changed others without authority: {before:?} {after:?}"))
        }
        Ok(_) => stage.reset().await,
    }
}

fn declared(declaration: &Declaration, error: Error) -> bool {
    declaration.errors.contains(&error)
        || declaration.arguments.iter().any(|(_, kind, _)| kind.errors().contains(&error))
}

/// Whether an argument makes every outcome but an error wrong. A pointer is not looked at if nothing lies behind it.
fn refusal_due(declaration: &Declaration, arguments: &[Value]) -> bool {
    let kinds = || declaration.arguments.iter().map(|(_, kind, _)| *kind);
    let empty = kinds().zip(arguments).any(|(kind, value)| kind == Kind::Length && value.number == 0);
    let pointer = |kind| matches!(kind, Kind::Read | Kind::Write | Kind::ReadWrite);
    kinds().zip(arguments).any(|(kind, value)| value.bad && !(empty && pointer(kind)))
}

fn may_be_silent(call: &str, silence: Silence) -> bool {
    match silence {
        Silence::Waits => call == "event_wait",
        Silence::Paused => call == "domain_pause",
        Silence::Ended => call == "domain_exit",
        // It took its own code away.
        Silence::Faulted => call == "memory_release",
        Silence::Gone => matches!(call, "domain_destroy" | "domain_reset"),
        Silence::Runs => false,
    }
}
