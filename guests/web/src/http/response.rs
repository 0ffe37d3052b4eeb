//! Heads of responses, and the short pages that say why there is no file.

use alloc::format;
use alloc::string::String;

/// What a status is called.
const fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        301 => "Moved Permanently",
        400 => "Bad Request",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        505 => "HTTP Version Not Supported",
        _ => "Error",
    }
}

/// The head of a response with a body of `length` bytes. `extra` are whole header lines.
pub fn head(status: u16, content_type: &str, length: u64, keep_alive: bool, extra: &str) -> String {
    let (reason, connection) = (reason(status), if keep_alive { "keep-alive" } else { "close" });
    format!(
        "HTTP/1.1 {status} {reason}\r\nServer: bulkhead\r\nContent-Type: {content_type}\r\nContent-Length: {length}\r\n\
         Connection: {connection}\r\n{extra}\r\n"
    )
}

/// Head and body of a response that says that something is wrong, or elsewhere.
pub fn page(status: u16, keep_alive: bool, extra: &str) -> (String, String) {
    let body = format!("<!doctype html><title>{status}</title><h1>{status} {}</h1>\n", reason(status));
    let extra = if status == 405 { "Allow: GET, HEAD\r\n" } else { extra };
    (head(status, "text/html; charset=utf-8", body.len() as u64, keep_alive, extra), body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_response_ends_where_it_says() {
        for status in [301, 400, 404, 405, 408, 431, 500, 505] {
            let (head, body) = page(status, false, "");
            let mut fields = [httparse::EMPTY_HEADER; 8];
            let mut response = httparse::Response::new(&mut fields);
            assert!(response.parse(head.as_bytes()).unwrap().is_complete());
            assert_eq!((response.code, response.reason), (Some(status), Some(reason(status))));
            let length = response.headers.iter().find(|field| field.name == "Content-Length").unwrap().value;
            assert_eq!(length, format!("{}", body.len()).as_bytes());
        }
    }
}
