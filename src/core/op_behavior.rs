//! How the broker and the clients handle the calls of an operation, beyond running them. An operation declares this in
//! its definition, so no other code compares operations by their names.

use serde_json::Value;

/// The kinds of rows that a call can wait for (`--wait`) or follow (`--follow`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowStream {
    /// Messages for the caller. A client that has shown them reports them as read.
    Messages,
    /// Events. A call can ask for the events after a given sequence number.
    Events,
    /// Messages between all peers, which arrive in pages. A call can ask for the messages after a given sequence
    /// number.
    Log,
}

impl RowStream {
    /// Returns the rows of an answer.
    pub fn rows(self, answer: &Value) -> &[Value] {
        answer[self.field()].as_array().map(Vec::as_slice).unwrap_or_default()
    }

    /// The field of an answer that contains the rows.
    pub fn field(self) -> &'static str {
        match self {
            RowStream::Messages | RowStream::Log => "messages",
            RowStream::Events => "events",
        }
    }
}

/// Whether a call changes the peers for which its connection acts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectionChange {
    /// The call is made on behalf of a peer, and changes nothing about the connection.
    Unchanged,
    /// From now on, the connection also acts for a peer, which may be new.
    Attach,
    /// The connection no longer acts for a peer.
    Detach,
}

/// The peer whose notices, such as the number of unread messages, are added to the result of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notices {
    /// The peer that makes the call.
    ForCaller,
    /// The peer that the result names as `you`. The call has made the caller a new peer.
    ForNewPeer,
    /// No peer. The caller is a program that shows the result to nobody.
    None,
}

/// How the broker and the clients handle the calls of an operation.
#[derive(Debug, Clone, Copy)]
pub struct OpBehavior {
    /// Whether the verb starts a broker if none is running.
    pub starts_broker: bool,
    /// Whether a hub on standby runs the operation, too.
    pub on_standby: bool,
    /// Whether a call changes the peers for which its connection acts.
    pub connection: ConnectionChange,
    /// The rows of the result, if a call can wait for them or follow them.
    pub stream: Option<RowStream>,
    /// Whose notices are added to the result.
    pub notices: Notices,
    /// Whether a waiting call counts towards the maximum number of waiting calls of its connection.
    pub counts_as_waiting: bool,
}

impl OpBehavior {
    /// The behavior that most operations have.
    pub const USUAL: OpBehavior = OpBehavior {
        starts_broker: true,
        on_standby: false,
        connection: ConnectionChange::Unchanged,
        stream: None,
        notices: Notices::ForCaller,
        counts_as_waiting: true,
    };
}
