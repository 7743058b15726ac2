//! The hub's door: a thread of its own that takes guests on a TCP port and hands the loop one end of
//! a pair for each that has proven the secret, or that brings it as a bearer token, as the clients of
//! 1.3 do to hear pushes.
//!
//! **Invariant:** a stranger costs a bounded buffer for a bounded time, in a bounded number for each
//! address and in all; what it learns is that it was not let in.

use super::auth::{HubShake, Seal};
use super::auth_failures::Tries;
use super::bridge::{Bridge, Pumped};
use super::{PATH, SHAKE_MS, websocket};
use mio::net::{TcpListener, TcpStream, UnixStream};
use mio::{Events, Interest, Poll, Token, Waker};
use std::collections::HashMap;
use std::io::{self, ErrorKind};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::mpsc::SyncSender;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tungstenite::handshake::server::{ErrorResponse, Request, Response, ServerHandshake};
use tungstenite::handshake::{HandshakeError, MidHandshake};
use tungstenite::{Error, Message, WebSocket};

const LISTENER: Token = Token(0);
const WAKER: Token = Token(1);
/// Guests let in.
const GUESTS_MAX: usize = 1000;
/// Strangers at the door, in all and from one address. More come when all guests come back at once:
/// they knock again.
const STRANGERS_MAX: (usize, usize) = (256, 64);
/// After this many failed proofs in a minute fewer from that address are at the door at once, and each
/// waits before it is heard. Who knows the secret gets in from there, too: only later.
const FAILED_MAX: u32 = 20;
const SUSPECTS_MAX: usize = 4;
const HELD: Duration = Duration::from_secs(1);
/// How often deadlines and signs of life are looked at while there is anybody.
const WATCH_EVERY: Duration = Duration::from_secs(1);
/// After no descriptor was free, the next try is this much later.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// A guest that has proven the secret.
pub struct Arrival {
    /// Its lines.
    pub stream: UnixStream,
    /// Where it came from.
    pub address: IpAddr,
    /// It only listens for pushes, as the clients of 1.3 do.
    pub listens: bool,
}

/// Says whether an `Authorization` header lets in who only listens.
pub type Bearer = Arc<dyn Fn(&str) -> bool + Send + Sync>;

/// What the door needs of the broker.
pub struct Inside {
    /// Where guests arrive; full means that the loop is too busy for another.
    pub arrivals: SyncSender<Arrival>,
    /// Rings the loop.
    pub wake: Box<dyn Fn() + Send>,
    /// Who may listen.
    pub bearer: Bearer,
    /// Says a line to the operator.
    pub log: fn(&str),
    /// Chance for nonces.
    pub chance: fn() -> u128,
}

/// The door, seen from the broker. Dropping it closes it.
pub struct Door {
    stopping: Arc<AtomicBool>,
    waker: Arc<Waker>,
    thread: Option<JoinHandle<()>>,
    port: u16,
}

impl Door {
    /// Opens it on a bound listener.
    ///
    /// # Errors
    /// When the poll or the thread can't be made.
    pub fn open(listener: std::net::TcpListener, secret: String, inside: Inside) -> io::Result<Door> {
        listener.set_nonblocking(true)?;
        let port = listener.local_addr()?.port();
        let mut listener = TcpListener::from_std(listener);
        let poll = Poll::new()?;
        poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKER)?);
        let stopping = Arc::new(AtomicBool::new(false));
        let porter = Porter {
            poll,
            listener,
            secret,
            inside,
            stopping: Arc::clone(&stopping),
            next: 2,
            at_door: HashMap::new(),
            guests: HashMap::new(),
            again: Vec::new(),
            accept_at: Some(Instant::now()),
            failed: Tries::default(),
            refused: Tries::default(),
        };
        let thread = std::thread::Builder::new().name("far".into()).spawn(move || porter.run())?;
        Ok(Door { stopping, waker, thread: Some(thread), port })
    }

    /// Where it is.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Release);
        // It fails only if the thread has ended.
        let _ = self.waker.wake();
        if let Some(thread) = self.thread.take() {
            // Its panic, if any, has been printed; we are leaving anyway.
            let _ = thread.join();
        }
    }
}

type Asked = Box<dyn FnOnce(&Request, Response) -> Result<Response, ErrorResponse> + Send>;

/// What a stranger asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Wish {
    /// Nothing yet, or nothing that is here.
    None,
    /// To be a guest.
    Guest,
    /// To listen, with a bearer token that fits.
    Listen,
    /// To listen, with one that does not.
    Refused,
}

/// How far a stranger has got.
enum Step {
    Shaking(MidHandshake<ServerHandshake<TcpStream, Asked>>),
    Hello(WebSocket<TcpStream>),
    Proof(WebSocket<TcpStream>, HubShake),
}

struct Stranger {
    step: Step,
    /// A `Wish`, set while the request is read.
    wish: Arc<AtomicU8>,
    address: IpAddr,
    since: Instant,
    /// It comes from where many proofs failed, and is not heard yet.
    is_held: bool,
}

/// What became of a stranger.
#[expect(clippy::large_enum_variant, reason = "it lives for one step")]
enum Came {
    Waits(Step),
    In(Box<(WebSocket<TcpStream>, Option<Seal>)>),
    /// Turned away; `true` when it tried a secret.
    Out(bool),
}

/// The thread.
struct Porter {
    poll: Poll,
    listener: TcpListener,
    secret: String,
    inside: Inside,
    stopping: Arc<AtomicBool>,
    /// Tokens; each guest has two, one after the other.
    next: usize,
    at_door: HashMap<usize, Stranger>,
    guests: HashMap<usize, Bridge<TcpStream>>,
    /// Guests with more to carry.
    again: Vec<usize>,
    /// When to accept, if it is time for that.
    accept_at: Option<Instant>,
    /// Failed proofs of this minute, and those turned away before they gave one.
    failed: Tries,
    refused: Tries,
}

impl Porter {
    fn run(mut self) {
        let mut events = Events::with_capacity(256);
        let mut watched = Instant::now();
        while !self.stopping.load(Ordering::Acquire) {
            if self.poll.poll(&mut events, self.timeout()).is_err_and(|e| e.kind() != ErrorKind::Interrupted) {
                (self.inside.log)("the door to other machines is closed: its poll failed");
                return;
            }
            let mut ready = std::mem::take(&mut self.again);
            for event in &events {
                match event.token() {
                    LISTENER => self.accept_at = Some(Instant::now()),
                    WAKER => {}
                    // A guest's tokens are an even number and the one after it.
                    Token(n) => {
                        if let Some(guest) = self.guests.get_mut(&(n & !1)) {
                            guest.note(event);
                        }
                        ready.push(n & !1);
                    }
                }
            }
            ready.sort_unstable();
            ready.dedup();
            for n in ready {
                self.serve(n);
            }
            let now = Instant::now();
            if self.accept_at.is_some_and(|at| at <= now) {
                self.accept(now);
            }
            if now.duration_since(watched) >= WATCH_EVERY {
                watched = now;
                self.watch(now);
            }
        }
    }

    fn timeout(&self) -> Option<Duration> {
        if !self.again.is_empty() {
            return Some(Duration::ZERO);
        }
        let anybody = !self.at_door.is_empty() || !self.guests.is_empty();
        let at = [self.accept_at, self.failed.due(), self.refused.due()].into_iter().flatten().min();
        let wait = at.map(|at| at.saturating_duration_since(Instant::now()));
        [anybody.then_some(WATCH_EVERY), wait].into_iter().flatten().min()
    }

    fn serve(&mut self, n: usize) {
        if let Some(guest) = self.guests.get_mut(&n) {
            match guest.pump(self.poll.registry()) {
                Pumped::Rests => {}
                Pumped::Again => self.again.push(n),
                Pumped::Ends => drop(self.guests.remove(&n)),
            }
        } else if self.at_door.get(&n).is_some_and(|stranger| stranger.is_held) {
            // The edge is not lost: it is looked at in any case when its time has come.
        } else if let Some(stranger) = self.at_door.remove(&n) {
            match self.advance(stranger.step, &stranger.wish) {
                Came::Waits(step) => drop(self.at_door.insert(n, Stranger { step, ..stranger })),
                Came::In(guest) => self.let_in(n, guest.0, guest.1, stranger.address),
                Came::Out(tried) => self.turn_away(stranger.address, tried),
            }
        }
    }

    /// Takes a stranger as far as what it sent allows.
    fn advance(&self, step: Step, wish: &AtomicU8) -> Came {
        match step {
            Step::Shaking(shaking) => match shaking.handshake() {
                Ok(socket) if wish.load(Ordering::Relaxed) == Wish::Listen as u8 => Came::In(Box::new((socket, None))),
                Ok(socket) => self.advance(Step::Hello(socket), wish),
                Err(HandshakeError::Interrupted(shaking)) => Came::Waits(Step::Shaking(shaking)),
                Err(HandshakeError::Failure(_)) => Came::Out(wish.load(Ordering::Relaxed) == Wish::Refused as u8),
            },
            Step::Hello(mut socket) => match next_text(&mut socket) {
                Ok(Some(frame)) => {
                    let begun = HubShake::begin(&self.secret, (self.inside.chance)(), &frame);
                    match begun.filter(|(_, answer)| say(&mut socket, answer)) {
                        Some((shake, _)) => self.advance(Step::Proof(socket, shake), wish),
                        None => Came::Out(true),
                    }
                }
                Ok(None) => Came::Waits(Step::Hello(socket)),
                Err(()) => Came::Out(false),
            },
            Step::Proof(mut socket, shake) => match next_text(&mut socket) {
                Ok(Some(frame)) => match shake.end(&frame) {
                    Some(seal) => Came::In(Box::new((socket, Some(seal)))),
                    None => {
                        // All that it learns. That it may be gone is the same to us.
                        let _ = socket.close(None).and_then(|()| socket.flush());
                        Came::Out(true)
                    }
                },
                Ok(None) => Came::Waits(Step::Proof(socket, shake)),
                Err(()) => Came::Out(true),
            },
        }
    }

    fn let_in(&mut self, n: usize, socket: WebSocket<TcpStream>, seal: Option<Seal>, address: IpAddr) {
        let listens = seal.is_none();
        let entered = (|| {
            if self.guests.len() >= GUESTS_MAX {
                return Err(io::Error::other("there are too many guests"));
            }
            let (ours, theirs) = UnixStream::pair()?;
            let bridge = Bridge::new(socket, seal, ours, self.poll.registry(), Token(n + 1))?;
            let arrival = Arrival { stream: theirs, address, listens };
            self.inside.arrivals.try_send(arrival).map_err(|_| io::Error::other("the broker is busy"))?;
            (self.inside.wake)();
            Ok(bridge)
        })();
        match entered {
            Ok(bridge) => {
                self.guests.insert(n, bridge);
                // What it sent behind its proof may be here already.
                self.again.push(n);
            }
            Err(error) => (self.inside.log)(&format!("a guest from {address} could not be let in: {error}")),
        }
    }

    fn turn_away(&mut self, address: IpAddr, tried: bool) {
        let tries = if tried { &mut self.failed } else { &mut self.refused };
        tries.note(address, Instant::now());
    }

    fn accept(&mut self, now: Instant) {
        self.accept_at = None;
        for _ in 0..STRANGERS_MAX.0 {
            match self.listener.accept() {
                Ok((stream, from)) => self.receive(stream, from.ip().to_canonical(), now),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => {
                    self.accept_at = Some(now + ACCEPT_AGAIN);
                    return;
                }
            }
        }
        self.accept_at = Some(now);
    }

    /// A connection: a stranger if there is room for one more.
    fn receive(&mut self, mut stream: TcpStream, address: IpAddr, now: Instant) {
        let n_same = self.at_door.values().filter(|stranger| stranger.address == address).count();
        let is_suspect = self.failed.of(address) >= FAILED_MAX;
        let most = if is_suspect { SUSPECTS_MAX } else { STRANGERS_MAX.1 };
        if self.at_door.len() >= STRANGERS_MAX.0 || n_same >= most {
            return self.turn_away(address, false);
        }
        let n = self.next;
        self.next += 2;
        // Small frames must not wait for more; a socket that can't be told is only slower.
        let _ = stream.set_nodelay(true);
        let interest = Interest::READABLE | Interest::WRITABLE;
        if self.poll.registry().register(&mut stream, Token(n), interest).is_err() {
            return;
        }
        let wish = Arc::new(AtomicU8::new(Wish::None as u8));
        let asked = asks_for_us(Arc::clone(&self.inside.bearer), Arc::clone(&wish));
        let step = Step::Shaking(ServerHandshake::start(stream, asked, Some(websocket())));
        self.at_door.insert(n, Stranger { step, wish, address, since: now, is_held: is_suspect });
        self.again.push(n);
    }

    /// Ends what took too long or gave no sign of life, and says who was turned away.
    fn watch(&mut self, now: Instant) {
        let late = |stranger: &Stranger| now.duration_since(stranger.since) >= Duration::from_millis(SHAKE_MS);
        let gone: Vec<usize> = self.at_door.iter().filter(|(_, s)| late(s)).map(|(n, _)| *n).collect();
        for n in gone {
            if let Some(stranger) = self.at_door.remove(&n) {
                self.turn_away(stranger.address, false);
            }
        }
        for (n, stranger) in self.at_door.iter_mut().filter(|(_, s)| s.is_held && now.duration_since(s.since) >= HELD) {
            stranger.is_held = false;
            self.again.push(*n);
        }
        self.guests.retain(|_, guest| guest.watch(now));
        if self.failed.is_due(now) || self.refused.is_due(now) {
            let failed = self.failed.end().map(|who| format!("with a wrong secret: {who}"));
            let refused = self.refused.end().map(|who| format!("before they gave one: {who}"));
            let who: Vec<String> = failed.into_iter().chain(refused).collect();
            (self.inside.log)(&format!("turned away in the last minute {}", who.join("; ")));
        }
    }
}

/// Finds out whether a request for a WebSocket is meant for us: for a guest it is at its own path, who
/// listens comes to any other, with a bearer token.
fn asks_for_us(bearer: Bearer, wish: Arc<AtomicU8>) -> Asked {
    #[expect(clippy::result_large_err, reason = "the type is tungstenite's")]
    let asked = move |request: &Request, response: Response| {
        let given = request.headers().get("authorization").and_then(|value| value.to_str().ok());
        let wanted = match given {
            // A page can open a WebSocket anywhere; it always names its origin.
            _ if request.headers().contains_key("origin") => Wish::None,
            _ if request.uri().path() == PATH => Wish::Guest,
            Some(given) if bearer(given) => Wish::Listen,
            Some(_) => Wish::Refused,
            None => Wish::None,
        };
        wish.store(wanted as u8, Ordering::Relaxed);
        if matches!(wanted, Wish::Guest | Wish::Listen) {
            return Ok(response);
        }
        let mut refusal = ErrorResponse::new(Some("unauthorised".into()));
        *refusal.status_mut() = tungstenite::http::StatusCode::UNAUTHORIZED;
        Err(refusal)
    };
    Box::new(asked)
}

/// The next text, if it has come; an error for anything but a text.
fn next_text(socket: &mut WebSocket<TcpStream>) -> Result<Option<String>, ()> {
    match socket.read() {
        Ok(Message::Text(text)) if text.len() <= 1024 => Ok(Some(text.to_string())),
        Err(Error::Io(error)) if error.kind() == ErrorKind::WouldBlock => Ok(None),
        _ => Err(()),
    }
}

fn say(socket: &mut WebSocket<TcpStream>, text: &str) -> bool {
    match socket.send(Message::text(text)) {
        Ok(()) => true,
        Err(Error::Io(error)) => error.kind() == ErrorKind::WouldBlock,
        Err(_) => false,
    }
}
