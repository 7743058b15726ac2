//! Writes responses as bytes, including the error responses of the HTTP thread itself.
//!
//! **Invariant:** only `Content-Length` marks the end of a response, and only the end of the connection marks the end
//! of a stream. No header value can contain a line break.

use super::HttpResponse;
use std::io;
use tiny_http::{HTTPVersion, Header, Response, StatusCode};

/// The answer to the header `Expect: 100-continue`. It tells the client to send the body.
pub const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// An error that the HTTP thread itself sends to a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The request is not valid HTTP, or its meaning is ambiguous.
    Malformed(&'static str),
    /// The request did not arrive in time.
    Slow,
    /// The request uses `Transfer-Encoding`. The server accepts only bodies with a `Content-Length`.
    BodyUnsized,
    /// The body is larger than `body_max`.
    BodyTooLarge,
    /// The head is larger than `head_max`, or has more headers than `headers_max`.
    HeadTooLarge,
    /// The method is unknown.
    Method,
    /// The version of HTTP is unknown.
    Version,
    /// The queue of the event loop is full.
    Busy,
    /// The broker is ending.
    Stopping,
    /// The response of the event loop has a header or status that HTTP does not allow.
    Unprintable,
}

impl Refusal {
    /// Returns the HTTP response that reports this error.
    pub fn response(self) -> HttpResponse {
        let (status, sentence) = match self {
            Refusal::Malformed(what) => (400, what),
            Refusal::Slow => (408, "the complete request did not arrive in time"),
            Refusal::BodyUnsized => (411, "expected a Content-Length, not a Transfer-Encoding"),
            // Clients of slm-mesh 1.x compare errors with exactly this text.
            Refusal::BodyTooLarge => (413, "Request body too large (max 1MB)"),
            Refusal::HeadTooLarge => (431, "the request head is too large; send fewer or shorter headers"),
            Refusal::Method => (501, "unknown method"),
            Refusal::Version => (505, "expected HTTP/1.1 or HTTP/1.0"),
            Refusal::Busy => (503, "too many requests at once; try again"),
            Refusal::Stopping => (503, "the broker is shutting down"),
            Refusal::Unprintable => (500, "Internal server error"),
        };
        HttpResponse::json(status, format!(r#"{{"ok":false,"error":"{sentence}"}}"#).into_bytes())
    }
}

/// Appends `response` to `out`, without its body if `bodyless` is set. Adds `Connection: close` if `close` is set.
pub fn print_response(response: &HttpResponse, close: bool, bodyless: bool, out: &mut Vec<u8>) {
    let start = out.len();
    let bodyless = bodyless || matches!(response.status, 204 | 304);
    if !print_head(response, out) {
        out.truncate(start);
        return print_response(&Refusal::Unprintable.response(), close, bodyless, out);
    }
    if close {
        // tiny_http can't write `Connection`, so this header is inserted here, before the empty line.
        out.truncate(out.len() - 2);
        out.extend_from_slice(b"Connection: close\r\n\r\n");
    }
    if !bodyless {
        out.extend_from_slice(&response.body);
    }
}

/// Appends the head and the first bytes of a stream. Returns false if a header contains a character that HTTP does not
/// allow.
pub fn print_stream(response: &HttpResponse, out: &mut Vec<u8>) -> bool {
    let own = [("Content-Type", response.content_type), ("Connection", "close")];
    let extra = response.headers.iter().map(|(name, value)| (*name, value.as_str()));
    let mut head = String::from("HTTP/1.1 200 OK\r\n");
    for (name, value) in own.into_iter().chain(extra) {
        if name.bytes().chain(value.bytes()).any(|b| !b.is_ascii() || b.is_ascii_control()) {
            return false;
        }
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    out.extend_from_slice(head.as_bytes());
    out.extend_from_slice(&response.body);
    true
}

/// Appends the head of a response. Returns false if a header or the status is invalid.
fn print_head(response: &HttpResponse, out: &mut Vec<u8>) -> bool {
    let mut headers = Vec::with_capacity(response.headers.len() + 1);
    let extra = response.headers.iter().map(|(name, value)| (*name, value.as_str()));
    for (name, value) in std::iter::once(("Content-Type", response.content_type)).chain(extra) {
        // tiny_http accepts line breaks in headers. A line break in a value could start a forged second response.
        if name.bytes().chain(value.bytes()).any(|b| b.is_ascii_control()) {
            return false;
        }
        match Header::from_bytes(name, value) {
            // `Content-Length` is left out, because tiny_http would use its value instead of the real length of the
            // body.
            Ok(header) if header.field.equiv("Content-Length") => {}
            Ok(header) => headers.push(header),
            Err(()) => return false,
        }
    }
    let length = Some(response.body.len());
    (200..600).contains(&response.status)
        && Response::new(StatusCode(response.status), headers, io::empty(), length, None)
            .with_chunked_threshold(usize::MAX)
            .raw_print(out, HTTPVersion(1, 1), &[], true, None)
            .is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(response: &HttpResponse, close: bool, bodyless: bool) -> String {
        let mut out = Vec::new();
        print_response(response, close, bodyless, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn an_answer_is_framed_by_its_length() {
        let long = text(&HttpResponse::json(200, vec![b'x'; 100_000]), false, false);
        let (head, body) = long.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        assert!(head.contains("\r\nContent-Length: 100000"), "{head}");
        assert!(!head.contains("Transfer-Encoding") && !head.contains("Connection"), "{head}");
        assert_eq!(body.len(), 100_000);
    }

    #[test]
    fn close_is_said_and_a_head_has_no_body() {
        let said = text(&HttpResponse::json(200, b"{}".to_vec()), true, true);
        assert!(said.ends_with("\r\nContent-Length: 2\r\nConnection: close\r\n\r\n"), "{said}");
    }

    #[test]
    fn every_refusal_has_a_phrase_and_json() {
        use Refusal::*;
        let all = [
            (Malformed("what"), 400),
            (Slow, 408),
            (BodyUnsized, 411),
            (BodyTooLarge, 413),
            (HeadTooLarge, 431),
            (Method, 501),
            (Version, 505),
            (Busy, 503),
            (Stopping, 503),
            (Unprintable, 500),
        ];
        for (refusal, status) in all {
            let said = text(&refusal.response(), true, false);
            assert!(said.starts_with(&format!("HTTP/1.1 {status} ")), "{said}");
            assert!(!said.contains("Unknown"), "{said}");
            assert!(said.contains("\r\n\r\n{\"ok\":false,\"error\":\""), "{said}");
        }
    }

    #[test]
    fn a_header_cannot_break_its_line() {
        for value in ["a\r\nSet-Cookie: b", "a\nb", "a\0", "caf\u{e9}"] {
            let mut response = HttpResponse::json(200, b"secret".to_vec());
            response.headers.push(("X-Name", value.to_string()));
            let said = text(&response, false, false);
            assert!(said.starts_with("HTTP/1.1 500 "), "{said}");
            assert!(!said.contains("secret") && !said.contains("Set-Cookie"), "{said}");
        }
    }

    #[test]
    fn framing_headers_are_ours() {
        let mut response = HttpResponse::json(200, b"{}".to_vec());
        for name in ["Content-Length", "Transfer-Encoding", "Connection"] {
            response.headers.push((name, "7".into()));
        }
        response.headers.push(("Cache-Control", "no-store".into()));
        let said = text(&response, false, false);
        assert!(said.contains("Cache-Control: no-store\r\n"), "{said}");
        assert!(said.contains("Content-Length: 2\r\n") && !said.contains(": 7"), "{said}");
    }
}
