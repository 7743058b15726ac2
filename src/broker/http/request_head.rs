//! Parses the head of a request. The result is a valid head or a refusal.
//!
//! **Invariant:** parsing has no side effects. If two HTTP parsers could disagree about where the head or the body
//! ends, the request is refused.

use super::response::Refusal;
use super::{Browser, Head, Limits};
use std::net::IpAddr;

/// The result of parsing the bytes that have arrived so far.
#[derive(Debug, PartialEq, Eq)]
pub enum HeadStatus {
    /// The head is not complete yet.
    Partial,
    /// The head is complete.
    Complete(ParsedHead),
    /// The head is refused. The connection must close, because the start of the next request is unknown.
    Refused(Refusal),
}

/// A valid head, and the length of the body that follows.
#[derive(Debug, PartialEq, Eq)]
pub struct ParsedHead {
    /// The head, for the gate and the event loop.
    pub head: Head,
    /// The size of the head, in bytes.
    pub used: usize,
    /// The size of the body, in bytes; `u64::MAX` if the number is too large for this type.
    pub length: u64,
    /// Whether the connection closes after this request.
    pub close: bool,
    /// Whether the client waits for `100 Continue` before it sends the body.
    pub expects: bool,
}

/// All standard methods except CONNECT, which is only for proxies, and TRACE, which is only for diagnosis.
const METHODS: [&str; 7] = ["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"];

/// Parses the head at the start of `bytes`.
pub fn parse_head(bytes: &[u8], peer: IpAddr, limits: &Limits) -> HeadStatus {
    let mut headers = vec![httparse::EMPTY_HEADER; limits.headers_max];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(bytes) {
        Ok(httparse::Status::Complete(used)) if used <= limits.head_max => {
            validate(&request, used, peer).map_or_else(HeadStatus::Refused, HeadStatus::Complete)
        }
        Ok(httparse::Status::Partial) if bytes.len() < limits.head_max => HeadStatus::Partial,
        Ok(_) | Err(httparse::Error::TooManyHeaders) => HeadStatus::Refused(Refusal::HeadTooLarge),
        Err(httparse::Error::Version) => HeadStatus::Refused(Refusal::Version),
        Err(_) => HeadStatus::Refused(Refusal::Malformed("expected an HTTP request")),
    }
}

fn validate(request: &httparse::Request, used: usize, peer: IpAddr) -> Result<ParsedHead, Refusal> {
    let (Some(method), Some(target)) = (request.method, request.path) else {
        return Err(Refusal::Malformed("expected a method and a target"));
    };
    if !METHODS.contains(&method) {
        return Err(Refusal::Method);
    }
    if all(request, "Transfer-Encoding").next().is_some() {
        return Err(Refusal::BodyUnsized);
    }
    let old = request.version == Some(0);
    Ok(ParsedHead {
        head: Head {
            method: method.to_string(),
            target: target.to_string(),
            peer,
            host: text(request, "Host")?,
            origin: text(request, "Origin")?,
            authorization: text(request, "Authorization")?,
            mesh_secret: text(request, "X-Mesh-Secret")?,
            cookie: text(request, "Cookie")?,
            browser: Box::new(Browser {
                site: text(request, "Sec-Fetch-Site")?,
                mode: text(request, "Sec-Fetch-Mode")?,
                dest: text(request, "Sec-Fetch-Dest")?,
                content_type: text(request, "Content-Type")?,
                page_key: text(request, "X-Mesh-Page")?,
            }),
        },
        used,
        length: length(request)?,
        // An HTTP/1.0 connection stays open only if the client requests it. No client of the broker needs an open
        // HTTP/1.0 connection, so the connection always closes.
        close: old || lists(request, "Connection", "close"),
        expects: !old && lists(request, "Expect", "100-continue"),
    })
}

/// The values of all headers with this name, unchanged.
fn all<'a>(request: &'a httparse::Request, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
    request.headers.iter().filter(move |h| h.name.eq_ignore_ascii_case(name)).map(|h| h.value)
}

/// Returns the value of a header; `None` if it is missing. Refuses a repeated header, because one check could use the
/// first value while another check uses the second.
fn one<'a>(request: &'a httparse::Request, name: &'a str) -> Result<Option<&'a [u8]>, Refusal> {
    let mut values = all(request, name);
    match (values.next(), values.next()) {
        (value, None) => Ok(value),
        _ => Err(Refusal::Malformed("the request repeats a header that may appear only once")),
    }
}

fn text(request: &httparse::Request, name: &str) -> Result<Option<String>, Refusal> {
    let Some(value) = one(request, name)? else { return Ok(None) };
    match std::str::from_utf8(value) {
        Ok(value) => Ok(Some(value.to_string())),
        Err(_) => Err(Refusal::Malformed("expected headers in UTF-8")),
    }
}

fn length(request: &httparse::Request) -> Result<u64, Refusal> {
    let Some(value) = one(request, "Content-Length")? else { return Ok(0) };
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return Err(Refusal::Malformed("expected a Content-Length that consists of digits"));
    }
    // The text consists of digits, so parsing fails only if the number is too large.
    Ok(std::str::from_utf8(value).ok().and_then(|v| v.parse().ok()).unwrap_or(u64::MAX))
}

/// Whether the header `name`, which is a comma-separated list, contains `word`.
fn lists(request: &httparse::Request, name: &str, word: &str) -> bool {
    all(request, name)
        .flat_map(|value| value.split(|b| *b == b','))
        .any(|item| item.trim_ascii().eq_ignore_ascii_case(word.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn parsed(bytes: &[u8]) -> HeadStatus {
        parse_head(bytes, PEER, &Limits::default())
    }

    fn whole(text: &str) -> ParsedHead {
        match parsed(text.as_bytes()) {
            HeadStatus::Complete(whole) => whole,
            other => panic!("{text:?}: {other:?}"),
        }
    }

    fn status(text: &str) -> u16 {
        match parsed(text.as_bytes()) {
            HeadStatus::Refused(refusal) => refusal.response().status,
            other => panic!("{text:?}: {other:?}"),
        }
    }

    #[test]
    fn a_head_is_read() {
        let text = "POST /a?b=c HTTP/1.1\r\nhOST: h:1\r\nOrigin: http://o\r\n\
             content-length:  12 \r\nAuthorization: Bearer x\r\nx-mesh-secret: s\r\n\
             Cookie: k=v\r\nSec-Fetch-Site: none\r\nsec-fetch-mode: navigate\r\nSec-Fetch-Dest: document\r\n\
             Content-Type: a/b\r\nX-Mesh-Page: p\r\nExpect: 100-Continue\r\n\r\n";
        let got = whole(&format!("{text}tail"));
        let some = |text: &str| Some(text.to_string());
        let head = Head {
            method: "POST".into(),
            target: "/a?b=c".into(),
            peer: PEER,
            host: some("h:1"),
            origin: some("http://o"),
            authorization: some("Bearer x"),
            mesh_secret: some("s"),
            cookie: some("k=v"),
            browser: Box::new(Browser {
                site: some("none"),
                mode: some("navigate"),
                dest: some("document"),
                content_type: some("a/b"),
                page_key: some("p"),
            }),
        };
        let used = text.len();
        assert_eq!(got, ParsedHead { head, used, length: 12, close: false, expects: true });
    }

    #[test]
    fn every_prefix_of_a_head_is_partial() {
        let text = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        for n in 0..text.len() {
            assert_eq!(parsed(&text.as_bytes()[..n]), HeadStatus::Partial, "{n}");
        }
    }

    #[test]
    fn close_is_heard() {
        let close = |text: &str| whole(&format!("GET / {text}\r\n\r\n")).close;
        assert!(!close("HTTP/1.1"));
        assert!(!close("HTTP/1.1\r\nConnection: keep-alive"));
        assert!(close("HTTP/1.1\r\nConnection: te , CLOSE"));
        assert!(close("HTTP/1.1\r\nConnection: te\r\nConnection: close"));
        assert!(close("HTTP/1.0"));
        assert!(close("HTTP/1.0\r\nConnection: keep-alive"));
    }

    #[test]
    fn lengths_are_digits() {
        let with = |value: &str| format!("POST / HTTP/1.1\r\nContent-Length: {value}\r\n\r\n");
        for (value, want) in [
            ("0", 0),
            ("007", 7),
            ("100000000000", 100_000_000_000),
            ("18446744073709551615", u64::MAX),
            ("99999999999999999999999999", u64::MAX),
        ] {
            assert_eq!(whole(&with(value)).length, want, "{value}");
        }
        for value in ["", "+3", "-3", "3,3", "3 3", "0x3", "3.0", "\u{663}"] {
            assert_eq!(status(&with(value)), 400, "{value}");
        }
    }

    #[test]
    fn what_is_refused() {
        let long = "a".repeat(9000);
        let table = [
            ("POST / HTTP/1.1\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\n".into(), 400),
            ("POST / HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: x\r\n\r\n".into(), 411),
            ("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n".into(), 411),
            ("GET / HTTP/1.1\r\nHost: a\r\nhost: b\r\n\r\n".into(), 400),
            ("GET / HTTP/1.1\r\nAuthorization: a\r\nAuthorization: b\r\n\r\n".into(), 400),
            ("GET / HTTP/1.1\r\nHost : a\r\n\r\n".into(), 400),
            ("GET / HTTP/1.1\r\nA: b\r\n c\r\n\r\n".into(), 400),
            ("GET / HTTP/2.0\r\n\r\n".into(), 505),
            ("GET / HTTP/1.2\r\n\r\n".into(), 505),
            ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".into(), 505),
            ("BREW / HTTP/1.1\r\n\r\n".into(), 501),
            ("get / HTTP/1.1\r\n\r\n".into(), 501),
            ("\u{16}\u{3}\u{1}\u{2}".into(), 400),
            (format!("GET /{long}"), 431),
            (format!("GET / HTTP/1.1\r\nA: {long}"), 431),
            (format!("GET / HTTP/1.1\r\nA: {long}\r\n\r\n"), 431),
            (format!("GET / HTTP/1.1\r\n{}", "a: b\r\n".repeat(41)), 431),
            ("\r\n".repeat(5000), 431),
        ];
        for (text, want) in table {
            assert_eq!(status(&text), want, "{:?}", &text[..text.len().min(80)]);
        }
        assert!(matches!(parsed(b"GET / HTTP/1.1\r\nHost: \xff\r\n\r\n"), HeadStatus::Refused(Refusal::Malformed(_))));
    }

    #[test]
    fn no_bytes_make_it_panic() {
        let seeds: [&[u8]; 3] = [
            b"POST /send HTTP/1.1\r\nHost: a\r\nContent-Length: 12\r\nConnection: close\r\n\r\n",
            b"GET / HTTP/1.0\r\nTE: a;q=NaN,b;q=NaN\r\nExpect: 100-continue\r\n\r\n",
            b"\r\n\r\nOPTIONS * HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
        ];
        let mut chance = 0x9e37_79b9_7f4a_7c15_u64;
        let mut next = |below: usize| {
            chance ^= chance << 13;
            chance ^= chance >> 7;
            chance ^= chance << 17;
            (chance % below as u64) as usize
        };
        for _ in 0..200_000 {
            let mut bytes = seeds[next(3)].to_vec();
            for _ in 0..=next(4) {
                let at = next(bytes.len());
                bytes[at] = next(256) as u8;
            }
            bytes.truncate(next(bytes.len() + 40));
            if let HeadStatus::Complete(whole) = parsed(&bytes) {
                assert!(whole.used <= bytes.len());
            }
        }
    }
}
