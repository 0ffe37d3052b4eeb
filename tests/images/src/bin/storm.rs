//! Several control planes at work at once, each over several pairs of actors; and this one above them, which pauses them.
//!
//! Boot line: `seconds=` (300), `seed=`, `directors=` (3), `pairs=` of each (2). Afterwards everything must be as it was.
#![cfg_attr(freestanding, no_std, no_main)]
#![forbid(unsafe_code)]

extern crate alloc;

use core::time::Duration;

use alloc::format;
use alloc::vec::Vec;
use dom0::bundle::Bundle;
use dom0::image::Image;
use protocol::domain::{Reason, State};
use protocol::grant::ENTRIES_PER_PAGE;
use protocol::handle::{Handle, Rights};
use protocol::layout::PAGE_SIZE;
use protocol::ring::Shared;
use test_images::child::{Child, Fuse, spec, to_the_end};
use test_images::pair::obituary;
use test_images::random::Random;
use test_images::resources::Resources;
use test_images::{Context, Outcome, image, number, verdict};
use unikernel::grant::{Access, Granted};
use unikernel::pages::Page;
use unikernel::{Domain, time};

/// Memory of a director: 8 MiB; the image of the actors is in it.
const MEMORY_PAGES: u64 = 2048;
/// Weight of a director: the storm is what it does, not what the actors do meanwhile.
const WEIGHT: u32 = 16 * protocol::domain::DEFAULT_WEIGHT;
/// Time for the directors to take everything apart after the storm.
const CALM: Duration = Duration::from_secs(60);
/// Between two lines of progress.
const REPORT: Duration = Duration::from_secs(10);

/// Where the header of an ELF file says where its section table lies, and how long it is (ELF-64, figure 2).
const ELF_SECTION_OFFSET: core::ops::Range<usize> = 40..48;
const ELF_SECTION_COUNT: core::ops::Range<usize> = 60..64;

unikernel::main!(start);

async fn start(domain: Domain) {
    let outcome = storm(&domain).await;
    verdict::conclude(&domain, "storm", outcome);
}

async fn storm(domain: &Domain) -> Outcome {
    let span = Duration::from_secs(number(domain, "seconds", 300));
    let seed = number(domain, "seed", 1);
    let count = number(domain, "directors", 3);
    let bundle = Bundle::new(unikernel::start::bundle())?;
    let actor = &loadable(bundle.file("images/actor").ok_or("no image actor in the bundle")?)?;
    // Once for the tables of this domain, without counting.
    let trial = alloc::vec![Director::start(domain, actor, seed, Duration::ZERO)?];
    finish(trial, CALM).await?;

    let before = Resources::now()?;
    log::info!("storm: {count} directors for {} s with seed {seed}", span.as_secs());
    let mut directors = Vec::new();
    for index in 0..count {
        directors.push(Director::start(domain, actor, seed + index, span)?);
    }
    let mut random = Random::new(seed);
    let end = time::after(span);
    let mut next_report = time::after(REPORT);
    while time::now() < end {
        let handle = random.pick(&directors).child.handle;
        to_the_end(|| handle.pause()).context("domain_pause of a director")?;
        time::sleep(Duration::from_micros(random.below(5000))).await;
        handle.unpause().context("domain_unpause of a director")?;
        for director in &directors {
            director.check()?;
        }
        if time::now() >= next_report {
            next_report = time::after(REPORT);
            log::info!("storm: {:?}", Resources::now()?);
        }
        time::sleep(Duration::from_millis(20)).await;
    }
    finish(directors, CALM).await?;
    before.returned("after the storm").await
}

struct Director {
    child: Child,
    /// The image of the actors, granted to it.
    _pages: Vec<Granted>,
}

impl Director {
    fn start(domain: &Domain, actor: &[u8], seed: u64, span: Duration) -> Outcome<Director> {
        let fuse = &mut Fuse::new(u64::MAX);
        let failed = |stop| format!("starting a director: {stop:?}");
        let mut spec = spec("director", MEMORY_PAGES);
        spec.schedule.weight = WEIGHT;
        let child = Child::create(&spec, fuse).map_err(failed)?;
        child.handle.give(Handle::SYSTEM, Rights::all()).context("handle_copy")?;
        let pages = grant(actor, child.created.id)?;
        let (seconds, pairs) = (span.as_secs(), number(domain, "pairs", 2));
        let first = pages.first().map_or(0, Granted::reference);
        let in_order = pages.iter().zip(first..).all(|(page, reference)| page.reference() == reference);
        if !in_order {
            return Err("the grants of the image are not in order".into());
        }
        let line = format!("seconds={seconds} seed={seed} pairs={pairs} first={first} bytes={}", actor.len());
        let image = image("director")?;
        child.load(&image, &line, fuse).map_err(failed)?;
        child.start(&image, fuse).map_err(failed)?;
        Ok(Director { child, _pages: pages })
    }

    /// An error if it has died of anything but the end of its time.
    fn check(&self) -> Outcome<bool> {
        let info = self.child.handle.info().context("domain_info of a director")?;
        if info.state != State::Dead as u32 {
            return Ok(false);
        }
        if info.reason == Reason::Shutdown as u32 {
            Ok(true)
        } else {
            Err(format!("a director {}", obituary(&self.child)))
        }
    }
}

/// The front of an image file, without what is behind its last segment and only for debuggers.
fn loadable(file: &[u8]) -> Outcome<Vec<u8>> {
    let start = file.as_ptr() as usize;
    let image = Image::parse(file)?;
    let end = image.segments.iter().map(|segment| segment.bytes.as_ptr() as usize + segment.bytes.len()).max();
    let mut front = file.get(..end.unwrap_or(start) - start).ok_or("an image ends before its segments")?.to_vec();
    for field in [ELF_SECTION_OFFSET, ELF_SECTION_COUNT] {
        front.get_mut(field).ok_or("an image without a header")?.fill(0);
    }
    Ok(front)
}

/// Grants `bytes` to a peer, page by page.
fn grant(bytes: &[u8], peer: u16) -> Outcome<Vec<Granted>> {
    if bytes.len().div_ceil(PAGE_SIZE as usize) > ENTRIES_PER_PAGE / 4 {
        return Err("the image of the actors is too large to be granted to all directors".into());
    }
    let parts = bytes.chunks(PAGE_SIZE as usize);
    let page = |part: &[u8]| {
        let page = Page::new().context("a page")?;
        page.area().write(0, part);
        Granted::new(page, peer, Access::Read).context("a grant")
    };
    parts.map(page).collect()
}

/// Waits until all have ended by themselves, and takes them apart.
async fn finish(directors: Vec<Director>, limit: Duration) -> Outcome {
    let deadline = time::after(limit);
    for director in directors {
        while !director.check()? {
            if time::now() >= deadline {
                return Err(format!("a director does not end: {:?}", director.child.handle.info()));
            }
            time::sleep(Duration::from_millis(10)).await;
        }
        director.child.destroy()?;
    }
    Ok(())
}
