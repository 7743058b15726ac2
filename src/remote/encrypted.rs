//! What hub and guest do alike with the messages of an encrypted connection.

use super::auth::{ContentKind, NoiseChannel};
use super::liveness::Liveness;
use snow::Error;
use std::time::Instant;
use tungstenite::Message;

/// What a message from the other side brings.
#[derive(Debug, PartialEq)]
pub enum Received {
    /// The next bytes of the stream of lines.
    Lines(Vec<u8>),
    /// Nothing for the lines, but messages to send back.
    Replies(Vec<Message>),
    /// The end of the connection.
    Close,
}

/// Decrypts a message, and notes the sign of life in it.
///
/// # Errors
/// When the other side cannot have sent it, which ends the connection.
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
        // A relay can make WebSocket's own pings and pongs, so they prove nothing.
        _ => return Ok(Received::Replies(Vec::new())),
    };
    match channel.open(sealed)? {
        (ContentKind::Lines, lines) => {
            liveness.note_message(now);
            Ok(Received::Lines(lines))
        }
        (ContentKind::Ping, number) => {
            let mut replies = vec![seal(channel, ContentKind::Pong, &number)?];
            if let Some(number) = liveness.ping_along(now) {
                replies.push(seal(channel, ContentKind::Ping, &number.to_be_bytes())?);
            }
            Ok(Received::Replies(replies))
        }
        (ContentKind::Pong, number) => {
            liveness.note_pong(number.try_into().map(u32::from_be_bytes).map_err(|_| Error::Input)?);
            Ok(Received::Replies(Vec::new()))
        }
    }
}

/// Encrypts a message.
///
/// # Errors
/// When the content does not fit into one.
pub fn seal(channel: &mut NoiseChannel, kind: ContentKind, content: &[u8]) -> Result<Message, Error> {
    channel.seal(kind, content).map(Message::binary)
}
