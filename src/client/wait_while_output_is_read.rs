//! Waits for messages only while somebody reads this program's output. Otherwise, `slm-mesh events --follow | grep -m1
//! …` would run until the next event, which may never come.

use super::{Client, PING_WITHIN, QUIET_MAX, Server};
use crate::base::error::Error;
use crate::sys::socket_wait::{WaitEnd, wait_for_either};
use crate::wire::rpc::{self, RpcMessage};
use serde_json::json;
use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

/// How often to read from a hub. Only a read detects that the hub has been silent for too long.
const HUB_READ_INTERVAL: Duration = Duration::from_millis(500);

/// How a wait for a message ended.
#[derive(Debug)]
pub enum Arrival {
    /// A message arrived.
    Message(RpcMessage),
    /// The reader has closed the output.
    OutputClosed,
    /// Nothing arrived in time.
    Nothing,
}

impl Client {
    /// Waits for the next message. Stops when the reader closes the output, or after about `limit`.
    ///
    /// # Errors
    /// If the connection is gone.
    pub fn await_arrival(&mut self, output: &impl AsFd, limit: Duration) -> io::Result<Arrival> {
        let limit = if self.server == Server::Remote { limit.min(HUB_READ_INTERVAL) } else { limit };
        loop {
            if let Some(message) = self.try_receive()? {
                return Ok(Arrival::Message(message));
            }
            match wait_for_either(Some(self.as_fd()), output, limit)? {
                WaitEnd::Readable => {}
                WaitEnd::OutputClosed => return Ok(Arrival::OutputClosed),
                WaitEnd::TimeUp => return Ok(Arrival::Nothing),
            }
        }
    }

    /// Like [`Client::receive_from_living`], waits for the next message. Returns `None` as soon as the reader closes
    /// the output.
    ///
    /// # Errors
    /// Those of [`Client::receive_from_living`].
    pub fn receive_while_read(&mut self, output: &impl AsFd) -> Result<Option<RpcMessage>, Error> {
        let mut is_pinged = false;
        loop {
            let limit = if is_pinged { PING_WITHIN } else { QUIET_MAX };
            match self.await_arrival(output, limit).map_err(|error| self.call_failed(&error))? {
                Arrival::Message(message) => return Ok(Some(message)),
                Arrival::OutputClosed => return Ok(None),
                Arrival::Nothing if !matches!(self.server, Server::Local(_)) => {}
                Arrival::Nothing if is_pinged => return Err(self.call_failed(&io::ErrorKind::TimedOut.into())),
                Arrival::Nothing => {
                    let ping = rpc::request(&json!("alive"), "ping", &json!({}));
                    self.send(&ping).map_err(|error| self.call_failed(&error))?;
                    is_pinged = true;
                }
            }
        }
    }
}
