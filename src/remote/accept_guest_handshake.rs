//! The hub's part of a handshake. It begins with the upgrade to a WebSocket. Then, the client proves that it knows the
//! secret, and is accepted or rejected.
//!
//! **Invariant:** a client that does not know the secret learns only that it was not accepted.

use super::encrypted_stream_to_guest::GuestStream;
use super::hub_listener::BearerCheck;
use super::noise::{HubHandshake, NetworkKey};
use super::skip_empty_reads_of_guest_socket::GuestSocket;
use super::{GUEST_PATH, SUBPROTOCOL, websocket_config};
use mio::net::TcpStream;
use std::io::ErrorKind;
use std::sync::{Arc, OnceLock};
use tungstenite::handshake::server::{ErrorResponse, Request, Response, ServerHandshake};
use tungstenite::handshake::{HandshakeError, MidHandshake};
use tungstenite::http::{HeaderMap, HeaderValue, StatusCode};
use tungstenite::{Error, Message, WebSocket};

const PROTOCOL_HEADER: &str = "sec-websocket-protocol";

/// What a client wants, according to the path and the headers of its HTTP request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RequestedRole {
    /// The client wants to connect as a session or a command of slm-mesh.
    Guest,
    /// The client wants to connect as a session of slm-mesh 0.1.0, whose protocol is no longer supported.
    OutdatedGuest,
    /// The client wants to receive pushes, and sent a valid bearer token.
    Subscriber,
    /// The client wants to receive pushes, but sent a wrong bearer token.
    RejectedSubscriber,
    /// The client wants something else.
    Unknown,
}

/// Why a connection was rejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rejection {
    /// The client presented a wrong secret or a wrong bearer token.
    WrongSecret,
    /// The client uses the protocol of slm-mesh 0.1.0.
    Outdated,
    /// The client presented no secret, took too long, left before the handshake was complete, or was dropped because
    /// too many handshakes were pending.
    NoSecret,
}

/// A connection that was accepted.
pub enum AcceptedSocket {
    /// A session or a command of slm-mesh.
    Guest(GuestStream),
    /// A push client of slm-mesh 1.3.
    PushClient(WebSocket<GuestSocket>),
}

type UpgradeCheck = Box<dyn FnOnce(&Request, Response) -> Result<Response, ErrorResponse> + Send>;

enum Stage {
    Upgrading(MidHandshake<ServerHandshake<GuestSocket, UpgradeCheck>>),
    AwaitingHello(WebSocket<GuestSocket>),
    AwaitingConfirmation(WebSocket<GuestSocket>, HubHandshake),
}

/// A connection whose client has not yet proven that it knows the secret.
pub struct PendingHandshake {
    stage: Stage,
    /// What the client wants; empty until the client's HTTP request has been read.
    role: Arc<OnceLock<RequestedRole>>,
}

/// The state of a handshake after a step.
#[expect(clippy::large_enum_variant, reason = "it lives for one step")]
pub enum Progress {
    /// The handshake waits for the client.
    Pending(PendingHandshake),
    /// The handshake is complete.
    Accepted(Box<AcceptedSocket>),
    /// The handshake has failed.
    Rejected(Rejection),
}

impl PendingHandshake {
    /// Begins the handshake on a new connection.
    pub fn start(stream: TcpStream, bearer: BearerCheck) -> PendingHandshake {
        let role = Arc::new(OnceLock::new());
        let check = upgrade_check(bearer, Arc::clone(&role));
        let socket = GuestSocket::new(stream);
        PendingHandshake {
            stage: Stage::Upgrading(ServerHandshake::start(socket, check, Some(websocket_config()))),
            role,
        }
    }

    /// Continues the handshake with the bytes that have arrived.
    pub fn advance(self, key: &NetworkKey) -> Progress {
        let role = self.role;
        match self.stage {
            Stage::Upgrading(handshake) => match handshake.handshake() {
                Ok(socket) if role.get() == Some(&RequestedRole::Subscriber) => {
                    Progress::Accepted(Box::new(AcceptedSocket::PushClient(socket)))
                }
                Ok(socket) => PendingHandshake { stage: Stage::AwaitingHello(socket), role }.advance(key),
                Err(HandshakeError::Interrupted(handshake)) => {
                    Progress::Pending(PendingHandshake { stage: Stage::Upgrading(handshake), role })
                }
                Err(HandshakeError::Failure(_)) => Progress::Rejected(rejection(role.get())),
            },
            Stage::AwaitingHello(socket) => await_hello(socket, role, key),
            Stage::AwaitingConfirmation(socket, handshake) => await_confirmation(socket, handshake, role),
        }
    }
}

/// Why the upgrade of a connection failed.
fn rejection(role: Option<&RequestedRole>) -> Rejection {
    match role {
        Some(RequestedRole::OutdatedGuest) => Rejection::Outdated,
        Some(RequestedRole::RejectedSubscriber) => Rejection::WrongSecret,
        _ => Rejection::NoSecret,
    }
}

fn await_hello(mut socket: WebSocket<GuestSocket>, role: Arc<OnceLock<RequestedRole>>, key: &NetworkKey) -> Progress {
    match read_message(&mut socket) {
        Ok(Some(first)) => match HubHandshake::reply(key, &first) {
            Ok((handshake, reply)) => {
                if !send_message(&mut socket, reply) {
                    return Progress::Rejected(Rejection::NoSecret);
                }
                PendingHandshake { stage: Stage::AwaitingConfirmation(socket, handshake), role }.advance(key)
            }
            Err(_) => reject(socket),
        },
        Ok(None) => Progress::Pending(PendingHandshake { stage: Stage::AwaitingHello(socket), role }),
        Err(()) => Progress::Rejected(Rejection::NoSecret),
    }
}

fn await_confirmation(
    mut socket: WebSocket<GuestSocket>,
    handshake: HubHandshake,
    role: Arc<OnceLock<RequestedRole>>,
) -> Progress {
    match read_message(&mut socket) {
        Ok(Some(confirmation)) => match handshake.finish(&confirmation) {
            Ok(channel) => {
                let stream = GuestStream::new(socket, Box::new(channel));
                Progress::Accepted(Box::new(AcceptedSocket::Guest(stream)))
            }
            Err(_) => reject(socket),
        },
        Ok(None) => Progress::Pending(PendingHandshake { stage: Stage::AwaitingConfirmation(socket, handshake), role }),
        // The client has left. Its first handshake message was right, so this does not count as a wrong secret.
        Err(()) => Progress::Rejected(Rejection::NoSecret),
    }
}

/// Closes a connection whose client has a wrong secret, without telling the client the reason.
fn reject(mut socket: WebSocket<GuestSocket>) -> Progress {
    // If this fails, the client has already closed the connection.
    let _ = socket.close(None).and_then(|()| socket.flush());
    Progress::Rejected(Rejection::WrongSecret)
}

/// Finds out from the HTTP request what a client wants. A guest requests `GUEST_PATH` and offers `SUBPROTOCOL`. A push
/// client requests another path and sends a bearer token.
fn upgrade_check(bearer: BearerCheck, role: Arc<OnceLock<RequestedRole>>) -> UpgradeCheck {
    #[expect(clippy::result_large_err, reason = "the type is tungstenite's")]
    let check = move |request: &Request, mut response: Response| {
        let requested = requested_role(request, &bearer);
        // This can't fail, because each connection has only one request, so the role has not been set before.
        let _ = role.set(requested);
        match requested {
            RequestedRole::Guest => {
                response.headers_mut().insert(PROTOCOL_HEADER, HeaderValue::from_static(SUBPROTOCOL));
                Ok(response)
            }
            RequestedRole::Subscriber => Ok(response),
            RequestedRole::OutdatedGuest => Err(refuse(StatusCode::UPGRADE_REQUIRED, "this protocol is too old")),
            _ => Err(refuse(StatusCode::UNAUTHORIZED, "unauthorised")),
        }
    };
    Box::new(check)
}

fn requested_role(request: &Request, bearer: &BearerCheck) -> RequestedRole {
    let headers = request.headers();
    if headers.contains_key("origin") {
        // Any web page can make a browser open a WebSocket to this hub. Browsers send the `Origin` of the page, so a
        // request with this header is refused.
        return RequestedRole::Unknown;
    }
    if request.uri().path() == GUEST_PATH {
        return if speaks_noise(headers) { RequestedRole::Guest } else { RequestedRole::OutdatedGuest };
    }
    match headers.get("authorization").and_then(|value| value.to_str().ok()) {
        Some(given) if bearer(given) => RequestedRole::Subscriber,
        Some(_) => RequestedRole::RejectedSubscriber,
        None => RequestedRole::Unknown,
    }
}

fn speaks_noise(headers: &HeaderMap) -> bool {
    let offered = headers.get(PROTOCOL_HEADER).and_then(|value| value.to_str().ok());
    offered.is_some_and(|offered| offered.split(',').any(|one| one.trim() == SUBPROTOCOL))
}

fn refuse(status: StatusCode, reason: &str) -> ErrorResponse {
    let mut refusal = ErrorResponse::new(Some(reason.into()));
    *refusal.status_mut() = status;
    refusal
}

/// Reads the next message, if it has arrived. Anything that does not belong to a handshake is an error.
fn read_message(socket: &mut WebSocket<GuestSocket>) -> Result<Option<Vec<u8>>, ()> {
    match socket.read() {
        Ok(Message::Binary(message)) if message.len() <= 1024 => Ok(Some(message.to_vec())),
        Err(Error::Io(error)) if error.kind() == ErrorKind::WouldBlock => Ok(None),
        _ => Err(()),
    }
}

fn send_message(socket: &mut WebSocket<GuestSocket>, message: Vec<u8>) -> bool {
    match socket.send(Message::binary(message)) {
        Ok(()) => true,
        Err(Error::Io(error)) => error.kind() == ErrorKind::WouldBlock,
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::super::noise::GuestHandshake;
    use super::*;
    use mio::{Events, Interest, Poll, Token};
    use std::net::TcpListener;
    use std::time::Duration;
    use tungstenite::client::{ClientRequestBuilder, client};

    /// Serves one guest until the handshake has ended, and returns why the hub rejected the guest.
    fn rejected(secret: &str, is_false_at_end: bool) -> Rejection {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let guest_key = NetworkKey::derive(secret).unwrap();
        let guest = std::thread::spawn(move || {
            let uri = format!("ws://{address}{GUEST_PATH}").parse().unwrap();
            let request = ClientRequestBuilder::new(uri).with_sub_protocol(SUBPROTOCOL);
            let mut socket = client(request, std::net::TcpStream::connect(address).unwrap()).unwrap().0;
            let (_, first) = GuestHandshake::start(&guest_key).unwrap();
            socket.send(Message::binary(first)).unwrap();
            if socket.read().is_ok_and(|reply| reply.is_binary()) && is_false_at_end {
                socket.send(Message::binary(vec![7; 32])).unwrap();
                let _ = socket.read();
            }
        });
        let stream = listener.accept().unwrap().0;
        stream.set_nonblocking(true).unwrap();
        let mut stream = TcpStream::from_std(stream);
        let mut poll = Poll::new().unwrap();
        poll.registry().register(&mut stream, Token(0), Interest::READABLE | Interest::WRITABLE).unwrap();
        let key = NetworkKey::derive("correct horse").unwrap();
        let mut handshake = PendingHandshake::start(stream, Arc::new(|_: &str| false));
        loop {
            poll.poll(&mut Events::with_capacity(8), Some(Duration::from_secs(20))).unwrap();
            handshake = match handshake.advance(&key) {
                Progress::Pending(handshake) => handshake,
                Progress::Accepted(_) => panic!("the guest did not finish the handshake"),
                Progress::Rejected(why) => {
                    guest.join().unwrap();
                    return why;
                }
            };
        }
    }

    #[test]
    fn a_guest_that_knows_the_secret_but_leaves_too_soon_has_no_wrong_secret() {
        assert_eq!(rejected("correct horse", false), Rejection::NoSecret);
        assert_eq!(rejected("correct horse", true), Rejection::WrongSecret);
        assert_eq!(rejected("wrong horse", false), Rejection::WrongSecret);
    }
}
