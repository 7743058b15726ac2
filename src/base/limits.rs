//! The limits that users can reach. Most of the comments say why a limit has its value.

/// Maximum size of a message's payload, in UTF-8 bytes. Existing HTTP clients rely on this size.
pub const PAYLOAD_MAX: usize = 64 * 1024;
/// Maximum size of the value of a state entry, in bytes. A message's payload has the same limit.
pub const VALUE_MAX: usize = 64 * 1024;
/// Maximum length of the key of a state entry, in bytes. This is enough for most paths, and short enough for an index.
pub const KEY_MAX: usize = 512;
/// Maximum length of a namespace, a name, a type or an idempotency key, in bytes.
pub const WORD_MAX: usize = 128;
/// Maximum length of a peer's summary, in UTF-16 units. Clients of slm-mesh 1.2.2 and later send at most this much.
pub const SUMMARY_MAX: usize = 2500;
/// Maximum length of the reason for a lock, in bytes. The reason is one line that other agents read.
pub const REASON_MAX: usize = 500;
/// Maximum length of a path, in bytes: the value of `PATH_MAX` on Linux.
pub const PATH_MAX: usize = 4096;
/// Maximum number of paths in one lock call. To lock more files, a client uses a glob.
pub const PATHS_MAX: usize = 64;
/// Maximum number of outer commands (the commands inside which the caller runs) in one request for locks. The search
/// for deadlocks uses them.
pub const OUTER_COMMANDS_MAX: usize = 16;
/// Maximum number of files in one call by a hook or by the commit guard. A longer list is split into several calls.
pub const EDIT_FILES_MAX: usize = 512;
/// Maximum number of locked files that the hooks of one session watch. Each command costs one `stat` per watched file.
pub const WATCHED_FILES_MAX: usize = 256;
/// Maximum number of locks in force at the same time. A request for a glob may be compared with all of them.
pub const LOCKS_MAX: usize = 4096;
/// Maximum number of items in a list argument, such as a list of types or ids.
pub const LIST_MAX: usize = 100;
/// Maximum nesting of a JSON object that the mesh passes on. The answer that contains the object adds a few levels, and
/// JSON parsers such as serde_json accept at most 128 levels.
pub const DEPTH_MAX: usize = 64;
/// Maximum number of rows that one call of an old HTTP route may return.
pub const ROWS_MAX: i64 = 1000;
/// Maximum number of bytes of payload that one call of an old HTTP route may return.
pub const ROWS_BYTES_MAX: usize = 8 << 20;
/// Maximum size of the text of a tool result, in bytes. Clients cut longer results; Claude Code warns at about
/// 10,000 tokens.
pub const RESULT_MAX: usize = 24 * 1024;
/// The part of `RESULT_MAX` for the rows of a list. The rest is for the fields around the list.
pub const PAGE_MAX: usize = 20 * 1024;
/// One answer shows at most this many bytes of a message, counted after escaping. Longer messages are shown in parts.
pub const PART_MAX: usize = 16 * 1024;
/// Maximum number of unread messages in one mailbox. A full mailbox refuses further messages. It never drops a message
/// silently.
pub const MAILBOX_MAX: i64 = 10_000;
/// Maximum number of known peers, online or offline. To make room, the mesh first forgets offline peers without
/// mail.
pub const PEERS_MAX: usize = 16_384;
/// Maximum number of channels that one peer may join. Each message to a channel is a row in the mailbox of each
/// member.
pub const CHANNELS_PER_PEER_MAX: usize = 64;
/// Maximum number of waiting calls on one connection at the same time.
pub const WAITS_MAX: usize = 64;
/// Maximum wait in one call, in seconds. To wait longer, a client makes another call.
pub const WAIT_SECONDS_MAX: i64 = 3600;
/// Maximum number of peers that can share one connection. One Codex server runs many threads, each of which is a peer.
pub const PEERS_PER_CONNECTION_MAX: usize = 64;
/// Maximum number of older keys that are remembered for one session. An agent gives its session a new key after each
/// /clear.
pub const KEYS_PER_SESSION_MAX: usize = 8;
/// Maximum number of events, messages and entries that one step of housekeeping removes. The limit keeps each turn of
/// the broker's loop short.
pub const PRUNE_STEP: i64 = 500;
/// How many messages one sender may send within `RATE_WINDOW_MS`, by default.
pub const RATE_MAX: u32 = 100;
/// The length, in ms, of the period in which the messages of a sender are counted.
pub const RATE_WINDOW_MS: i64 = 10_000;
/// How long a local session keeps its locks after its connection has ended. A restart of the broker must not release
/// these locks, so this time is long enough for a restart.
pub const GRACE_MS: i64 = 5_000;
/// How long a session on another machine keeps its locks after its connection has ended. This time allows for a short
/// failure of the network.
pub const REMOTE_GRACE_MS: i64 = 30_000;
/// If a command's lock would expire while the command is still running, the lock is extended by this many milliseconds.
pub const COMMAND_LEASE_MS: i64 = 600_000;
/// This mesh lists at most this many peers of one linked mesh.
pub const LINKED_MAX: usize = 500;
/// A linked mesh that has not answered for this long (three polls) counts as silent, and its peers count as offline.
pub const LINK_SILENT_MS: i64 = 90_000;
/// How long expiry and housekeeping pause after the disk has refused a write. Without the pause, the broker would try
/// again at once, and its errors would fill the log.
pub const REST_MS: i64 = 1_000;
/// A wakeup waits until no message has arrived for this long, so that several messages cause only one wakeup. A session
/// that is working will have read the messages by then.
pub const WAKE_COALESCE_MS: i64 = 1_000;
/// If no hook of an agent's turn has run for this long, the turn counts as over. Not all agents report the end of an
/// interrupted turn.
pub const TURN_QUIET_MS: i64 = 2 * 60_000;
/// If a wakeup has no effect within this time, the session may be woken through another channel.
pub const WAKE_AGAIN_MS: i64 = 30_000;
/// The length, in ms, of the period in which a session is woken at most `WAKES_MAX` times. The mesh remembers wakeups
/// for this long.
pub const WAKE_WINDOW_MS: i64 = 3_600_000;
/// Maximum number of wakeups of one session in `WAKE_WINDOW_MS`. Each wakeup starts a turn, which may cost money.
pub const WAKES_MAX: usize = 6;
/// How long mail is kept, both read and unread.
pub const MAIL_KEPT_MS: i64 = 7 * DAY_MS;
/// How long events are kept.
pub const EVENTS_KEPT_MS: i64 = 2 * DAY_MS;
/// An offline peer without mail or locks is forgotten after this time.
pub const AWAY_KEPT_MS: i64 = 30 * DAY_MS;
/// How often housekeeping runs. Housekeeping never wakes the broker. When housekeeping is due, it runs in the next turn
/// of the broker's loop.
pub const PRUNE_EVERY_MS: i64 = 10 * 60_000;
/// One day in milliseconds.
pub const DAY_MS: i64 = 86_400_000;
