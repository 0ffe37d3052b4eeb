//! What dom0 does by itself when it starts: the console domain, then everything in `auto/`.

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use super::{Plane, console};
use crate::config;
use crate::hypervisor::Hypervisor;

impl<'b, H: Hypervisor> Plane<'b, H> {
    /// Starts the console domain and the domains of `auto/`. Gives whether all of it went well; what did not is told to the
    /// operator.
    pub fn boot(&mut self) -> bool {
        let mut good = true;
        if let Err(text) = self.create_console() {
            good = false;
            self.notice(&text);
        }
        let mut files: Vec<String> = self.bundle.names("auto", ".toml").into_iter().map(ToOwned::to_owned).collect();
        files.retain(|name| name != console::NAME);
        // A domain may be connected to one whose file comes later: those whose partners are there go first.
        while !files.is_empty() {
            let next = files.iter().position(|file| self.partners_exist(file)).unwrap_or(0);
            let file = format!("auto/{}.toml", files.remove(next));
            good &= self.create_at_boot(&file);
        }
        good
    }

    fn create_at_boot(&mut self, file: &str) -> bool {
        let text = match self.bundle.file(file).map(core::str::from_utf8) {
            Some(Ok(text)) => text,
            _ => {
                self.notice(&format!("{file}: is no text"));
                return false;
            }
        };
        let (created, warnings, lines) = match self.create(file, text, &[], false) {
            Ok(created) => (true, created.warnings, Vec::new()),
            Err(failure) => (false, failure.warnings, failure.lines),
        };
        for line in warnings {
            self.notice(&format!("warning: {line}"));
        }
        for line in lines {
            self.notice(&line);
        }
        created
    }

    fn partners_exist(&self, file: &str) -> bool {
        let text = self.bundle.file(&format!("auto/{file}.toml")).and_then(|bytes| core::str::from_utf8(bytes).ok());
        match config::parse(file, text.unwrap_or(""), &[]) {
            Ok(parsed) => parsed.config.connect.iter().all(|name| self.find(name).is_some()),
            Err(_) => true,
        }
    }
}
