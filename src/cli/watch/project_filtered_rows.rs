//! Finds the rows that pass the user's project filter, and the selected row among them.

use super::model::{Pane, WatchModel, WatchedMessage, word};
use serde_json::Value;

impl WatchModel {
    /// The peers whose project passes the filter.
    pub fn shown_peers(&self) -> Vec<&Value> {
        self.peers.iter().filter(|row| self.matches_filter(word(&row["projectPath"]))).collect()
    }

    /// The locks on files whose path passes the filter, and the locks of peers whose project passes it.
    pub fn shown_locks(&self) -> Vec<&Value> {
        let fits =
            |row: &&Value| self.matches_filter(word(&row["filePath"])) || self.is_peer_shown(word(&row["lockedBy"]));
        self.locks.iter().filter(fits).collect()
    }

    /// Whether the project of a message's sender or recipient passes the filter.
    pub fn is_mail_shown(&self, mail: &WatchedMessage) -> bool {
        self.filter.is_empty() || self.is_peer_shown(&mail.from) || self.is_peer_shown(&mail.to)
    }

    /// The events about files whose path passes the filter, or about peers whose project passes it.
    pub fn shown_events(&self) -> Vec<&Value> {
        let fits = |row: &&Value| {
            let payload = &row["payload"];
            let ids = [&row["emittedBy"], &payload["peerId"], &payload["toPeer"]];
            let is_there = payload["filePath"].as_str().is_some_and(|path| self.matches_filter(path));
            self.filter.is_empty() || is_there || ids.iter().any(|id| self.is_peer_shown(word(id)))
        };
        self.events.iter().filter(fits).collect()
    }

    /// The keys of a pane's rows, from top to bottom.
    pub fn row_keys(&self, pane: Pane) -> Vec<String> {
        match pane {
            Pane::Peers => self.shown_peers().iter().map(|row| word(&row["id"]).to_owned()).collect(),
            Pane::Locks => self.shown_locks().iter().map(|row| lock_key(row)).collect(),
            Pane::Mail => self.shown_conversations().iter().map(|one| one.key().to_owned()).collect(),
            Pane::Events => self.shown_events().iter().map(|row| row["seq"].to_string()).collect(),
        }
    }

    /// The position of a pane's selected row, or of the first row if the selected row is gone.
    pub fn selected_row(&self, pane: Pane) -> usize {
        let selected = &self.selected[pane as usize];
        selected.as_ref().and_then(|key| self.row_keys(pane).iter().position(|other| other == key)).unwrap_or(0)
    }

    /// Whether a peer works on a project that passes the filter.
    fn is_peer_shown(&self, id: &str) -> bool {
        self.project(id).is_some_and(|project| self.matches_filter(project))
    }

    fn matches_filter(&self, path: &str) -> bool {
        path.to_lowercase().contains(&self.filter.to_lowercase())
    }
}

/// The key of a lock's row.
fn lock_key(row: &Value) -> String {
    format!("{} {}", row["token"], word(&row["filePath"]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::watch::model::tests::sent;
    use serde_json::json;

    #[test]
    fn a_filter_shows_one_project_with_its_locks_mail_and_events() {
        let mut model = WatchModel::new("h", "human");
        let peer = |id: &str, path: &str| json!({ "id": id, "name": id, "projectPath": path });
        model.set_peers(&json!({ "peers": [peer("b", "/work/web"), peer("a", "/work/API")] }), 0);
        assert_eq!(model.row_keys(Pane::Peers), ["a", "b"]);
        let lock = |by: &str, path: &str| json!({ "filePath": path, "lockedBy": by, "holder": by, "token": 1 });
        model.set_locks(&json!({ "locks": [lock("a", "/tmp/x"), lock("b", "/work/web/y")] }), 0);
        model.apply_event(sent("m1", "a", "b", "2026-01-01T00:00:00.000Z"));
        model.apply_event(sent("m2", "b", "h", "2026-01-01T00:00:00.000Z"));
        model.filter = "api".into();
        assert_eq!(model.row_keys(Pane::Peers), ["a"]);
        assert_eq!(model.row_keys(Pane::Locks), ["1 /tmp/x"]);
        assert_eq!(model.row_keys(Pane::Mail), ["m1"]);
        assert_eq!(model.shown_events().len(), 1);
    }
}
