//! What the serial port has said so far, filled by a thread, awaited by others.

use std::io::{Read, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// A growing record of bytes with an end.
#[derive(Default)]
pub struct Transcript {
    state: Mutex<State>,
    changed: Condvar,
}

/// What a [`Transcript`] holds.
#[derive(Default)]
pub struct State {
    /// Everything that came.
    pub bytes: Vec<u8>,
    /// Nothing more will come.
    pub ended: bool,
}

impl Transcript {
    /// Starts recording `source`, with a copy to `log`.
    pub fn record(mut source: impl Read + Send + 'static, mut log: impl Write + Send + 'static) -> Arc<Transcript> {
        let transcript = Arc::new(Transcript::default());
        let recorder = transcript.clone();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = source.read(&mut buffer) {
                // The log is a convenience: a full disk must not stop the machine.
                let _ = log.write_all(&buffer[..count]);
                recorder.lock().bytes.extend_from_slice(&buffer[..count]);
                recorder.changed.notify_all();
            }
            recorder.lock().ended = true;
            recorder.changed.notify_all();
        });
        transcript
    }

    /// The record so far.
    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls `look` now and after each change until it gives something, or the deadline passes, or the record has ended
    /// (then `look` is called a last time). `None` if it never did.
    pub fn wait<T>(&self, deadline: Instant, mut look: impl FnMut(&State) -> Option<T>) -> Option<T> {
        let mut state = self.lock();
        loop {
            if let Some(found) = look(&state) {
                return Some(found);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if state.ended || left.is_zero() {
                return None;
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn waiting_ends_with_the_record_or_the_deadline() {
        let transcript = Transcript::record(b"hello".as_slice(), std::io::sink());
        let later = Instant::now() + Duration::from_secs(20);
        assert_eq!(transcript.wait(later, |state| (state.bytes == b"hello").then_some(1)), Some(1));
        assert_eq!(transcript.wait(later, |state| (state.bytes == b"other").then_some(1)), None);
        let silent = Transcript::default();
        assert_eq!(silent.wait(Instant::now(), |_| None::<()>), None);
    }
}
