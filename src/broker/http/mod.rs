//! The HTTP server, on a separate thread. It accepts connections and parses requests, within limits. It passes each
//! complete request to the event loop as a [`PendingRequest`]. The event loop answers with [`HttpServer::respond`].
//!
//! **Invariant:** bytes from a client reach other threads only as part of a complete, valid request that the [`Gate`]
//! has accepted. No client can make this thread wait, panic, or use more memory than [`Limits`] allows. The crate
//! tiny_http only formats the responses. The server of tiny_http is not used, because a single request can abort it.

#[doc(hidden)]
pub mod connection;
mod http_thread;
mod request_head;
mod response;
mod shared_http_state;

use std::io;
use std::net::{IpAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, SyncSender, channel};
use std::thread::JoinHandle;

/// The method, target and headers of a request. The request is refused if it repeats one of these headers, or if a
/// header is not UTF-8.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// The method, in capitals.
    pub method: String,
    /// The request target as the client sent it, including the query.
    pub target: String,
    /// The address of the client. An IPv4 address that is mapped into IPv6 appears as IPv4.
    pub peer: IpAddr,
    /// The `Host` header, not checked yet.
    pub host: Option<String>,
    /// The `Origin` header, not checked yet.
    pub origin: Option<String>,
    /// The `Authorization` header.
    pub authorization: Option<String>,
    /// The `X-Mesh-Secret` header.
    pub mesh_secret: Option<String>,
    /// The `Cookie` header.
    pub cookie: Option<String>,
    /// Headers that matter only for requests from the web page.
    pub browser: Box<Browser>,
}

/// Headers that matter only for requests from the web page. The browser itself sets the `Sec-Fetch-*` headers, and
/// scripts can't change them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Browser {
    /// The `Sec-Fetch-Site` header: how the origin of the requesting page relates to this server.
    pub site: Option<String>,
    /// The `Sec-Fetch-Mode` header.
    pub mode: Option<String>,
    /// The `Sec-Fetch-Dest` header: how the browser will use the response.
    pub dest: Option<String>,
    /// The `Content-Type` header.
    pub content_type: Option<String>,
    /// The `X-Mesh-Page` header: the key that proves that the request comes from the broker's web page.
    pub page_key: Option<String>,
}

/// A complete request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The head of the request.
    pub head: Head,
    /// The body. Its length is the value of `Content-Length`.
    pub body: Vec<u8>,
}

/// Identifies a request: the number of its connection, and its position on that connection. Connection numbers are
/// never reused, so a late response can't reach another client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ticket {
    conn: usize,
    position: u64,
}

/// A request that waits for a response from the event loop.
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
    /// Further headers. The server itself adds `Connection` and `Content-Length`.
    pub headers: Vec<(&'static str, String)>,
    /// The body. The server sends its length as `Content-Length`.
    pub body: Vec<u8>,
}

/// What the event loop sends to a client.
pub(crate) enum ResponsePart {
    /// A whole response.
    Whole(HttpResponse),
    /// The start of a stream: the head of the response, and the first bytes of the stream as its body.
    StreamStart(HttpResponse, OnDisconnect),
    /// The next bytes of a stream.
    StreamChunk(Arc<[u8]>),
}

/// A value that calls its function when it is dropped. The HTTP thread drops the value when the connection closes.
pub struct OnDisconnect(Option<Box<dyn FnOnce() + Send>>);

impl OnDisconnect {
    /// Creates a value that calls `run` when the stream ends, for any reason.
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
    /// Maximum time from the first to the last byte of a request, in ms.
    pub request_ms: u64,
    /// Maximum time, in ms, that a client may take to read a whole response.
    pub answer_ms: u64,
    /// Maximum time between two requests on a connection, in ms.
    pub idle_ms: u64,
    /// Maximum time, in ms, for sending the last responses when the thread stops.
    pub stop_ms: u64,
    /// Maximum number of connections of all clients together.
    pub connections_max: usize,
    /// Maximum number of connections from one address.
    pub per_address_max: usize,
    /// Maximum number of requests that are served on one connection before other connections get a turn. Only one of
    /// these requests is in memory at a time.
    pub pipeline_max: usize,
    /// Maximum number of unread bytes in a stream. If a client leaves more bytes unread, its connection is closed.
    pub stream_max: usize,
    /// The interval between keep-alives on an idle stream, in ms.
    pub beat_ms: u64,
    /// Maximum number of unread bytes on all connections together. Above this limit, the connection with the most
    /// unread bytes is closed.
    pub out_max: usize,
}

/// Checks the head of a request before the body is read. Returns `None` to accept the request, or the response that
/// refuses it. Runs on the HTTP thread.
pub type Gate = Box<dyn Fn(&Head) -> Option<HttpResponse> + Send>;

/// The handle through which other threads use the HTTP thread. Dropping the handle stops the thread.
pub struct HttpServer {
    responses: Sender<(Ticket, ResponsePart)>,
    waker: Arc<mio::Waker>,
    stopping: Arc<AtomicBool>,
    n_open: Arc<AtomicUsize>,
    thread: Option<JoinHandle<()>>,
}

impl HttpResponse {
    /// Creates a JSON response without further headers.
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
    /// Serves `listener` on a separate thread. The thread puts each complete request into `requests`, and then calls
    /// `wake`, which must not block.
    ///
    /// # Errors
    /// When the thread or its `mio` poll can't be created.
    pub fn start(
        listener: TcpListener,
        requests: SyncSender<PendingRequest>,
        wake: Box<dyn Fn() + Send>,
        gate: Gate,
        limits: Limits,
    ) -> io::Result<HttpServer> {
        // The channel is unbounded, so sending a response never blocks. The queue stays short, because each connection
        // waits for at most one response.
        let (responses, inbox) = channel();
        let stopping = Arc::new(AtomicBool::new(false));
        let n_open = Arc::new(AtomicUsize::new(0));
        let http_state = connection::SharedHttpState::new(requests, wake, gate, limits);
        let shared = (stopping.clone(), n_open.clone());
        let (thread, waker) = http_thread::HttpThread::new(listener, http_state, inbox, shared)?;
        let handle = std::thread::Builder::new().name("http".into()).spawn(move || thread.serve())?;
        Ok(HttpServer { responses, waker, stopping, n_open, thread: Some(handle) })
    }

    /// Answers a request without blocking. Any thread may call this function. Does nothing if the client has
    /// disconnected.
    pub fn respond(&self, ticket: Ticket, response: HttpResponse) {
        self.send(ticket, ResponsePart::Whole(response));
    }

    /// Starts a stream as the response to a request. [`HttpServer::send_chunk`] sends more bytes. When the client
    /// disconnects, `on_disconnect` is dropped.
    pub fn start_stream(&self, ticket: Ticket, head: HttpResponse, on_disconnect: OnDisconnect) {
        self.send(ticket, ResponsePart::StreamStart(head, on_disconnect));
    }

    /// Adds bytes to a stream, without blocking. Does nothing if the client has disconnected.
    pub fn send_chunk(&self, ticket: Ticket, bytes: Arc<[u8]>) {
        self.send(ticket, ResponsePart::StreamChunk(bytes));
    }

    fn send(&self, ticket: Ticket, part: ResponsePart) {
        // Sending fails only if the HTTP thread has ended. In that case, no clients are connected.
        if self.responses.send((ticket, part)).is_ok() {
            self.wake_thread();
        }
    }

    /// The number of open connections.
    pub fn n_open(&self) -> usize {
        self.n_open.load(Ordering::Relaxed)
    }

    /// Stops accepting connections, sends queued responses for up to `stop_ms`, and then ends the thread.
    pub fn stop(self) {
        drop(self);
    }

    fn wake_thread(&self) {
        // Waking fails only if the HTTP thread has already ended.
        let _ = self.waker.wake();
    }
}

impl Drop for HttpServer {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Release);
        self.wake_thread();
        if let Some(thread) = self.thread.take() {
            // If the thread has panicked, the panic hook has already printed why.
            let _ = thread.join();
        }
    }
}
