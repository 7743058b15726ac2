//! Accepts connections from other machines on a TCP port, on a thread of its own. Passes a client's connection to the
//! broker when the client has proven that it knows the secret. For a push client, the broker gets one end of a socket
//! pair instead.
//!
//! **Invariant:** until a client has proven that it knows the secret, its connection takes up only a bounded buffer,
//! and only for a bounded time. The number of such connections is bounded, per address and in total.

use super::HANDSHAKE_MS;
use super::accept_guest_handshake::{AcceptedSocket, PendingHandshake, Progress, Rejection};
use super::auth_failure_reports::AuthFailures;
use super::bridge_push_client_to_broker::{Bridge, BridgeStatus};
use super::encrypted_stream_to_guest::GuestStream;
use super::noise::NetworkKey;
use super::skip_empty_reads_of_guest_socket::GuestSocket;
use mio::net::{TcpListener, TcpStream, UnixStream};
use mio::{Events, Interest, Poll, Token, Waker};
use std::collections::HashMap;
use std::io::{self, ErrorKind};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::SyncSender;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tungstenite::WebSocket;

const LISTENER: Token = Token(0);
const WAKER: Token = Token(1);
/// Maximum number of push clients at the same time.
const PUSH_CLIENTS_MAX: usize = 1_000;
/// Maximum number of pending handshakes in total. The next constant is the maximum for one address. When a maximum is
/// reached, each new handshake replaces an older one.
const PENDING_MAX: usize = 256;
const PENDING_PER_ADDRESS_MAX: usize = 64;
/// How many connections the thread accepts before it reads from them. This must be less than `PENDING_PER_ADDRESS_MAX`.
/// Otherwise, new connections could replace others from which nothing has been read yet.
const ACCEPT_MAX: usize = 32;
/// After this many wrong secrets in a minute, an address is suspect. A suspect address is allowed fewer pending
/// handshakes, and each of them is delayed. This also affects guests at the same address that have the right secret.
const WRONG_SECRETS_MAX: u32 = 20;
const PENDING_PER_SUSPECT_MAX: usize = 4;
const SUSPECT_DELAY: Duration = Duration::from_secs(1);
/// How often the thread looks for slow handshakes and for dead connections.
const CHECK_EVERY: Duration = Duration::from_secs(1);
/// How long the thread pauses when it fails to accept a connection, usually because no file descriptor is free.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// A connection that was accepted.
pub enum AcceptedPeer {
    /// A session or a command of slm-mesh, and the address of its machine. The session or the command has proven that
    /// it knows the secret.
    Guest(Box<GuestStream>, IpAddr),
    /// The broker's end of a socket pair that leads to a push client of slm-mesh 1.3. The client has a valid bearer
    /// token.
    PushClient(UnixStream),
}

/// Checks the value of a push client's `Authorization` header.
pub type BearerCheck = Arc<dyn Fn(&str) -> bool + Send + Sync>;

/// What the listener needs from the broker.
pub struct BrokerHooks {
    /// Sends the accepted connections to the broker's event loop. If this channel is full, the loop is too busy, and
    /// the connection is dropped.
    pub accepted: SyncSender<AcceptedPeer>,
    /// Wakes the event loop.
    pub wake: Box<dyn Fn() + Send>,
    /// Decides whether a push client's bearer token is valid.
    pub bearer: BearerCheck,
    /// Writes a line to the broker's log.
    pub log: fn(&str),
}

/// The broker's handle to the listener. Dropping the handle closes the port and the connections of push clients.
pub struct ListenerHandle {
    stopping: Arc<AtomicBool>,
    waker: Arc<Waker>,
    thread: Option<JoinHandle<()>>,
    port: u16,
}

impl ListenerHandle {
    /// Starts the thread that accepts connections on `listener`, which is already bound to a port.
    ///
    /// # Errors
    /// When the poll or the thread can't be created.
    pub fn start(listener: std::net::TcpListener, secret: &str, broker: BrokerHooks) -> io::Result<ListenerHandle> {
        let key = NetworkKey::derive(secret).map_err(io::Error::other)?;
        listener.set_nonblocking(true)?;
        let port = listener.local_addr()?.port();
        let mut listener = TcpListener::from_std(listener);
        let poll = Poll::new()?;
        poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKER)?);
        let stopping = Arc::new(AtomicBool::new(false));
        let acceptor = Acceptor {
            poll,
            listener,
            key,
            broker,
            stopping: Arc::clone(&stopping),
            next_token: 2,
            pending: HashMap::new(),
            push_clients: HashMap::new(),
            unfinished: Vec::new(),
            accept_at: Some(Instant::now()),
            rejections: Rejections::default(),
        };
        let thread = std::thread::Builder::new().name("remote".into()).spawn(move || acceptor.run_loop())?;
        Ok(ListenerHandle { stopping, waker, thread: Some(thread), port })
    }

    /// The port on which the listener accepts connections.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for ListenerHandle {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Release);
        // This fails only if the thread has ended.
        let _ = self.waker.wake();
        if let Some(thread) = self.thread.take() {
            // If the thread has panicked, it has already printed the reason.
            let _ = thread.join();
        }
    }
}

/// A pending handshake, with the address of the client.
struct PendingConnection {
    handshake: PendingHandshake,
    address: IpAddr,
    since: Instant,
    /// Whether this handshake is being delayed, because its address has sent many wrong secrets.
    is_delayed: bool,
}

/// The thread that accepts connections, and carries the lines of push clients.
struct Acceptor {
    poll: Poll,
    listener: TcpListener,
    key: NetworkKey,
    broker: BrokerHooks,
    stopping: Arc<AtomicBool>,
    /// The next free token. Each connection has two tokens: an even number for the network, and the next number for the
    /// socket pair of a push client.
    next_token: usize,
    pending: HashMap<usize, PendingConnection>,
    push_clients: HashMap<usize, Bridge>,
    /// Connections that have more work to do now, even if no event arrives.
    unfinished: Vec<usize>,
    /// When to accept connections again; `None` if no new connection is waiting.
    accept_at: Option<Instant>,
    rejections: Rejections,
}

impl Acceptor {
    fn run_loop(mut self) {
        let mut events = Events::with_capacity(256);
        let mut checked_at = Instant::now();
        while !self.stopping.load(Ordering::Acquire) {
            if self.poll.poll(&mut events, self.timeout()).is_err_and(|e| e.kind() != ErrorKind::Interrupted) {
                (self.broker.log)(
                    "this hub no longer serves other machines, because it can no longer listen for connections; \
                     restart it with slm-mesh stop and slm-mesh start --detach",
                );
                return;
            }
            for n in self.ready_connections(&events) {
                self.serve(n);
            }
            let now = Instant::now();
            if self.accept_at.is_some_and(|at| at <= now) {
                self.accept_all(now);
            }
            if now.duration_since(checked_at) >= CHECK_EVERY {
                checked_at = now;
                self.check_deadlines(now);
            }
        }
    }

    fn timeout(&self) -> Option<Duration> {
        if !self.unfinished.is_empty() {
            return Some(Duration::ZERO);
        }
        let has_connections = !self.pending.is_empty() || !self.push_clients.is_empty();
        let at = [self.accept_at, self.rejections.report_due()].into_iter().flatten().min();
        let wait = at.map(|at| at.saturating_duration_since(Instant::now()));
        [has_connections.then_some(CHECK_EVERY), wait].into_iter().flatten().min()
    }

    /// Returns the connections that have work to do.
    fn ready_connections(&mut self, events: &Events) -> Vec<usize> {
        let mut ready = std::mem::take(&mut self.unfinished);
        for event in events {
            match event.token() {
                LISTENER => self.accept_at = Some(Instant::now()),
                WAKER => {}
                Token(n) => {
                    if let Some(bridge) = self.push_clients.get_mut(&(n & !1)) {
                        bridge.note_event(event);
                    }
                    ready.push(n & !1);
                }
            }
        }
        ready.sort_unstable();
        ready.dedup();
        ready
    }

    fn serve(&mut self, n: usize) {
        if let Some(bridge) = self.push_clients.get_mut(&n) {
            match bridge.run_turn(self.poll.registry()) {
                BridgeStatus::Idle => {}
                BridgeStatus::MoreWork => self.unfinished.push(n),
                BridgeStatus::Closed => drop(self.push_clients.remove(&n)),
            }
        } else if self.pending.get(&n).is_some_and(|pending| !pending.is_delayed) {
            // The event of a delayed handshake is ignored here. After the delay, the handshake is served even without
            // an event.
            self.advance_handshake(n);
        }
    }

    fn advance_handshake(&mut self, n: usize) {
        let Some(pending) = self.pending.remove(&n) else { return };
        match pending.handshake.advance(&self.key) {
            Progress::Pending(handshake) => drop(self.pending.insert(n, PendingConnection { handshake, ..pending })),
            Progress::Accepted(socket) => self.admit(n, *socket, pending.address),
            Progress::Rejected(why) => self.rejections.note(why, pending.address, Instant::now()),
        }
    }

    fn admit(&mut self, n: usize, socket: AcceptedSocket, address: IpAddr) {
        let admitted = match socket {
            AcceptedSocket::Guest(stream) => self.hand_over(stream, address),
            AcceptedSocket::PushClient(socket) => self.bridge(n, socket),
        };
        if let Err(error) = admitted {
            (self.broker.log)(&format!("a connection from {address} was dropped: {error}"));
        }
    }

    /// Gives the broker the connection of a guest.
    fn hand_over(&self, mut stream: GuestStream, address: IpAddr) -> io::Result<()> {
        self.poll.registry().deregister(&mut stream)?;
        self.send_to_broker(AcceptedPeer::Guest(Box::new(stream), address))
    }

    /// Connects a push client with the broker over a socket pair.
    fn bridge(&mut self, n: usize, socket: WebSocket<GuestSocket>) -> io::Result<()> {
        if self.push_clients.len() >= PUSH_CLIENTS_MAX {
            return Err(io::Error::other(format!("this hub already serves {PUSH_CLIENTS_MAX} push clients")));
        }
        let (ours, theirs) = UnixStream::pair()?;
        let bridge = Bridge::new(socket, ours, self.poll.registry(), Token(n + 1))?;
        self.send_to_broker(AcceptedPeer::PushClient(theirs))?;
        self.push_clients.insert(n, bridge);
        // The client's first lines may have arrived together with the end of the handshake, so the bridge runs
        // immediately.
        self.unfinished.push(n);
        Ok(())
    }

    fn send_to_broker(&self, peer: AcceptedPeer) -> io::Result<()> {
        self.broker.accepted.try_send(peer).map_err(|_| io::Error::other("the broker is too busy"))?;
        (self.broker.wake)();
        Ok(())
    }

    fn accept_all(&mut self, now: Instant) {
        self.accept_at = None;
        for _ in 0..ACCEPT_MAX {
            match self.listener.accept() {
                Ok((stream, from)) => self.start_handshake(stream, from.ip().to_canonical(), now),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => {
                    self.accept_at = Some(now + ACCEPT_RETRY);
                    return;
                }
            }
        }
        self.accept_at = Some(now);
    }

    /// The address that has the most pending handshakes.
    fn most_pending(&self) -> Option<IpAddr> {
        let mut counts: HashMap<IpAddr, usize> = HashMap::new();
        for pending in self.pending.values() {
            *counts.entry(pending.address).or_default() += 1;
        }
        counts.into_iter().max_by_key(|(address, n)| (*n, *address)).map(|(address, _)| address)
    }

    /// Drops the oldest pending handshake of an address.
    fn drop_oldest(&mut self, address: IpAddr, now: Instant) {
        let same = self.pending.iter().filter(|(_, pending)| pending.address == address);
        let oldest = same.map(|(n, pending)| (pending.since, *n)).min();
        if oldest.and_then(|(_, n)| self.pending.remove(&n)).is_some() {
            self.rejections.note(Rejection::NoSecret, address, now);
        }
    }

    /// Begins a handshake. If too many handshakes from this address are pending, drops the oldest of them. But if the
    /// address has sent many wrong secrets, drops the new connection instead. If too many handshakes are pending in
    /// total, drops the oldest one from the address with the most pending handshakes.
    fn start_handshake(&mut self, mut stream: TcpStream, address: IpAddr, now: Instant) {
        let n_same = self.pending.values().filter(|pending| pending.address == address).count();
        let is_suspect = self.rejections.wrong_secret.count_of(address) >= WRONG_SECRETS_MAX;
        let most = if is_suspect { PENDING_PER_SUSPECT_MAX } else { PENDING_PER_ADDRESS_MAX };
        if is_suspect && n_same >= most {
            // The new connection is dropped instead of an older one. Each handshake from this address is delayed for a
            // second. If new connections replaced older ones within that second, handshakes from this address might
            // never finish.
            return self.rejections.note(Rejection::NoSecret, address, now);
        }
        if n_same >= most {
            self.drop_oldest(address, now);
        } else if self.pending.len() >= PENDING_MAX {
            // The address with the most pending handshakes loses its oldest handshake. So a single address can't push
            // out the handshakes of others.
            let Some(crowded) = self.most_pending() else { return };
            self.drop_oldest(crowded, now);
        }
        let n = self.next_token;
        self.next_token += 2;
        // Without this setting, TCP may hold back small messages. If the call fails, the connection is only slower.
        let _ = stream.set_nodelay(true);
        let interest = Interest::READABLE | Interest::WRITABLE;
        if self.poll.registry().register(&mut stream, Token(n), interest).is_err() {
            return;
        }
        let handshake = PendingHandshake::start(stream, Arc::clone(&self.broker.bearer));
        self.pending.insert(n, PendingConnection { handshake, address, since: now, is_delayed: is_suspect });
        self.unfinished.push(n);
    }

    /// Ends slow handshakes and dead connections, starts delayed handshakes, and reports rejected clients.
    fn check_deadlines(&mut self, now: Instant) {
        let limit = Duration::from_millis(HANDSHAKE_MS);
        for (_, late) in self.pending.extract_if(|_, pending| now.duration_since(pending.since) >= limit) {
            self.rejections.note(Rejection::NoSecret, late.address, now);
        }
        for (n, pending) in &mut self.pending {
            if pending.is_delayed && now.duration_since(pending.since) >= SUSPECT_DELAY {
                pending.is_delayed = false;
                self.unfinished.push(*n);
            }
        }
        self.push_clients.retain(|_, bridge| bridge.check_liveness(now));
        if let Some(report) = self.rejections.take_report(now) {
            (self.broker.log)(&report);
        }
    }
}

/// The connections that were rejected since the last report, grouped by the reason.
#[derive(Default)]
struct Rejections {
    wrong_secret: AuthFailures,
    no_secret: AuthFailures,
    outdated: AuthFailures,
}

impl Rejections {
    fn note(&mut self, why: Rejection, address: IpAddr, now: Instant) {
        let failures = match why {
            Rejection::WrongSecret => &mut self.wrong_secret,
            Rejection::NoSecret => &mut self.no_secret,
            Rejection::Outdated => &mut self.outdated,
        };
        failures.note(address, now);
    }

    fn report_due(&self) -> Option<Instant> {
        [&self.wrong_secret, &self.no_secret, &self.outdated].into_iter().filter_map(|one| one.report_due()).min()
    }

    /// Returns a line about all connections that were rejected since the last report; `None` if no report is due.
    fn take_report(&mut self, now: Instant) -> Option<String> {
        self.report_due().filter(|due| *due <= now)?;
        let reasons = [
            ("wrong secret", &mut self.wrong_secret),
            ("no secret", &mut self.no_secret),
            ("slm-mesh 0.1.0, which must be updated,", &mut self.outdated),
        ];
        let parts =
            reasons.into_iter().filter_map(|(why, failures)| Some(format!("{why} from {}", failures.take_report()?)));
        Some(format!("connections rejected in the last minute: {}", parts.collect::<Vec<_>>().join("; ")))
    }
}
