//! Requests.

use alloc::string::{String, ToString};

use httparse::Status;

/// Bytes of the longest head of a request.
pub const HEAD_MAX: usize = 4096;
/// Most header fields.
const FIELDS_MAX: usize = 48;

/// What is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// The file.
    Get,
    /// What the head of the answer to `Get` would be.
    Head,
}

/// A request that can be answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// What is wanted.
    pub method: Method,
    /// Of what, as it stands.
    pub target: String,
    /// The client wants to ask more on this connection.
    pub keep_alive: bool,
}

/// What bytes of a client are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// The beginning of a request.
    Partial,
    /// A request, and the bytes it takes.
    Whole(Request, usize),
    /// A request that is refused, with this status; where the next one would begin is not known.
    Refused(u16),
}

/// Reads the first request in `bytes`.
pub fn parse(bytes: &[u8]) -> Parsed {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut request = httparse::Request::new(&mut fields);
    let length = match request.parse(bytes) {
        Ok(Status::Complete(length)) => length,
        Ok(Status::Partial) if bytes.len() < HEAD_MAX => return Parsed::Partial,
        Ok(Status::Partial) | Err(httparse::Error::TooManyHeaders) => return Parsed::Refused(431),
        Err(httparse::Error::Version) => return Parsed::Refused(505),
        Err(_) => return Parsed::Refused(400),
    };
    let (Some(method), Some(target), Some(version)) = (request.method, request.path, request.version) else {
        return Parsed::Refused(400);
    };
    let values = |name: &'static str| {
        request.headers.iter().filter(move |field| field.name.eq_ignore_ascii_case(name)).map(|field| field.value)
    };
    let hosts = values("host").count();
    if hosts > 1 || (version == 1 && hosts == 0) {
        return Parsed::Refused(400);
    }
    let method = match method {
        "GET" => Method::Get,
        "HEAD" => Method::Head,
        _ => return Parsed::Refused(405),
    };
    // What asks for a file has no body; one that has is not read, so the connection could not go on.
    if values("transfer-encoding").next().is_some() || values("content-length").any(|value| value != b"0") {
        return Parsed::Refused(400);
    }
    let says = |token: &str| {
        let tokens = values("connection").flat_map(|value| value.split(|&byte| byte == b','));
        tokens.map(|found| found.trim_ascii()).any(|found| found.eq_ignore_ascii_case(token.as_bytes()))
    };
    let keep_alive = if version == 1 { !says("close") } else { says("keep-alive") };
    Parsed::Whole(Request { method, target: target.to_string(), keep_alive }, length)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn whole(text: &str) -> (Method, bool) {
        match parse(text.as_bytes()) {
            Parsed::Whole(request, length) => {
                assert_eq!(length, text.len());
                (request.method, request.keep_alive)
            }
            other => panic!("{text:?}: {other:?}"),
        }
    }

    #[test]
    fn requests_are_understood() {
        assert_eq!(whole("GET / HTTP/1.1\r\nHost: x\r\n\r\n"), (Method::Get, true));
        assert_eq!(whole("HEAD / HTTP/1.1\r\nhost: x\r\nConnection: x, Close\r\n\r\n"), (Method::Head, false));
        assert_eq!(whole("GET / HTTP/1.0\r\n\r\n"), (Method::Get, false));
        assert_eq!(whole("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n"), (Method::Get, true));
        let two = b"GET /a HTTP/1.1\r\nHost: x\r\n\r\nGET /b HTTP/1.1\r\n";
        assert!(matches!(parse(two), Parsed::Whole(request, 28) if request.target == "/a"));
    }

    #[test]
    fn what_cannot_be_answered_is_refused_with_the_reason() {
        for (text, status) in [
            ("GET / HTTP/1.1\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n", 405),
            ("GET / HTTP/3.0\r\n\r\n", 505),
            ("\0", 400),
            ("GET\r\n", 400),
        ] {
            assert_eq!(parse(text.as_bytes()), Parsed::Refused(status), "{text:?}");
        }
        let mut long = String::from("GET / HTTP/1.1\r\nHost: x\r\nA: ");
        long.extend(core::iter::repeat_n('a', HEAD_MAX));
        assert_eq!(parse(long.as_bytes()), Parsed::Refused(431));
        let many: String = (0..60).map(|at| alloc::format!("A{at}: x\r\n")).collect();
        assert_eq!(parse(alloc::format!("GET / HTTP/1.1\r\n{many}\r\n").as_bytes()), Parsed::Refused(431));
    }

    proptest! {
        /// Whatever comes, and in whatever pieces: a request is understood once it is whole, and not before.
        #[test]
        fn pieces_make_no_difference(cut in 0usize..60) {
            let text = b"GET /index.html HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n\r\n";
            let cut = cut.min(text.len() - 1);
            prop_assert_eq!(parse(&text[..cut]), Parsed::Partial);
            prop_assert!(matches!(parse(text), Parsed::Whole(_, length) if length == text.len()));
        }

        #[test]
        fn nothing_panics(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse(&bytes);
        }
    }
}
