//! What hubs and guests both do with the messages of an encrypted connection.

use super::auth::{ContentKind, NoiseChannel};
use super::liveness::{Heartbeat, Liveness};
use snow::Error;
use std::time::Instant;
use tungstenite::Message;

/// What a message from the other side contains.
#[derive(Debug, PartialEq)]
pub enum Received {
    /// The next bytes of the stream of lines.
    Lines(Vec<u8>),
    /// No lines. If there is a message here, it must be sent back as the answer.
    Control(Option<Message>),
    /// The end of the connection.
    Close,
}

/// Decrypts a message, and notes that the other side is there.
///
/// # Errors
/// When the message can't come from the other side. In this case, the connection must end.
pub fn receive(
    channel: &mut NoiseChannel,
    liveness: &mut Liveness,
    message: &Message,
    now: Instant,
) -> Result<Received, Error> {
    let sealed = match message {
        Message::Binary(sealed) => sealed,
        Message::Close(_) => return Ok(Received::Close),
        Message::Text(_) => return Err(Error::Input),
        // The WebSocket's own pings and pongs are not encrypted. A relay could make them up, so they prove nothing.
        _ => return Ok(Received::Control(None)),
    };
    match channel.open(sealed)? {
        (ContentKind::Lines, lines) => {
            liveness.note_message(now);
            Ok(Received::Lines(lines))
        }
        (ContentKind::Ping, content) => {
            let pong = liveness.answer(Heartbeat::from_bytes(&content).ok_or(Error::Input)?, now);
            seal(channel, ContentKind::Pong, &pong.to_bytes()).map(|pong| Received::Control(Some(pong)))
        }
        (ContentKind::Pong, content) => {
            liveness.note_pong(Heartbeat::from_bytes(&content).ok_or(Error::Input)?);
            Ok(Received::Control(None))
        }
    }
}

/// Encrypts a message.
///
/// # Errors
/// When the content is too long for one message.
pub fn seal(channel: &mut NoiseChannel, kind: ContentKind, content: &[u8]) -> Result<Message, Error> {
    channel.seal(kind, content).map(Message::binary)
}
