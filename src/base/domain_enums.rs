//! The enums of the mesh: the kinds of peers, messages, events and lock owners.
//!
//! Only this file converts these enums to text or numbers, and back.

use super::id_types::MeshUrl;

/// The kind of a peer. Each kind has the fields that only peers of this kind need.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PeerKind {
    /// A session of a coding agent. The session is online while a client is connected for it.
    Session {
        /// The agent's own key for the session, if the agent gave one.
        key: Option<String>,
    },
    /// A person at a machine. A person always has a mailbox.
    Human,
    /// A client of the old HTTP API. It is online while it sends heartbeats.
    Http {
        /// The Unix socket on which the client accepts pushes.
        push_socket: Option<String>,
    },
    /// A peer of another mesh.
    Linked {
        /// The address of the peer's mesh.
        mesh: MeshUrl,
    },
}

impl Default for PeerKind {
    fn default() -> PeerKind {
        PeerKind::Session { key: None }
    }
}

impl PeerKind {
    /// The name of this kind in replies to clients and in the database.
    pub fn word(&self) -> &'static str {
        match self {
            PeerKind::Session { .. } => "session",
            PeerKind::Human => "human",
            PeerKind::Http { .. } => "http",
            PeerKind::Linked { .. } => "link",
        }
    }
}

/// The state of a message. The order matters: each state before [`MessageState::Read`] is an unread state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum MessageState {
    /// The mesh has committed the message.
    #[default]
    Accepted,
    /// The message was offered to the recipient through a tool result, a hook's output or a push.
    Offered,
    /// The client has shown the whole message.
    Read,
    /// The recipient has answered or acknowledged the message.
    Acked,
    /// The message expired before the recipient read it.
    Expired,
    /// The recipient belongs to a linked mesh, which has accepted the message.
    Forwarded,
    /// The recipient belongs to a linked mesh, which will never accept the message.
    Rejected,
}

/// The states, each with the name that the sender of a message sees. The position of a state in this list is its number
/// in the database.
const STATES: [(MessageState, &str); 7] = [
    (MessageState::Accepted, "accepted"),
    (MessageState::Offered, "offered"),
    (MessageState::Read, "read"),
    (MessageState::Acked, "acked"),
    (MessageState::Expired, "expired"),
    (MessageState::Forwarded, "forwarded"),
    (MessageState::Rejected, "refused"),
];

impl MessageState {
    /// The number of this state in the database.
    pub fn number(self) -> i64 {
        self as i64
    }

    /// The state with this number in the database; `None` if there is no such state.
    pub fn from_number(number: i64) -> Option<MessageState> {
        STATES.get(usize::try_from(number).ok()?).map(|(state, _)| *state)
    }

    /// The name that the sender of a message sees for this state.
    pub fn word(self) -> &'static str {
        STATES[self as usize].1
    }

    /// The state with this name; `None` if there is no such state.
    pub fn from_word(word: &str) -> Option<MessageState> {
        STATES.iter().find(|(_, known)| *known == word).map(|(state, _)| *state)
    }

    /// Whether the recipient has read the message.
    pub fn is_read(self) -> bool {
        matches!(self, MessageState::Read | MessageState::Acked)
    }

    /// Whether the recipient has not read the message yet.
    pub fn is_unread(self) -> bool {
        self < MessageState::Read
    }
}

/// Why a peer leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaveReason {
    /// The session ended cleanly.
    CleanExit,
    /// The connection was closed without a word.
    Disconnected,
    /// The agent process of the session ended.
    ProcessExit,
    /// The connection now acts for another peer instead.
    Replaced,
    /// A client of the old HTTP API has sent no heartbeat for a long time.
    NoHeartbeat,
    /// The session did not return during its grace period after a restart of the broker.
    Lost,
    /// The connection does not answer.
    NotAnswering,
    /// The session has given back the name of this peer.
    Declined,
    /// The session continues in a process that can't be watched.
    NotWatched,
    /// The linked mesh no longer lists the peer.
    Unlisted,
    /// The linked mesh does not answer, or is no longer linked.
    MeshSilent,
}

impl LeaveReason {
    /// The word for this reason in events.
    pub fn word(self) -> &'static str {
        match self {
            LeaveReason::CleanExit => "clean_exit",
            LeaveReason::Disconnected => "disconnected",
            LeaveReason::ProcessExit => "process_exit",
            LeaveReason::Replaced => "replaced",
            LeaveReason::NoHeartbeat => "dead_timeout",
            LeaveReason::Lost => "lost",
            LeaveReason::NotAnswering => "not_answering",
            LeaveReason::Declined => "declined",
            LeaveReason::NotWatched => "not_watched",
            LeaveReason::Unlisted => "left",
            LeaveReason::MeshSilent => "link_silent",
        }
    }
}

/// The type of a message's payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MessageType {
    /// The payload is plain text.
    #[default]
    Text,
    /// The payload is valid JSON.
    Json,
    /// The payload asks the recipient to do something.
    Command,
    /// The payload needs the recipient's attention.
    Alert,
}

impl MessageType {
    /// Whether a message of this type may have this text.
    pub fn accepts(self, text: &str) -> bool {
        self != MessageType::Json || serde_json::from_str::<serde_json::Value>(text).is_ok()
    }

    /// The names of the types, in the order of the variants.
    pub const WORDS: &'static [&'static str] = &["text", "json", "command", "alert"];

    /// The name of this type in replies to clients and in the database.
    pub fn word(self) -> &'static str {
        MessageType::WORDS[self as usize]
    }

    /// The type that has this name.
    pub fn from_word(word: &str) -> Option<MessageType> {
        let all = [MessageType::Text, MessageType::Json, MessageType::Command, MessageType::Alert];
        all.into_iter().find(|kind| kind.word() == word)
    }
}

/// The owner of a lock.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum LockOwner {
    /// The peer itself. The lock ends when its lease expires, or earlier, when the peer's session ends.
    #[default]
    Peer,
    /// A turn of an agent. An edit took the lock, and the lock ends with the turn.
    Turn,
    /// A subagent, with the id that the agent gave it. The lock ends with the subagent.
    Subagent(String),
    /// A command, with the key that identifies it. The lock ends with the command.
    Command(String),
}

impl LockOwner {
    /// Whether the peer, its turns and its subagents share the lock. Such a lock ends together with the peer's session,
    /// or earlier. The lock of a command is not shared, and may outlive the session.
    pub fn is_shared(&self) -> bool {
        !matches!(self, LockOwner::Command(_))
    }

    /// Whether an edit took the lock automatically, for a turn or for a subagent.
    pub fn is_edit(&self) -> bool {
        matches!(self, LockOwner::Turn | LockOwner::Subagent(_))
    }

    /// The id of the subagent, if a subagent owns the lock.
    pub fn subagent(&self) -> Option<&str> {
        match self {
            LockOwner::Subagent(id) => Some(id),
            LockOwner::Peer | LockOwner::Turn | LockOwner::Command(_) => None,
        }
    }

    /// Whether two locks with these owners exclude each other even if the same peer holds both. This applies to two
    /// different commands and to two different subagents.
    pub fn excludes(&self, other: &LockOwner) -> bool {
        match (self, other) {
            (LockOwner::Command(one), LockOwner::Command(two)) => one != two,
            (LockOwner::Subagent(one), LockOwner::Subagent(two)) => one != two,
            _ => false,
        }
    }

    /// The owner as text in the database.
    pub fn to_text(&self) -> String {
        match self {
            LockOwner::Peer => "peer".into(),
            LockOwner::Turn => "turn".into(),
            LockOwner::Subagent(id) => format!("subagent:{id}"),
            LockOwner::Command(key) => format!("command:{key}"),
        }
    }

    /// Parses the text that [`LockOwner::to_text`] returns; `None` for any other text.
    pub fn from_text(text: &str) -> Option<LockOwner> {
        match text {
            "peer" => Some(LockOwner::Peer),
            "turn" => Some(LockOwner::Turn),
            other => {
                let command = other.strip_prefix("command:").map(|key| LockOwner::Command(key.to_owned()));
                command.or_else(|| other.strip_prefix("subagent:").map(|id| LockOwner::Subagent(id.to_owned())))
            }
        }
    }
}

/// The result of an attempt to wake a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WakeupOutcome {
    /// The wakeup was sent without an error.
    Sent,
    /// The wakeup could not be sent, for this reason.
    Failed(String),
    /// No wakeup was sent, because the agents would otherwise wake each other again and again.
    HeldBack,
}

/// The text for a held-back wakeup. The database contains this text, and the sender of a message sees it.
const HELD_BACK: &str = "held back: these agents would otherwise keep waking each other";

impl WakeupOutcome {
    /// The outcome as text, for the sender of a message.
    pub fn to_text(&self) -> String {
        match self {
            WakeupOutcome::Sent => "sent".into(),
            WakeupOutcome::Failed(why) => format!("failed: {why}"),
            WakeupOutcome::HeldBack => HELD_BACK.into(),
        }
    }

    /// The word for this outcome in the database.
    pub fn word(&self) -> &'static str {
        match self {
            WakeupOutcome::Sent => "sent",
            WakeupOutcome::Failed(_) => "failed",
            WakeupOutcome::HeldBack => "held_back",
        }
    }

    /// The reason for a failure.
    pub fn reason(&self) -> Option<&str> {
        match self {
            WakeupOutcome::Failed(why) => Some(why),
            WakeupOutcome::Sent | WakeupOutcome::HeldBack => None,
        }
    }

    /// The outcome with this word and this reason; `None` if there is no such outcome.
    pub fn from_word(word: &str, reason: Option<String>) -> Option<WakeupOutcome> {
        match (word, reason) {
            ("sent", None) => Some(WakeupOutcome::Sent),
            ("failed", Some(why)) => Some(WakeupOutcome::Failed(why)),
            ("held_back", None) => Some(WakeupOutcome::HeldBack),
            _ => None,
        }
    }
}

/// The types of events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EventKind {
    /// A peer came online.
    PeerJoined,
    /// A peer went offline.
    PeerLeft,
    /// A peer changed its summary.
    PeerUpdated,
    /// A peer joined a channel.
    ChannelJoined,
    /// A peer left a channel.
    ChannelLeft,
    /// A message was accepted.
    MessageReceived,
    /// A message was read.
    MessageRead,
    /// A linked mesh accepted a message.
    MessageForwarded,
    /// A linked mesh permanently refused a message.
    MessageRejected,
    /// An entry of the shared state got a new value.
    StateChanged,
    /// An entry of the shared state was deleted, or has expired.
    StateDeleted,
    /// A lock was granted.
    FileLocked,
    /// A lock ended.
    FileUnlocked,
    /// An event that a client published. The name contains a dot.
    Custom(String),
}

/// The types of events that the mesh itself publishes, with their names.
const EVENTS: [(EventKind, &str); 13] = [
    (EventKind::PeerJoined, "peer_joined"),
    (EventKind::PeerLeft, "peer_left"),
    (EventKind::PeerUpdated, "peer_updated"),
    (EventKind::ChannelJoined, "channel_joined"),
    (EventKind::ChannelLeft, "channel_left"),
    (EventKind::MessageReceived, "message_received"),
    (EventKind::MessageRead, "message_read"),
    (EventKind::MessageForwarded, "message_forwarded"),
    (EventKind::MessageRejected, "message_refused"),
    (EventKind::StateChanged, "state_changed"),
    (EventKind::StateDeleted, "state_deleted"),
    (EventKind::FileLocked, "file_locked"),
    (EventKind::FileUnlocked, "file_unlocked"),
];

impl EventKind {
    /// The name of this type in the event stream and in the database.
    pub fn word(&self) -> &str {
        if let EventKind::Custom(name) = self {
            return name;
        }
        EVENTS.iter().find(|(kind, _)| kind == self).map_or("", |(_, word)| word)
    }

    /// Returns the type that has this name. An unknown name belongs to an event that a client published.
    pub fn from_word(word: &str) -> EventKind {
        let own = EVENTS.iter().find(|(_, own)| *own == word);
        own.map_or_else(|| EventKind::Custom(word.to_owned()), |(kind, _)| kind.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_and_number_comes_back_as_it_was() {
        for (n, (state, _)) in STATES.iter().enumerate() {
            assert_eq!((state.number(), MessageState::from_number(n as i64)), (n as i64, Some(*state)));
        }
        assert_eq!((MessageState::from_number(7), MessageState::from_number(-1)), (None, None));
        for word in MessageType::WORDS {
            assert_eq!(MessageType::from_word(word).map(MessageType::word), Some(*word));
        }
        for (kind, word) in &EVENTS {
            assert_eq!((kind.word(), &EventKind::from_word(word)), (*word, kind));
        }
        assert_eq!(EventKind::from_word("deploy.done").word(), "deploy.done");
        for owner in
            [LockOwner::Peer, LockOwner::Turn, LockOwner::Command("turn".into()), LockOwner::Subagent("a".into())]
        {
            assert_eq!(LockOwner::from_text(&owner.to_text()), Some(owner));
        }
        for outcome in [WakeupOutcome::Sent, WakeupOutcome::HeldBack, WakeupOutcome::Failed("no socket".into())] {
            let reason = outcome.reason().map(str::to_owned);
            assert_eq!(WakeupOutcome::from_word(outcome.word(), reason), Some(outcome));
        }
    }
}
