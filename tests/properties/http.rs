//! Tests an HTTP connection with random bytes.
//!
//! The requests that the connection finds must not depend on how the bytes are cut into pieces. A client must be able
//! to see where each response ends.

use crate::choices::{Choices, pieces};
use slm_mesh::broker::http::connection::{HttpConnection, HttpStream, Next, READ_MAX, SharedHttpState};
use slm_mesh::broker::http::{Gate, Head, HttpResponse, Limits, PendingRequest, Request};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Instant;

/// A fake client that sends a fixed sequence of bytes, and records the server's bytes.
struct Script {
    here: Vec<u8>,
    at: usize,
    ended: bool,
    said: Vec<u8>,
    /// The maximum number of bytes that the client reads at once.
    takes: usize,
}

impl Read for Script {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let rest = &self.here[self.at..];
        if rest.is_empty() && !self.ended {
            return Err(ErrorKind::WouldBlock.into());
        }
        let n = rest.len().min(buffer.len());
        buffer[..n].copy_from_slice(&rest[..n]);
        self.at += n;
        Ok(n)
    }
}

impl Write for Script {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = bytes.len().min(self.takes);
        self.said.extend_from_slice(&bytes[..n]);
        Ok(n)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl HttpStream for Script {
    fn close_write(&self) -> io::Result<()> {
        Ok(())
    }
}

/// The requests that the server read from a stream, and the bytes that it sent.
struct Outcome {
    requests: Vec<Request>,
    said: Vec<u8>,
}

fn limits() -> Limits {
    Limits { head_max: 600, headers_max: 12, body_max: 2000, pipeline_max: 3, ..Limits::default() }
}

/// The first byte decides how the other bytes are cut into pieces. If its highest bit is set, the client reads only a
/// few bytes at a time.
pub fn check(data: &[u8]) {
    let mut choices = Choices(data);
    let how = choices.byte();
    let takes = if how & 0x80 == 0 { usize::MAX } else { 7 };
    let whole = run(&[choices.0], usize::MAX);
    let cut = run(&pieces(choices.0, how & 0x7f), takes);
    assert_eq!(cut.requests, whole.requests, "cut by {how}");
    for request in &whole.requests {
        check_request(request);
    }
    for outcome in [&whole, &cut] {
        let n_answers = frames(&outcome.said);
        assert!(n_answers >= outcome.requests.len(), "{} requests, {n_answers} answers", outcome.requests.len());
        // After an invalid request, the server sends one error, and then closes the connection.
        assert!(n_answers <= outcome.requests.len() + 1, "{} requests, {n_answers} answers", outcome.requests.len());
    }
}

fn http_state() -> (SharedHttpState, Receiver<PendingRequest>) {
    let (requests, inbox) = sync_channel(4);
    let gate: Gate = Box::new(|_: &Head| None);
    (SharedHttpState::new(requests, Box::new(|| ()), gate, limits()), inbox)
}

fn run(pieces: &[&[u8]], takes: usize) -> Outcome {
    let (http_state, inbox) = http_state();
    let now = Instant::now();
    let script = Script { here: Vec::new(), at: 0, ended: false, said: Vec::new(), takes };
    let mut conn = HttpConnection::new(script, IpAddr::V4(Ipv4Addr::LOCALHOST), 7, now, &http_state.limits);
    let mut scratch = vec![0; READ_MAX];
    let mut requests = Vec::new();
    let last: &[u8] = b"";
    for (n, piece) in pieces.iter().chain([&last]).enumerate() {
        conn.stream().here.extend_from_slice(piece);
        conn.stream().ended = n == pieces.len();
        conn.note_readable();
        loop {
            let next = conn.run_turn(&http_state, &mut scratch, now);
            match inbox.try_recv() {
                Ok(job) => {
                    let body = format!("{{\"n\":{}}}", requests.len()).into_bytes();
                    requests.push(job.request);
                    conn.deliver(job.ticket, &HttpResponse::json(200, body), &http_state.limits, now);
                }
                Err(_) if next == Next::Again => {}
                Err(_) if next == Next::Close => return Outcome { requests, said: conn.stream().said.clone() },
                Err(_) => break,
            }
        }
    }
    Outcome { requests, said: conn.stream().said.clone() }
}

fn check_request(request: &Request) {
    let head = &request.head;
    assert!(request.body.len() <= limits().body_max);
    assert!(head.target.len() <= limits().head_max && !head.target.contains([' ', '\r', '\n']), "{head:?}");
    let values = [&head.host, &head.origin, &head.authorization, &head.mesh_secret, &head.cookie];
    for value in values.into_iter().flatten() {
        assert!(!value.contains(['\r', '\n', '\0']), "{head:?}");
    }
}

/// Counts the responses in the server's output. The responses must cover all bytes of the output.
fn frames(said: &[u8]) -> usize {
    let (mut rest, mut n) = (said, 0);
    while !rest.is_empty() {
        let end = rest.windows(4).position(|four| four == b"\r\n\r\n").expect("a head that ends");
        let head = std::str::from_utf8(&rest[..end]).expect("a head in UTF-8");
        rest = &rest[end + 4..];
        let status = head.strip_prefix("HTTP/1.1 ").and_then(|line| line.get(..3)).expect("a status line");
        if status == "100" {
            continue;
        }
        n += 1;
        let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: ")).expect("a length");
        let length: usize = length.parse().expect("a length is a number");
        // The response to a HEAD request has no body, but still contains the body's length. A body always starts with a
        // brace.
        if rest.starts_with(b"{") {
            assert!(rest.len() >= length, "an answer that is cut short");
            rest = &rest[length..];
        }
    }
    n
}
