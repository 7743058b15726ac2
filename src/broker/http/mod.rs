//! HTTP, on a separate thread. The thread accepts connections and parses requests, both within limits. It passes
//! each complete request to the event loop as a [`PendingRequest`]. The loop returns an [`HttpResponse`] with
//! [`HttpServer::respond`].
//!
//! **Invariant:** the bytes of a client reach other threads only as part of a complete, valid request that the
//! [`Gate`] has accepted. No client can make this thread wait, panic, or use more memory than [`Limits`] allows.
//! tiny_http's server is not used, because a single request can abort it.

#[doc(hidden)]
pub mod connection;
mod shared_http_state;
mod request_head;
mod response;
mod http_thread;

use std::io;
use std::net::{IpAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, SyncSender, channel};
use std::thread::JoinHandle;

/// The part of a request's head that the gate and the event loop get. If a request repeats one of these headers, or
/// one of them is not UTF-8, the request is refused before it reaches the gate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// The method, in capitals. It is one of the methods that the server knows.
    pub method: String,
    /// The request target as the client sent it, including the query.
    pub target: String,
    /// The address of the client. An IPv4 address that is mapped into IPv6 appears as IPv4.
    pub peer: IpAddr,
    /// `Host`, not checked yet.
    pub host: Option<String>,
    /// `Origin`, not checked yet.
    pub origin: Option<String>,
    /// `Authorization`.
    pub authorization: Option<String>,
    /// `X-Mesh-Secret`.
    pub mesh_secret: Option<String>,
    /// `Cookie`.
    pub cookie: Option<String>,
    /// The headers that matter only for requests of the web page.
    pub browser: Box<Browser>,
}

/// The headers that matter only for requests of the web page. The browser itself sets the first three, and scripts
/// can't change them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Browser {
    /// `Sec-Fetch-Site`: how the requesting page is related to this server.
    pub site: Option<String>,
    /// `Sec-Fetch-Mode`.
    pub mode: Option<String>,
    /// `Sec-Fetch-Dest`: how the browser will use the response.
    pub dest: Option<String>,
    /// `Content-Type` of the body.
    pub content_type: Option<String>,
    /// `X-Mesh-Page`: the key with which our own page proves its session.
    pub page_key: Option<String>,
}

/// A complete request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The head of the request.
    pub head: Head,
    /// The body. Its length is the one in `Content-Length`.
    pub body: Vec<u8>,
}

/// Identifies a request by the number of its connection and its position on that connection. No connection gets a
/// number that was used before, so a late response can't reach the wrong client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ticket {
    conn: usize,
    position: u64,
}

/// A request that was passed to the event loop.
#[derive(Debug)]
pub struct PendingRequest {
    /// Identifies the request, so that the response reaches the right client.
    pub ticket: Ticket,
    /// The request.
    pub request: Request,
}

/// A response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpResponse {
    /// The status, 200 to 599.
    pub status: u16,
    /// The value of `Content-Type`.
    pub content_type: &'static str,
    /// Other headers. The server itself writes `Connection` and the headers that frame the body.
    pub headers: Vec<(&'static str, String)>,
    /// The body. The server writes its length.
    pub body: Vec<u8>,
}

/// What the event loop sends to a client.
pub(crate) enum ResponsePart {
    /// A whole response.
    Whole(HttpResponse),
    /// The head of a stream. The body of this response is the first part of the stream.
    StreamStart(HttpResponse, OnDisconnect),
    /// The next bytes of a stream.
    StreamChunk(Arc<[u8]>),
}

/// A function that runs when this value is dropped, which happens when the connection ends.
pub struct OnDisconnect(Option<Box<dyn FnOnce() + Send>>);

impl OnDisconnect {
    /// Wraps a function that is to run when the stream ends, for whatever reason.
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

/// The limits on what clients may use: memory, connections and time.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Maximum size of a request line with its headers, in bytes.
    pub head_max: usize,
    /// Maximum number of headers in a request.
    pub headers_max: usize,
    /// Maximum size of a request's body, in bytes.
    pub body_max: usize,
    /// Maximum time from the first byte of a request to the last one, in ms.
    pub request_ms: u64,
    /// Maximum time that a client may take to read a whole response, in ms.
    pub answer_ms: u64,
    /// Maximum time between two requests on a connection, in ms.
    pub idle_ms: u64,
    /// Maximum time for sending the last responses when the thread stops, in ms.
    pub stop_ms: u64,
    /// Maximum number of connections of all clients together.
    pub connections_max: usize,
    /// Maximum number of connections from one address.
    pub per_address_max: usize,
    /// Maximum number of requests of one connection that are served before other connections get a turn. The requests
    /// are parsed one by one, so memory never holds more than one of them.
    pub pipeline_max: usize,
    /// Maximum number of unread bytes in a stream. If a client leaves more bytes unread, its connection is closed.
    pub stream_max: usize,
    /// How often a quiet stream gets a keep-alive, in ms.
    pub beat_ms: u64,
    /// Maximum number of unread bytes in all responses together. The connection with the most unread bytes is
    /// closed first.
    pub out_max: usize,
}

/// Decides from the head of a request whether the request is accepted, before any byte of the body is stored. Returns
/// `None` to accept the request, or the response to send instead. The gate runs on the HTTP thread.
pub type Gate = Box<dyn Fn(&Head) -> Option<HttpResponse> + Send>;

/// The handle with which other threads use the HTTP thread. When the handle is dropped, the thread stops.
pub struct HttpServer {
    responses: Sender<(Ticket, ResponsePart)>,
    waker: Arc<mio::Waker>,
    stopping: Arc<AtomicBool>,
    n_open: Arc<AtomicUsize>,
    thread: Option<JoinHandle<()>>,
}

impl HttpResponse {
    /// Makes a JSON response without further headers.
    pub fn json(status: u16, body: Vec<u8>) -> HttpResponse {
        HttpResponse { status, content_type: "application/json", headers: Vec::new(), body }
    }
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            head_max: 8 << 10,
            headers_max: 40,
            body_max: 1 << 20, // the size that clients of slm-mesh 1.x expect
            request_ms: 5_000,
            answer_ms: 10_000,
            idle_ms: 60_000,
            stop_ms: 200,
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
    /// Serves `listener` on a separate thread. The thread puts each complete request into `requests`, and then
    /// calls `wake`, which must not block.
    ///
    /// # Errors
    /// When no poll or thread can be created.
    pub fn start(
        listener: TcpListener,
        requests: SyncSender<PendingRequest>,
        wake: Box<dyn Fn() + Send>,
        gate: Gate,
        limits: Limits,
    ) -> io::Result<HttpServer> {
        // The channel is unbounded, so that a response never blocks the sender. The channel still stays short,
        // because each connection has at most one request that waits for a response.
        let (responses, inbox) = channel();
        let stopping = Arc::new(AtomicBool::new(false));
        let n_open = Arc::new(AtomicUsize::new(0));
        let http_state = connection::SharedHttpState::new(requests, wake, gate, limits);
        let shared = (stopping.clone(), n_open.clone());
        let (thread, waker) = http_thread::HttpThread::new(listener, http_state, inbox, shared)?;
        let handle = std::thread::Builder::new().name("http".into()).spawn(move || thread.serve())?;
        Ok(HttpServer { responses, waker, stopping, n_open, thread: Some(handle) })
    }

    /// Answers a request without blocking. Any thread may call this. If the client is gone, nothing happens.
    pub fn respond(&self, ticket: Ticket, response: HttpResponse) {
        self.send(ticket, ResponsePart::Whole(response));
    }

    /// Begins to answer a request with a stream; `send_chunk` continues the stream. When the client stops listening,
    /// `on_disconnect` is dropped.
    pub fn start_stream(&self, ticket: Ticket, head: HttpResponse, on_disconnect: OnDisconnect) {
        self.send(ticket, ResponsePart::StreamStart(head, on_disconnect));
    }

    /// Adds bytes to a stream, without blocking. If the client is gone, nothing happens.
    pub fn send_chunk(&self, ticket: Ticket, bytes: Arc<[u8]>) {
        self.send(ticket, ResponsePart::StreamChunk(bytes));
    }

    fn send(&self, ticket: Ticket, part: ResponsePart) {
        // This fails only if the thread has ended. In this case, there are no clients.
        if self.responses.send((ticket, part)).is_ok() {
            self.wake_thread();
        }
    }

    /// How many connections are open.
    pub fn n_open(&self) -> usize {
        self.n_open.load(Ordering::Relaxed)
    }

    /// Accepts no more connections, gives queued responses up to `stop_ms` to be sent, and ends the thread.
    pub fn stop(self) {
        drop(self);
    }

    fn wake_thread(&self) {
        // This fails only if the thread and its poll are gone.
        let _ = self.waker.wake();
    }
}

impl Drop for HttpServer {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Release);
        self.wake_thread();
        if let Some(thread) = self.thread.take() {
            // If the thread has panicked, the panic hook has already printed the panic, and the broker ends anyway.
            let _ = thread.join();
        }
    }
}
