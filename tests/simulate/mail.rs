//! The messages that each mailbox should contain, and the states in which each message may be.

use crate::model::{NAMES, Who};
use serde_json::Value;
use slm_mesh::base::limits::{DAY_MS, MAIL_KEPT_MS};
use slm_mesh::base::time_format;
use std::collections::VecDeque;

/// The states of a message, as bits. If an answer was lost, the state is uncertain, and all bits of possible states are
/// set.
pub const ACCEPTED: u8 = 1;
pub const OFFERED: u8 = 2;
pub const READ: u8 = 4;
pub const ACKED: u8 = 8;
pub const EXPIRED: u8 = 16;
const UNREAD: u8 = ACCEPTED | OFFERED;
const WORDS: [(&str, u8); 5] =
    [("accepted", ACCEPTED), ("offered", OFFERED), ("read", READ), ("acked", ACKED), ("expired", EXPIRED)];
/// The maximum number of read messages that the test remembers for each mailbox.
const DONE_MAX: usize = 40;

/// A message, and what the test knows about it from the answers to the sender and the reader.
#[derive(Debug, Clone)]
pub struct Message {
    /// The message id; `None` until an answer contains it.
    id: Option<String>,
    from: Who,
    body: String,
    created: i64,
    expires: Option<i64>,
    may: u8,
    /// Whether it is certain that the message was stored.
    sure: bool,
    /// The number of the call that sent this message. Messages of the same call to one mailbox may arrive in any order.
    rank: u64,
}

impl Message {
    fn is_surely_unread(&self, latest: i64) -> bool {
        self.sure && self.may & !UNREAD == 0 && latest - self.created < MAIL_KEPT_MS
    }
    fn may_be_unread(&self) -> bool {
        self.may & UNREAD != 0
    }
}

/// All mailboxes, and for each of them the last messages that were read.
#[derive(Debug)]
pub struct Mail {
    boxes: Vec<Vec<Message>>,
    done: Vec<VecDeque<Message>>,
    /// The number of the current call. The messages that this call sends get this number as their `rank`.
    pub rank: u64,
    /// The latest time that the clock has shown, even if the clock has gone back since then. The age of a message is
    /// relative to this time.
    latest: i64,
}

impl Mail {
    pub fn new() -> Mail {
        Mail { boxes: vec![Vec::new(); NAMES.len()], done: vec![VecDeque::new(); NAMES.len()], rank: 0, latest: 0 }
    }

    /// Records a sent message whose sender got no answer. The message may or may not have been stored.
    pub fn perhaps(&mut self, to: Who, from: Who, body: &str, expires: Option<i64>, now: i64) {
        if self.boxes[to].iter().chain(&self.done[to]).all(|message| message.body != body) {
            self.add(to, from, body, expires, now, false);
        }
    }

    /// Records a message whose id is unknown, such as the notice about a lock that was taken away.
    pub fn add(&mut self, to: Who, from: Who, body: &str, expires: Option<i64>, now: i64, sure: bool) {
        let body = body.to_owned();
        let rank = self.rank;
        self.boxes[to].push(Message { id: None, from, body, created: now, expires, may: ACCEPTED, sure, rank });
    }

    /// Checks and records the answer to a sender: the message was accepted.
    pub fn accepted(&mut self, to: Who, from: Who, body: &str, expires: Option<i64>, value: &Value, now: i64) {
        let id = value["messageId"].as_str().expect("an id").to_owned();
        let again = value["repeated"] == true;
        let known = self.boxes[to].iter_mut().chain(&mut self.done[to]).find(|message| message.body == body);
        match known {
            Some(message) => {
                assert!(message.id.is_none() || message.id == Some(id.clone()), "one message, two ids: {id}");
                assert!(again, "the same key sent the message {body} twice");
                (message.id, message.sure) = (Some(id), true);
            }
            None if again => {}
            None => {
                self.add(to, from, body, expires, now, true);
                self.boxes[to].last_mut().expect("just added").id = Some(id);
            }
        }
    }

    /// The smallest and the largest possible number of unread messages in a mailbox.
    pub fn unread(&self, to: Who) -> (i64, i64) {
        let least = self.boxes[to].iter().filter(|message| message.is_surely_unread(self.latest)).count();
        let most = self.boxes[to].iter().filter(|message| message.may_be_unread()).count();
        (least as i64, most as i64)
    }

    /// Checks that a mailbox can have this number of unread messages.
    pub fn check_count(&self, to: Who, n: i64) {
        let (least, most) = self.unread(to);
        let sure: Vec<&Message> =
            self.boxes[to].iter().filter(|message| message.is_surely_unread(self.latest)).collect();
        assert!((least..=most).contains(&n), "{} has {n} unread, not {least} to {most}: {sure:?}", NAMES[to]);
    }

    /// Finds the message that an answer shows in this row, and records its id. Returns the index of the message in the
    /// mailbox.
    fn place(&mut self, to: Who, row: &Value, body: &str) -> usize {
        let id = row["id"].as_str().expect("an id");
        let messages = &mut self.boxes[to];
        let known = messages.iter().position(|message| message.id.as_deref() == Some(id));
        // Two notices about lost locks may have the same text, so the time must also match. If one call sends several
        // messages, their times may differ by a few milliseconds.
        let created = row["createdAt"].as_str().and_then(time_format::parse).expect("a time");
        let is_time = |message: &Message| (message.created..message.created + 5).contains(&created);
        let fits = |message: &Message| message.id.is_none() && message.body == body && is_time(message);
        let certain = |message: &Message| message.sure && fits(message);
        let found = known.or_else(|| messages.iter().position(certain)).or_else(|| messages.iter().position(fits));
        let place = found.unwrap_or_else(|| panic!("{} got what was never sent or was read before: {row}", NAMES[to]));
        let message = &mut messages[place];
        assert!(message.body == body, "the text of {id} changed");
        (message.id, message.sure) = (Some(id.to_owned()), true);
        place
    }

    /// Checks and records the answer to an inbox call. Returns the ids of its messages.
    pub fn inbox(&mut self, to: Who, value: &Value) -> Vec<String> {
        let rows = value["messages"].as_array().expect("messages");
        let mut last = 0;
        let mut seen = Vec::new();
        for row in rows {
            let place = self.place(to, row, row["payload"].as_str().expect("a text"));
            let message = &self.boxes[to][place];
            assert!(message.rank >= last && !seen.contains(&place), "{} got mail out of order: {row}", NAMES[to]);
            let state = if row["redelivered"] == true { OFFERED } else { ACCEPTED };
            assert!(message.may & state != 0, "again is wrong, or it was read before: {row} after {message:?}");
            assert!(row["fromName"] == NAMES[message.from], "who sent it? {row}");
            last = message.rank;
            seen.push(place);
        }
        let least = self.unread(to).0;
        assert!(!rows.is_empty() || least == 0, "{} was shown none of {least} messages", NAMES[to]);
        self.check_count(to, rows.len() as i64 + value["remaining"].as_i64().expect("remaining"));
        for (place, message) in self.boxes[to].iter().enumerate().filter(|(_, message)| message.rank < last) {
            assert!(seen.contains(&place) || !message.is_surely_unread(self.latest), "left out: {message:?}");
        }
        for place in seen {
            // A different call, whose answer has not come yet, may have acknowledged this message.
            let message = &mut self.boxes[to][place];
            message.may = OFFERED | message.may & ACKED;
        }
        rows.iter().map(|row| row["id"].as_str().expect("an id").to_owned()).collect()
    }

    /// Records that the answer to an inbox call was lost. The call may have offered messages, but has not marked any as
    /// read.
    pub fn inbox_lost(&mut self, to: Who) {
        for message in self.boxes[to].iter_mut().filter(|message| message.may & ACCEPTED != 0) {
            message.may |= OFFERED;
        }
    }

    /// Checks and records messages from the old HTTP route. The route returns the newest messages first, and marks them
    /// as read.
    pub fn fetched(&mut self, to: Who, rows: &[Value], limit: usize) {
        let mut last = u64::MAX;
        let mut seen = Vec::new();
        for row in rows {
            let place = self.place(to, row, row["payload"].as_str().expect("a text"));
            let message = &self.boxes[to][place];
            assert!(message.rank <= last && !seen.contains(&place), "{} got mail out of order: {row}", NAMES[to]);
            assert!(message.may_be_unread(), "read before: {row}");
            last = message.rank;
            seen.push(place);
        }
        let from = if rows.len() < limit { 0 } else { last + 1 };
        for (place, message) in self.boxes[to].iter().enumerate().filter(|(_, message)| message.rank >= from) {
            assert!(seen.contains(&place) || !message.is_surely_unread(self.latest), "left out: {message:?}");
        }
        for place in seen {
            self.boxes[to][place].may = READ;
        }
        self.settle(to);
    }

    /// Records that these messages may be in this state. The answer to the call that should have set the state was
    /// lost.
    pub fn perhaps_seen(&mut self, to: Who, ids: Option<&[String]>, state: u8) {
        let meant = |message: &Message| match (ids, &message.id) {
            (Some(ids), Some(id)) => ids.contains(id),
            (Some(_), None) => false,
            (None, _) => true,
        };
        for message in self.boxes[to].iter_mut().chain(&mut self.done[to]).filter(|message| meant(message)) {
            if state == ACKED || message.may & UNREAD != 0 {
                message.may |= state;
            }
        }
    }

    /// Records that a reader has marked these messages as read or has acknowledged them. `state` is `READ` or `ACKED`.
    pub fn seen(&mut self, to: Who, ids: &[String], state: u8) {
        let meant = |message: &&mut Message| message.id.as_ref().is_some_and(|id| ids.contains(id));
        for message in self.boxes[to].iter_mut().chain(&mut self.done[to]).filter(meant) {
            match state {
                // An expired message stays expired even if it is acknowledged.
                ACKED => message.may = ACKED | message.may & EXPIRED,
                state if message.may & UNREAD != 0 => message.may = message.may & !UNREAD | state,
                _ => {}
            }
        }
        self.settle(to);
    }

    /// Marks messages as expired, and removes messages that are too old.
    pub fn expire(&mut self, now: i64) {
        self.latest = self.latest.max(now);
        for to in 0..NAMES.len() {
            let mut moved = false;
            for message in &mut self.boxes[to] {
                if message.expires.is_some_and(|at| at <= now) && message.may & UNREAD != 0 {
                    message.may = message.may & !UNREAD | EXPIRED;
                    moved = true;
                }
                moved |= now - message.created > 30 * DAY_MS;
            }
            if moved {
                self.boxes[to].retain(|message| now - message.created <= 30 * DAY_MS);
                self.settle(to);
            }
        }
    }

    fn settle(&mut self, to: Who) {
        let done = &mut self.done[to];
        for message in self.boxes[to].extract_if(.., |message| message.may & UNREAD == 0) {
            done.push_back(message);
        }
        while done.len() > DONE_MAX {
            done.pop_front();
        }
    }

    /// Checks the receipts that a sender sees for its own messages.
    pub fn receipts(&self, from: Who, rows: &[Value], now: i64) {
        for row in rows {
            let Some(to) = NAMES.iter().position(|name| row["toName"] == *name) else { continue };
            let mut messages = self.boxes[to].iter().chain(&self.done[to]);
            let Some(message) = messages.find(|message| row["id"].as_str() == message.id.as_deref()) else { continue };
            let state = WORDS.iter().find(|(word, _)| row["receipt"] == *word).map_or(0, |(_, state)| *state);
            assert!(message.may & state != 0, "a receipt that is not true: {row}, and it is {message:?} at {now}");
            assert!(message.from == from, "somebody else's receipt: {row}");
        }
    }
}
