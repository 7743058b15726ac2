//! The guest's side: a connection to a hub, as lines on one end of a pair. A thread carries them.

use super::auth::{GuestShake, Seal};
use super::bridge::{Bridge, Pumped};
use super::{PATH, SHAKE_MS, websocket};
use crate::base::error::{Error, ErrorKind};
use mio::net::UnixStream as PollStream;
use mio::{Events, Interest, Poll, Token};
use std::io;
use std::net::{Shutdown, SocketAddr, TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};
use tungstenite::client::client_with_config;
use tungstenite::error::ProtocolError;
use tungstenite::handshake::HandshakeError;
use tungstenite::{Message, WebSocket};

/// How long to wait before the next knock at a door where too many stand, more or less, ms.
const DOOR_PAUSES_MS: &[u64] = &[20, 50, 100, 200, 400];
/// What reaching one address may take.
const REACH_MS: u64 = 3_000;

/// Connects to a hub and proves the secret; the lines' end of the pair.
///
/// # Errors
/// When the hub can't be reached, does not know the secret, or doesn't know us.
pub fn connect(hub: &str, port: u16, secret: &str, chance: u128) -> Result<UnixStream, Error> {
    let (began, mut pauses) = (Instant::now(), DOOR_PAUSES_MS.iter());
    let (socket, alarm) = loop {
        let stream = reach(hub, port)?;
        let alarm = Alarm::set(&stream).map_err(|error| gone(hub, port, &error.to_string()))?;
        if let Some(socket) = knock(stream, hub, port)? {
            break (socket, alarm);
        }
        // A door that is full says so at once.
        let Some(pause) = pauses.next().filter(|_| began.elapsed() < Duration::from_millis(SHAKE_MS)) else {
            return Err(gone(hub, port, "too many stand at its door, or it has turned this machine away"));
        };
        // Those who came together are not to come together again.
        std::thread::sleep(Duration::from_millis(pause / 2 + chance as u64 % pause));
    };
    let (socket, seal) = prove(socket, hub, port, secret, chance)?;
    drop(alarm);
    carry(socket, seal).map_err(|error| gone(hub, port, &error.to_string()))
}

/// Ends a connection that is not let in within [`SHAKE_MS`]: the limit of each read alone would let one who
/// sends a byte now and then keep us for minutes.
struct Alarm {
    /// Dropped with us.
    _off: Sender<()>,
}

impl Alarm {
    fn set(stream: &TcpStream) -> io::Result<Alarm> {
        let stream = stream.try_clone()?;
        let (off, waits) = channel();
        std::thread::Builder::new().stack_size(64 * 1024).spawn(move || {
            if waits.recv_timeout(Duration::from_millis(SHAKE_MS)) == Err(RecvTimeoutError::Timeout) {
                // It may be closed already.
                let _ = stream.shutdown(Shutdown::Both);
            }
        })?;
        Ok(Alarm { _off: off })
    }
}

fn gone(hub: &str, port: u16, why: &str) -> Error {
    let text = format!(
        "the hub {hub} can't be reached on port {port} ({why}); see there with slm-mesh doctor whether it serves other \
         machines and whether its firewall lets port {port} through; slm-mesh help machines has more"
    );
    Error::new(ErrorKind::Gone, text)
}

fn reach(hub: &str, port: u16) -> Result<TcpStream, Error> {
    let bare = hub.trim_start_matches('[').trim_end_matches(']');
    let found: Vec<SocketAddr> =
        (bare, port).to_socket_addrs().map_err(|error| gone(hub, port, &error.to_string()))?.collect();
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    for address in found.iter().take(4) {
        match TcpStream::connect_timeout(address, Duration::from_millis(REACH_MS)) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(gone(hub, port, &last.to_string()))
}

/// Asks for a WebSocket; none where the hub hung up without a word, as it does when too many come.
fn knock(stream: TcpStream, hub: &str, port: u16) -> Result<Option<WebSocket<TcpStream>>, Error> {
    let limit = Some(Duration::from_millis(SHAKE_MS));
    let bounded = stream.set_nodelay(true).and_then(|()| stream.set_read_timeout(limit));
    let bounded = bounded.and_then(|()| stream.set_write_timeout(limit));
    bounded.map_err(|error| gone(hub, port, &error.to_string()))?;
    let host = if hub.contains(':') && !hub.starts_with('[') { format!("[{hub}]") } else { hub.to_owned() };
    let request = format!("ws://{host}:{port}{PATH}");
    match client_with_config(request, stream, Some(websocket())) {
        Ok((socket, _)) => Ok(Some(socket)),
        Err(HandshakeError::Failure(
            tungstenite::Error::Io(_) | tungstenite::Error::Protocol(ProtocolError::HandshakeIncomplete),
        )) => Ok(None),
        Err(error) => Err(gone(hub, port, &format!("it is no slm-mesh hub: {error}"))),
    }
}

fn prove(
    mut socket: WebSocket<TcpStream>,
    hub: &str,
    port: u16,
    secret: &str,
    chance: u128,
) -> Result<(WebSocket<TcpStream>, Seal), Error> {
    let failed = |error: &dyn std::fmt::Display| gone(hub, port, &error.to_string());
    let (shake, hello) = GuestShake::begin(secret, chance);
    socket.send(Message::text(hello)).map_err(|error| failed(&error))?;
    let answer = socket.read().and_then(Message::into_text).map_err(|error| failed(&error))?;
    let Some((proof, seal)) = shake.end(&answer) else {
        let text = format!(
            "the hub {hub} does not know this secret, or is not yours: nothing was told to it; \
             SLM_MESH_SHARED_SECRET must be the same on both machines"
        );
        return Err(Error::new(ErrorKind::Refused, text));
    };
    socket.send(Message::text(proof)).map_err(|error| failed(&error))?;
    Ok((socket, seal))
}

/// Carries lines on a thread of its own until one side ends.
fn carry(mut socket: WebSocket<TcpStream>, seal: Seal) -> io::Result<UnixStream> {
    let (ours, theirs) = UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    socket.get_mut().set_nonblocking(true)?;
    let mut poll = Poll::new()?;
    let mut bridge = Bridge::new(socket, Some(seal), PollStream::from_std(ours), poll.registry(), Token(0))?;
    let interest = Interest::READABLE | Interest::WRITABLE;
    let raw = std::os::fd::AsRawFd::as_raw_fd(bridge.stream());
    poll.registry().register(&mut mio::unix::SourceFd(&raw), Token(1), interest)?;
    let run = move || {
        let mut events = Events::with_capacity(4);
        loop {
            let wait = match bridge.pump(poll.registry()) {
                Pumped::Ends => return,
                Pumped::Again => Duration::ZERO,
                Pumped::Rests => bridge.due().saturating_duration_since(Instant::now()),
            };
            let polled = poll.poll(&mut events, Some(wait));
            if polled.is_err_and(|error| error.kind() != io::ErrorKind::Interrupted) || !bridge.watch(Instant::now()) {
                return;
            }
            events.iter().for_each(|event| bridge.note(event));
        }
    };
    std::thread::Builder::new().name("far".into()).stack_size(256 * 1024).spawn(run)?;
    Ok(theirs)
}
