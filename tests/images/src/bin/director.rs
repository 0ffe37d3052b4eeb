//! A second control plane: makes pairs of actors, and pauses, shrinks, restarts and destroys them without end.
//!
//! It has the machine's handle from the first domain, and the image of the actors in pages that this one grants. Command
//! line: `seconds=`, `seed=`, `pairs=`; the image is `bytes=` long and begins with grant `first=`. It ends by itself with
//! code 0 if nothing went wrong.
#![cfg_attr(freestanding, no_std, no_main)]
#![forbid(unsafe_code)]

extern crate alloc;

use alloc::vec::Vec;
use core::time::Duration;

use dom0::image::Image;
use protocol::grant::PEER_DOM0;
use protocol::layout::PAGE_SIZE;
use protocol::ring::Shared;
use test_images::pair::{Pair, Tally};
use test_images::random::Random;
use test_images::{Context, Outcome, number};
use unikernel::grant::{Access, Source, map};
use unikernel::{Domain, exit, time};

unikernel::main!(start);

async fn start(domain: Domain) {
    match direct(&domain).await {
        Ok(tally) => {
            log::info!("{tally:?}");
            exit::shutdown(0)
        }
        Err(error) => panic!("{error}"),
    }
}

async fn direct(domain: &Domain) -> Outcome<Tally> {
    let mut random = Random::new(number(domain, "seed", 1));
    let bytes = fetch(number(domain, "first", 0) as u32, number(domain, "bytes", 0))?;
    let image = Image::parse(&bytes)?;
    let end = time::after(Duration::from_secs(number(domain, "seconds", 10)));
    let mut tally = Tally::default();
    let mut pairs = Vec::new();
    for _ in 0..number(domain, "pairs", 2) {
        pairs.push(Pair::make(&image, &mut random)?);
    }
    while time::now() < end {
        for pair in &mut pairs {
            pair.disturb(&image, &mut random, &mut tally).await?;
            pair.check()?;
        }
        time::sleep(Duration::from_micros(random.below(2000))).await;
    }
    pairs.into_iter().try_for_each(Pair::destroy)?;
    Ok(tally)
}

/// The image, from the pages that the first domain granted.
fn fetch(first: u32, bytes: u64) -> Outcome<Vec<u8>> {
    let mut image = alloc::vec![0; bytes as usize];
    for (index, part) in image.chunks_mut(PAGE_SIZE as usize).enumerate() {
        let source = Source { peer: PEER_DOM0, reference: first + index as u32 };
        map(source, Access::Read).context("mapping the image")?.read(0, part);
    }
    Ok(image)
}
