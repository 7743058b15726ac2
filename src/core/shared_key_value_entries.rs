//! Shared state. It consists of small values, each with a key. Each key has a version, which increases with every
//! change. After an entry is deleted, a tombstone keeps the version for a long time.
//!
//! **Invariant:** only this module writes entries.

use super::event_journal::{Change, Journal};
use super::mail::receipts::part_starts;
use super::op_definition::{ArgKind, ArgRole};
use super::peers::Peers;
use super::transaction_and_pending_effects::Turn;
use super::{Arg, Args, Auth, CallContext, CliPlace, Mesh, Op, Outcome};
use crate::base::build_json_object::json_object;
use crate::base::error::{Error, ErrorKind};
use crate::base::id_types::PeerId;
use crate::base::json_text::visible_json_length;
use crate::base::{limits, time_format};
use crate::core::op_behavior::OpBehavior;
use crate::core::op_definition::Runner;
use crate::store::{DeletionPosition, StateEntry, Store};
use serde_json::{Value, json};

/// Maximum size of a row without its value, in bytes of JSON.
const ROW_WITHOUT_VALUE_MAX: usize = 8192;
/// JSON needs at most this many bytes for each byte of a value.
const JSON_BYTES_PER_BYTE_MAX: usize = 6;

const KEY: Arg =
    Arg::new("key", ArgKind::Text { min: 1, max: limits::KEY_MAX }, "Key").required().at(CliPlace::Positional);
const NAMESPACE: Arg = Arg::new(
    "namespace",
    ArgKind::Text { min: 1, max: limits::WORD_MAX },
    "Namespace, \"default\" if omitted; for entries about a repository, use the repository's name",
)
.placeholder("NAME");
const EXPECT: Arg = Arg::new(
    "expect",
    ArgKind::Int { min: 0, max: i64::MAX },
    "Change the entry only if this is its current version (compare and set); 0: only if it does not exist",
);
/// Reads an entry.
pub static GET: Op = Op {
    name: "state.get",
    summary: "Get an entry of the shared state",
    args: &[
        KEY,
        NAMESPACE,
        Arg::new(
            "from",
            ArgKind::Int { min: 0, max: i64::MAX },
            "Byte offset at which to start reading a long value: `next` from the previous answer",
        )
        .role(ArgRole::PartStart)
        .at(CliPlace::Hidden),
    ],
    actor: Auth::Optional,
    verb: Some("state get"),
    tool: Some(("state", Some("get"))),
    repeatable: true,
    behavior: OpBehavior::USUAL,
    run: Runner::Rule(get),
};

/// Writes an entry.
pub static SET: Op = Op {
    name: "state.set",
    summary: "Set an entry of the shared state and return its new version",
    args: &[
        KEY,
        Arg::new(
            "value",
            ArgKind::Text { min: 0, max: limits::VALUE_MAX },
            "Value to store; every agent can read the value, so store no secrets",
        )
        .required()
        .at(CliPlace::Rest),
        NAMESPACE,
        EXPECT,
        Arg::new("ttlMinutes", ArgKind::Int { min: 1, max: 525_600 }, "Minutes after which the entry is deleted")
            .short("ttl"),
    ],
    actor: Auth::Required,
    verb: Some("state set"),
    tool: Some(("state", Some("set"))),
    repeatable: false,
    behavior: OpBehavior::USUAL,
    run: Runner::Rule(set),
};

/// Lists entries.
pub static LIST: Op = Op {
    name: "state.list",
    summary: "List the entries of a namespace, sorted by key",
    args: &[
        NAMESPACE,
        Arg::new("prefix", ArgKind::Text { min: 0, max: limits::KEY_MAX }, "Only keys with this prefix"),
        Arg::new(
            "after",
            ArgKind::Text { min: 0, max: limits::KEY_MAX },
            "Only keys that sort after this key, to get the next page",
        )
        .placeholder("KEY")
        .not_in_tool(),
    ],
    actor: Auth::Optional,
    verb: Some("state list"),
    tool: Some(("state", Some("list"))),
    repeatable: true,
    behavior: OpBehavior::USUAL,
    run: Runner::Rule(list),
};

/// Removes an entry.
pub static DELETE: Op = Op {
    name: "state.delete",
    summary: "Delete an entry of the shared state",
    args: &[KEY, NAMESPACE, EXPECT],
    actor: Auth::Required,
    verb: Some("state delete"),
    tool: Some(("state", Some("delete"))),
    repeatable: false,
    behavior: OpBehavior::USUAL,
    run: Runner::Rule(delete),
};

fn get(mesh: &mut Mesh, ctx: &CallContext, args: &Args) -> Result<Outcome, Error> {
    let entry = live_entry(&mesh.turn.store, namespace(args), args.word("key"), ctx.now)?;
    let entry = entry.map_or(Value::Null, |entry| view(&mesh.peers, &entry));
    let mut value = json_object([("ok", Value::Bool(true)), ("entry", entry)]);
    if let Some(from) = args.int("from") {
        cut_to_part(&mut value, from as usize);
    }
    Ok(Outcome::Ready(value))
}

/// If a value is too long for one reply, keeps only the part that contains the byte at position `from`. In the reply,
/// `next` is the start of the next part.
fn cut_to_part(value: &mut Value, from: usize) {
    let Some(whole) = value["entry"]["value"].as_str().map(str::to_owned) else { return };
    let starts = part_starts(&whole);
    if starts.len() == 1 && from == 0 {
        return;
    }
    let part = starts.iter().rposition(|start| *start <= from).unwrap_or(0);
    let end = starts.get(part + 1).copied();
    value["entry"]["value"] = json!(whole.get(starts[part]..end.unwrap_or(whole.len())).unwrap_or(""));
    value["bytes"] = json!(whole.len());
    if let Some(end) = end {
        value["next"] = json!(end);
        value["note"] = json!("this is only one part of the value; to get the next part, pass `next` as `from`");
    }
}

fn set(mesh: &mut Mesh, ctx: &CallContext, args: &Args) -> Result<Outcome, Error> {
    mesh.rates.charge_call(&mesh.peers, ctx, 1)?;
    let expires = args.int("ttlMinutes").map(|minutes| ctx.now + minutes * 60_000);
    let new = NewEntry { namespace: namespace(args), key: args.word("key"), value: args.word("value"), expires };
    let Mesh { turn, peers, journal, state, .. } = mesh;
    let entry = state.set((turn, peers, journal), &new, args.int("expect"), ctx.me()?, ctx.now)?;
    let mut row = view(peers, &entry);
    if is_too_long(&row, &entry, ctx.page().size_max()) {
        // A value that is too long is left out of the reply, because the caller has just sent it and does not need it.
        row["value"] = Value::Null;
    }
    let value = json_object([("ok", Value::Bool(true)), ("version", entry.version.into()), ("entry", row)]);
    Ok(Outcome::Ready(value))
}

fn list(mesh: &mut Mesh, ctx: &CallContext, args: &Args) -> Result<Outcome, Error> {
    let (prefix, after) = (args.text("prefix").unwrap_or(""), args.text("after").unwrap_or(""));
    let rows_max = if ctx.is_http_program() { limits::ROWS_MAX } else { limits::LIST_MAX as i64 };
    let found = mesh.turn.store.entries(namespace(args), prefix, after, ctx.now, rows_max + 1)?;
    let (mut page, mut next) = (ctx.page(), None);
    for (n, entry) in found.iter().enumerate() {
        let mut row = view(&mesh.peers, entry);
        if is_too_long(&row, entry, page.size_max()) {
            row["value"] = Value::Null;
            row["note"] = json!("the value is too long for a list; get the entry by its key");
        }
        if n as i64 == rows_max || !page.add(row) {
            next = n.checked_sub(1).map(|last| &found[last].key);
            break;
        }
    }
    let mut value = json_object([("ok", Value::Bool(true)), ("entries", Value::Array(page.into_rows()))]);
    if let Some(next) = next {
        value["next"] = json!(next);
        value["note"] = json!("there are more entries; narrow the list with `prefix`");
    }
    Ok(Outcome::Ready(value))
}

/// Whether the row of an entry has more than `max` bytes in JSON. Only the rows of long values have to be measured.
fn is_too_long(row: &Value, entry: &StateEntry, max: usize) -> bool {
    let n = entry.value.as_ref().map_or(0, String::len);
    let may_be_too_long = n * JSON_BYTES_PER_BYTE_MAX + ROW_WITHOUT_VALUE_MAX > max;
    n > max || may_be_too_long && visible_json_length(row) > max
}

fn delete(mesh: &mut Mesh, ctx: &CallContext, args: &Args) -> Result<Outcome, Error> {
    mesh.rates.charge_call(&mesh.peers, ctx, 1)?;
    let Mesh { turn, peers, journal, state, .. } = mesh;
    let key = (namespace(args), args.word("key"));
    let deleted = state.delete((turn, peers, journal), key, args.int("expect"), ctx.me()?, ctx.now)?;
    Ok(Outcome::Ready(json!({ "ok": true, "deleted": deleted })))
}

fn namespace(args: &Args) -> &str {
    args.text("namespace").unwrap_or("default")
}

/// Returns an entry, if it is neither deleted nor expired.
fn live_entry(store: &Store, namespace: &str, key: &str, now: i64) -> Result<Option<StateEntry>, Error> {
    Ok(store.entry(namespace, key)?.filter(|entry| entry.is_live(now)))
}

/// Returns an entry in the form that clients see. The JSON keys of the old HTTP API come first.
fn view(peers: &Peers, entry: &StateEntry) -> Value {
    let mut value = json_object([
        ("key", entry.key.as_str().into()),
        ("namespace", entry.namespace.as_str().into()),
        ("value", entry.value.as_deref().into()),
        ("updatedBy", entry.by.as_str().into()),
        ("updatedAt", time_format::iso(entry.updated).into()),
        ("version", entry.version.into()),
        ("updatedByName", peers.name_of(&entry.by).into()),
    ]);
    if let Some(at) = entry.expires {
        value["expiresAt"] = json!(time_format::iso(at));
    }
    value
}

/// If the caller expects a version, checks that the key has this version. A key without an entry has version 0. Returns
/// the last entry of the key, even if the entry has been deleted or has expired.
fn last_entry(
    store: &Store,
    peers: &Peers,
    (namespace, key): (&str, &str),
    expect: Option<i64>,
    now: i64,
) -> Result<Option<StateEntry>, Error> {
    let last = store.entry(namespace, key)?;
    let live = last.as_ref().filter(|entry| entry.is_live(now));
    let version = live.map_or(0, |entry| entry.version);
    if let Some(expect) = expect.filter(|expect| *expect != version) {
        let text = match live {
            Some(entry) => format!(
                "{key} has version {version} (set by {}), not {expect}; read it again and decide again",
                peers.name_of(&entry.by)
            ),
            None => format!("{key} does not exist, so it has no version {expect}; set expect to 0 to create it"),
        };
        return Err(Error::new(ErrorKind::Conflict, text).with(json!({ "version": version })));
    }
    Ok(last)
}

/// A request to write an entry.
#[derive(Debug, Clone, Copy)]
struct NewEntry<'a> {
    namespace: &'a str,
    key: &'a str,
    value: &'a str,
    /// The time, in ms, at which the entry expires.
    expires: Option<i64>,
}

/// Returns the time at which the next entry expires, in ms.
///
/// # Errors
/// When the database can't be read.
pub(super) fn next_expiry(store: &Store) -> Result<Option<i64>, Error> {
    Ok(store.next_entry_expiry()?)
}

/// Makes the tombstone of an entry. The tombstone gets the next version of the key.
fn deleted(entry: &StateEntry, now: i64) -> StateEntry {
    StateEntry { value: None, version: entry.version + 1, updated: now, expires: None, ..entry.clone() }
}

/// Replaces an entry with its tombstone, and removes the values of the entry from the events. Returns false if some
/// values remain for [`prune`].
fn put_deleted(turn: &mut Turn, gone: &StateEntry) -> Result<bool, Error> {
    turn.store.put_entry(gone)?;
    forget_values(turn, gone)
}

/// Separates a deleted entry, which is about to get a new value, from the events that contain its old values. Removes
/// old values from the events, up to a limit. Returns false if some old values remain. [`SharedEntries::prune`] removes
/// them later.
fn part_from_values(turn: &mut Turn, gone: &mut StateEntry) -> Result<bool, Error> {
    let Some(last) = gone.last_event.take() else { return Ok(true) };
    let rest = Journal::forget_values(turn, last)?;
    if let Some(rest) = rest {
        turn.store.add_remaining_values(rest)?;
    }
    Ok(rest.is_none())
}

/// Removes the values of a deleted entry from the events. Returns false if some values remain for the next call.
fn forget_values(turn: &mut Turn, gone: &StateEntry) -> Result<bool, Error> {
    let next = gone.last_event.map(|last| Journal::forget_values(turn, last)).transpose()?.flatten();
    if next != gone.last_event {
        turn.store.set_last_event(gone, next)?;
    }
    Ok(next.is_none())
}

impl Mesh {
    /// An entry in the form that clients see.
    pub fn entry_view(&self, entry: &StateEntry) -> Value {
        view(&self.peers, entry)
    }

    /// Returns the entries of all namespaces, at most `limit`.
    ///
    /// # Errors
    /// When the database can't be read.
    pub fn all_entries(&self, limit: i64, now: i64) -> Result<Vec<StateEntry>, Error> {
        Ok(self.turn.store.all_entries(now, limit)?)
    }
}

/// What the mesh remembers about the shared state. The entries themselves are only in the database.
#[derive(Debug, Default)]
pub struct SharedEntries {
    /// For all entries that were deleted up to this position, the events contain no values any more.
    cleaned_up_to: DeletionPosition,
    /// The time, in ms, from which [`SharedEntries::prune`] should run, because events contain values of an entry that
    /// was deleted just now.
    cleanup_due: Option<i64>,
}

impl SharedEntries {
    /// Deletes the entries that have expired.
    ///
    /// # Errors
    /// When the database can't be read or written.
    pub(super) fn expire(&mut self, turn: &mut Turn, peers: &Peers, journal: &Journal, now: i64) -> Result<(), Error> {
        for entry in turn.store.expired_entries(now, limits::PRUNE_STEP)? {
            let gone = deleted(&entry, now);
            self.note_deleted(put_deleted(turn, &gone)?, now);
            let change = Change::StateDeleted { entry: &gone, reason: Some("expired") };
            journal.record(turn, peers, &change, &entry.by, now)?;
        }
        Ok(())
    }

    /// Removes old data, up to a limit. First, tombstones of entries that were deleted long ago are removed. Then,
    /// values of deleted entries are removed from the events. Some events still contain such values, because the
    /// deletion of an entry cleans only a limited number of events. Returns whether more old data is left.
    ///
    /// # Errors
    /// When the database can't be read or written.
    pub(super) fn prune(&mut self, turn: &mut Turn, now: i64) -> Result<bool, Error> {
        self.cleanup_due = self.cleanup_due.filter(|at| *at > now);
        for from in turn.store.remaining_values(limits::PRUNE_STEP)? {
            let rest = Journal::forget_values(turn, from)?;
            turn.store.drop_remaining_values(from)?;
            if let Some(rest) = rest {
                turn.store.add_remaining_values(rest)?;
                return Ok(true);
            }
        }
        let n_pruned = turn.store.prune_entries(now - limits::MAIL_KEPT_MS, limits::PRUNE_STEP)?;
        // Entries that were deleted in the current millisecond are left for a later call, because further entries may
        // be deleted in the same millisecond.
        let deleted = turn.store.deleted_entries(self.cleaned_up_to, now, limits::PRUNE_STEP)?;
        for (position, entry) in &deleted {
            if !forget_values(turn, entry)? {
                return Ok(true);
            }
            self.cleaned_up_to = *position;
        }
        let is_full = |n: usize| n == limits::PRUNE_STEP as usize;
        Ok(is_full(n_pruned) || is_full(deleted.len()))
    }

    /// Whether [`SharedEntries::prune`] should run at the time `now`.
    pub(super) fn is_cleanup_due(&self, now: i64) -> bool {
        self.cleanup_due.is_some_and(|at| at <= now)
    }

    /// Records that an entry was deleted or replaced. `is_clean` says whether no event contains its old values any more.
    fn note_deleted(&mut self, is_clean: bool, now: i64) {
        if !is_clean {
            self.cleanup_due = Some(now + 1);
        }
    }

    /// Writes an entry. If the caller expects a version, the entry must have this version.
    fn set(
        &mut self,
        (turn, peers, journal): (&mut Turn, &Peers, &Journal),
        new: &NewEntry,
        expect: Option<i64>,
        by: &PeerId,
        now: i64,
    ) -> Result<StateEntry, Error> {
        let mut last = last_entry(&turn.store, peers, (new.namespace, new.key), expect, now)?;
        if let Some(gone) = last.as_mut().filter(|last| last.value.is_none()) {
            self.note_deleted(part_from_values(turn, gone)?, now);
        }
        let mut entry = StateEntry {
            namespace: new.namespace.to_owned(),
            key: new.key.to_owned(),
            value: Some(new.value.to_owned()),
            version: last.as_ref().map_or(0, |last| last.version) + 1,
            by: by.into(),
            updated: now,
            expires: new.expires,
            last_event: last.and_then(|last| last.last_event),
        };
        let seq = journal.record(turn, peers, &Change::StateChanged(&entry), by, now)?;
        entry.last_event = Some(seq);
        turn.store.put_entry(&entry)?;
        turn.note_expiry(new.expires);
        Ok(entry)
    }

    /// Deletes the entry with this namespace and key. Returns false if there was no such entry.
    fn delete(
        &mut self,
        (turn, peers, journal): (&mut Turn, &Peers, &Journal),
        key: (&str, &str),
        expect: Option<i64>,
        by: &PeerId,
        now: i64,
    ) -> Result<bool, Error> {
        let last = last_entry(&turn.store, peers, key, expect, now)?;
        let Some(entry) = last.filter(|entry| entry.is_live(now)) else { return Ok(false) };
        let gone = StateEntry { by: by.into(), ..deleted(&entry, now) };
        self.note_deleted(put_deleted(turn, &gone)?, now);
        journal.record(turn, peers, &Change::StateDeleted { entry: &gone, reason: None }, by, now)?;
        Ok(true)
    }
}
