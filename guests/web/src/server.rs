//! The server: a fixed number of places for clients, each with one task.
//!
//! Everything is bounded: places, heads, and the time a client can take to send one or to make room for more of an answer.

use alloc::boxed::Box;
use alloc::format;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::time::Duration;

use unikernel::executor::{spawn, yield_now};
use unikernel::time;

use crate::cache::Cache;
use crate::files::{File, Found, complete, find};
use crate::http::content::content_type;
use crate::http::path::path;
use crate::http::request::{HEAD_MAX, Method, Parsed, Request, parse};
use crate::http::response::{head, page};
use crate::stack::{Lost, Socket, Stack};

/// Clients at once.
const PLACES: usize = 48;
/// How long the head of a request can take, a slow client's and an idle one's alike.
const HEAD_PATIENCE: Duration = Duration::from_secs(15);
/// How long a client can keep a piece of an answer waiting.
const PIECE_PATIENCE: Duration = Duration::from_secs(60);
/// How long a client has to close its side after we closed ours.
const FINISH_PATIENCE: Duration = Duration::from_secs(5);
/// Bytes read from a file at a time.
const PIECE: usize = 16 * 1024;

/// Starts the tasks of all places.
pub fn start(stack: &Rc<Stack>, cache: &Rc<Cache>, port: u16) {
    for _ in 0..PLACES {
        let (socket, cache) = (stack.socket(), cache.clone());
        spawn(async move {
            loop {
                socket.accept(port).await;
                if serve(&socket, &cache).await.is_ok() {
                    let _ = time::before(time::after(FINISH_PATIENCE), socket.finish()).await;
                }
                socket.abort();
                // What tells the client goes out before the place is used again.
                yield_now().await;
            }
        });
    }
}

/// Answers a client until one of the two has enough.
async fn serve(socket: &Socket, cache: &Rc<Cache>) -> Result<(), Lost> {
    let mut received = Vec::new();
    loop {
        let request = match next(socket, &mut received).await? {
            None => return Ok(()),
            Some(Ok(request)) => request,
            Some(Err(status)) => {
                let (head, body) = page(status, false, "");
                return send(socket, &[head.as_bytes(), body.as_bytes()]).await;
            }
        };
        answer(socket, cache, &request).await?;
        if !request.keep_alive {
            return Ok(());
        }
    }
}

/// The next request, or the status that it is refused with; `None` if the client has none.
async fn next(socket: &Socket, received: &mut Vec<u8>) -> Result<Option<Result<Request, u16>>, Lost> {
    let deadline = time::after(HEAD_PATIENCE);
    loop {
        match parse(received) {
            Parsed::Whole(request, length) => {
                received.drain(..length);
                return Ok(Some(Ok(request)));
            }
            Parsed::Refused(status) => return Ok(Some(Err(status))),
            Parsed::Partial => {}
        }
        let mut buffer = [0; 1024];
        let room = (HEAD_MAX - received.len()).min(buffer.len());
        match time::before(deadline, socket.read(&mut buffer[..room])).await {
            None if received.is_empty() => return Ok(None),
            None => return Ok(Some(Err(408))),
            Some(count) => match count? {
                0 => return Ok(None),
                count => received.extend_from_slice(&buffer[..count]),
            },
        }
    }
}

async fn send(socket: &Socket, parts: &[&[u8]]) -> Result<(), Lost> {
    for part in parts {
        time::before(time::after(PIECE_PATIENCE), socket.write(part)).await.ok_or(Lost)??;
    }
    Ok(())
}

async fn answer(socket: &Socket, cache: &Rc<Cache>, request: &Request) -> Result<(), Lost> {
    let with_body = request.method == Method::Get;
    let (status, extra) = match look_up(cache, &request.target).await {
        Ok((file, name)) => {
            let head = head(200, content_type(&name), file.length().into(), request.keep_alive, "");
            send(socket, &[head.as_bytes()]).await?;
            return if with_body { send_file(socket, cache, &file).await } else { Ok(()) };
        }
        Err(301) => (301, format!("Location: {}/\r\n", request.target.split(['?', '#']).next().unwrap_or_default())),
        Err(status) => (status, String::new()),
    };
    let (head, body) = page(status, request.keep_alive, &extra);
    send(socket, &[head.as_bytes(), if with_body { body.as_bytes() } else { b"" }]).await
}

/// The file that a target names, and its name; else the status.
async fn look_up(cache: &Rc<Cache>, target: &str) -> Result<(Box<File<Rc<Cache>>>, String), u16> {
    let path = path(target).ok_or(400u16)?;
    let name = if path.is_empty() || path.ends_with('/') { format!("{path}index.html") } else { path };
    match complete(cache, || find(cache.clone(), &name)).await {
        Ok(Found::File(file)) => Ok((file, name)),
        Ok(Found::Directory) => Err(301),
        Ok(Found::Nothing) => Err(404),
        Err(trouble) => {
            log::warn!("web: {name}: {trouble}");
            Err(500)
        }
    }
}

/// Sends all of a file. If it cannot be read the connection ends early, which tells the client.
async fn send_file(socket: &Socket, cache: &Rc<Cache>, file: &File<Rc<Cache>>) -> Result<(), Lost> {
    let mut buffer = vec![0; PIECE];
    loop {
        match complete(cache, || file.read(&mut buffer)).await {
            Ok(0) => return Ok(()),
            Ok(count) => send(socket, &[&buffer[..count]]).await?,
            Err(trouble) => {
                log::warn!("web: a file cannot be read to its end: {trouble}");
                return Err(Lost);
            }
        }
    }
}
