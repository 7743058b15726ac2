//! Connects a guest to a hub. The guest proves that it knows the secret, and gets a stream of lines.

use super::encrypted_stream_to_hub::HubStream;
use super::hub_socket_with_deadline::HubSocket;
use super::noise::{GuestHandshake, NetworkKey, NoiseChannel};
use super::{GUEST_PATH, HANDSHAKE_MS, SUBPROTOCOL, websocket_config};
use crate::base::error::{Error, ErrorKind};
use std::io;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tungstenite::client::{ClientRequestBuilder, client_with_config};
use tungstenite::error::{ProtocolError, SubProtocolError};
use tungstenite::handshake::HandshakeError;
use tungstenite::{Message, WebSocket};

/// The pauses between attempts, in ms, while the hub has no room for another handshake. Each actual pause is random,
/// from half of the listed time to one and a half times the listed time.
const RETRY_PAUSES_MS: &[u64] = &[20, 50, 100, 200, 400];
/// Maximum time for connecting to one address, in ms.
const CONNECT_MS: u64 = 3_000;
/// How many addresses are tried if the hub's name has several addresses.
const ADDRESSES_TRIED: usize = 4;

/// The address of a hub.
struct DialedAddress<'a> {
    host: &'a str,
    port: u16,
}

/// Asks the other hubs of the mesh, and returns whether one of them leads now. The function is called when the hub at
/// the other end of a connection does not answer.
pub type SecondOpinion = Arc<dyn Fn() -> bool + Send + Sync>;

/// Connects to a hub, and proves that this machine knows the secret. Returns the stream of lines.
///
/// `jitter` is a random number. It spreads the attempts of guests that lost their connections at the same time. With a
/// `second_opinion`, the connection ends sooner if the hub stops answering and another hub leads.
///
/// # Errors
/// `Gone` when the hub can't be reached, `Refused` when the secrets differ.
pub fn connect(
    host: &str,
    port: u16,
    secret: &str,
    jitter: u64,
    second_opinion: Option<SecondOpinion>,
) -> Result<HubStream, Error> {
    let hub = DialedAddress { host, port };
    let key = NetworkKey::derive(secret).map_err(|error| hub.unreachable(&error))?;
    let (began, mut pauses) = (Instant::now(), RETRY_PAUSES_MS.iter());
    let socket = loop {
        let network = hub.open_stream()?;
        if let Some(socket) = hub.upgrade(network)? {
            break socket;
        }
        // A hub that has no room for another handshake closes the connection at once, so the guest tries again after a
        // pause.
        let Some(pause) = pauses.next().filter(|_| began.elapsed() < Duration::from_millis(HANDSHAKE_MS)) else {
            return Err(hub.unreachable(
                &"it closed the connection, because it is busy or because this machine has failed to authenticate too \
                  often",
            ));
        };
        std::thread::sleep(Duration::from_millis(pause / 2 + jitter % pause));
    };
    let (socket, channel) = hub.authenticate(socket, &key)?;
    HubStream::new(socket, channel, second_opinion).map_err(|error| hub.unreachable(&error))
}

impl DialedAddress<'_> {
    fn unreachable(&self, why: &dyn std::fmt::Display) -> Error {
        let (host, port) = (self.host, self.port);
        let text = format!(
            "the hub {host} can't be reached on port {port} ({why}); run slm-mesh doctor on the hub to see whether the \
             hub serves other machines, and check that the hub's firewall allows port {port}; see also slm-mesh help \
             machines"
        );
        Error::new(ErrorKind::Gone, text)
    }

    /// The error for a name that has no address. The hub was not asked, so neither the hub nor a firewall is the cause.
    fn unknown_name(&self, why: &io::Error) -> Error {
        let text = format!(
            "the hub {} can't be reached, because its name has no address ({why}); check the name in SLM_MESH_HOST, or \
             write the hub's address there; see also slm-mesh help machines",
            self.host
        );
        Error::new(ErrorKind::Gone, text)
    }

    fn open_stream(&self) -> Result<HubSocket, Error> {
        let bare = self.host.trim_start_matches('[').trim_end_matches(']');
        let found = (bare, self.port).to_socket_addrs().map_err(|error| self.unknown_name(&error))?;
        let mut last = io::Error::from(io::ErrorKind::NotFound);
        for address in found.take(ADDRESSES_TRIED) {
            match self.open_one(&address) {
                Ok(network) => {
                    return Ok(HubSocket::until(Instant::now() + Duration::from_millis(HANDSHAKE_MS), network));
                }
                Err(error) => last = error,
            }
        }
        Err(self.unreachable(&last))
    }

    fn open_one(&self, address: &SocketAddr) -> io::Result<TcpStream> {
        let stream = TcpStream::connect_timeout(address, Duration::from_millis(CONNECT_MS))?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    /// Requests the upgrade to a WebSocket. Returns `None` if the hub closes the connection without an answer, because
    /// it has no room for another handshake.
    fn upgrade(&self, network: HubSocket) -> Result<Option<WebSocket<HubSocket>>, Error> {
        let (host, port) = (self.host, self.port);
        let host = if host.contains(':') && !host.starts_with('[') { format!("[{host}]") } else { host.to_owned() };
        let url = format!("ws://{host}:{port}{GUEST_PATH}");
        let url = url.parse().map_err(|_| self.unreachable(&"this is not the name or the address of a machine"))?;
        let request = ClientRequestBuilder::new(url).with_sub_protocol(SUBPROTOCOL);
        match client_with_config(request, network, Some(websocket_config())) {
            Ok((socket, _)) => Ok(Some(socket)),
            Err(HandshakeError::Failure(tungstenite::Error::Io(error))) if error.kind() == io::ErrorKind::TimedOut => {
                Err(self.unreachable(&"it does not answer"))
            }
            Err(HandshakeError::Failure(
                tungstenite::Error::Io(_) | tungstenite::Error::Protocol(ProtocolError::HandshakeIncomplete),
            )) => Ok(None),
            Err(HandshakeError::Failure(tungstenite::Error::Protocol(
                ProtocolError::SecWebSocketSubProtocolError(SubProtocolError::NoSubProtocol),
            ))) => Err(self.outdated()),
            Err(error) => Err(self.unreachable(&format!("it is not an slm-mesh hub: {error}"))),
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
            "the hub {} does not know this secret; set SLM_MESH_SHARED_SECRET to the same value on both machines (no \
             data was sent to the hub)",
            self.host
        );
        Error::new(ErrorKind::Refused, text)
    }

    fn authenticate(
        &self,
        mut socket: WebSocket<HubSocket>,
        key: &NetworkKey,
    ) -> Result<(WebSocket<HubSocket>, NoiseChannel), Error> {
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
