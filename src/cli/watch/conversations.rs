//! Groups messages into conversations, and formats conversations, search results and mailboxes as text. The view shows
//! a message and its replies in one row. When the user opens the row, the view shows all of them as one text.

use super::draw;
use super::model::{WatchModel, WatchedMessage, word};
use crate::base::domain_enums::MessageState;
use crate::base::time_format;
use crate::cli::render;
use serde_json::Value;

/// The separator between two messages in the text of a conversation.
const GAP: &str = "\n\n\n";

/// A message and its known replies, oldest first. A conversation has at least one message.
#[derive(Debug, Clone)]
pub struct Conversation<'a> {
    /// The id of the first message.
    pub id: &'a str,
    /// The messages of the conversation.
    pub messages: Vec<&'a WatchedMessage>,
}

impl<'a> Conversation<'a> {
    /// The newest message, which is shown in the row of the conversation.
    pub fn last(&self) -> &'a WatchedMessage {
        self.messages[self.messages.len() - 1]
    }

    /// The key of the conversation's row. The key stays the same when a reply arrives.
    pub fn key(&self) -> &'a str {
        &self.messages[0].key
    }

    /// Whether the first message of the conversation is known.
    pub fn has_beginning(&self) -> bool {
        self.messages[0].id() == self.id
    }
}

impl WatchedMessage {
    /// The public id of the message, or the message's key while the id is unknown.
    fn id(&self) -> &str {
        self.row.as_ref().and_then(|row| row["id"].as_str()).unwrap_or(&self.key)
    }

    /// Whether the whole text of the message is known.
    pub fn is_whole(&self) -> bool {
        self.row.as_ref().is_some_and(|row| row["parts"].is_null())
    }

    /// Returns the user's own copy of the message. The view reports this copy as read. If the view shows only a part of
    /// the message, the copy contains `upto`, so that only this part counts as read.
    pub fn own_as_shown(&self) -> Option<Value> {
        let mut own = self.own.clone()?;
        if self.is_whole() {
            own.as_object_mut()?.shift_remove("partEnd");
        }
        Some(own)
    }

    /// The id of the first message in this message's conversation.
    fn conversation(&self) -> &str {
        self.row.as_ref().and_then(|row| row["thread"].as_str()).unwrap_or_else(|| self.id())
    }
}

impl WatchModel {
    /// Returns the conversations that pass the filter, latest first. A conversation passes if the project of a sender
    /// or a recipient matches the filter.
    pub fn shown_conversations(&self) -> Vec<Conversation<'_>> {
        let mut found: Vec<Conversation<'_>> = Vec::new();
        for mail in &self.mail {
            let id = mail.conversation();
            match found.iter_mut().find(|known| known.id == id) {
                Some(known) => known.messages.insert(0, mail),
                None => found.push(Conversation { id, messages: vec![mail] }),
            }
        }
        found.retain(|known| known.messages.iter().any(|mail| self.is_mail_shown(mail)));
        found
    }
}

/// Formats a conversation as text: each message with its time, its receipt and its text. A `…` stands for text that has
/// not arrived yet.
pub fn conversation_text(model: &WatchModel, conversation: &Conversation<'_>) -> String {
    let text = |mail: &&WatchedMessage| {
        let head = format!("{}\n{} UTC, {}", draw::route(model, mail), clock(mail.at), draw::receipt_label(mail).1);
        let body = match &mail.row {
            Some(row) => {
                let rest = if row["parts"].is_i64() { super::key_actions::LOADING } else { "" };
                word(&row["payload"]).to_owned() + rest
            }
            None => super::key_actions::LOADING.to_owned(),
        };
        format!("{head}\n\n{body}{}", draw::copy_receipts(model, mail))
    };
    let texts: Vec<String> = conversation.messages.iter().map(text).collect();
    texts.join(GAP)
}

/// Formats the messages of an answer as text, in the order of the answer.
pub fn rows_text(rows: &[Value]) -> String {
    rows.iter().map(row_text).collect::<Vec<_>>().join(GAP)
}

fn row_text(row: &Value) -> String {
    let to = row["group"].as_str().or(row["toName"].as_str()).map(|to| format!(" → {to}")).unwrap_or_default();
    let at = time_format::parse(word(&row["createdAt"])).unwrap_or(0);
    let head = format!("{}{to}\n{} UTC, {}", word(&row["fromName"]), clock(at), render::receipt(row));
    format!("{head}\n\n{}", word(&row["payload"]))
}

/// Formats a mailbox: the unread messages from old to new, followed by the read messages from new to old. `unread` is
/// the answer with the unread messages, and `all` is the answer with the latest messages.
pub fn mailbox_text(name: &str, unread: &Value, all: &Value) -> String {
    let state = |row: &Value| MessageState::from_word(word(&row["receipt"]));
    let is_read = |row: &&Value| !state(row).is_some_and(MessageState::is_unread);
    let unread_rows = unread["messages"].as_array().cloned().unwrap_or_default();
    let read_rows: Vec<Value> =
        all["messages"].as_array().into_iter().flatten().rev().filter(is_read).cloned().collect();
    let n_more = unread["remaining"].as_i64().filter(|n| *n > 0);
    let more_unread =
        n_more.map(|n| format!("and {n} more; run slm-mesh inbox --as {name} --after {}", unread["next"]));
    let is_older = all["more"] == Value::Bool(true);
    let older = is_older.then(|| format!("and older ones; run slm-mesh inbox --as {name} --filter all --after 0"));
    let part = |title: &str, rows: &[Value], more: Option<String>| {
        let texts: Vec<String> = rows.iter().map(row_text).chain(more).collect();
        if texts.is_empty() { format!("{title}: none") } else { format!("{title}\n\n{}", texts.join(GAP)) }
    };
    let unread = part("UNREAD, oldest first", &unread_rows, more_unread);
    format!("{unread}{GAP}{}", part("READ, newest first", &read_rows, older))
}

fn clock(at: i64) -> String {
    time_format::sqlite(&time_format::iso(at))
}
