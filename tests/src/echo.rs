//! A server on this host whose connections a guest has to keep: what it says has to come back, in order, until it is told to stop.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// How long a line may take to come back: TCP repeats what was lost, later and later.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two lines.
const PAUSE: Duration = Duration::from_millis(20);

/// A server with one connection.
#[derive(Debug)]
pub struct Server {
    /// Its port of 127.0.0.1, which a guest reaches as the same port of 10.0.2.2.
    pub port: u16,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<u64, String>>,
}

impl Server {
    /// Waits for the connection, and talks.
    pub fn start() -> Server {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let port = listener.local_addr().expect("it has an address").port();
        let stop = Arc::new(AtomicBool::new(false));
        let told = stop.clone();
        let thread = thread::spawn(move || talk(&listener, &told).map_err(|error| format!("{error}")));
        Server { port, stop, thread }
    }

    /// Ends the connection; gives the number of lines that came back, all of them right.
    pub fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        let lines = self.thread.join().expect("the server does not panic");
        lines.unwrap_or_else(|error| panic!("the connection was lost: {error}"))
    }
}

fn talk(listener: &TcpListener, stop: &AtomicBool) -> std::io::Result<u64> {
    let (mut stream, _) = listener.accept()?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut answers = BufReader::new(stream.try_clone()?).lines();
    let mut count = 0;
    while !stop.load(Ordering::Relaxed) {
        writeln!(stream, "line {count}")?;
        let answer = answers.next().transpose()?;
        if answer.as_deref() != Some(&format!("line {count}")) {
            return Err(std::io::Error::other(format!("{answer:?} after {count} lines")));
        }
        count += 1;
        thread::sleep(PAUSE);
    }
    Ok(count)
}
