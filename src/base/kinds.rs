//! The closed sets of the domain: what a peer, a message, an event or a lock's owner can be.
//!
//! Each enum turns into text or a number, and back, in one place: here.

use super::ids::MeshUrl;

/// What a peer is, with what only that kind has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PeerKind {
    /// A session of a coding agent, online while a connection acts for it.
    Session {
        /// The agent's own key for the session, if it has told one.
        key: Option<String>,
    },
    /// A person at a machine, who always has a mailbox.
    Human,
    /// A client of the old HTTP API, present while its heartbeats come.
    Http {
        /// The Unix socket on which it takes pushes.
        push_socket: Option<String>,
    },
    /// A peer of another mesh.
    Linked {
        /// The mesh to which it belongs.
        mesh: MeshUrl,
    },
}

impl Default for PeerKind {
    fn default() -> PeerKind {
        PeerKind::Session { key: None }
    }
}

impl PeerKind {
    /// The word in answers and in the database.
    pub fn word(&self) -> &'static str {
        match self {
            PeerKind::Session { .. } => "session",
            PeerKind::Human => "human",
            PeerKind::Http { .. } => "http",
            PeerKind::Linked { .. } => "link",
        }
    }
}

/// How far a message got. The order counts: what lies before [`MessageState::Read`] is unread.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum MessageState {
    /// Committed.
    #[default]
    Accepted,
    /// Handed to a channel: a tool result, a hook's output, a push.
    Offered,
    /// A result that carried it was written out whole.
    Read,
    /// Answered, or acknowledged.
    Acked,
    /// Its time ended before anybody read it.
    Expired,
    /// The linked mesh of its recipient has it.
    Forwarded,
    /// The linked mesh of its recipient will never take it.
    Rejected,
}

/// The states by their number in the database, with their word in receipts.
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
    /// The number in the database.
    pub fn number(self) -> i64 {
        self as i64
    }

    /// The state of a number from the database.
    pub fn from_number(number: i64) -> Option<MessageState> {
        STATES.get(usize::try_from(number).ok()?).map(|(state, _)| *state)
    }

    /// The word in a receipt.
    pub fn word(self) -> &'static str {
        STATES[self as usize].1
    }

    /// Whether the recipient has yet to read it.
    pub fn is_unread(self) -> bool {
        self < MessageState::Read
    }
}

/// What a message's payload is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MessageType {
    /// Plain text.
    #[default]
    Text,
    /// JSON, checked to be valid.
    Json,
    /// A request to do something.
    Command,
    /// Something that wants attention.
    Alert,
}

impl MessageType {
    /// The words for the types, in their order.
    pub const WORDS: &'static [&'static str] = &["text", "json", "command", "alert"];

    /// The word in answers and in the database.
    pub fn word(self) -> &'static str {
        MessageType::WORDS[self as usize]
    }

    /// The type of a word.
    pub fn from_word(word: &str) -> Option<MessageType> {
        let all = [MessageType::Text, MessageType::Json, MessageType::Command, MessageType::Alert];
        all.into_iter().find(|kind| kind.word() == word)
    }
}

/// Whose a lock is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum LockOwner {
    /// Its peer's: it ends with its lease or its session.
    #[default]
    Peer,
    /// An agent's turn: an edit took it, and the turn's end releases it.
    Turn,
    /// A subagent's, known by the agent's id for it: it ends with that subagent.
    Subagent(String),
    /// One command's, known by its key: it ends with that command.
    Command(String),
}

impl LockOwner {
    /// Whether the lock ends with its session at the latest, instead of with a command.
    pub fn is_shared(&self) -> bool {
        !matches!(self, LockOwner::Command(_))
    }

    /// Whether an edit took the lock by itself, for a turn or a subagent.
    pub fn is_edit(&self) -> bool {
        matches!(self, LockOwner::Turn | LockOwner::Subagent(_))
    }

    /// Whether two owners of one peer keep each other out: two commands, or two subagents.
    pub fn excludes(&self, other: &LockOwner) -> bool {
        match (self, other) {
            (LockOwner::Command(one), LockOwner::Command(two)) => one != two,
            (LockOwner::Subagent(one), LockOwner::Subagent(two)) => one != two,
            _ => false,
        }
    }

    /// The text in the database.
    pub fn to_text(&self) -> String {
        match self {
            LockOwner::Peer => "peer".into(),
            LockOwner::Turn => "turn".into(),
            LockOwner::Subagent(id) => format!("subagent:{id}"),
            LockOwner::Command(key) => format!("command:{key}"),
        }
    }

    /// The owner of a text from the database.
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

/// What an attempt to wake a session came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WakeupOutcome {
    /// The channel took the sentence.
    Sent,
    /// The channel failed, for this reason.
    Failed(String),
    /// Nothing was sent: these agents would have gone on waking each other.
    HeldBack,
}

/// How a wakeup that was held back reads in a receipt.
const HELD_BACK: &str = "held back: these agents have woken each other in a circle already";

impl WakeupOutcome {
    /// The text in the database and in receipts.
    pub fn to_text(&self) -> String {
        match self {
            WakeupOutcome::Sent => "rang".into(),
            WakeupOutcome::Failed(why) => format!("failed: {why}"),
            WakeupOutcome::HeldBack => HELD_BACK.into(),
        }
    }

    /// The outcome of a text from the database.
    pub fn from_text(text: &str) -> WakeupOutcome {
        match text {
            "rang" => WakeupOutcome::Sent,
            HELD_BACK => WakeupOutcome::HeldBack,
            other => WakeupOutcome::Failed(other.strip_prefix("failed: ").unwrap_or(other).to_owned()),
        }
    }
}

/// What happened, in a word: the types of the event stream.
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
    /// A linked mesh took a message.
    MessageForwarded,
    /// A linked mesh refused a message for good.
    MessageRejected,
    /// An entry of the shared state has a new value.
    StateChanged,
    /// An entry of the shared state is gone.
    StateDeleted,
    /// A lock was granted.
    FileLocked,
    /// A lock ended.
    FileUnlocked,
    /// A client's own event; its name has a dot in it.
    Custom(String),
}

/// The mesh's own event types with their words.
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
    /// The word in the stream and in the database.
    pub fn word(&self) -> &str {
        if let EventKind::Custom(name) = self {
            return name;
        }
        EVENTS.iter().find(|(kind, _)| kind == self).map_or("", |(_, word)| word)
    }

    /// The type of a word: one of the mesh's own, else a client's.
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
            assert_eq!(WakeupOutcome::from_text(&outcome.to_text()), outcome);
        }
    }
}
