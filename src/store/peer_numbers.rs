//! The numbers of peers. The table of messages contains a number instead of the id of each sender and recipient, and
//! the table `peer_number` contains the id for each number. This module remembers a part of that table.

use super::named_columns::{placeholder, write_row};
use super::{Store, StoreResult};
use crate::base::id_types::PeerId;
use rusqlite::OptionalExtension;
use std::collections::HashMap;

/// The maximum number of peers that are remembered. If a person searches a long history, more peers may occur.
const REMEMBERED_MAX: usize = 1000;

/// The rows of the table `peer_number` that were read or written last. They are forgotten when a write is rolled back
/// and when rows are deleted, because then a number may belong to another peer.
#[derive(Debug, Default)]
pub(super) struct KnownNumbers {
    numbers: HashMap<PeerId, i64>,
    ids: HashMap<i64, PeerId>,
}

impl KnownNumbers {
    pub(super) fn clear(&mut self) {
        self.numbers.clear();
        self.ids.clear();
    }

    fn add(&mut self, num: i64, id: &PeerId) {
        if self.numbers.len() >= REMEMBERED_MAX {
            self.clear();
        }
        self.numbers.insert(id.clone(), num);
        self.ids.insert(num, id.clone());
    }
}

impl Store {
    /// The number of a peer. A peer without a number gets a new one.
    pub(super) fn number_of_peer(&mut self, id: &PeerId) -> StoreResult<i64> {
        if let Some(num) = self.known_numbers.get_mut().numbers.get(id) {
            return Ok(*num);
        }
        let known =
            self.db.prepare_cached("SELECT num FROM peer_number WHERE id = ?1")?.query_row([id], |row| row.get(0));
        let num = match known.optional()? {
            Some(num) => num,
            None => {
                let next = "SELECT coalesce(max(num), 0) + 1 FROM peer_number";
                let num: i64 = self.db.prepare_cached(next)?.query_row([], |row| row.get(0))?;
                write_row!(self, "INSERT", "peer_number", { "num": num, "id": id })?;
                num
            }
        };
        self.known_numbers.get_mut().add(num, id);
        Ok(num)
    }

    /// The id of the peer with this number.
    pub(super) fn peer_of_number(&self, num: i64) -> rusqlite::Result<PeerId> {
        if let Some(id) = self.known_numbers.borrow().ids.get(&num) {
            return Ok(id.clone());
        }
        let mut query = self.db.prepare_cached("SELECT id FROM peer_number WHERE num = ?1")?;
        let id = query.query_row([num], |row| row.get::<_, String>(0))?.into();
        self.known_numbers.borrow_mut().add(num, &id);
        Ok(id)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{LogPosition, Message};
    use super::*;
    use crate::base::id_types::{EntryStamp, LogId, MessageSeq, Term};

    fn send(store: &mut Store, sender: &str, recipient: &str, created: i64) -> MessageSeq {
        let mut message = Message { sender: sender.into(), recipient: recipient.into(), created, ..Message::default() };
        store.add_message(&mut message).unwrap();
        message.seq
    }

    fn peers_of(store: &Store, seq: MessageSeq) -> [String; 2] {
        let message = store.message(seq).unwrap().unwrap();
        [message.sender, message.recipient].map(|id| id.as_str().to_owned())
    }

    /// Checks the peers of a message, first with the numbers that are remembered, and then with the table alone.
    fn check(store: &Store, seq: MessageSeq, peers: [&str; 2]) {
        assert_eq!(peers_of(store, seq), peers);
        store.known_numbers.borrow_mut().clear();
        assert_eq!(peers_of(store, seq), peers);
    }

    #[test]
    fn numbers_whose_rows_are_gone_are_forgotten() {
        let mut store = Store::memory().unwrap();
        store.begin_call();
        send(&mut store, "ada", "bob", 1);
        store.undo_call().unwrap();
        store.begin_call();
        let seq = send(&mut store, "eve", "bob", 2);
        check(&store, seq, ["eve", "bob"]);

        send(&mut store, "eve", "bob", 2);
        store.rollback();
        store.begin_call();
        let seq = send(&mut store, "bob", "dan", 3);
        check(&store, seq, ["bob", "dan"]);

        send(&mut store, "bob", "dan", 3);
        store.prune_messages(10, 10).unwrap();
        let seq = send(&mut store, "dan", "eve", 20);
        check(&store, seq, ["dan", "eve"]);
    }

    #[test]
    fn a_hub_that_follows_learns_who_has_a_number_now() {
        let [mut leads, mut follows] = [(); 2].map(|()| Store::memory().unwrap());
        for store in [&mut leads, &mut follows] {
            store.begin_call();
            let seq = send(store, "ada", "bob", 1);
            assert_eq!(peers_of(store, seq), ["ada", "bob"]);
            store.commit().unwrap();
        }
        leads.start_recording();
        leads.begin_call();
        leads.prune_messages(10, 10).unwrap();
        let seq = send(&mut leads, "dan", "eve", 20);
        let stamp = EntryStamp { term: Term(1), now: 20 };
        let changes = leads.seal(LogPosition { log: LogId(9), index: 1, stamp }).unwrap().unwrap();
        follows.apply([&changes]).unwrap();
        check(&follows, seq, ["dan", "eve"]);
    }

    #[test]
    fn only_a_limited_number_of_peers_is_remembered() {
        let mut store = Store::memory().unwrap();
        store.begin_call();
        for n in 0..REMEMBERED_MAX + 10 {
            let sender = format!("sender{n}");
            let seq = send(&mut store, &sender, "bob", 1);
            assert_eq!(peers_of(&store, seq), [sender.as_str(), "bob"]);
        }
        let known = store.known_numbers.get_mut();
        assert!(known.numbers.len() <= REMEMBERED_MAX && known.ids.len() == known.numbers.len());
    }
}
