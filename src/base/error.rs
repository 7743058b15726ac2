//! The errors of the whole program. A table contains the RPC code, the HTTP status and the exit code of each kind of
//! error.
//!
//! The text of an error says what failed, why it failed, and what to do about it. The text is in lower case and has no
//! full stop.

use serde_json::{Value, json};

/// The ways in which a call can fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// An argument is unknown, missing or wrong, or a setting is wrong.
    Usage,
    /// The broker does not know the method. It may be older than the caller.
    UnknownMethod,
    /// A peer, a message or a lock does not exist.
    NotFound,
    /// A name matches several peers, or it is unclear which session makes the call.
    Ambiguous,
    /// The rules do not let this caller make this call.
    Refused,
    /// A file is locked by another peer.
    Held,
    /// A compare-and-set did not find the version that the caller expected.
    Conflict,
    /// A sender sent too much in a short time.
    Limited,
    /// Something of limited size is full, such as a mailbox or the table of locks.
    Full,
    /// A wait ended because its time was up.
    TimedOut,
    /// The disk or the database failed; nothing was changed.
    Storage,
    /// The disk is full; nothing was changed. Answers to clients show this kind as `Storage`.
    DiskFull,
    /// The database file is damaged. Answers to clients show this kind as `Storage`.
    Damaged,
    /// The broker can't be reached or is stopping.
    Gone,
    /// This hub is on standby while another hub leads. The call did not run, so the caller may repeat the call at the
    /// other hub.
    Standby,
    /// A bug in slm-mesh; nothing was changed.
    Internal,
}

/// One row of the table: a kind of error, with its codes.
#[derive(Debug, Clone, Copy)]
pub struct Codes {
    /// The kind that has these codes.
    pub kind: ErrorKind,
    /// The name of the kind in `error.data.kind`.
    pub word: &'static str,
    /// The JSON-RPC code. If no standard code fits, it is one of our own codes outside the reserved range.
    pub rpc: i64,
    /// The HTTP status, except where the old HTTP API prescribes a different one.
    pub http: u16,
    /// The exit status of the command line.
    pub exit: u8,
    /// How the help explains the exit status.
    pub means: &'static str,
}

const fn codes(kind: ErrorKind, word: &'static str, rpc: i64, http: u16, exit: u8, means: &'static str) -> Codes {
    Codes { kind, word, rpc, http, exit, means }
}

/// The kinds of errors that clients see, with their codes, in the order in which the help lists the exit codes.
pub const CODES: &[Codes] = &[
    codes(ErrorKind::Refused, "refused", 1001, 403, 1, "refused by the rules of the mesh"),
    codes(ErrorKind::Held, "held", 1002, 409, 1, "the file is locked by somebody else"),
    codes(ErrorKind::Conflict, "conflict", 1003, 409, 1, "the state entry does not have the expected version"),
    codes(ErrorKind::NotFound, "not_found", 1004, 404, 1, "there is no such peer, message, key or lock"),
    codes(ErrorKind::Ambiguous, "ambiguous", 1005, 409, 1, "the name matches several peers"),
    codes(ErrorKind::Limited, "limited", 1006, 429, 1, "too many calls in a short time"),
    codes(ErrorKind::Full, "full", 1007, 507, 1, "a mailbox is full or a limit is reached"),
    codes(ErrorKind::Usage, "usage", -32602, 400, 2, "a wrong argument or setting"),
    codes(ErrorKind::UnknownMethod, "unknown_method", -32601, 404, 2, "a method that the broker does not know"),
    codes(ErrorKind::Gone, "gone", 1008, 503, 3, "the broker can't be reached or started"),
    codes(ErrorKind::Standby, "standby", 1011, 503, 3, "the hub is on standby and serves no requests"),
    codes(ErrorKind::TimedOut, "timed_out", 1009, 408, 4, "nothing arrived within the given time"),
    codes(ErrorKind::Storage, "storage", 1010, 507, 5, "the disk or the database failed"),
    codes(ErrorKind::Internal, "internal", -32603, 500, 5, "a bug in slm-mesh"),
];

impl ErrorKind {
    /// The codes of this kind.
    pub fn codes(self) -> &'static Codes {
        let listed = if self.is_storage() { ErrorKind::Storage } else { self };
        CODES.iter().find(|row| row.kind == listed).unwrap_or(&CODES[CODES.len() - 1])
    }

    /// Returns true for a failure of the disk or of the database.
    pub fn is_storage(self) -> bool {
        matches!(self, ErrorKind::Storage | ErrorKind::DiskFull | ErrorKind::Damaged)
    }

    /// Returns the kind that this word stands for in a reply. An unknown word stands for `Internal`.
    pub fn from_word(word: &str) -> ErrorKind {
        CODES.iter().find(|row| row.word == word).map_or(ErrorKind::Internal, |row| row.kind)
    }

    /// Returns the kind that has this JSON-RPC code. An unknown code stands for `Internal`.
    pub fn from_rpc_code(code: i64) -> ErrorKind {
        CODES.iter().find(|row| row.rpc == code).map_or(ErrorKind::Internal, |row| row.kind)
    }
}

/// Splits the text of an error, or a similar text, into two parts: its first clause, which is the problem, and the
/// rest, which is the cure. A semicolon separates them.
pub fn problem_and_cure(text: &str) -> (&str, Option<&str>) {
    text.split_once("; ").map_or((text, None), |(problem, cure)| (problem, Some(cure)))
}

/// An error that a caller gets.
#[derive(Debug, Clone, PartialEq)]
pub struct Error {
    /// The kind of the error.
    pub kind: ErrorKind,
    /// A sentence for people: what failed, why it failed, and what to do about it.
    pub text: String,
    /// Data for programs, such as the conflicting lock or the current version.
    pub data: Option<Value>,
}

impl Error {
    /// Creates an error from a kind and a sentence.
    pub fn new(kind: ErrorKind, text: impl Into<String>) -> Error {
        Error { kind, text: text.into(), data: None }
    }

    /// Adds data for programs to this error.
    pub fn with(mut self, data: Value) -> Error {
        self.data = Some(data);
        self
    }

    /// Creates an error about a wrong argument. The text has the form `name: expected …`.
    pub fn usage(name: &str, want: impl std::fmt::Display) -> Error {
        Error::new(ErrorKind::Usage, format!("{name}: {want}")).with(json!({ "argument": name }))
    }

    /// Creates an error about something that does not exist.
    pub fn not_found(text: impl Into<String>) -> Error {
        Error::new(ErrorKind::NotFound, text)
    }

    /// The body of a reply with this error: `{"ok":false,"error":…,"kind":…}`, and the members of `data`.
    pub fn to_value(&self) -> Value {
        let mut value = json!({ "ok": false, "error": self.text, "kind": self.kind.codes().word });
        if let (Some(Value::Object(data)), Some(object)) = (&self.data, value.as_object_mut()) {
            for (name, fact) in data {
                object.insert(name.clone(), fact.clone());
            }
        }
        value
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Error {}
