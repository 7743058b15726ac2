//! What `slm-mesh help TOPIC` tells where a verb's own help is too short.
//!
//! **Invariant:** a line that begins with `$` behind two spaces is a command, and the indented lines
//! below it are what it prints, `…` standing for what is another each time. `tests/examples` runs them.

/// The topics in the order of the overview: name, what it is about, text.
pub const TOPICS: &[(&str, &str, &str)] = &[
    ("agents", "Connect agents, and what they see", include_str!("help_topics/agents.txt")),
    ("locks", "Leases on files, waiting in line, commands under a lock", include_str!("help_topics/locks.txt")),
    ("messages", "Mail, groups, receipts", include_str!("help_topics/messages.txt")),
    ("machines", "One mesh over several machines", include_str!("help_topics/machines.txt")),
    (
        "security",
        "Who is trusted, what is encrypted, what to do after a leak",
        include_str!("help_topics/security.txt"),
    ),
    ("scripting", "Exit statuses, JSON, waiting, cursors, Python, HTTP", include_str!("help_topics/scripting.txt")),
    ("broker", "Start, stop, keep, look after, back up", include_str!("help_topics/broker.txt")),
    ("settings", "All of them, with their ranges", ""),
    ("protocol", "The socket's methods, for who writes a client", include_str!("help_topics/protocol.txt")),
    ("completions", "For bash, zsh and fish", include_str!("help_topics/completions.txt")),
];

/// The text of a topic; what is made from tables apart.
pub fn text(topic: &str) -> Option<&'static str> {
    TOPICS.iter().find(|(name, ..)| *name == topic).map(|(.., text)| *text)
}

/// The names of all.
pub fn names() -> impl Iterator<Item = &'static str> {
    TOPICS.iter().map(|(name, ..)| *name)
}
