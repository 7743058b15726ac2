//! How the broker and the clients treat calls to an operation, apart from running the operation. Each operation
//! declares this in its definition, so no other code compares operations by their names.

use serde_json::Value;

/// The kinds of rows that a call can wait for (`--wait`) or follow (`--follow`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowStream {
    /// Messages for the caller. After a client has shown them, it tells the broker that they are read.
    Messages,
    /// Events. A call can ask for the events after a given sequence number.
    Events,
    /// Messages between all peers. The broker returns them in pages. A call can ask for the messages after a given
    /// sequence number.
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

/// How a call changes the set of peers for which its connection acts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectionChange {
    /// The call does not change for which peers the connection acts.
    Unchanged,
    /// After the call, the connection acts for one more peer. The call may create this peer.
    Attach,
    /// The connection no longer acts for a peer.
    Detach,
}

/// Says which peer's notices are added to the result of a call. An example of a notice is the number of unread
/// messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notices {
    /// The peer that makes the call.
    ForCaller,
    /// The peer that the call has created for the caller. The result contains this peer in the field `you`.
    ForNewPeer,
    /// No peer. The caller is a program that does not show the result to a user.
    None,
}

/// How the broker and the clients treat calls to an operation.
#[derive(Debug, Clone, Copy)]
pub struct OpBehavior {
    /// Whether the verb starts a broker if none is running.
    pub starts_broker: bool,
    /// Whether a hub on standby also runs the operation.
    pub on_standby: bool,
    /// How a call changes the set of peers for which its connection acts.
    pub connection: ConnectionChange,
    /// The kind of rows that a call can wait for or follow; `None` if it can do neither.
    pub stream: Option<RowStream>,
    /// Says which peer's notices are added to the result.
    pub notices: Notices,
    /// Whether the web page may call the operation on behalf of the person at this machine.
    pub on_page: bool,
    /// Whether a waiting call counts towards the limit on waiting calls of its connection.
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
        on_page: false,
        counts_as_waiting: true,
    };
}
