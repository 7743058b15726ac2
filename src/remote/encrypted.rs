//! What hubs and guests both do with the messages of an encrypted connection.

use super::auth::{ContentKind, NoiseChannel};
use super::liveness::Liveness;
use snow::Error;
use std::time::Instant;
use tungstenite::Message;

/// What a message from the other side contains.
#[derive(Debug, PartialEq)]
pub enum Received {
    /// The next bytes of the stream of lines.
    Lines(Vec<u8>),
    /// No lines, but messages that must be sent back.
    Replies(Vec<Message>),
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
        // A relay can make up the pings and pongs of the WebSocket itself, so they prove nothing.
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
/// When the content is too long for one message.
pub fn seal(channel: &mut NoiseChannel, kind: ContentKind, content: &[u8]) -> Result<Message, Error> {
    channel.seal(kind, content).map(Message::binary)
}
