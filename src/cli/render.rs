//! Answers for people: aligned tables, relative times, colour only where it is wanted.
//!
//! **Invariant:** text of other agents reaches a terminal only through [`plain`].

use super::args::Parsed;
use super::put;
use crate::base::error::{Error, ErrorKind};
use crate::base::time;
use crate::core::Op;
use crate::sys;
use serde_json::{Value, json};
use std::io::IsTerminal;

/// Prints a result; answers with the exit status that it means, and whether somebody may read it.
pub fn result(op: &Op, value: &Value, parsed: &Parsed) -> Result<(u8, bool), Error> {
    let mut is_read = true;
    if parsed.json {
        is_read = put(&value.to_string())?;
    } else if op.name == "state.get" && value["entry"].is_null() {
        // On standard output a script would take it for the value.
        sys::complain(&format!("Key \"{}\" not found", word(&parsed.args["key"])));
    } else {
        is_read = put(&human(op, value, parsed))?;
    }
    let waited = parsed.args.contains_key("waitSeconds");
    let is_empty = |name: &str| value[name].as_array().is_some_and(Vec::is_empty);
    let status = match op.name {
        "state.get" if value["entry"].is_null() => ErrorKind::NotFound.codes().exit,
        "inbox" if waited && is_empty("messages") => ErrorKind::TimedOut.codes().exit,
        "events.read" if waited && is_empty("events") => ErrorKind::TimedOut.codes().exit,
        _ => 0,
    };
    Ok((status, is_read))
}

fn human(op: &Op, value: &Value, parsed: &Parsed) -> String {
    let text = match op.name {
        "peers" => peers(value),
        "whoami" => {
            format!("{} ({}, {})", word(&value["you"]["name"]), word(&value["kind"]), word(&value["you"]["id"]))
        }
        "summary" => "Summary set.".into(),
        "send" => sent(value),
        "inbox" => inbox(value),
        "state.get" => entry(value),
        "state.set" => format!(
            "Set {} = {} (version {})",
            word(&value["entry"]["key"]),
            word(&value["entry"]["value"]),
            value["version"]
        ),
        "state.list" => entries(value),
        "state.delete" if value["deleted"] == json!(true) => format!("Deleted {}", word(&parsed.args["key"])),
        "state.delete" => format!("{} was not set", word(&parsed.args["key"])),
        "lock.lock" => locked(value),
        "lock.unlock" => {
            rows(value, "unlocked").iter().map(|path| format!("Unlocked {}", word(path))).collect::<Vec<_>>().join("\n")
        }
        "lock.query" => locks(value),
        "events.read" => events(value),
        "events.emit" => format!("Emitted as event {}", value["seq"]),
        "status" => status(value),
        _ => value.to_string(),
    };
    let mail = &value["mail"];
    let note =
        mail["unread"].as_i64().map(|n| dim(&format!("\n{n} unread, from {}: slm-mesh inbox", names(&mail["from"]))));
    text + &note.unwrap_or_default()
}

/// One event or message of a stream, on one line.
pub fn line(op: &str, row: &Value) -> String {
    if op == "inbox" {
        return message(row);
    }
    let payload = row["payload"].as_object().cloned().unwrap_or_default();
    // Ids mean nothing to a reader, and who did it stands in the line already.
    let hidden = ["peerId", "messageId", "fromPeer", "lockedBy", "unlockedBy"];
    let fact = |(name, value): (&String, &Value)| match name.as_str() {
        "filePath" => format!("{name}={}", here(&word(value))),
        "toPeer" => format!("{name}={:.8}", word(value)),
        _ => format!("{}={}", plain(name), word(value)),
    };
    let facts: Vec<String> = payload.iter().filter(|(name, _)| !hidden.contains(&name.as_str())).map(fact).collect();
    format!(
        "{}  {:<17} {:<20} {}",
        clock(&row["createdAt"]),
        word(&row["type"]),
        word(&row["emittedByName"]),
        facts.join(" ")
    )
}

fn peers(value: &Value) -> String {
    let rows = rows(value, "peers");
    if rows.is_empty() {
        return "No other peers are here. An agent appears with its first mesh tool call, or two seconds after it started.".into();
    }
    // On one machine the column would tell nothing.
    const HOST: usize = 2;
    let ours = sys::host();
    let is_far = rows.iter().any(|row| row["host"].as_str().is_some_and(|host| host != ours));
    let cells = rows.iter().map(|row| {
        let idle = row["idleSeconds"].as_i64().unwrap_or(0);
        let state = match row["status"].as_str() {
            Some("active") if idle < 60 => "active".into(),
            Some("active") => format!("idle {}", time::span(idle * 1000)),
            // As the broker counts it: the clock of another machine may say anything.
            Some("away") => format!("away {}", time::span(idle * 1000)),
            other => other.unwrap_or("").to_owned(),
        };
        let unread = row["unread"].as_i64().filter(|n| *n > 0).map_or("-".into(), |n| n.to_string());
        let (name, agent, host) = (word(&row["name"]), word(&row["agentType"]), or_dash(&row["host"]));
        let (branch, project) = (or_dash(&row["gitBranch"]), word(&row["projectPath"]));
        let mut cells = vec![name, agent, host, state, unread, branch, project, word(&row["summary"])];
        if !is_far {
            cells.remove(HOST);
        }
        cells
    });
    let mut head = vec!["NAME", "AGENT", "HOST", "STATUS", "UNREAD", "BRANCH", "PROJECT", "DOES"];
    if !is_far {
        head.remove(HOST);
    }
    table(&head, cells.collect()) + &more(value)
}

fn sent(value: &Value) -> String {
    let rows = rows(value, "recipients");
    if let Some(note) = value["note"].as_str() {
        return plain(note);
    }
    let who: Vec<String> = rows
        .iter()
        .map(|row| {
            let away = if row["here"] == json!(true) { "" } else { " (away; it waits in the mailbox)" };
            format!("{}{away}", word(&row["name"]))
        })
        .collect();
    format!("Message sent to {}", who.join(", "))
}

fn inbox(value: &Value) -> String {
    let rows = rows(value, "messages");
    if rows.is_empty() {
        return "No messages.".into();
    }
    let mut text: Vec<String> = rows.iter().map(message).collect();
    if let Some(n) = value["remaining"].as_i64().filter(|n| *n > 0) {
        text.push(dim(&format!("{n} more: slm-mesh inbox again")));
    }
    if value["more"] == json!(true) {
        text.push(dim(&format!("there are more: --after {}", value["next"])));
    }
    text.join("\n")
}

fn message(row: &Value) -> String {
    let head = match row["toName"].as_str() {
        Some(to) => format!("to {}  [{}]", plain(to), word(&row["receipt"])),
        None => format!("from {}", word(&row["fromName"])),
    };
    let mut notes = Vec::new();
    if row["type"] != json!("text") {
        notes.push(word(&row["type"]));
    }
    notes.extend(row["group"].as_str().map(|group| format!("to {}", plain(group))));
    notes.extend((row["again"] == json!(true)).then(|| "again".to_owned()));
    notes.extend(row["part"].as_i64().map(|part| format!("part {part} of {}", row["parts"])));
    let notes = if notes.is_empty() { String::new() } else { format!(" ({})", notes.join(", ")) };
    let body = word_lines(&row["payload"]).replace('\n', "\n  ");
    format!("{}\n  {body}", bold(&format!("{}  {head}{notes}  {}", clock(&row["createdAt"]), dim(&word(&row["id"])))))
}

fn entry(value: &Value) -> String {
    let entry = &value["entry"];
    match entry["value"].as_str() {
        // Alone on its line, so that scripts can take it as it is.
        Some(value) if !std::io::stdout().is_terminal() => value.to_owned(),
        Some(value) => format!("{} = {}", word(&entry["key"]), plain_lines(value)),
        None => String::new(),
    }
}

fn entries(value: &Value) -> String {
    let rows = rows(value, "entries");
    if rows.is_empty() {
        return "No entries.".into();
    }
    let cells = rows.iter().map(|row| {
        vec![
            word(&row["key"]),
            cut(&word(&row["value"]), 48),
            row["version"].to_string(),
            word(&row["updatedByName"]),
            ago(&row["updatedAt"]),
        ]
    });
    table(&["KEY", "VALUE", "VERSION", "BY", "CHANGED"], cells.collect()) + &more(value)
}

fn locked(value: &Value) -> String {
    let one = std::slice::from_ref(&value["lock"]);
    let rows = value["locks"].as_array().map_or(one, Vec::as_slice);
    let left = time::span(value["expiresInSeconds"].as_i64().unwrap_or(0) * 1000);
    let lines: Vec<String> = rows
        .iter()
        .map(|row| format!("Locked {} for {left} (token {})", word(&row["filePath"]), row["token"]))
        .collect();
    lines.join("\n")
}

fn locks(value: &Value) -> String {
    let rows = rows(value, "locks");
    if rows.is_empty() {
        return "No active locks".into();
    }
    let cells = rows.iter().map(|row| {
        let left = time::span(row["expiresInSeconds"].as_i64().unwrap_or(0) * 1000);
        vec![
            here(&word(&row["filePath"])),
            word(&row["holder"]),
            left,
            or_dash(&json!(names(&row["queue"]))),
            word(&row["reason"]),
        ]
    });
    table(&["FILE", "LOCKED BY", "LEFT", "WAITING", "REASON"], cells.collect()) + &more(value)
}

/// How to see the rest of a list that did not fit.
fn more(value: &Value) -> String {
    let Some(next) = value["next"].as_str() else { return String::new() };
    let n_left = value["remaining"].as_i64().map(|n| format!("{n} more")).unwrap_or_else(|| "there are more".into());
    dim(&format!("\n{n_left}: --after '{}'", plain(next).replace('\'', "'\\''")))
}

fn events(value: &Value) -> String {
    let rows = rows(value, "events");
    if rows.is_empty() {
        return "No events".into();
    }
    rows.iter().map(|row| line("events", row)).collect::<Vec<_>>().join("\n")
}

/// The status, for people.
pub fn status(value: &Value) -> String {
    let size = |bytes: &Value| match bytes.as_i64().unwrap_or(0) {
        n @ 0..1024 => format!("{n} B"),
        n @ 1024..1_048_576 => format!("{:.1} KB", n as f64 / 1024.0),
        n => format!("{:.1} MB", n as f64 / 1_048_576.0),
    };
    let uptime = match value["uptime"].as_i64().unwrap_or(0) {
        s @ 0..60 => format!("{s}s"),
        s @ 60..3600 => format!("{}m {}s", s / 60, s % 60),
        s => format!("{}h {}m", s / 3600, s % 3600 / 60),
    };
    let (peers, messages) = (&value["peers"], &value["messages"]);
    let port = value["port"].as_i64().filter(|port| *port > 0).map_or("not served".into(), |port| port.to_string());
    [
        format!("Status:    {}", word(&value["status"])),
        format!("Version:   {}", word(&value["version"])),
        format!("Uptime:    {uptime}"),
        format!("PID:       {}", value["pid"]),
        format!("HTTP port: {port}"),
        format!("Peers:     {} active, {} stale, {} away", peers["active"], peers["stale"], peers["away"]),
        format!("Messages:  {} total, {} undelivered", messages["total"], messages["undelivered"]),
        format!("Locks:     {} active", value["locks"]["active"]),
        format!("Events:    {} total", value["events"]["total"]),
        format!("Database:  {} (log {})", size(&value["db"]["sizeBytes"]), size(&value["db"]["walSizeBytes"])),
    ]
    .into_iter()
    .chain(rows(value, "links").iter().map(link))
    .collect::<Vec<_>>()
    .join("\n")
}

/// Another mesh that this one looks at.
fn link(row: &Value) -> String {
    let trouble = row["trouble"].as_str().map_or(String::new(), |why| format!("; {}", plain(why)));
    let waiting = row["waiting"].as_i64().filter(|n| *n > 0).map_or(String::new(), |n| format!(", {n} letters wait"));
    let heard = row["heardAt"].as_str().map_or("never heard".into(), |_| format!("heard {}", ago(&row["heardAt"])));
    format!(
        "Link:      {} ({}): {} peers, {heard}{waiting}{trouble}",
        word(&row["url"]),
        word(&row["kind"]),
        row["peers"]
    )
}

fn rows<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value[name].as_array().map(Vec::as_slice).unwrap_or_default()
}

/// Cells in columns, below their headings.
pub fn table(head: &[&str], rows: Vec<Vec<String>>) -> String {
    let head: Vec<String> = head.iter().map(|word| (*word).to_owned()).collect();
    let all: Vec<&Vec<String>> = std::iter::once(&head).chain(&rows).collect();
    let width = |column: usize| all.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let lines = all.iter().enumerate().map(|(n, row)| {
        let cells =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell}{}", " ".repeat(width - cell.chars().count())));
        let text = cells.collect::<Vec<_>>().join("  ").trim_end().to_owned();
        if n == 0 { bold(&text) } else { text }
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// Text of others without what could steer a terminal or turn its direction.
pub fn plain(text: &str) -> String {
    let tame = |c: char| match c {
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => '\u{fffd}',
        // What some terminals take for an end of the line.
        '\u{2028}' | '\u{2029}' => '\u{fffd}',
        '\n' | '\t' => ' ',
        c if c.is_control() => '\u{fffd}',
        c => c,
    };
    text.chars().map(tame).collect()
}

fn plain_lines(text: &str) -> String {
    text.lines().map(plain).collect::<Vec<_>>().join("\n")
}

fn word_lines(value: &Value) -> String {
    plain_lines(value.as_str().unwrap_or(""))
}

fn word(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => plain(text),
        other => plain(&other.to_string()),
    }
}

fn or_dash(value: &Value) -> String {
    Some(word(value)).filter(|text| !text.is_empty()).unwrap_or_else(|| "-".into())
}

fn names(list: &Value) -> String {
    list.as_array().map(|list| list.iter().map(word).collect::<Vec<_>>().join(", ")).unwrap_or_default()
}

fn cut(text: &str, n: usize) -> String {
    if text.chars().count() <= n { text.to_owned() } else { text.chars().take(n - 1).chain(['…']).collect() }
}

/// A path below the working directory as people type it.
fn here(path: &str) -> String {
    let dir = std::env::current_dir().unwrap_or_default();
    path.strip_prefix(&format!("{}/", dir.display()))
        .filter(|rest| !rest.is_empty())
        .map_or_else(|| path.to_owned(), str::to_owned)
}

fn clock(iso: &Value) -> String {
    time::sqlite(iso.as_str().unwrap_or(""))
}

fn ago(iso: &Value) -> String {
    let then = iso.as_str().and_then(time::parse);
    then.map_or_else(String::new, |then| format!("{} ago", time::span(sys::wall_ms() - then)))
}

fn has_colour() -> bool {
    std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

fn bold(text: &str) -> String {
    if has_colour() { format!("\u{1b}[1m{text}\u{1b}[0m") } else { text.to_owned() }
}

fn dim(text: &str) -> String {
    if has_colour() { format!("\u{1b}[2m{text}\u{1b}[0m") } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    #[test]
    fn what_steers_a_terminal_becomes_harmless() {
        assert_eq!(super::plain("\u{1b}[31mred\u{202e}x\u{7}"), "\u{fffd}[31mred\u{fffd}x\u{fffd}");
    }
}
