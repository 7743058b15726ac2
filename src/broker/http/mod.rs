//! HTTP on a separate thread. The thread accepts connections and parses requests, each within limits. A complete
//! request goes to the event loop as a [`PendingRequest`], and the loop sends its [`HttpResponse`] back with
//! [`HttpServer::respond`].
//!
//! **Invariant:** a client's bytes reach other threads only as part of a complete, valid request that the [`Gate`]
//! has let through. No client can make this thread wait, panic, or use more memory than [`Limits`] allows. The server
//! of tiny_http is not used, because a single request can abort it.

#[doc(hidden)]
pub mod connection;
mod dispatcher;
mod request_head;
mod response;
mod server;

use std::io;
use std::net::{IpAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, SyncSender, channel};
use std::thread::JoinHandle;

/// The part of a request's head that the gate and the loop see. A request that repeats one of these headers, or has
/// one that is not UTF-8, is refused before the gate sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// A known method, in capitals.
    pub method: String,
    /// The request target as the client sent it, including the query.
    pub target: String,
    /// The address of the client. An IPv4 address that is mapped into IPv6 appears as IPv4.
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
    /// The headers that only a browser sends.
    pub browser: Box<Browser>,
}

/// The headers that a browser adds to a request. A script in a page can't change the first three.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Browser {
    /// `Sec-Fetch-Site`: the relation of the requesting page to this server.
    pub site: Option<String>,
    /// `Sec-Fetch-Mode`.
    pub mode: Option<String>,
    /// `Sec-Fetch-Dest`: how the browser will use the response.
    pub dest: Option<String>,
    /// `Content-Type` of the body.
    pub content_type: Option<String>,
    /// `X-Mesh-Page`: the key by which our own page proves its session.
    pub page_key: Option<String>,
}

/// A complete request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Its head.
    pub head: Head,
    /// The body, exactly as long as `Content-Length` says.
    pub body: Vec<u8>,
}

/// The identity of one request: its connection and its position there. Neither number is ever used twice, so a late
/// response can't reach the wrong client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ticket {
    conn: usize,
    position: u64,
}

/// A request that is passed to the loop.
#[derive(Debug)]
pub struct PendingRequest {
    /// The identity of the request, for the response.
    pub ticket: Ticket,
    /// The request.
    pub request: Request,
}

/// A response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpResponse {
    /// The status, 200 to 599.
    pub status: u16,
    /// `Content-Type`.
    pub content_type: &'static str,
    /// Other headers, except `Connection` and the headers that frame the body, which the server writes.
    pub headers: Vec<(&'static str, String)>,
    /// The body; the server writes its length.
    pub body: Vec<u8>,
}

/// A message from the loop to a client.
pub(crate) enum ResponsePart {
    /// A whole response.
    Whole(HttpResponse),
    /// The head of a stream. Its body is the beginning of the stream.
    StreamStart(HttpResponse, OnDisconnect),
    /// The next bytes of a stream.
    StreamChunk(Arc<[u8]>),
}

/// Runs a function when it is dropped, together with the connection that owns it.
pub struct OnDisconnect(Option<Box<dyn FnOnce() + Send>>);

impl OnDisconnect {
    /// A function that runs after the stream has ended, for whatever reason.
    pub fn new(run: impl FnOnce() + Send + 'static) -> OnDisconnect {
        OnDisconnect(Some(Box::new(run)))
    }
}

impl Drop for OnDisconnect {
    fn drop(&mut self) {
        if let Some(run) = self.0.take() {
            run();
        }
    }
}

/// The resources that clients may use, and their time limits.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Maximum size of a request line with its headers, in bytes.
    pub head_max: usize,
    /// Maximum number of headers in a request.
    pub headers_max: usize,
    /// Maximum size of a request's body, in bytes.
    pub body_max: usize,
    /// Maximum time from the first byte of a request to its last byte.
    pub request_ms: u64,
    /// Maximum time for a client to read its whole response.
    pub answer_ms: u64,
    /// Maximum time between two requests on a connection.
    pub idle_ms: u64,
    /// Maximum number of connections, over all clients together.
    pub connections_max: usize,
    /// Maximum number of connections from one address.
    pub per_address_max: usize,
    /// Maximum number of requests of one connection that are served before the other connections get a turn. They are
    /// parsed one by one, so memory never holds more than one of them.
    pub pipeline_max: usize,
    /// Maximum number of bytes in a stream that its client has not read. A slower client is dropped.
    pub stream_max: usize,
    /// How often a quiet stream gets a keep-alive.
    pub beat_ms: u64,
    /// Maximum number of unread bytes in all responses together. The client with the most unread bytes is dropped
    /// first.
    pub out_max: usize,
}

/// Decides about a request from its head alone, before any byte of the body is buffered. `None` lets the request
/// through. The gate runs on the HTTP thread.
pub type Gate = Box<dyn Fn(&Head) -> Option<HttpResponse> + Send>;

/// The HTTP thread, as other threads see it. Dropping it also stops the thread.
pub struct HttpServer {
    responses: Sender<(Ticket, ResponsePart)>,
    waker: Arc<mio::Waker>,
    stopping: Arc<AtomicBool>,
    n_open: Arc<AtomicUsize>,
    thread: Option<JoinHandle<()>>,
}

impl HttpResponse {
    /// A JSON response without further headers.
    pub fn json(status: u16, body: Vec<u8>) -> HttpResponse {
        HttpResponse { status, content_type: "application/json", headers: Vec::new(), body }
    }
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            head_max: 8 << 10,
            headers_max: 40,
            body_max: 1 << 20, // the size that existing clients expect
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

impl HttpServer {
    /// Serves `listener` on a separate thread. It puts each complete request into `requests`, and then calls `wake`,
    /// which must not block.
    ///
    /// # Errors
    /// When the system refuses a poll or a thread.
    pub fn start(
        listener: TcpListener,
        requests: SyncSender<PendingRequest>,
        wake: Box<dyn Fn() + Send>,
        gate: Gate,
        limits: Limits,
    ) -> io::Result<HttpServer> {
        // The channel is unbounded, so that responding never blocks. It still stays short, because there is at most
        // one open ticket for each connection.
        let (responses, inbox) = channel();
        let stopping = Arc::new(AtomicBool::new(false));
        let n_open = Arc::new(AtomicUsize::new(0));
        let dispatcher = connection::Dispatcher::new(requests, wake, gate, limits);
        let shared = (stopping.clone(), n_open.clone());
        let (thread, waker) = server::HttpThread::new(listener, dispatcher, inbox, shared)?;
        let handle = std::thread::Builder::new().name("http".into()).spawn(move || thread.serve())?;
        Ok(HttpServer { responses, waker, stopping, n_open, thread: Some(handle) })
    }

    /// Answers a request, from any thread and without blocking. Nothing happens if the client is gone.
    pub fn respond(&self, ticket: Ticket, response: HttpResponse) {
        self.send(ticket, ResponsePart::Whole(response));
    }

    /// Answers a request with a stream: the head now, and chunks as long as the client listens. `on_disconnect` is
    /// dropped when the client no longer listens.
    pub fn start_stream(&self, ticket: Ticket, head: HttpResponse, on_disconnect: OnDisconnect) {
        self.send(ticket, ResponsePart::StreamStart(head, on_disconnect));
    }

    /// Adds bytes to a stream, without blocking. Nothing happens if the client is gone.
    pub fn send_chunk(&self, ticket: Ticket, bytes: Arc<[u8]>) {
        self.send(ticket, ResponsePart::StreamChunk(bytes));
    }

    fn send(&self, ticket: Ticket, part: ResponsePart) {
        // This fails only if the thread has ended, and then every client is gone.
        if self.responses.send((ticket, part)).is_ok() {
            self.wake_thread();
        }
    }

    /// The number of open connections.
    pub fn n_open(&self) -> usize {
        self.n_open.load(Ordering::Relaxed)
    }

    /// Stops accepting, gives queued responses up to 200 ms to leave, and ends the thread.
    pub fn stop(self) {
        drop(self);
    }

    fn wake_thread(&self) {
        // This fails only if the thread has ended, because its poll ends with it.
        let _ = self.waker.wake();
    }
}

impl Drop for HttpServer {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Release);
        self.wake_thread();
        if let Some(thread) = self.thread.take() {
            // If the thread panicked, the panic hook has already printed the panic, and the broker ends anyway.
            let _ = thread.join();
        }
    }
}
