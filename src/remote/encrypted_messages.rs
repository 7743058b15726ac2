//! Reads and writes the messages of an encrypted connection, for hubs and for guests.

use super::liveness::{Heartbeat, Liveness};
use super::noise::{ContentKind, NoiseChannel};
use snow::Error;
use std::time::Instant;
use tungstenite::Message;

/// What a message from the other side contains.
#[derive(Debug, PartialEq)]
pub enum Received {
    /// A part of the stream of lines. A line may continue in the next message.
    Lines(Vec<u8>),
    /// A message without lines, such as a ping. If the field contains a reply, the caller must send it.
    Control(Option<Message>),
    /// The end of the connection.
    Close,
}

/// Decrypts a message. A valid message also shows that the other side is alive, so this is recorded in `liveness`.
///
/// # Errors
/// When the message is not a valid message from the other side. In this case, the connection must end.
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
        // The WebSocket's own pings and pongs are not encrypted, so a relay could forge them. They do not count as
        // signs of life.
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
