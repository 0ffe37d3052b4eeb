//! A guest's kernel, as far as it talks to its store.

use core::cell::RefCell;
use std::format;
use std::string::String;
use std::vec::Vec;

use protocol::ring::Shared;
use protocol::ring::byte::{Consumer, Producer};

use super::*;

/// The page that guest and store share.
pub(crate) struct Page(pub RefCell<Vec<u8>>);

impl Shared for Page {
    fn load_u32(&self, offset: usize) -> u32 {
        let mut word = [0; 4];
        self.read(offset, &mut word);
        u32::from_le_bytes(word)
    }

    fn store_u32(&self, offset: usize, value: u32) {
        self.write(offset, &value.to_le_bytes());
    }

    fn read(&self, offset: usize, out: &mut [u8]) {
        out.copy_from_slice(&self.0.borrow()[offset..][..out.len()]);
    }

    fn write(&self, offset: usize, bytes: &[u8]) {
        self.0.borrow_mut()[offset..][..bytes.len()].copy_from_slice(bytes);
    }

    fn fence(&self) {}
}

/// A store and its guest.
pub(crate) struct Guest {
    pub page: Page,
    pub store: Store,
    requests: Producer,
    responses: Consumer,
    number: u32,
    heard: Vec<u8>,
    answers: Vec<(Header, Vec<u8>)>,
    events: Vec<(String, String)>,
    /// Notifications that the guest got.
    pub rung: usize,
}

impl Guest {
    /// A guest that may write in its own directory.
    pub fn new() -> Guest {
        let mut store = Store::default();
        let home = String::from(store.home());
        store.make(&home, Permissions::new(GUEST, Right::None));
        Guest::of(store)
    }

    /// The guest of a store.
    pub fn of(mut store: Store) -> Guest {
        // What an earlier user left in the page is no message.
        let page = Page(RefCell::new(std::vec![0xa5; 4096]));
        store.connect(&page);
        let (requests, responses) = (Producer::attach(REQUESTS, &page), Consumer::attach(RESPONSES, &page));
        let (heard, answers, events) = (Vec::new(), Vec::new(), Vec::new());
        Guest { page, store, requests, responses, number: 0, heard, answers, events, rung: 0 }
    }

    /// Lets the store have its turns, and takes what it says.
    pub fn pump(&mut self) {
        loop {
            let turn = self.store.turn(&self.page);
            self.rung += usize::from(turn.notify);
            let listened = self.listen();
            if !turn.more && listened == 0 {
                return;
            }
        }
    }

    fn listen(&mut self) -> usize {
        let mut buffer = [0; 1024];
        let count = self.responses.read(&self.page, &mut buffer).unwrap();
        self.heard.extend_from_slice(&buffer[..count]);
        while let Some(header) = self.heard.first_chunk().map(Header::parse) {
            let end = HEADER + header.length as usize;
            assert!(header.length as usize <= PAYLOAD_MAX);
            if self.heard.len() < end {
                break;
            }
            let message: Vec<u8> = self.heard.drain(..end).collect();
            let payload = message[HEADER..].to_vec();
            if header.kind == kind::WATCH_EVENT {
                let text = String::from_utf8(payload).unwrap();
                let mut parts = text.split_terminator('\0').map(String::from);
                self.events.push((parts.next().unwrap(), parts.next().unwrap()));
                assert_eq!((parts.next(), header.request, header.transaction), (None, 0, 0));
            } else {
                self.answers.push((header, payload));
            }
        }
        count
    }

    /// Puts raw bytes into the ring, as the store makes room.
    pub fn put(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let count = self.requests.write(&self.page, bytes).unwrap();
            bytes = &bytes[count..];
            self.pump();
        }
    }

    /// Asks for something; gives the answer, or the name of the refusal.
    pub fn ask(&mut self, kind: u32, transaction: u32, payload: &[u8]) -> Result<Vec<u8>, String> {
        self.number += 1;
        let (mut bytes, asked) = (Vec::new(), Header { kind, request: self.number, transaction, length: 0 });
        asked.encode(payload, &mut bytes);
        self.put(&bytes);
        let (header, answer) = self.answers.pop().expect("an answer");
        assert!(self.answers.is_empty(), "one answer for each request");
        assert_eq!((header.request, header.transaction), (asked.request, transaction));
        if header.kind == kind::ERROR {
            return Err(String::from_utf8(answer).unwrap().trim_end_matches('\0').into());
        }
        assert_eq!(header.kind, kind);
        Ok(answer)
    }

    /// Asks for something whose answer is text.
    pub fn text(&mut self, kind: u32, transaction: u32, payload: &str) -> Result<String, String> {
        self.ask(kind, transaction, payload.as_bytes()).map(|answer| String::from_utf8(answer).unwrap())
    }

    pub fn read(&mut self, path: &str) -> Result<String, String> {
        self.text(kind::READ, 0, &format!("{path}\0"))
    }

    pub fn write(&mut self, path: &str, value: &str) -> Result<String, String> {
        self.text(kind::WRITE, 0, &format!("{path}\0{value}"))
    }

    pub fn list(&mut self, path: &str) -> Result<Vec<String>, String> {
        let names = self.text(kind::DIRECTORY, 0, &format!("{path}\0"))?;
        Ok(names.split_terminator('\0').map(String::from).collect())
    }

    pub fn watch(&mut self, path: &str, token: &str) -> Result<String, String> {
        self.text(kind::WATCH, 0, &format!("{path}\0{token}\0"))
    }

    pub fn begin(&mut self) -> u32 {
        self.text(kind::TRANSACTION_START, 0, "\0").unwrap().trim_end_matches('\0').parse().unwrap()
    }

    pub fn end(&mut self, transaction: u32) -> Result<String, String> {
        self.text(kind::TRANSACTION_END, transaction, "T\0")
    }

    /// What was heard of watches since this was asked last.
    pub fn events(&mut self) -> Vec<(String, String)> {
        self.pump();
        core::mem::take(&mut self.events)
    }
}
