//! All limits that users can meet, each with its reason.
//!
//! **Invariant:** no queue, text, list or wait in this program is unbounded.

/// The payload of a message, in UTF-8 bytes. Existing HTTP clients rely on this size.
pub const PAYLOAD_MAX: usize = 64 * 1024;
/// The value of a state entry, in bytes: the same as a message.
pub const VALUE_MAX: usize = 64 * 1024;
/// A state key, in bytes: long enough for a path, and short enough for an index.
pub const KEY_MAX: usize = 512;
/// A namespace, a name, a type, an idempotency key, in bytes.
pub const WORD_MAX: usize = 128;
/// A peer's summary, in UTF-16 units. Clients since 1.2.2 send at most this much.
pub const SUMMARY_MAX: usize = 2500;
/// A reason for a lock, in bytes: one line that another agent reads.
pub const REASON_MAX: usize = 500;
/// A path, in bytes: `PATH_MAX` of Linux.
pub const PATH_MAX: usize = 4096;
/// Paths in one lock call. An edit of more files needs a glob.
pub const PATHS_MAX: usize = 64;
/// Files in one edit. A patch of more files is not checked as an edit.
pub const EDIT_FILES_MAX: usize = 512;
/// Held files that the hooks of one session watch. More calls of `stat` would slow each command down.
pub const WATCHED_FILES_MAX: usize = 256;
/// Locks in force at the same time. Each request is compared with all of them.
pub const LOCKS_MAX: usize = 4096;
/// Items in a list argument (types, ids).
pub const LIST_MAX: usize = 100;
/// Nesting of a JSON object that is passed on. Its answer nests a few levels more, and JSON readers stop at 128.
pub const DEPTH_MAX: usize = 64;
/// Rows that one call of the old HTTP routes may return.
pub const ROWS_MAX: i64 = 1000;
/// Bytes of payload that one call of the old HTTP routes may return.
pub const ROWS_BYTES_MAX: usize = 8 << 20;
/// The text of a tool result. Clients cut longer ones (Claude Code warns at about 10k tokens).
pub const RESULT_MAX: usize = 24 * 1024;
/// The part of `RESULT_MAX` for the rows of a list. The rest is for the fields around the list.
pub const PAGE_MAX: usize = 20 * 1024;
/// The part of a message that one answer shows, once it is escaped. Longer messages come in parts.
pub const PART_MAX: usize = 16 * 1024;
/// Unread messages in one mailbox. Further messages are refused, and none is dropped silently.
pub const MAILBOX_MAX: i64 = 10_000;
/// Known peers, online or offline. Offline peers without mail are forgotten first to make room.
pub const PEERS_MAX: usize = 16_384;
/// Channels that one peer may join. Each message to a channel is a row in the mailbox of each member.
pub const CHANNELS_PER_PEER_MAX: usize = 64;
/// Calls of one connection that may wait at the same time.
pub const WAITS_MAX: usize = 64;
/// Maximum wait in one call, in seconds. A client that wants to wait longer calls again.
pub const WAIT_SECONDS_MAX: i64 = 3600;
/// Peers for which one connection may act. A Codex server carries many threads.
pub const PEERS_PER_CONNECTION_MAX: usize = 64;
/// Keys that one session may have. An agent has a new key after each /clear.
pub const KEYS_PER_SESSION_MAX: usize = 8;
/// Events, messages and entries that one step of housekeeping removes, so that no turn takes long.
pub const PRUNE_STEP: i64 = 500;
/// Messages that one sender may send in `RATE_WINDOW_MS`, by default.
pub const RATE_MAX: u32 = 100;
/// The window in which the messages of a sender are counted.
pub const RATE_WINDOW_MS: i64 = 10_000;
/// How long the locks of a local session outlive its socket, so that a restart loses none.
pub const GRACE_MS: i64 = 5_000;
/// How long the locks of a session on another machine outlive its connection: its network may fail for a moment.
pub const REMOTE_GRACE_MS: i64 = 30_000;
/// How much a lock is extended while its command runs and its holder does not renew it.
pub const COMMAND_LEASE_MS: i64 = 600_000;
/// Peers of one linked mesh that are listed here.
pub const LINKED_MAX: usize = 500;
/// A linked mesh that did not answer for this long, three polls, is silent, and its peers are offline.
pub const LINK_SILENT_MS: i64 = 90_000;
/// After the disk refused a write of timed work, the next write waits this long, so that the loop does not spin and
/// the log does not fill.
pub const REST_MS: i64 = 1_000;
/// Messages that arrive within this time cause one wakeup. A session that is working has read them by then.
pub const WAKE_COALESCE_MS: i64 = 1_000;
/// If the hooks of a turn are silent for this long, the turn may have been cut off.
pub const TURN_QUIET_MS: i64 = 2 * 60_000;
/// If a wakeup has no effect, the next channel is tried after this time.
pub const WAKE_AGAIN_MS: i64 = 30_000;
/// The window in which a session is woken at most `WAKES_MAX` times. Wakeups are remembered as long.
pub const WAKE_WINDOW_MS: i64 = 3_600_000;
/// Wakeups of one session in the window. Each wakeup is a turn that somebody pays for.
pub const WAKES_MAX: usize = 6;
/// How long mail is kept, read or not.
pub const MAIL_KEPT_MS: i64 = 7 * DAY_MS;
/// How long events are kept.
pub const EVENTS_KEPT_MS: i64 = 2 * DAY_MS;
/// An offline peer without mail and locks is forgotten after this time.
pub const AWAY_KEPT_MS: i64 = 30 * DAY_MS;
/// How often housekeeping runs, at a turn of the loop that happens anyway.
pub const PRUNE_EVERY_MS: i64 = 10 * 60_000;
/// One day in milliseconds.
pub const DAY_MS: i64 = 86_400_000;
