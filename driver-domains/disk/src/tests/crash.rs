//! Death at every store: each request is answered exactly once, with what it has to read, and nobody is left asleep.

use std::format;
use std::rc::Rc;
use std::string::String;

use proptest::prelude::*;
use protocol::connection::{Guilty, KillPoint};
use protocol::control::{FromDomain, ToDomain};
use protocol::ring::block::Layout;

use super::frontend::{Domain, Frontend, start};
use super::world::{Dice, World};

struct Run {
    world: Rc<World>,
    dice: Dice,
    frontend: Frontend,
    left: u64,
    /// The domain has something to do, as far as it can know.
    awake: bool,
}

impl Run {
    fn new(seed: u64, requests: u64, pages: usize) -> Run {
        let world = World::new(200);
        let layout = if seed & 2 == 0 { Layout::X86_64 } else { Layout::X86_32 };
        let mut frontend = Frontend::new(&world, 1, pages).in_layout(layout);
        frontend.attach.persistent = seed % 2 == 1;
        Run { world, dice: Dice(seed), frontend, left: requests, awake: true }
    }

    /// A life of the domain, until its fuse has burnt, everything is done, or nobody moves any more.
    fn life(&mut self, stores: u64, kill: Option<(KillPoint, u32)>) -> Result<(), String> {
        self.world.fuse.set(stores);
        let mut domain = start(&self.world);
        if let Some((point, after)) = kill {
            domain.obey(ToDomain::ArmKill { point, after }, 0);
        }
        let answer = self.frontend.attach(&mut domain);
        if self.world.alive() && !matches!(answer, Some(FromDomain::BlockAttached { .. })) {
            return Err(format!("{answer:?}"));
        }
        self.awake = true;
        let outcome = self.steps(&mut domain);
        drop(domain);
        let crashed = !self.world.alive();
        self.world.bury(&mut self.dice);
        if crashed { Ok(()) } else { outcome }
    }

    fn steps(&mut self, domain: &mut Domain) -> Result<(), String> {
        // A bit of every side's work at random; in the end everybody who was told to.
        for step in 0..3000 {
            if !self.world.alive() {
                return Ok(());
            }
            match self.dice.roll(4) {
                0 if self.left > 0 && step < 1500 => {
                    for _ in 0..self.dice.roll(6).min(self.left) {
                        self.left -= 1;
                        self.frontend.ask(&mut self.dice);
                    }
                    self.awake |= self.frontend.publish();
                }
                1 => self.awake |= self.world.work(&mut self.dice),
                2 if self.frontend.was_notified() => self.frontend.listen()?,
                _ if self.awake => {
                    self.awake = domain.turn();
                    if self.world.alive()
                        && let Some((_, FromDomain::ConnectionBroken { reason, .. })) = domain.mail()
                    {
                        return Err(format!("broken: {reason}"));
                    }
                }
                _ => {}
            }
        }
        if self.frontend.open() > 0 {
            return Err(format!("{} requests are not answered, and everybody sleeps", self.frontend.open()));
        }
        self.frontend.check_disk()
    }
}

fn run(seed: u64, pages: usize, crashes: &[u64]) -> Result<u64, String> {
    let mut run = Run::new(seed, 60, pages);
    for &stores in crashes {
        run.life(stores, None)?;
        // Answers that were there when the domain died; a kick is due only to those it did not notify.
        if run.frontend.was_notified() {
            run.frontend.listen()?;
        }
    }
    run.life(u64::MAX, None)?;
    Ok(run.frontend.answered)
}

#[test]
fn without_a_crash_everything_is_answered() {
    for seed in 0..20 {
        assert!(run(seed, 1 + (seed as usize & 1), &[]).unwrap_or_else(|why| panic!("seed {seed}: {why}")) > 30);
    }
}

#[test]
fn a_crash_at_every_store_loses_doubles_and_reorders_nothing() {
    for seed in 0..4 {
        for stores in (0..700).step_by(3) {
            run(seed, 1, &[stores]).unwrap_or_else(|why| panic!("seed {seed}, crash at {stores}: {why}"));
        }
    }
}

#[test]
fn every_kill_point_is_passed_and_survived() {
    // The other two have tests of their own.
    let elsewhere = [KillPoint::DuringDetach, KillPoint::DamagedRecord];
    for point in KillPoint::ALL.into_iter().filter(|point| !elsewhere.contains(point)) {
        for after in 1..8 {
            let mut run = Run::new(u64::from(after) * 7 + point as u64, 60, 1);
            let before = run.world.resets.get();
            run.life(u64::MAX, Some((point, after))).unwrap_or_else(|why| panic!("{point:?} {after}: {why}"));
            assert_eq!(run.world.resets.get(), before);
            run.life(u64::MAX, None).unwrap_or_else(|why| panic!("{point:?} {after}: {why}"));
        }
    }
}

#[test]
fn a_kill_point_kills() {
    for point in [KillPoint::BeforeAttach, KillPoint::DuringDetach] {
        let world = World::new(200);
        let frontend = Frontend::new(&world, 0, 1);
        let mut domain = start(&world);
        domain.obey(ToDomain::ArmKill { point, after: 1 }, 0);
        frontend.attach(&mut domain);
        assert_eq!(world.alive(), point == KillPoint::DuringDetach);
        domain.obey(ToDomain::Detach { connection: 0 }, 0);
        assert!(!world.alive());
    }
}

#[test]
fn a_damaged_record_is_named_and_nothing_of_it_is_executed() {
    for after in 1..8 {
        let world = World::new(200);
        let (mut damaged, other) = (Frontend::new(&world, 0, 1), Frontend::new(&world, 1, 1));
        let mut domain = start(&world);
        damaged.attach(&mut domain);
        other.attach(&mut domain);
        domain.obey(ToDomain::ArmKill { point: KillPoint::DamagedRecord, after }, 0);
        let mut dice = Dice(after.into());
        (0..10).for_each(|_| damaged.ask(&mut dice));
        damaged.publish();
        while domain.turn() {}
        assert!(!world.alive());
        drop(domain);
        // What the device had before was said by requests that were whole.
        world.bury(&mut dice);
        let mut domain = start(&world);
        assert_eq!(damaged.is_refused(&mut domain), (0, Guilty::Backend));
        assert!(matches!(other.attach(&mut domain), Some(FromDomain::BlockAttached { replayed: 0, .. })));
        while domain.turn() {}
        assert!(world.submitted.borrow().is_empty());
        assert_eq!(domain.obey(ToDomain::Detach { connection: 0 }, 3), Some(FromDomain::Done));
        let again = Frontend::new(&world, 0, 1);
        assert!(matches!(again.attach(&mut domain), Some(FromDomain::BlockAttached { replayed: 0, .. })));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn many_crashes_in_a_row(seed: u64, pages in 0usize..2, crashes in prop::collection::vec(0u64..900, 0..6)) {
        prop_assert!(run(seed, 1 << pages, &crashes).is_ok_and(|answered| answered > 0), "{:?}", run(seed, 1 << pages, &crashes));
    }
}
