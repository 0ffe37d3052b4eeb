//! Pages of one frontend that stay mapped from one request to the next.
//!
//! A frontend that asks with the same pages again and again says so when it connects (Xen's `feature-persistent`); then mapping each of
//! them once is enough, until another one needs the place. Their number is fixed: no frontend takes places from another.

use alloc::vec::Vec;

use protocol::grant::GrantRef;
use unikernel::grant::DevicePage;

/// Pages kept for one connection: as many as a ring of one page has requests. `max_mappings` of the disk domain has room for
/// those of all connections.
pub const KEPT_MAX: usize = 32;

#[derive(Clone, Copy, Debug)]
struct Place {
    reference: GrantRef,
    page: DevicePage,
    /// Segments of requests under way that use it.
    users: u16,
}

/// The pages kept for a connection, each in the one place that its reference leads to.
#[derive(Debug, Default)]
pub struct Kept(Vec<Option<Place>>);

/// A page in use by a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Used {
    place: u8,
}

impl Kept {
    /// Places for pages, or none; `None` without memory for them.
    pub fn new(wanted: bool) -> Option<Kept> {
        let mut places = Vec::new();
        let count = if wanted { KEPT_MAX } else { 0 };
        places.try_reserve_exact(count).ok()?;
        places.resize(count, None);
        Some(Kept(places))
    }

    /// Whether the frontend wants pages to be kept.
    pub fn is_wanted(&self) -> bool {
        !self.0.is_empty()
    }

    /// Uses a page, if it is there; gives its device address too.
    pub fn find(&mut self, reference: GrantRef) -> Option<(Used, u64)> {
        let place = reference as usize % KEPT_MAX;
        let found = self.0.get_mut(place)?.as_mut().filter(|found| found.reference == reference)?;
        found.users += 1;
        Some((Used { place: place as u8 }, found.page.address))
    }

    /// Keeps and uses a page that was just mapped, unless one in use has its place. Gives also the mapping that it replaces.
    pub fn keep(&mut self, reference: GrantRef, page: DevicePage) -> Option<(Used, Option<u32>)> {
        let place = reference as usize % KEPT_MAX;
        let found = self.0.get_mut(place)?;
        if found.is_some_and(|found| found.users > 0) {
            return None;
        }
        let former = found.replace(Place { reference, page, users: 1 });
        Some((Used { place: place as u8 }, former.map(|former| former.page.mapping)))
    }

    /// A request does not use a page any more.
    pub fn release(&mut self, used: Used) {
        if let Some(Some(place)) = self.0.get_mut(usize::from(used.place)) {
            place.users -= 1;
        }
    }

    /// Forgets all pages; gives their mappings.
    pub fn drain(&mut self) -> impl Iterator<Item = u32> {
        self.0.iter_mut().filter_map(Option::take).map(|place| place.page.mapping)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(mapping: u32) -> DevicePage {
        DevicePage { address: u64::from(mapping) << 12, mapping }
    }

    #[test]
    fn a_page_in_use_is_not_replaced() {
        let mut kept = Kept::new(true).unwrap();
        let other = 7 + KEPT_MAX as GrantRef;
        assert_eq!(kept.find(7), None);
        let (used, former) = kept.keep(7, page(1)).unwrap();
        assert_eq!(former, None);
        assert_eq!(kept.find(7), Some((used, 1 << 12)));
        assert_eq!((kept.find(other), kept.keep(other, page(2))), (None, None));
        kept.release(used);
        assert_eq!(kept.keep(other, page(2)), None, "one user is left");
        kept.release(used);
        assert_eq!(kept.keep(other, page(2)), Some((used, Some(1))));
        assert_eq!(kept.find(7), None);
        assert_eq!(kept.drain().collect::<Vec<_>>(), [2]);
        assert_eq!(kept.drain().count(), 0);
    }

    #[test]
    fn nothing_is_kept_of_who_does_not_want_it() {
        let mut kept = Kept::new(false).unwrap();
        assert_eq!((kept.find(1), kept.keep(1, page(1)), kept.is_wanted()), (None, None, false));
    }
}
