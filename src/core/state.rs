//! Shared state: small values under keys, each with a version that only grows.

use crate::base::error::{Error, ErrorKind};
use crate::base::{limits, time};
use crate::core::mail::receipts::part_starts;
use crate::core::op::ArgKind;
use crate::core::{Arg, Args, Auth, CallContext, CliPlace, Mesh, Op, Outcome};
use crate::store::StateEntry;
use serde_json::{Value, json};

const KEY: Arg =
    Arg::new("key", ArgKind::Text { min: 1, max: limits::KEY_MAX }, "Key").required().at(CliPlace::Positional);
const NAMESPACE: Arg = Arg::new(
    "namespace",
    ArgKind::Text { min: 1, max: limits::WORD_MAX },
    "Namespace, default unless said otherwise; use your repository's name for what concerns it",
);
const EXPECT: Arg = Arg::new(
    "expect",
    ArgKind::Int { min: 0, max: i64::MAX },
    "Only if the entry has this version now (compare and set); 0 = only if there is none",
);
/// An event carries a value of at most this many bytes; a longer one must be fetched.
const EVENT_VALUE_MAX: usize = 4096;

/// Reads an entry.
pub static GET: Op = Op {
    name: "state.get",
    summary: "Read an entry of the shared state",
    args: &[
        KEY,
        NAMESPACE,
        Arg::new(
            "from",
            ArgKind::Int { min: 0, max: i64::MAX },
            "Byte of a long value from which on to read; next of the last answer",
        )
        .at(CliPlace::Hidden),
    ],
    actor: Auth::Optional,
    verb: Some("state get"),
    tool: Some(("state", Some("get"))),
    repeatable: true,
    run: get,
};

/// Writes an entry.
pub static SET: Op = Op {
    name: "state.set",
    summary: "Write an entry of the shared state; answers with its new version",
    args: &[
        KEY,
        Arg::new(
            "value",
            ArgKind::Text { min: 0, max: limits::VALUE_MAX },
            "Value to store; no secrets, every agent can read it",
        )
        .required()
        .at(CliPlace::Rest),
        NAMESPACE,
        EXPECT,
        Arg::new("ttlMinutes", ArgKind::Int { min: 1, max: 525_600 }, "Minutes after which the entry goes by itself")
            .short("ttl"),
    ],
    actor: Auth::Required,
    verb: Some("state set"),
    tool: Some(("state", Some("set"))),
    repeatable: false,
    run: set,
};

/// Lists entries.
pub static LIST: Op = Op {
    name: "state.list",
    summary: "List the entries of a namespace, by key",
    args: &[
        NAMESPACE,
        Arg::new("prefix", ArgKind::Text { min: 0, max: limits::KEY_MAX }, "Only keys that start with this"),
        Arg::new(
            "after",
            ArgKind::Text { min: 0, max: limits::KEY_MAX },
            "Only keys that sort after this one; for the next page",
        )
        .not_in_tool(),
    ],
    actor: Auth::Optional,
    verb: Some("state list"),
    tool: Some(("state", Some("list"))),
    repeatable: true,
    run: list,
};

/// Removes an entry.
pub static DELETE: Op = Op {
    name: "state.delete",
    summary: "Remove an entry of the shared state",
    args: &[KEY, NAMESPACE, EXPECT],
    actor: Auth::Required,
    verb: Some("state delete"),
    tool: Some(("state", Some("delete"))),
    repeatable: true,
    run: delete,
};

fn get(mesh: &mut Mesh, ctx: &CallContext, args: &Args) -> Result<Outcome, Error> {
    let entry = mesh.living_entry(namespace(args), args.word("key"), ctx.now)?;
    let entry = entry.map(|entry| mesh.entry_value(&entry));
    let mut value = json!({ "ok": true, "entry": entry });
    if let Some(from) = args.int("from") {
        cut(&mut value, from as usize);
    }
    Ok(Outcome::Ready(value))
}

/// Cuts a value that is too long for one result; `next` says where to go on.
fn cut(value: &mut Value, from: usize) {
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
        value["note"] = json!("only a part: get it again with from = next");
    }
}

fn set(mesh: &mut Mesh, ctx: &CallContext, args: &Args) -> Result<Outcome, Error> {
    mesh.limit(ctx.me(), 1, ctx.now)?;
    let expires = args.int("ttlMinutes").map(|minutes| ctx.now + minutes * 60_000);
    let (namespace, key) = (namespace(args), args.word("key"));
    let entry = mesh.set_entry(namespace, key, args.word("value"), args.int("expect"), expires, ctx.me(), ctx.now)?;
    let mut row = mesh.entry_value(&entry);
    if row.to_string().len() > limits::PAGE_MAX {
        // The caller knows what it wrote.
        row["value"] = Value::Null;
    }
    Ok(Outcome::Ready(json!({ "ok": true, "version": entry.version, "entry": row })))
}

fn list(mesh: &mut Mesh, ctx: &CallContext, args: &Args) -> Result<Outcome, Error> {
    let (prefix, after) = (args.text("prefix").unwrap_or(""), args.text("after").unwrap_or(""));
    let found = mesh.store.entries(namespace(args), prefix, after, ctx.now, limits::LIST_MAX as i64 + 1)?;
    let (mut rows, mut size, mut next) = (Vec::new(), 0, None);
    for entry in &found {
        let mut row = mesh.entry_value(entry);
        if row.to_string().len() > limits::PAGE_MAX {
            row["value"] = Value::Null;
            row["note"] = json!("too long for a list; get it by its key");
        }
        size += row.to_string().len();
        if rows.len() == limits::LIST_MAX || size > limits::PAGE_MAX && !rows.is_empty() {
            next = rows.last().map(|row: &Value| row["key"].clone());
            break;
        }
        rows.push(row);
    }
    let mut value = json!({ "ok": true, "entries": rows });
    if let Some(next) = next {
        value["next"] = next;
        value["note"] = json!("there are more; narrow with prefix");
    }
    Ok(Outcome::Ready(value))
}

fn delete(mesh: &mut Mesh, ctx: &CallContext, args: &Args) -> Result<Outcome, Error> {
    mesh.limit(ctx.me(), 1, ctx.now)?;
    let deleted = mesh.delete_entry(namespace(args), args.word("key"), args.int("expect"), ctx.me(), ctx.now)?;
    Ok(Outcome::Ready(json!({ "ok": true, "deleted": deleted })))
}

fn namespace(args: &Args) -> &str {
    args.text("namespace").unwrap_or("default")
}

impl Mesh {
    /// An entry that is neither deleted nor expired.
    pub fn living_entry(&self, namespace: &str, key: &str, now: i64) -> Result<Option<StateEntry>, Error> {
        let entry = self.store.entry(namespace, key)?;
        Ok(entry.filter(|entry| entry.value.is_some() && entry.expires.is_none_or(|at| at > now)))
    }

    /// Entries of a namespace, for the old HTTP API.
    pub fn entries(&self, namespace: &str, now: i64) -> Result<Vec<Value>, Error> {
        let found = self.store.entries(namespace, "", "", now, limits::ROWS_MAX)?;
        let mut size = 0;
        let fits = |entry: &&StateEntry| {
            size += entry.value.as_deref().unwrap_or("").len();
            size <= limits::ROWS_BYTES_MAX
        };
        Ok(found.iter().take_while(fits).map(|entry| self.entry_value(entry)).collect())
    }

    /// Writes an entry, if it has the version that the caller expects.
    #[allow(clippy::too_many_arguments)] // the columns of one row; a struct would only rename them
    pub fn set_entry(
        &mut self,
        namespace: &str,
        key: &str,
        value: &str,
        expect: Option<i64>,
        expires: Option<i64>,
        by: &str,
        now: i64,
    ) -> Result<StateEntry, Error> {
        let last = self.expected(namespace, key, expect, now)?;
        let entry = StateEntry {
            namespace: namespace.to_owned(),
            key: key.to_owned(),
            value: Some(value.to_owned()),
            version: last + 1,
            by: by.to_owned(),
            updated: now,
            expires,
        };
        self.store.put_entry(&entry)?;
        self.expires_at(expires);
        let mut payload = json!({ "key": key, "namespace": namespace, "value": value, "version": entry.version });
        if value.len() > EVENT_VALUE_MAX {
            payload["value"] = Value::Null;
            payload["bytes"] = json!(value.len());
        }
        self.emit("state_changed", by, payload, now)?;
        Ok(entry)
    }

    /// Removes an entry; false if there was none.
    pub fn delete_entry(
        &mut self,
        namespace: &str,
        key: &str,
        expect: Option<i64>,
        by: &str,
        now: i64,
    ) -> Result<bool, Error> {
        let last = self.expected(namespace, key, expect, now)?;
        let Some(entry) = self.living_entry(namespace, key, now)? else { return Ok(false) };
        self.store.put_entry(&StateEntry {
            value: None,
            version: last + 1,
            by: by.to_owned(),
            updated: now,
            expires: None,
            ..entry
        })?;
        self.emit("state_deleted", by, json!({ "key": key, "namespace": namespace, "version": last + 1 }), now)?;
        Ok(true)
    }

    /// The last version of a key, after comparing it with what the caller expects.
    fn expected(&self, namespace: &str, key: &str, expect: Option<i64>, now: i64) -> Result<i64, Error> {
        let last = self.store.entry(namespace, key)?;
        let living = last.as_ref().filter(|entry| entry.value.is_some() && entry.expires.is_none_or(|at| at > now));
        let version = living.map_or(0, |entry| entry.version);
        if let Some(expect) = expect.filter(|expect| *expect != version) {
            let text = match living {
                Some(entry) => format!(
                    "{key} has version {version} (set by {}), not {expect}; read it again and decide anew",
                    self.name_of(&entry.by)
                ),
                None => format!("{key} does not exist, so it has no version {expect}; expect 0 to create it"),
            };
            return Err(Error::new(ErrorKind::Conflict, text).with(json!({ "version": version })));
        }
        Ok(last.map_or(0, |entry| entry.version))
    }

    /// An entry with the keys of the old HTTP API first.
    pub fn entry_value(&self, entry: &StateEntry) -> Value {
        let mut value = json!({
            "key": entry.key, "namespace": entry.namespace, "value": entry.value, "updatedBy": entry.by,
            "updatedAt": time::iso(entry.updated), "version": entry.version, "updatedByName": self.name_of(&entry.by),
        });
        if let Some(at) = entry.expires {
            value["expiresAt"] = json!(time::iso(at));
        }
        value
    }

    pub(crate) fn expire_entries(&mut self, now: i64) -> Result<(), Error> {
        for entry in self.store.expired_entries(now, limits::PRUNE_STEP)? {
            let payload = json!({ "key": entry.key, "namespace": entry.namespace, "version": entry.version + 1, "reason": "expired" });
            let by = entry.by.clone();
            self.store.put_entry(&StateEntry {
                value: None,
                version: entry.version + 1,
                updated: now,
                expires: None,
                ..entry
            })?;
            self.emit("state_deleted", &by, payload, now)?;
        }
        Ok(())
    }
}
