//! HTTP on a thread of its own: it accepts, bounds, parses and answers; what it parsed goes to the
//! loop as a [`Job`], and the loop's [`Answer`] comes back by [`Server::answer`].
//!
//! **Invariant:** no byte of a client reaches another thread before it is part of a complete,
//! validated request which the [`Gate`] let through; and no client can make this thread wait, panic
//! or hold more than [`Limits`] says. `tiny_http::Server` is never used: one request aborts it.

mod response;
#[doc(hidden)]
pub mod connection;
mod dispatcher;
mod request_head;
mod server;

use std::io;
use std::net::{IpAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, SyncSender, channel};
use std::thread::JoinHandle;

/// What the gate and the loop see of a request's head. A header among these that comes twice, or
/// is no UTF-8, is refused before the gate is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// One of the methods we know, in capitals.
    pub method: String,
    /// The request target as it was sent, query included.
    pub target: String,
    /// Who sent it; an IPv4 address inside IPv6 is shown as IPv4.
    pub peer: IpAddr,
    /// `Host`, unchecked.
    pub host: Option<String>,
    /// `Origin`, unchecked.
    pub origin: Option<String>,
    /// `Authorization`.
    pub authorization: Option<String>,
    /// `X-Mesh-Secret`.
    pub mesh_secret: Option<String>,
    /// `Cookie`.
    pub cookie: Option<String>,
    /// What only a browser says.
    pub browser: Box<Browser>,
}

/// What a browser says of a request, beyond what every client does. A script can't change the first three.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Browser {
    /// `Sec-Fetch-Site`: from how near the request comes.
    pub site: Option<String>,
    /// `Sec-Fetch-Mode`.
    pub mode: Option<String>,
    /// `Sec-Fetch-Dest`: what the answer is to become.
    pub dest: Option<String>,
    /// `Content-Type` of the body.
    pub content_type: Option<String>,
    /// `X-Mesh-Page`: what our own page has to show.
    pub page_key: Option<String>,
}

/// A complete request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// What its head says.
    pub head: Head,
    /// Exactly as many bytes as its `Content-Length` said.
    pub body: Vec<u8>,
}

/// Names one request until it is answered: connection and position in its pipeline. Neither is
/// ever used twice, so an answer that comes too late meets nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ticket {
    conn: usize,
    position: u64,
}

/// A request on its way to the loop.
#[derive(Debug)]
pub struct Job {
    /// What to answer it by.
    pub ticket: Ticket,
    /// What it asks.
    pub request: Request,
}

/// An answer: status, content type, body, extra headers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The status, 200 to 599.
    pub status: u16,
    /// `Content-Type`.
    pub content_type: &'static str,
    /// Further headers; `Connection` and the framing ones are ours and left out.
    pub headers: Vec<(&'static str, String)>,
    /// The body; its length is announced by us.
    pub body: Vec<u8>,
}

/// What the loop has to say to a client.
pub(crate) enum Said {
    /// All of it.
    Answer(Answer),
    /// The head of a stream, whose body is its beginning.
    Stream(Answer, Left),
    /// More of the stream.
    More(Arc<[u8]>),
}

/// Runs when it is dropped, which happens with the connection that has it.
pub struct Left(Option<Box<dyn FnOnce() + Send>>);

impl Left {
    /// Something to do once a stream has ended, whichever way.
    pub fn new(tell: impl FnOnce() + Send + 'static) -> Left {
        Left(Some(Box::new(tell)))
    }
}

impl Drop for Left {
    fn drop(&mut self) {
        if let Some(tell) = self.0.take() {
            tell();
        }
    }
}

/// How much a client may take of us, and for how long.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Bytes of a request line with its headers.
    pub head_max: usize,
    /// Headers of a request.
    pub headers_max: usize,
    /// Bytes of a request's body.
    pub body_max: usize,
    /// From the first byte of a request to its last one.
    pub request_ms: u64,
    /// For a client to take the whole of its answer.
    pub answer_ms: u64,
    /// Between two requests of a connection.
    pub idle_ms: u64,
    /// Connections of all clients.
    pub connections_max: usize,
    /// Connections from one address.
    pub per_address_max: usize,
    /// Requests of one connection that are served before the others have their turn. They are
    /// parsed one by one, so no more than one of them is ever held in memory.
    pub pipeline_max: usize,
    /// Bytes of a stream that its client has not taken; a slower one is dropped.
    pub stream_max: usize,
    /// A stream in which nothing happens is given a sign of life this often.
    pub beat_ms: u64,
    /// Bytes of all answers together that clients have not taken; who has most of it goes first.
    pub out_max: usize,
}

/// Decides from the head alone, before a body byte is buffered: None lets it through. Runs on the
/// HTTP thread.
pub type Gate = Box<dyn Fn(&Head) -> Option<Answer> + Send>;

/// The HTTP thread, seen from outside. Dropping it stops it too.
pub struct Server {
    answers: Sender<(Ticket, Said)>,
    waker: Arc<mio::Waker>,
    stopping: Arc<AtomicBool>,
    n_open: Arc<AtomicUsize>,
    thread: Option<JoinHandle<()>>,
}

impl Answer {
    /// A JSON answer without further headers.
    pub fn json(status: u16, body: Vec<u8>) -> Answer {
        Answer { status, content_type: "application/json", headers: Vec::new(), body }
    }
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            head_max: 8 << 10,
            headers_max: 40,
            body_max: 1 << 20, // what the clients of the protocol expect
            request_ms: 5_000,
            answer_ms: 10_000,
            idle_ms: 60_000,
            connections_max: 256,
            per_address_max: 128,
            pipeline_max: 16,
            stream_max: 2 << 20,
            beat_ms: 20_000,
            out_max: 64 << 20,
        }
    }
}

impl Server {
    /// Serves `listener` on a thread of its own. Complete requests arrive on `jobs`, each followed
    /// by `wake()`, which must not block.
    pub fn start(
        listener: TcpListener,
        jobs: SyncSender<Job>,
        wake: Box<dyn Fn() + Send>,
        gate: Gate,
        limits: Limits,
    ) -> io::Result<Server> {
        // Unbounded so that answering never blocks; bounded all the same by the tickets that are
        // out, which are no more than there are connections.
        let (answers, inbox) = channel();
        let stopping = Arc::new(AtomicBool::new(false));
        let n_open = Arc::new(AtomicUsize::new(0));
        let desk = connection::Desk::new(jobs, wake, gate, limits);
        let signs = (stopping.clone(), n_open.clone());
        let (serve, waker) = server::Serve::new(listener, desk, inbox, signs)?;
        let thread = std::thread::Builder::new().name("http".into()).spawn(move || serve.run())?;
        Ok(Server { answers, waker, stopping, n_open, thread: Some(thread) })
    }

    /// Answers a request, from any thread; never blocks. If its client has gone, nothing happens.
    pub fn answer(&self, ticket: Ticket, answer: Answer) {
        self.say(ticket, Said::Answer(answer));
    }

    /// Answers a request with a stream: the head now, `more` as long as the client listens. `left` is
    /// dropped when it does not any more.
    pub fn open(&self, ticket: Ticket, head: Answer, left: Left) {
        self.say(ticket, Said::Stream(head, left));
    }

    /// Puts bytes into a stream; never blocks. If its client has gone, nothing happens.
    pub fn more(&self, ticket: Ticket, bytes: Arc<[u8]>) {
        self.say(ticket, Said::More(bytes));
    }

    fn say(&self, ticket: Ticket, said: Said) {
        // Fails only if the thread has ended, and then every client has gone.
        if self.answers.send((ticket, said)).is_ok() {
            self.ring();
        }
    }

    /// The number of open connections.
    pub fn n_open(&self) -> usize {
        self.n_open.load(Ordering::Relaxed)
    }

    /// Stops accepting, gives queued answers a moment (<= 200 ms) to leave, joins.
    pub fn stop(self) {
        drop(self);
    }

    fn ring(&self) {
        // An eventfd write: it can fail only if the thread has ended and taken the poll with it.
        let _ = self.waker.wake();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Release);
        self.ring();
        if let Some(thread) = self.thread.take() {
            // Its panic, if any, has been printed by the hook; we are leaving anyway.
            let _ = thread.join();
        }
    }
}
