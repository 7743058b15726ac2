//! Answers as bytes, and the ones we give ourselves.
//!
//! **Invariant:** what leaves is framed by `Content-Length` alone, or, as a stream, by the end of its
//! connection; and no header value can break out of its line.

use super::Answer;
use std::io;
use tiny_http::{HTTPVersion, Header, Response, StatusCode};

/// What lets a client that asked send its body.
pub const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// Why we answer in the loop's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// No HTTP, or HTTP that can be read in two ways.
    Malformed(&'static str),
    /// The request did not come in time.
    Slow,
    /// `Transfer-Encoding`: we want to know the size before the first byte.
    BodyUnsized,
    /// More than `body_max`.
    BodyTooLarge,
    /// More than `head_max` or `headers_max`.
    HeadTooLarge,
    /// A method we have not heard of.
    Method,
    /// A version we do not speak.
    Version,
    /// The loop has more to do than its queue holds.
    Busy,
    /// The loop has gone.
    Stopping,
    /// An answer of ours that can't be sent.
    Unsayable,
}

impl Refusal {
    /// The refusal as an answer.
    pub fn answer(self) -> Answer {
        let (status, sentence) = match self {
            Refusal::Malformed(what) => (400, what),
            Refusal::Slow => (408, "request not complete in time"),
            Refusal::BodyUnsized => (411, "want a Content-Length, not a Transfer-Encoding"),
            // The words are the protocol's.
            Refusal::BodyTooLarge => (413, "Request body too large (max 1MB)"),
            Refusal::HeadTooLarge => (431, "request head too large: want fewer or shorter headers"),
            Refusal::Method => (501, "unknown method"),
            Refusal::Version => (505, "want HTTP/1.1 or HTTP/1.0"),
            Refusal::Busy => (503, "too many requests at once, try again"),
            Refusal::Stopping => (503, "shutting down"),
            Refusal::Unsayable => (500, "Internal server error"),
        };
        Answer::json(status, format!(r#"{{"ok":false,"error":"{sentence}"}}"#).into_bytes())
    }
}

/// Appends `answer` to `out`; without its body if the request was a HEAD, and with `Connection:
/// close` if that is what we are going to do.
pub fn print(answer: &Answer, close: bool, bodyless: bool, out: &mut Vec<u8>) {
    let start = out.len();
    let bodyless = bodyless || matches!(answer.status, 204 | 304);
    if !print_head(answer, out) {
        out.truncate(start);
        return print(&Refusal::Unsayable.answer(), close, bodyless, out);
    }
    if close {
        // A tiny_http Response can't carry it, so it goes in before the empty line.
        out.truncate(out.len() - 2);
        out.extend_from_slice(b"Connection: close\r\n\r\n");
    }
    if !bodyless {
        out.extend_from_slice(&answer.body);
    }
}

/// Appends the head of a stream, which lasts as long as its connection, and the beginning of it. False
/// if that can't be said.
pub fn print_stream(answer: &Answer, out: &mut Vec<u8>) -> bool {
    let own = [("Content-Type", answer.content_type), ("Connection", "close")];
    let extra = answer.headers.iter().map(|(name, value)| (*name, value.as_str()));
    let mut head = String::from("HTTP/1.1 200 OK\r\n");
    for (name, value) in own.into_iter().chain(extra) {
        if name.bytes().chain(value.bytes()).any(|b| !b.is_ascii() || b.is_ascii_control()) {
            return false;
        }
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    out.extend_from_slice(head.as_bytes());
    out.extend_from_slice(&answer.body);
    true
}

/// False if the answer has a header that can't be written, or a status that is none.
fn print_head(answer: &Answer, out: &mut Vec<u8>) -> bool {
    let mut headers = Vec::with_capacity(answer.headers.len() + 1);
    let extra = answer.headers.iter().map(|(name, value)| (*name, value.as_str()));
    for (name, value) in std::iter::once(("Content-Type", answer.content_type)).chain(extra) {
        // tiny_http would let a line break through, and a second answer after it.
        if name.bytes().chain(value.bytes()).any(|b| b.is_ascii_control()) {
            return false;
        }
        match Header::from_bytes(name, value) {
            // It would be believed instead of the body's own length.
            Ok(header) if header.field.equiv("Content-Length") => {}
            Ok(header) => headers.push(header),
            Err(()) => return false,
        }
    }
    let length = Some(answer.body.len());
    (200..600).contains(&answer.status)
        && Response::new(StatusCode(answer.status), headers, io::empty(), length, None)
            .with_chunked_threshold(usize::MAX)
            .raw_print(out, HTTPVersion(1, 1), &[], true, None)
            .is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(answer: &Answer, close: bool, bodyless: bool) -> String {
        let mut out = Vec::new();
        print(answer, close, bodyless, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn an_answer_is_framed_by_its_length() {
        let long = text(&Answer::json(200, vec![b'x'; 100_000]), false, false);
        let (head, body) = long.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        assert!(head.contains("\r\nContent-Length: 100000"), "{head}");
        assert!(!head.contains("Transfer-Encoding") && !head.contains("Connection"), "{head}");
        assert_eq!(body.len(), 100_000);
    }

    #[test]
    fn close_is_said_and_a_head_has_no_body() {
        let said = text(&Answer::json(200, b"{}".to_vec()), true, true);
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
            (Unsayable, 500),
        ];
        for (refusal, status) in all {
            let said = text(&refusal.answer(), true, false);
            assert!(said.starts_with(&format!("HTTP/1.1 {status} ")), "{said}");
            assert!(!said.contains("Unknown"), "{said}");
            assert!(said.contains("\r\n\r\n{\"ok\":false,\"error\":\""), "{said}");
        }
    }

    #[test]
    fn a_header_cannot_break_its_line() {
        for value in ["a\r\nSet-Cookie: b", "a\nb", "a\0", "caf\u{e9}"] {
            let mut answer = Answer::json(200, b"secret".to_vec());
            answer.headers.push(("X-Name", value.to_string()));
            let said = text(&answer, false, false);
            assert!(said.starts_with("HTTP/1.1 500 "), "{said}");
            assert!(!said.contains("secret") && !said.contains("Set-Cookie"), "{said}");
        }
    }

    #[test]
    fn framing_headers_are_ours() {
        let mut answer = Answer::json(200, b"{}".to_vec());
        for name in ["Content-Length", "Transfer-Encoding", "Connection"] {
            answer.headers.push((name, "7".into()));
        }
        answer.headers.push(("Cache-Control", "no-store".into()));
        let said = text(&answer, false, false);
        assert!(said.contains("Cache-Control: no-store\r\n"), "{said}");
        assert!(said.contains("Content-Length: 2\r\n") && !said.contains(": 7"), "{said}");
    }
}
