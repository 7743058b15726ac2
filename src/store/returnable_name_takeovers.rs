//! Records takeovers. When a session takes over the name and the mail of an earlier session, this module stores the
//! data that is needed to give them back. Takeovers are rare, so the rows are in the table `meta`.

use super::{Store, StoreResult};
use crate::base::id_types::{FencingToken, PeerId};
use serde_json::{Value, json};
use std::collections::HashMap;

/// A row in `meta` contains the data that a peer had before a takeover. The name of the row is this prefix and the
/// peer's id.
const PREFIX: &str = "takeover ";
/// A row in `meta` contains the former peer of a session that has given back a name. The name of the row is this prefix
/// and the id of the session's present peer.
const GIVEN_BACK: &str = "declined ";

/// The data that a peer had before another session took over the peer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TakeoverRow {
    /// The key of the earlier session.
    pub key: Option<String>,
    /// The older keys of the earlier session.
    pub older_keys: Vec<String>,
    /// The summary of the earlier session.
    pub summary: String,
    /// The last fencing token that was granted before the takeover. A lock with a higher token belongs to the new
    /// session.
    pub token: FencingToken,
    /// The notice that the next reply will show to the new session. `None` after the notice has been shown.
    pub notice: Option<String>,
}

impl TakeoverRow {
    fn to_json(&self) -> Value {
        json!({
            "key": self.key, "olderKeys": self.older_keys, "summary": self.summary, "token": self.token.0,
            "notice": self.notice,
        })
    }

    fn from_json(value: &Value) -> TakeoverRow {
        let text = |name: &str| value[name].as_str().map(str::to_owned);
        let keys = value["olderKeys"].as_array().map(Vec::as_slice).unwrap_or_default();
        TakeoverRow {
            key: text("key"),
            older_keys: keys.iter().filter_map(|key| key.as_str().map(str::to_owned)).collect(),
            summary: text("summary").unwrap_or_default(),
            token: FencingToken(value["token"].as_i64().unwrap_or(0)),
            notice: text("notice"),
        }
    }
}

impl Store {
    /// The peers that sessions have taken over, and the data that these peers had before.
    pub fn takeovers(&self) -> StoreResult<HashMap<PeerId, TakeoverRow>> {
        self.rows_of_peers(PREFIX, |value| TakeoverRow::from_json(&serde_json::from_str(value).unwrap_or_default()))
    }

    /// For each session that has given back a name: the session's present peer and its former peer.
    pub fn given_back(&self) -> StoreResult<HashMap<PeerId, PeerId>> {
        self.rows_of_peers(GIVEN_BACK, |value| value.into())
    }

    fn rows_of_peers<T>(&self, prefix: &str, read: impl Fn(&str) -> T) -> StoreResult<HashMap<PeerId, T>> {
        // The prefix ends with a space, and `!` is the next character in ASCII. All names with this prefix are
        // therefore in one range of the primary key.
        let mut query = self.db.prepare_cached("SELECT name, value FROM meta WHERE name >= ?1 AND name < ?2")?;
        let rows = query.query_map([prefix, &prefix.replace(' ', "!")], |row| {
            let (name, value): (String, String) = (row.get("name")?, row.get("value")?);
            Ok((name.strip_prefix(prefix).unwrap_or_default().into(), read(&value)))
        })?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    /// Stores the data that a peer had before a session took it over.
    pub fn put_takeover(&mut self, id: &PeerId, takeover: &TakeoverRow) -> StoreResult<()> {
        self.set_meta(&format!("{PREFIX}{id}"), &takeover.to_json().to_string())
    }

    /// Deletes the data that a peer had before a session took over the peer.
    pub fn drop_takeover(&mut self, id: &PeerId) -> StoreResult<()> {
        self.write("DELETE FROM meta WHERE name = ?1", &[&format!("{PREFIX}{id}")])?;
        Ok(())
    }

    /// Records that a session has given back a name. `id` is the session's present peer, and `before` is its former
    /// peer.
    pub fn put_given_back(&mut self, id: &PeerId, before: &PeerId) -> StoreResult<()> {
        self.set_meta(&format!("{GIVEN_BACK}{id}"), before.as_str())
    }

    /// Deletes the record of the former peer of a session.
    pub fn drop_given_back(&mut self, id: &PeerId) -> StoreResult<()> {
        self.write("DELETE FROM meta WHERE name = ?1", &[&format!("{GIVEN_BACK}{id}")])?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_takeover_is_kept_until_it_is_given_back() {
        let mut store = Store::memory().unwrap();
        let (id, other): (PeerId, PeerId) = ("p".into(), "q".into());
        let row = TakeoverRow {
            key: Some("k \"1\"".into()),
            older_keys: vec!["a".into()],
            summary: "old work".into(),
            token: FencingToken(7),
            notice: Some("was taken over".into()),
        };
        for name in ["takeove", "takeover", "takeover!", "takeovers"] {
            store.set_meta(name, "another row").unwrap();
        }
        store.put_takeover(&id, &row).unwrap();
        store.put_takeover(&other, &TakeoverRow::default()).unwrap();
        assert_eq!(store.takeovers().unwrap(), HashMap::from([(id, row), (other.clone(), TakeoverRow::default())]));
        store.drop_takeover(&"p".into()).unwrap();
        store.put_given_back(&"new".into(), &"p".into()).unwrap();
        assert_eq!(store.takeovers().unwrap(), HashMap::from([(other, TakeoverRow::default())]));
        assert_eq!(store.given_back().unwrap(), HashMap::from([("new".into(), "p".into())]));
        store.drop_given_back(&"new".into()).unwrap();
        assert!(store.given_back().unwrap().is_empty());
    }
}
