//! The mapper's side: pages of peers in the grant window.

use heapless::Vec;
use protocol::answer::decode;
use protocol::error::{Error, Result};
use protocol::grant::{GrantRef, MAX_BATCH, MapElement, UnmapElement};
use protocol::layout::{GRANT_WINDOW, GRANT_WINDOW_END, PAGE_SIZE};

use super::Access;
use crate::area::{Area, shared_by_area};
use crate::hypercall::{raw, to_the_end};
use crate::index::Indexes;
use crate::vcpu::Mutex;

/// Places in the window, each for one page. The core bounds how many are in use.
static PLACES: Mutex<Indexes> = Mutex::new(Indexes::new(((GRANT_WINDOW_END - GRANT_WINDOW) / PAGE_SIZE) as u32));

/// A page to map: whose, and what they call it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Source {
    /// Index in the caller's peer table.
    pub peer: u16,
    /// The peer's reference.
    pub reference: GrantRef,
}

/// A peer's page, mapped until this is dropped. It stays readable even when the peer is gone.
#[derive(Debug)]
pub struct Mapped {
    area: Area,
    place: u32,
    mapping: u32,
    device_address: u64,
}

impl Mapped {
    /// Its memory.
    #[inline(always)]
    pub fn area(&self) -> &Area {
        // SAFETY: made so in `finish`.
        unsafe { self.area.known_page() }
    }

    /// The address a device of this domain uses for it.
    pub fn device_address(&self) -> u64 {
        self.device_address
    }
}

shared_by_area!(Mapped);

impl Drop for Mapped {
    fn drop(&mut self) {
        unmap(&[(self.mapping, self.place)]);
    }
}

/// Maps one page.
pub fn map(source: Source, access: Access) -> Result<Mapped> {
    let mut elements = [request(source, access)?];
    let called = call(&mut elements);
    called.and(finish(&elements[0]))
}

/// Maps up to [`MAX_BATCH`] pages by one hypercall; each has its own result.
pub fn map_batch(sources: &[Source], access: Access) -> Result<alloc::vec::Vec<Result<Mapped>>> {
    let mut elements = Vec::<MapElement, MAX_BATCH>::new();
    if sources.len() > MAX_BATCH {
        return Err(Error::TooBig);
    }
    for &source in sources {
        let Ok(element) = request(source, access) else { break };
        // It fits: there are no more than MAX_BATCH.
        let _ = elements.push(element);
    }
    let called = call(&mut elements);
    let mut results = alloc::vec::Vec::with_capacity(sources.len());
    results.extend(elements.iter().map(|element| called.and(finish(element))));
    results.resize_with(sources.len(), || Err(Error::TableFull));
    Ok(results)
}

/// The element for a page, with a place for it.
fn request(source: Source, access: Access) -> Result<MapElement> {
    let place = PLACES.lock().take().ok_or(Error::TableFull)?;
    Ok(MapElement {
        peer: source.peer,
        flags: access.flags(),
        reference: source.reference,
        address: address(place),
        device_address: 0,
        mapping: 0,
        // Stays if the core does not come to this element.
        status: -(Error::Invalid as i32),
    })
}

fn call(elements: &mut [MapElement]) -> Result {
    // SAFETY: the elements live until the call returns; the places are used by nobody.
    to_the_end(|| unsafe { raw::grant_map(elements.as_mut_ptr() as u64, elements.len() as u64) })
}

/// The outcome of one element.
fn finish(element: &MapElement) -> Result<Mapped> {
    let place = ((element.address - GRANT_WINDOW) / PAGE_SIZE) as u32;
    if let Err(error) = decode(i64::from(element.status) as u64) {
        PLACES.lock().give_back(place);
        return Err(error);
    }
    // SAFETY: the core has mapped the page there until it is unmapped, which is when this is dropped; nothing else is there.
    let area = unsafe { Area::page(element.address) };
    Ok(Mapped { area, place, mapping: element.mapping, device_address: element.device_address })
}

/// Unmaps pages by as few hypercalls as possible.
pub fn unmap_batch(pages: impl IntoIterator<Item = Mapped>) {
    let mut batch = Vec::<(u32, u32), MAX_BATCH>::new();
    for page in pages {
        let page = core::mem::ManuallyDrop::new(page);
        if batch.is_full() {
            unmap(&batch);
            batch.clear();
        }
        // There is room.
        let _ = batch.push((page.mapping, page.place));
    }
    unmap(&batch);
}

/// Unmaps (mapping, place) pairs, at most [`MAX_BATCH`].
fn unmap(pairs: &[(u32, u32)]) {
    if pairs.is_empty() {
        return;
    }
    let mut elements: Vec<UnmapElement, MAX_BATCH> =
        pairs.iter().map(|&(mapping, _)| UnmapElement { mapping, status: -(Error::Invalid as i32) }).collect();
    // SAFETY: the elements live until the call returns; nobody uses the pages any more: their owners are being dropped.
    let _ = to_the_end(|| unsafe { raw::grant_unmap(elements.as_mut_ptr() as u64, elements.len() as u64) });
    let mut places = PLACES.lock();
    for (element, &(_, place)) in elements.iter().zip(pairs) {
        // A page that could not be unmapped keeps its place, so that nothing else is put there.
        if element.status == 0 {
            places.give_back(place);
        }
    }
}

fn address(place: u32) -> u64 {
    GRANT_WINDOW + u64::from(place) * PAGE_SIZE
}
