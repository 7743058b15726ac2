//! Every bound of the mesh in one place, each with its reason.
//!
//! **Invariant:** no queue, text, list or wait in this program is unbounded; what bounds it is here.

/// A message's payload, in UTF-8 bytes: what existing HTTP clients were promised.
pub const PAYLOAD_MAX: usize = 64 * 1024;
/// A state value, in bytes: the same promise as a message.
pub const VALUE_MAX: usize = 64 * 1024;
/// A state key, in bytes: long enough for a path, short enough to index.
pub const KEY_MAX: usize = 512;
/// A namespace, a name, a type, an idempotency key, in bytes.
pub const WORD_MAX: usize = 128;
/// A peer's summary, in UTF-16 units: what clients since 1.2.2 send at most.
pub const SUMMARY_MAX: usize = 2500;
/// A reason for a lock, in bytes: one line that another agent reads.
pub const REASON_MAX: usize = 500;
/// A path, in bytes: PATH_MAX on Linux.
pub const PATH_MAX: usize = 4096;
/// Paths in one lock call: an `apply_patch` with more files wants a glob.
pub const PATHS_MAX: usize = 64;
/// Files of one edit: an `apply_patch` over more is no edit any more.
pub const EDIT_FILES_MAX: usize = 512;
/// Held files that the hooks of one session watch: a `stat` of each must not slow a command down.
pub const WATCHED_FILES_MAX: usize = 256;
/// Locks in force at once; each is looked at when another is asked for.
pub const LOCKS_MAX: usize = 4096;
/// Items in a list argument (types, ids).
pub const LIST_MAX: usize = 100;
/// Nesting of a JSON object that is handed on: the answer that carries it nests a few levels more, and
/// readers of JSON stop at 128.
pub const DEPTH_MAX: usize = 64;
/// Rows that one call over the old HTTP routes may return.
pub const ROWS_MAX: i64 = 1000;
/// Bytes of payload that one call over the old HTTP routes may return.
pub const ROWS_BYTES_MAX: usize = 8 << 20;
/// A tool result's text: clients cut long ones (Claude Code warns at about 10k tokens).
pub const RESULT_MAX: usize = 24 * 1024;
/// The part of `RESULT_MAX` that the rows of a list may fill. The rest is for the fields around the list.
pub const PAGE_MAX: usize = 20 * 1024;
/// A message longer than this, once escaped, comes in parts.
pub const PART_MAX: usize = 16 * 1024;
/// Unread messages in one mailbox; further ones are refused, not dropped silently.
pub const MAILBOX_MAX: i64 = 10_000;
/// Peers known at once, here or away; away ones without mail make room first.
pub const PEERS_MAX: usize = 4096;
/// Channels that one peer may join: each message to one of them is a row in its mailbox.
pub const CHANNELS_PER_PEER_MAX: usize = 64;
/// Calls that one connection may leave waiting.
pub const WAITS_MAX: usize = 64;
/// The longest wait in one call, in seconds: an hour; beyond it a client asks again.
pub const WAIT_SECONDS_MAX: i64 = 3600;
/// Peers that one connection may speak for (a Codex server carries many threads).
pub const PEERS_PER_CONNECTION_MAX: usize = 64;
/// Keys that one session may have: an agent has a new one after each /clear.
pub const KEYS_PER_SESSION_MAX: usize = 8;
/// Events, messages and entries that one housekeeping step removes, so that no turn pays for all.
pub const PRUNE_STEP: i64 = 500;
/// Calls of one sender that the window of `RATE_WINDOW_MS` allows, unless set otherwise.
pub const RATE_MAX: u32 = 100;
/// The window in which a sender's calls are counted.
pub const RATE_WINDOW_MS: i64 = 10_000;
/// A local session's locks outlive its socket by this much, so that a restart loses none.
pub const GRACE_MS: i64 = 5_000;
/// The same for a session on another machine, whose network may be gone for a moment.
pub const REMOTE_GRACE_MS: i64 = 30_000;
/// How long a lock is extended if its command still runs and its holder does not renew it.
pub const COMMAND_LEASE_MS: i64 = 600_000;
/// Peers of one linked mesh that are listed here.
pub const LINKED_MAX: usize = 500;
/// A linked mesh that was not heard for this long, three polls, is silent: its peers are away.
pub const LINK_SILENT_MS: i64 = 90_000;
/// After the disk refused a write of our own, the next one waits this long: no loop, no full log.
pub const REST_MS: i64 = 1_000;
/// Messages that arrive within this time cause one wakeup. A session that is working has seen them by then.
pub const WAKE_COALESCE_MS: i64 = 1_000;
/// A turn whose hooks have been silent for this long may have been cut off.
pub const TURN_QUIET_MS: i64 = 2 * 60_000;
/// If nothing came of a wakeup, the next channel is tried after this.
pub const WAKE_AGAIN_MS: i64 = 30_000;
/// A session is woken at most `WAKES_MAX` times in this window, and rings are remembered for it.
pub const WAKE_WINDOW_MS: i64 = 3_600_000;
/// Each ring is a turn that somebody pays for.
pub const WAKES_MAX: usize = 6;
/// Mail is kept this long, read or not.
pub const MAIL_KEPT_MS: i64 = 7 * DAY_MS;
/// Events are kept this long.
pub const EVENTS_KEPT_MS: i64 = 2 * DAY_MS;
/// A peer that is away, with no mail and no locks, is forgotten after this long.
pub const AWAY_KEPT_MS: i64 = 30 * DAY_MS;
/// Housekeeping runs this often while there is work for the loop anyway.
pub const PRUNE_EVERY_MS: i64 = 10 * 60_000;
/// One day in milliseconds.
pub const DAY_MS: i64 = 86_400_000;
