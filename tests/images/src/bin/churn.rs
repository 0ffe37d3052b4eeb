//! Makes and destroys `hello` over and over; a third of the times at a random point of making it.
//!
//! Boot line: `count=` domains (10000), `seed=`. Afterwards memory, handles and ports must be exactly what they were before.
#![cfg_attr(freestanding, no_std, no_main)]
#![forbid(unsafe_code)]

extern crate alloc;

use alloc::format;
use core::time::Duration;

use dom0::image::Image;
use test_images::child::{Child, Fuse, MEMORY_PAGES, Stop, spec};
use test_images::random::Random;
use test_images::resources::Resources;
use test_images::{Context, Outcome, image, number, verdict};
use unikernel::{Domain, time};

/// Rounds before the count begins: this domain's own tables have their final size then.
const WARM_UP: u64 = 20;
/// How long a child may take to its first instruction.
const START_TIME: Duration = Duration::from_secs(10);
/// Rounds between two lines of progress.
const REPORT: u64 = 1000;

/// How far the children came.
#[derive(Default)]
struct Tally {
    whole: u64,
    cut_short: u64,
}

unikernel::main!(start);

async fn start(domain: Domain) {
    let outcome = churn(number(&domain, "count", 10_000), number(&domain, "seed", 1)).await;
    verdict::conclude(&domain, "churn", outcome);
}

async fn churn(count: u64, seed: u64) -> Outcome {
    let image = image("hello")?;
    let mut random = Random::new(seed);
    let mut tally = Tally::default();
    let steps = steps(&image).await?;
    log::info!("churn: {count} domains with seed {seed}; making one takes {steps} steps");
    for _ in 0..WARM_UP {
        round(&image, &mut random, steps, &mut tally).await?;
    }
    let before = Resources::now()?;
    for done in 1..=count {
        round(&image, &mut random, steps, &mut tally).await.context(&format!("domain {done}"))?;
        if done % REPORT == 0 {
            before.returned(&format!("after {done} domains")).await?;
            log::info!("churn: {done} domains, {} whole, {} cut short", tally.whole, tally.cut_short);
        }
    }
    before.returned("at the end").await
}

/// Steps that making one child takes.
async fn steps(image: &Image<'_>) -> Outcome<u64> {
    let mut fuse = Fuse::new(u64::MAX);
    let child = make(image, &mut fuse).1;
    child.ok_or("no child was made")?.destroy()?;
    Ok(fuse.done())
}

async fn round(image: &Image<'_>, random: &mut Random, steps: u64, tally: &mut Tally) -> Outcome {
    let cut_short = random.once_in(3);
    let limit = if cut_short { random.below(steps) } else { u64::MAX };
    let (stop, child) = make(image, &mut Fuse::new(limit));
    match stop {
        Err(Stop::Failed(error)) => return Err(error),
        Err(Stop::Burnt) => tally.cut_short += 1,
        Ok(()) => tally.whole += 1,
    }
    let Some(child) = child else { return Ok(()) };
    if !cut_short {
        // Some are destroyed before they run, some while they do, some when they have long been waiting.
        match random.below(3) {
            0 => {}
            1 => runs(&child).await?,
            _ => {
                runs(&child).await?;
                time::sleep(Duration::from_micros(random.below(3000))).await;
            }
        }
    }
    child.destroy()
}

/// Makes a child as far as the fuse allows.
fn make(image: &Image<'_>, fuse: &mut Fuse) -> (Result<(), Stop>, Option<Child>) {
    let mut child = match Child::create(&spec("hello", MEMORY_PAGES), fuse) {
        Ok(child) => child,
        Err(stop) => return (Err(stop), None),
    };
    let made = child
        .map_rings(fuse)
        .and_then(|()| child.connect(fuse))
        .and_then(|()| child.load(image, "", fuse))
        .and_then(|()| child.start(image, fuse));
    (made, Some(child))
}

async fn runs(child: &Child) -> Outcome {
    let deadline = time::after(START_TIME);
    while child.handle.info().context("domain_info")?.first_run_tsc == 0 {
        if time::now() >= deadline {
            return Err("a started domain does not run".into());
        }
        time::sleep(Duration::from_micros(100)).await;
    }
    Ok(())
}
