//! The guest's side of a connection: connects to a hub, and returns a socket that carries lines. A thread moves the
//! lines between this socket and the hub.

use super::auth::{GuestHandshake, NetworkKey, NoiseChannel};
use super::bridge::{Bridge, BridgeStatus, Framing};
use super::{GUEST_PATH, HANDSHAKE_MS, SUBPROTOCOL, websocket_config};
use crate::base::error::{Error, ErrorKind};
use mio::net::UnixStream as PollStream;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use std::io;
use std::net::{Shutdown, SocketAddr, TcpStream, ToSocketAddrs};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};
use tungstenite::client::{ClientRequestBuilder, client_with_config};
use tungstenite::error::{ProtocolError, SubProtocolError};
use tungstenite::handshake::HandshakeError;
use tungstenite::{Message, WebSocket};

/// The approximate waits before further attempts to reach a hub that has too many handshakes, ms.
const RETRY_PAUSES_MS: &[u64] = &[20, 50, 100, 200, 400];
/// How long a connection to one address may take, ms.
const CONNECT_MS: u64 = 3_000;
/// How many addresses of one name we try.
const ADDRESSES_TRIED: usize = 4;

/// Where a hub is.
struct HubAddress<'a> {
    host: &'a str,
    port: u16,
}

/// Asks the other hubs of a mesh whether one of them leads now, while this hub is silent.
pub type SecondOpinion = Arc<dyn Fn() -> bool + Send + Sync>;

/// Connects to a hub and proves the secret; returns the socket for lines. The jitter spreads the attempts of guests
/// that lost their connection at the same time. A second opinion ends the connection to a silent hub sooner.
///
/// # Errors
/// `Gone` when the hub can't be reached, `Refused` when the secrets differ.
pub fn connect(
    host: &str,
    port: u16,
    secret: &str,
    jitter: u64,
    second_opinion: Option<SecondOpinion>,
) -> Result<UnixStream, Error> {
    let hub = HubAddress { host, port };
    let key = NetworkKey::derive(secret).map_err(|error| hub.unreachable(&error))?;
    let (began, mut pauses) = (Instant::now(), RETRY_PAUSES_MS.iter());
    let (socket, deadline) = loop {
        let stream = hub.open_stream()?;
        let deadline = HandshakeDeadline::start(&stream).map_err(|error| hub.unreachable(&error))?;
        if let Some(socket) = hub.upgrade(stream)? {
            break (socket, deadline);
        }
        // A hub that has no room hangs up at once.
        let Some(pause) = pauses.next().filter(|_| began.elapsed() < Duration::from_millis(HANDSHAKE_MS)) else {
            return Err(hub.unreachable(&"it hung up: it is busy, or it rejected this machine too often"));
        };
        std::thread::sleep(Duration::from_millis(pause / 2 + jitter % pause));
    };
    let (socket, channel) = hub.authenticate(socket, &key)?;
    drop(deadline);
    spawn_bridge(socket, channel, second_opinion).map_err(|error| hub.unreachable(&error))
}

/// Ends a connection whose handshake takes longer than [`HANDSHAKE_MS`]. A limit for each read is not enough, because
/// a hub that sends a byte now and then could occupy us for minutes.
struct HandshakeDeadline {
    /// Dropping this sender after the handshake ends the thread that waits.
    _finished: Sender<()>,
}

impl HandshakeDeadline {
    fn start(stream: &TcpStream) -> io::Result<HandshakeDeadline> {
        let stream = stream.try_clone()?;
        let (finished, waits) = channel();
        std::thread::Builder::new().stack_size(64 * 1024).spawn(move || {
            if waits.recv_timeout(Duration::from_millis(HANDSHAKE_MS)) == Err(RecvTimeoutError::Timeout) {
                // The connection may be closed already.
                let _ = stream.shutdown(Shutdown::Both);
            }
        })?;
        Ok(HandshakeDeadline { _finished: finished })
    }
}

impl HubAddress<'_> {
    fn unreachable(&self, why: &dyn std::fmt::Display) -> Error {
        let (host, port) = (self.host, self.port);
        let text = format!(
            "the hub {host} can't be reached on port {port} ({why}); run slm-mesh doctor on the hub to see whether it \
             serves other machines and whether its firewall lets port {port} through; slm-mesh help machines has more"
        );
        Error::new(ErrorKind::Gone, text)
    }

    fn open_stream(&self) -> Result<TcpStream, Error> {
        let bare = self.host.trim_start_matches('[').trim_end_matches(']');
        let found = (bare, self.port).to_socket_addrs().map_err(|error| self.unreachable(&error))?;
        let mut last = io::Error::from(io::ErrorKind::NotFound);
        for address in found.take(ADDRESSES_TRIED) {
            match self.open_one(&address) {
                Ok(stream) => return Ok(stream),
                Err(error) => last = error,
            }
        }
        Err(self.unreachable(&last))
    }

    fn open_one(&self, address: &SocketAddr) -> io::Result<TcpStream> {
        let stream = TcpStream::connect_timeout(address, Duration::from_millis(CONNECT_MS))?;
        let limit = Some(Duration::from_millis(HANDSHAKE_MS));
        stream.set_nodelay(true)?;
        stream.set_read_timeout(limit)?;
        stream.set_write_timeout(limit)?;
        Ok(stream)
    }

    /// Requests the upgrade to a WebSocket. Returns `None` if the hub hung up without an answer, as a hub without
    /// room does.
    fn upgrade(&self, stream: TcpStream) -> Result<Option<WebSocket<TcpStream>>, Error> {
        let (host, port) = (self.host, self.port);
        let host = if host.contains(':') && !host.starts_with('[') { format!("[{host}]") } else { host.to_owned() };
        let url = format!("ws://{host}:{port}{GUEST_PATH}");
        let url = url.parse().map_err(|_| self.unreachable(&"this is not the name or address of a machine"))?;
        let request = ClientRequestBuilder::new(url).with_sub_protocol(SUBPROTOCOL);
        match client_with_config(request, stream, Some(websocket_config())) {
            Ok((socket, _)) => Ok(Some(socket)),
            Err(HandshakeError::Failure(
                tungstenite::Error::Io(_) | tungstenite::Error::Protocol(ProtocolError::HandshakeIncomplete),
            )) => Ok(None),
            Err(HandshakeError::Failure(tungstenite::Error::Protocol(
                ProtocolError::SecWebSocketSubProtocolError(SubProtocolError::NoSubProtocol),
            ))) => Err(self.outdated()),
            Err(error) => Err(self.unreachable(&format!("it is not a slm-mesh hub: {error}"))),
        }
    }

    fn outdated(&self) -> Error {
        let text = format!(
            "the hub {} runs slm-mesh 0.1.0, which uses an older protocol between machines; update slm-mesh on the \
             hub and run slm-mesh stop there",
            self.host
        );
        Error::new(ErrorKind::Refused, text)
    }

    fn wrong_secret(&self) -> Error {
        let text = format!(
            "the hub {} does not know this secret; SLM_MESH_SHARED_SECRET must be the same on both machines; no data \
             was sent to it",
            self.host
        );
        Error::new(ErrorKind::Refused, text)
    }

    fn authenticate(
        &self,
        mut socket: WebSocket<TcpStream>,
        key: &NetworkKey,
    ) -> Result<(WebSocket<TcpStream>, NoiseChannel), Error> {
        let (handshake, first) = GuestHandshake::start(key).map_err(|error| self.unreachable(&error))?;
        socket.send(Message::binary(first)).map_err(|error| self.unreachable(&error))?;
        let reply = socket.read().map_err(|error| self.unreachable(&error))?;
        let Some((channel, confirmation)) = Some(reply.into_data()).and_then(|reply| handshake.finish(&reply).ok())
        else {
            return Err(self.wrong_secret());
        };
        socket.send(Message::binary(confirmation)).map_err(|error| self.unreachable(&error))?;
        Ok((socket, channel))
    }
}

/// Carries lines on a separate thread until one side ends.
fn spawn_bridge(
    mut socket: WebSocket<TcpStream>,
    channel: NoiseChannel,
    second_opinion: Option<SecondOpinion>,
) -> io::Result<UnixStream> {
    let (ours, theirs) = UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    socket.get_mut().set_nonblocking(true)?;
    let mut poll = Poll::new()?;
    let framing = Framing::Encrypted(Box::new(channel));
    let mut bridge = Bridge::new(socket, framing, PollStream::from_std(ours), poll.registry(), Token(0))?;
    if let Some(second_opinion) = second_opinion {
        let stream = bridge.stream().try_clone()?;
        bridge.doubt_silence(move || ask_others(&second_opinion, &stream));
    }
    let network = bridge.stream().as_raw_fd();
    poll.registry().register(&mut SourceFd(&network), Token(1), Interest::READABLE | Interest::WRITABLE)?;
    let carry = move || {
        let mut events = Events::with_capacity(4);
        loop {
            let wait = match bridge.run_turn(poll.registry()) {
                BridgeStatus::Closed => return,
                BridgeStatus::MoreWork => Duration::ZERO,
                BridgeStatus::Idle => bridge.liveness_deadline().saturating_duration_since(Instant::now()),
            };
            let polled = poll.poll(&mut events, Some(wait));
            let has_failed = polled.is_err_and(|error| error.kind() != io::ErrorKind::Interrupted);
            if has_failed || !bridge.check_liveness(Instant::now()) {
                return;
            }
            events.iter().for_each(|event| bridge.note_event(event));
        }
    };
    std::thread::Builder::new().name("remote".into()).stack_size(256 * 1024).spawn(carry)?;
    Ok(theirs)
}

/// Ends a connection if the other hubs say that another hub leads. A thread asks them, because this hub may only be
/// slow, and its lines must not wait.
fn ask_others(second_opinion: &SecondOpinion, stream: &TcpStream) {
    let (second_opinion, Ok(stream)) = (Arc::clone(second_opinion), stream.try_clone()) else { return };
    let ask = move || {
        if second_opinion() {
            // The connection may have ended by itself.
            let _ = stream.shutdown(Shutdown::Both);
        }
    };
    // Without a thread, the guest gives the hub up after it has been silent for long enough.
    let _ = std::thread::Builder::new().stack_size(64 * 1024).spawn(ask);
}
