//! The topics of `slm-mesh help TOPIC`, for facts that do not fit into the help of a verb.
//!
//! **Invariant:** a line that begins with two spaces and `$` is a command. The indented lines below the command are its
//! output, in which `…` stands for text that varies. `tests/examples.rs` runs all these commands.

/// The topics, in the order of the overview. Each has a name, a subject and a text.
pub const TOPICS: &[(&str, &str, &str)] = &[
    ("agents", "Connecting agents, and what they see", include_str!("help_topics/agents.txt")),
    ("locks", "Locking files, waiting in line, running a command under a lock", include_str!("help_topics/locks.txt")),
    ("messages", "Messages, groups, receipts", include_str!("help_topics/messages.txt")),
    ("machines", "One mesh across several machines", include_str!("help_topics/machines.txt")),
    (
        "security",
        "Who is trusted, what is encrypted, what to do after a leak",
        include_str!("help_topics/security.txt"),
    ),
    ("scripting", "Exit statuses, JSON, waiting, cursors, Python, HTTP", include_str!("help_topics/scripting.txt")),
    ("broker", "Starting, stopping, checking and backing up the broker", include_str!("help_topics/broker.txt")),
    ("settings", "All settings, with their ranges", ""),
    ("upgrade", "Upgrading from slm-mesh 1.x, the TypeScript program", include_str!("help_topics/upgrade.txt")),
    ("protocol", "The methods of the socket, for writing a client", include_str!("help_topics/protocol.txt")),
    ("completions", "Completions for bash, zsh and fish", include_str!("help_topics/completions.txt")),
];

/// The text of a topic, without the parts that are generated from tables.
pub fn text(topic: &str) -> Option<&'static str> {
    TOPICS.iter().find(|(name, ..)| *name == topic).map(|(.., text)| *text)
}

/// The names of all topics.
pub fn names() -> impl Iterator<Item = &'static str> {
    TOPICS.iter().map(|(name, ..)| *name)
}
