//! Repeats a call that the broker on this machine did not read because the broker was shutting down.

use super::Client;
use crate::base::error::Error;
use crate::sys::data_dir::DataDir;
use crate::wire::rpc::RpcMessage;
use serde_json::Value;
use std::io::{self, ErrorKind};

/// Maximum number of times that a call is repeated. One repetition is enough unless the next broker is stopped, too.
const REPEATS_MAX: usize = 5;

/// How to connect again if the broker has answered all earlier calls, and ends before it reads the next call.
#[derive(Debug, Clone)]
pub(super) enum Reconnect {
    /// Do not connect again. Instead, the owner of the connection reconnects.
    Never,
    /// Connect only to a running broker.
    IfRunning(DataDir),
    /// Start a broker if none is running.
    OrStart(DataDir),
}

/// Facts that show whether the broker has run the current call.
#[derive(Debug, Default)]
pub(super) struct CallFate {
    /// How many lines this client has sent since the last time at which all its calls were answered.
    pub(super) n_sent: u32,
    /// Whether the broker has said that it is ending.
    is_broker_ending: bool,
    /// Whether the connection failed before the broker ran the call.
    pub(super) is_unread: bool,
}

impl CallFate {
    /// Records whether this message announces the end of the broker.
    pub(super) fn note(&mut self, message: &RpcMessage) {
        let is_ending = matches!(message, RpcMessage::Notification { method, .. } if method == "shutdown");
        self.is_broker_ending |= is_ending;
    }

    /// Records that the broker has answered all calls so far.
    pub(super) fn note_all_answered(&mut self) {
        self.n_sent = 0;
    }

    /// Whether this error means that the broker has not run the call. This can be known only if all earlier calls have
    /// been answered, and only this call has been sent since then. In addition, one of two things must have happened.
    /// Either the kernel reset the connection, because the broker closed it without reading everything. Or the broker
    /// said that it was ending. A broker says so only after it has sent all answers, so it will not run this call.
    pub(super) fn shows_unread(&self, error: &io::Error) -> bool {
        let is_closed = match error.kind() {
            ErrorKind::BrokenPipe | ErrorKind::ConnectionReset => true,
            ErrorKind::UnexpectedEof => self.is_broker_ending,
            _ => false,
        };
        self.n_sent == 1 && is_closed
    }
}

impl Client {
    pub(super) fn or_again(self, reconnect: Reconnect) -> Client {
        Client { reconnect, ..self }
    }

    /// Sends a request on this connection. If the broker of this machine ended before it read the request, sends the
    /// request to the next broker.
    pub(super) fn call_until_read(&mut self, method: &str, params: &Value) -> Result<Value, Error> {
        let mut result = self.call_once(method, params);
        for _ in 0..REPEATS_MAX {
            if result.is_ok() || !self.fate.is_unread || !self.connect_again() {
                break;
            }
            result = self.call_once(method, params);
        }
        result
    }

    /// Replaces this connection, whose broker is gone, with a connection to the next broker of this machine. Returns
    /// whether there is a next broker.
    fn connect_again(&mut self) -> bool {
        let connected = match &self.reconnect {
            Reconnect::Never => return false,
            Reconnect::IfRunning(places) => Client::connect_to_own(places),
            Reconnect::OrStart(places) => Client::connect_to_own_or_start(places, self.receive_timeout),
        };
        let Ok(mut client) = connected else { return false };
        if client.set_receive_timeout(self.receive_timeout).is_err() {
            return false;
        }
        client.group = self.group.take();
        *self = client;
        true
    }
}
