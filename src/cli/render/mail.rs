//! Renders messages and channels for people.

use super::super::args::ParsedCommand;
use super::super::verb_behavior_table::Rendered;
use super::{bold, clock, dim, next_page, plain, rows, table, word, word_lines};
use crate::base::counted::counted;
use crate::base::untrusted_text;
use crate::cli::watch::sanitize_and_wrap_text::{width, wrap_words};
use crate::sys::terminal::columns;
use serde_json::{Value, json};

/// Renders the answer of `send` and `broadcast`.
pub fn message_sent(value: &Value, parsed: &ParsedCommand) -> Rendered {
    let rows = rows(value, "recipients");
    if let Some(note) = value["note"].as_str() {
        return Rendered::Text(plain(note));
    }
    let recipients: Vec<String> = rows
        .iter()
        .map(|row| {
            let away = if row["here"] == json!(true) { "" } else { " (offline; the message waits in the mailbox)" };
            format!("{}{away}", word(&row["name"]))
        })
        .collect();
    let recipients = recipients.join(", ");
    Rendered::Text(match parsed.args.get("key").filter(|_| value["repeated"] == json!(true)) {
        // The earlier message may have had a different text and different recipients.
        Some(key) => format!("A message with the key {} was already sent to {recipients}", word(key)),
        // If the user gave no key, a repeated call means only that this program lost its connection and sent the call
        // again.
        None => format!("Message sent to {recipients}"),
    })
}

/// Renders the answer of `inbox`.
pub fn inbox(value: &Value, parsed: &ParsedCommand) -> Rendered {
    if parsed.args.contains_key("search") {
        return log(value, parsed);
    }
    let rows = rows(value, "messages");
    if rows.is_empty() {
        return Rendered::Text("No messages.".into());
    }
    let mut text: Vec<String> = rows.iter().map(message).collect();
    let has_more = value["more"] == json!(true);
    // If this call marks the mail as read, the user can repeat the same command to see the next messages. Otherwise,
    // the next command needs a cursor.
    match (older_messages_flag(value, parsed), value["remaining"].as_i64()) {
        // The list is sorted from old to new, so the note about older messages goes above the list.
        (Some(flag), _) if has_more => {
            text.insert(0, dim(&format!("there are older messages; show them with {flag}")));
        }
        _ if has_more => text.push(dim(&format!("there are more messages; continue with --after {}", value["next"]))),
        (_, Some(n)) if n > 0 && value["look"].is_null() => {
            let more = counted(n as usize, "more message", "more messages");
            text.push(dim(&format!("{more}: run {} again", super::inbox_command(parsed))));
        }
        _ => {}
    }
    Rendered::Text(text.join("\n"))
}

/// Returns the flag with which `inbox` shows messages that are older than those in this answer. Returns `None` if the
/// answer begins with the oldest message.
fn older_messages_flag(value: &Value, parsed: &ParsedCommand) -> Option<String> {
    let is_history = parsed.args.get("filter").is_some_and(|filter| *filter != "unread");
    match value["before"].as_i64() {
        Some(before) => Some(format!("--before {before}")),
        // Without a cursor, a list of read and unread messages contains only the latest ones. So older messages may be
        // missing.
        None if is_history && !parsed.args.contains_key("after") => Some("--after 0 (oldest first)".into()),
        None => None,
    }
}

/// Renders one message.
pub fn message(row: &Value) -> String {
    let head = match row["toName"].as_str() {
        Some(to) => format!("to {}  [{}]", plain(to), word(&row["receipt"])),
        None => format!("from {}", word(&row["fromName"])),
    };
    let notes: Vec<String> = [
        (row["type"] != json!("text")).then(|| word(&row["type"])),
        row["group"].as_str().map(|group| format!("to {}", plain(group))),
        (row["redelivered"] == json!(true)).then(|| "redelivered".to_owned()),
        part(row),
    ]
    .into_iter()
    .flatten()
    .collect();
    laid_out(row, &format!("{}  {head}", clock(&row["createdAt"])), &notes, columns())
}

/// Says which part of a long message the row contains.
fn part(row: &Value) -> Option<String> {
    row["part"].as_i64().map(|part| format!("part {part} of {}", row["parts"]))
}

/// Formats a message as lines: a head line with the ids, and then the text. If the head line is too long for the
/// terminal, the ids get a line of their own. On a terminal, long lines of text are broken at spaces.
fn laid_out(row: &Value, head: &str, notes: &[String], columns: Option<usize>) -> String {
    let (id, text) = (word(&row["id"]), word_lines(&row["payload"]));
    let answers = answered(row, &id, columns.is_some());
    let with_notes = |notes: &[String]| match notes {
        [] => head.to_owned(),
        _ => format!("{head} ({})", notes.join(", ")),
    };
    let broken = |text: &str| match columns {
        Some(columns) => wrap_words(text, columns.saturating_sub(2)),
        None => text.lines().map(str::to_owned).collect(),
    };
    let whole = with_notes(&[notes, answers.as_slice()].concat());
    let mut lines = if columns.is_some_and(|columns| width(&whole) + 2 + width(&id) > columns) {
        let ids = [&[id], answers.as_slice()].concat().join(", ");
        let ids = broken(&ids).into_iter().map(|line| dim(&format!("  {line}")));
        std::iter::once(bold(&with_notes(notes))).chain(ids).collect()
    } else {
        vec![bold(&format!("{whole}  {}", dim(&id)))]
    };
    lines.extend(broken(&text).into_iter().map(|line| format!("  {line}")));
    lines.join("\n")
}

/// Says to which message this message is a reply, and to which conversation it belongs. `own` is the id of this
/// message. If `is_short` is set and another id has the same beginning as `own`, only the last digits of that id are
/// shown.
fn answered(row: &Value, own: &str, is_short: bool) -> Option<String> {
    let shown = |id: &str| match (id.rsplit_once('-'), own.rsplit_once('-')) {
        (Some((mesh, digits)), Some((own, _))) if is_short && mesh == own => format!("…{}", plain(digits)),
        _ => plain(id),
    };
    let (answered, thread) = (row["replyTo"].as_str()?, row["thread"].as_str());
    let conversation = thread.filter(|thread| *thread != answered);
    let conversation = conversation.map_or_else(String::new, |id| format!(" in conversation {}", shown(id)));
    Some(format!("answers {}{conversation}", shown(answered)))
}

/// Renders the answer of `log`, and of a search in the inbox.
pub fn log(value: &Value, _: &ParsedCommand) -> Rendered {
    let rows = rows(value, "messages");
    let mut text: Vec<String> = rows.iter().map(log_message).collect();
    if rows.is_empty() {
        text.push("No messages.".into());
    }
    if value["more"] == json!(true) {
        // The list is sorted from old to new, so the note about older messages goes above the list.
        match value["before"].as_i64() {
            Some(before) => {
                text.insert(0, dim(&format!("there may be older messages; show them with --before {before}")))
            }
            None => text.push(dim(&format!("there may be newer messages; show them with --after {}", value["next"]))),
        }
    }
    Rendered::Text(text.join("\n"))
}

/// Renders one message of the log: the sender, the recipient, the receipt and the text.
pub fn log_message(row: &Value) -> String {
    // A sender that used the old HTTP API may have any name, even one that imitates a line of the log.
    let name = |field: &str| untrusted_text::shown_name(row[field].as_str().unwrap_or(""));
    let (from, group) = (name("fromName"), row["group"].as_str().map(untrusted_text::shown_group));
    let to = match (row["copies"].as_i64(), &group) {
        (Some(n), Some(group)) => format!("{group} ({})", counted(n as usize, "peer", "peers")),
        _ => name("toName"),
    };
    let notes: Vec<String> = [
        (row["type"] != json!("text")).then(|| word(&row["type"])),
        group.filter(|_| row["copies"].is_null()).map(|group| format!("to {group}")),
        part(row),
    ]
    .into_iter()
    .flatten()
    .collect();
    let head = format!("{}  {from} → {to}  [{}]", clock(&row["createdAt"]), receipt(row));
    laid_out(row, &head, &notes, columns())
}

/// Formats the receipt of a message. If the copies of a group message have different receipts, the text contains the
/// number of copies with each receipt.
pub fn receipt(row: &Value) -> String {
    let counts = row["receipts"].as_object();
    match counts.filter(|counts| counts.len() > 1) {
        Some(counts) => counts.iter().map(|(word, n)| format!("{n} {}", plain(word))).collect::<Vec<_>>().join(", "),
        None => word(&row["receipt"]),
    }
}

/// Renders the answer of `join`.
pub fn channel_joined(answer: &Value, _: &ParsedCommand) -> Rendered {
    let channel = &answer["channel"];
    Rendered::Text(format!("Joined {}: {}", word(&channel["name"]), members(channel)))
}

/// Renders the answer of `leave`.
pub fn channel_left(answer: &Value, _: &ParsedCommand) -> Rendered {
    let name = word(&answer["channel"]);
    Rendered::Text(if answer["left"] == json!(true) {
        format!("Left {name}")
    } else {
        format!("You are not a member of {name}")
    })
}

/// Renders the answer of `channels`.
pub fn channels(value: &Value, _: &ParsedCommand) -> Rendered {
    let rows = rows(value, "channels");
    if rows.is_empty() {
        return Rendered::Text("No channels. Join a channel to create it: slm-mesh join NAME".into());
    }
    let cells = rows.iter().map(|row| {
        let unread = row["unread"].as_i64().filter(|n| *n > 0).map_or("-".into(), |n| n.to_string());
        let own = if row["joined"] == json!(true) { "yes" } else { "-" };
        vec![word(&row["name"]), own.into(), unread, members(row)]
    });
    Rendered::Text(table(&["CHANNEL", "JOINED", "UNREAD", "MEMBERS"], cells.collect()) + &next_page(value))
}

/// Lists members of a channel by name, and says how many more there are.
fn members(channel: &Value) -> String {
    let named = rows(channel, "members");
    let shown: Vec<String> = named.iter().map(|name| untrusted_text::shown_name(name.as_str().unwrap_or(""))).collect();
    let n_more = channel["count"].as_i64().unwrap_or(0) - shown.len() as i64;
    let more = if n_more > 0 { format!(" and {n_more} more") } else { String::new() };
    shown.join(", ") + &more
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Formats a reply with `laid_out`, and removes the escape codes. `answered` contains the last digits of the id of
    /// the answered message.
    fn laid_out_in(columns: Option<usize>, answered: &str) -> String {
        let id = |end: &str| format!("24a819d0-55b5-4a7c-8a83-0000000000{end}");
        let row = json!({ "id": id("17"), "payload": "one two three four\nfive", "replyTo": id(answered), "thread": id("12") });
        let text = laid_out(&row, "12:00Z  ann → bob  [read]", &["alert".into()], columns);
        text.replace("\u{1b}[0m", "").replace("\u{1b}[1m", "").replace("\u{1b}[2m", "")
    }

    #[test]
    fn a_message_fits_the_terminal_and_a_pipe_gets_whole_ids() {
        let id = |end: &str| format!("24a819d0-55b5-4a7c-8a83-0000000000{end}");
        let piped = format!(
            "12:00Z  ann → bob  [read] (alert, answers {} in conversation {})  {}\n  one two three four\n  five",
            id("15"),
            id("12"),
            id("17")
        );
        assert_eq!(laid_out_in(None, "15"), piped);
        let in_80 = "12:00Z  ann → bob  [read] (alert)\n  24a819d0-55b5-4a7c-8a83-000000000017, answers …000000000012\n  \
                     one two three four\n  five";
        assert_eq!(laid_out_in(Some(80), "12"), in_80);
        assert!(
            laid_out_in(Some(120), "12").starts_with("12:00Z  ann → bob  [read] (alert, answers …000000000012)  24a8")
        );
        assert!(laid_out_in(Some(12), "12").ends_with("\n  one two\n  three four\n  five"));
    }
}
