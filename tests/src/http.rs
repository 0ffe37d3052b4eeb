//! The web guest as a browser on the host sees it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use xtask::disk::content::{self, Page};

/// For one answer; the large file takes some seconds on an idle host.
const PATIENCE: Duration = Duration::from_secs(120);

/// A server at a port of this host.
#[derive(Clone, Copy, Debug)]
pub struct Server {
    /// Its port of 127.0.0.1.
    pub port: u16,
}

impl Server {
    /// Gets a file; an error names what came instead.
    pub fn get(self, name: &str) -> Result<Vec<u8>, String> {
        let url = format!("http://127.0.0.1:{}/{name}", self.port);
        let response = minreq::get(&url).with_timeout(PATIENCE.as_secs()).send();
        let response = response.map_err(|error| format!("{url}: {error}"))?;
        match response.status_code {
            200 => Ok(response.into_bytes()),
            status => Err(format!("{url}: {status} {}", response.reason_phrase)),
        }
    }

    /// Gets a file, which must arrive byte for byte.
    pub fn serves(self, page: &Page) -> Result<(), String> {
        let bytes = self.get(&page.name)?;
        match bytes.iter().zip(&page.bytes).position(|(got, wanted)| got != wanted) {
            Some(place) => Err(format!("{}: byte {place} is wrong", page.name)),
            None if bytes.len() != page.bytes.len() => {
                Err(format!("{}: {} of {} bytes", page.name, bytes.len(), page.bytes.len()))
            }
            None => Ok(()),
        }
    }

    /// Gets a file this often, so many at a time; gives what went wrong.
    pub fn serves_many(self, page: &Page, times: usize, at_once: usize) -> Vec<String> {
        let next = AtomicUsize::new(0);
        let worker = || {
            let mine = std::iter::from_fn(|| (next.fetch_add(1, Ordering::Relaxed) < times).then_some(()));
            mine.filter_map(|()| self.serves(page).err()).collect::<Vec<_>>()
        };
        thread::scope(|scope| {
            let workers: Vec<_> = (0..at_once).map(|_| scope.spawn(worker)).collect();
            workers.into_iter().flat_map(|worker| worker.join().expect("a worker does not panic")).collect()
        })
    }
}

/// Every file that the disk image holds for the web guest.
pub fn pages() -> Vec<Page> {
    content::complete(content::sources().unwrap_or_else(|error| panic!("{error:#}")))
}

/// The one of this name.
pub fn page<'p>(pages: &'p [Page], name: &str) -> &'p Page {
    pages.iter().find(|page| page.name == name).unwrap_or_else(|| panic!("no file {name}"))
}
