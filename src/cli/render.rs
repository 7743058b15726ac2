//! Renders answers for people, with aligned tables and relative times, and with colour on a terminal.
//!
//! **Invariant:** text from other agents reaches a terminal only through [`plain`].

mod mail;

pub use mail::{channel_joined, channel_left, channels, inbox, log, log_message, message, message_sent, receipt};

use super::args::ParsedCommand;
use super::try_print_line;
use super::verb_behavior_table::{CliOperation, Rendered};
use crate::base::counted::counted;
use crate::base::error::{Error, ErrorKind};
use crate::base::shell_wildcards::shell_quoted;
use crate::base::{time_format, untrusted_text};
use crate::sys;
use crate::sys::machine_name::machine_name;
use serde_json::{Value, json};
use std::io::IsTerminal;

/// Prints an answer. Returns the exit status, and whether the output is still open.
pub fn print_answer(row: &CliOperation, answer: &Value, parsed: &ParsedCommand) -> Result<(u8, bool), Error> {
    let rendered = (row.render)(answer, parsed);
    let mut is_read = true;
    if parsed.json {
        is_read = try_print_line(&json_line(answer))?;
    } else {
        match &rendered {
            Rendered::Text(text) => is_read = try_print_line(&(text.clone() + &unread_note(answer, parsed)))?,
            Rendered::NotFound(sentence) => sys::print_error(sentence),
        }
    }
    // A gap in the events ends a wait early, so an empty answer with a gap is not a timeout.
    let waited_in_vain = parsed.args.contains_key("waitSeconds")
        && answer["gap"] != json!(true)
        && row.op.behavior.stream.is_some_and(|stream| stream.rows(answer).is_empty());
    let status = match rendered {
        Rendered::NotFound(_) => ErrorKind::NotFound.codes().exit,
        Rendered::Text(_) if waited_in_vain => ErrorKind::TimedOut.codes().exit,
        Rendered::Text(_) => 0,
    };
    Ok((status, is_read))
}

/// Returns the lines below an answer: a note about unread mail, and a note about a name that the session took over.
fn unread_note(answer: &Value, parsed: &ParsedCommand) -> String {
    let mail = &answer["mail"];
    let note = mail["unread"]
        .as_i64()
        .map(|n| dim(&format!("\n{n} unread, from {}; run {}", names(&mail["from"]), inbox_command(parsed))));
    let notice = answer["notice"].as_str().map(|notice| dim(&format!("\n{}", untrusted_text::line(notice))));
    notice.unwrap_or_default() + &note.unwrap_or_default()
}

/// Returns the command that shows the mailbox of the acting peer.
fn inbox_command(parsed: &ParsedCommand) -> String {
    let acting = parsed.acting.iter().map(|name| format!(" --as {}", shell_quoted(&untrusted_text::line(name))));
    format!("slm-mesh inbox{}", acting.collect::<String>())
}

/// Renders the answer of `decline`.
pub fn decline(answer: &Value, _: &ParsedCommand) -> Rendered {
    Rendered::Text(format!(
        "Gave back the name {}; you are now {}",
        word(&answer["gaveBack"]),
        word(&answer["you"]["name"])
    ))
}

/// Renders the answer of `whoami`.
pub fn whoami(answer: &Value, _: &ParsedCommand) -> Rendered {
    let you = &answer["you"];
    Rendered::Text(format!("{} ({}, {})", word(&you["name"]), word(&answer["kind"]), word(&you["id"])))
}

/// Renders the answer of `summary`.
pub fn summary_set(_: &Value, _: &ParsedCommand) -> Rendered {
    Rendered::Text("Summary set.".into())
}

/// Renders the answer of `state set`.
pub fn state_set(answer: &Value, parsed: &ParsedCommand) -> Rendered {
    let (key, version) = (word(&answer["entry"]["key"]), &answer["version"]);
    Rendered::Text(match answer["entry"]["value"].as_str() {
        Some(value) => format!("Set {key} = {} (version {version})", plain(value)),
        // The broker does not send a long value back.
        None => {
            let n = parsed.args["value"].as_str().map_or(0, str::len);
            format!("Set {key} ({}, version {version})", counted(n, "byte", "bytes"))
        }
    })
}

/// Renders the answer of `state delete`.
pub fn state_deleted(answer: &Value, parsed: &ParsedCommand) -> Rendered {
    let key = word(&parsed.args["key"]);
    Rendered::Text(if answer["deleted"] == json!(true) {
        format!("Deleted {key}")
    } else {
        format!("{key} was not set")
    })
}

/// Renders the answer of `unlock`.
pub fn locks_released(answer: &Value, _: &ParsedCommand) -> Rendered {
    let lines: Vec<String> = rows(answer, "unlocked").iter().map(|path| format!("Unlocked {}", word(path))).collect();
    Rendered::Text(lines.join("\n"))
}

/// Renders the answer of `events emit`.
pub fn event_emitted(answer: &Value, _: &ParsedCommand) -> Rendered {
    Rendered::Text(format!("Emitted as event {}", answer["seq"]))
}

/// Renders one event on one line.
pub fn event(row: &Value) -> String {
    let payload = row["payload"].as_object().cloned().unwrap_or_default();
    // The line already shows the author, and ids do not help people.
    let hidden = ["peerId", "messageId", "fromPeer", "lockedBy", "unlockedBy"];
    let fact = |(name, value): (&String, &Value)| match name.as_str() {
        "filePath" => format!("{name}={}", relative(&word(value))),
        "toPeer" => format!("{name}={:.8}", word(value)),
        _ => format!("{}={}", plain(name), word(value)),
    };
    // If the value of an entry is too long for an event, or if the entry was deleted later, the value is missing.
    let is_gone = |value: &Value| value.is_null() && row["type"] == json!("state_changed");
    let is_shown = |(name, value): &(&String, &Value)| !is_gone(value) && !hidden.contains(&name.as_str());
    let facts: Vec<String> = payload.iter().filter(is_shown).map(fact).collect();
    format!(
        "{}  {:<17} {:<20} {}",
        clock(&row["createdAt"]),
        word(&row["type"]),
        word(&row["emittedByName"]),
        facts.join(" ")
    )
}

/// Renders the answer of `peers`.
pub fn peers(value: &Value, parsed: &ParsedCommand) -> Rendered {
    let rows = rows(value, "peers");
    let scope = parsed.args.get("scope").and_then(Value::as_str).filter(|scope| *scope != "machine");
    if let Some(scope) = scope.filter(|_| rows.is_empty()) {
        let text = format!("No other peers are online in this {scope}. To list all peers, run slm-mesh peers.");
        return Rendered::Text(text);
    }
    if rows.is_empty() {
        let text = "No other peers are online. An agent appears when it first calls a mesh tool, and at the latest two \
                    seconds after it starts.";
        return Rendered::Text(text.into());
    }
    // The position of the column HOST. The column is left out if all peers are on this machine.
    const HOST: usize = 2;
    let own_host = machine_name();
    let has_other_hosts = rows.iter().any(|row| row["host"].as_str().is_some_and(|host| host != own_host));
    let cells = rows.iter().map(|row| {
        let idle = row["idleSeconds"].as_i64().unwrap_or(0);
        let state = match row["status"].as_str() {
            Some("active") if idle < 60 => "active".into(),
            Some("active") => format!("idle {}", time_format::span(idle * 1000)),
            // The broker computes the idle time, because this machine's clock may differ from the broker's.
            Some("away" | "offline") => format!("offline {}", time_format::span(idle * 1000)),
            other => other.unwrap_or("").to_owned(),
        };
        let unread = row["unread"].as_i64().filter(|n| *n > 0).map_or("-".into(), |n| n.to_string());
        let (name, agent, host) = (word(&row["name"]), word(&row["agentType"]), or_dash(&row["host"]));
        let (branch, project) = (or_dash(&row["gitBranch"]), word(&row["projectPath"]));
        let mut cells = vec![name, agent, host, state, unread, branch, project, word(&row["summary"])];
        if !has_other_hosts {
            cells.remove(HOST);
        }
        cells
    });
    let mut head = vec!["NAME", "AGENT", "HOST", "STATUS", "UNREAD", "BRANCH", "PROJECT", "SUMMARY"];
    if !has_other_hosts {
        head.remove(HOST);
    }
    Rendered::Text(table(&head, cells.collect()) + &next_page(value))
}

/// Renders the answer of `state get`.
pub fn state_entry(value: &Value, parsed: &ParsedCommand) -> Rendered {
    let entry = &value["entry"];
    match entry["value"].as_str() {
        // A script that reads the output needs only the value.
        Some(value) if !std::io::stdout().is_terminal() => Rendered::Text(value.to_owned()),
        Some(value) => Rendered::Text(format!("{} = {}", word(&entry["key"]), plain_lines(value))),
        None => Rendered::NotFound(format!("Key \"{}\" not found", word(&parsed.args["key"]))),
    }
}

/// Renders the answer of `state list`.
pub fn state_entries(value: &Value, _: &ParsedCommand) -> Rendered {
    let rows = rows(value, "entries");
    if rows.is_empty() {
        return Rendered::Text("No entries.".into());
    }
    let cells = rows.iter().map(|row| {
        vec![
            word(&row["key"]),
            row["value"].as_str().map_or("(too long for a list)".into(), |value| cut(&plain(value), 48)),
            row["version"].to_string(),
            word(&row["updatedByName"]),
            ago(&row["updatedAt"]),
        ]
    });
    Rendered::Text(table(&["KEY", "VALUE", "VERSION", "BY", "CHANGED"], cells.collect()) + &next_page(value))
}

/// Renders the answer of `lock`.
pub fn locks_granted(value: &Value, _: &ParsedCommand) -> Rendered {
    let one = std::slice::from_ref(&value["lock"]);
    let rows = value["locks"].as_array().map_or(one, Vec::as_slice);
    let left = time_format::span(value["expiresInSeconds"].as_i64().unwrap_or(0) * 1000);
    let locked = |row: &Value| format!("Locked {} for {left} (token {})", word(&row["filePath"]), row["token"]);
    let note = value["note"].as_str().map(|note| format!("Note: {}", plain(note)));
    Rendered::Text(rows.iter().map(locked).chain(note).collect::<Vec<_>>().join("\n"))
}

/// Renders the answer of `lock list`.
pub fn locks(value: &Value, _: &ParsedCommand) -> Rendered {
    let rows = rows(value, "locks");
    if rows.is_empty() {
        return Rendered::Text("No active locks".into());
    }
    let cells = rows.iter().map(|row| {
        let left = time_format::span(row["expiresInSeconds"].as_i64().unwrap_or(0) * 1000);
        vec![
            relative(&word(&row["filePath"])),
            word(&row["holder"]),
            left,
            or_dash(&json!(names(&row["queue"]))),
            word(&row["reason"]),
        ]
    });
    Rendered::Text(table(&["FILE", "LOCKED BY", "LEFT", "WAITING", "REASON"], cells.collect()) + &next_page(value))
}

/// Says how to get the next page of a list that did not fit into one answer.
fn next_page(value: &Value) -> String {
    let Some(next) = value["next"].as_str() else { return String::new() };
    let n_left = value["remaining"].as_i64().map(|n| format!("{n} more")).unwrap_or_else(|| "there are more".into());
    dim(&format!("\n{n_left}; continue with --after '{}'", plain(next).replace('\'', "'\\''")))
}

/// Renders the answer of `events`.
pub fn events(value: &Value, _: &ParsedCommand) -> Rendered {
    let rows = rows(value, "events");
    if rows.is_empty() {
        return Rendered::Text("No events.".into());
    }
    let mut lines: Vec<String> = rows.iter().map(event).collect();
    if value["more"] == json!(true) {
        // If the answer contains a note, the list ends with the latest event, so the missing events are older.
        match value["note"].is_string() {
            true => lines.insert(0, dim("there are older events; show them with --after 0 (oldest first)")),
            false => lines.push(dim(&format!("there are more events; continue with --after {}", value["seq"]))),
        }
    }
    Rendered::Text(lines.join("\n"))
}

/// Renders the answer of `status`.
pub fn mesh_status(value: &Value, _: &ParsedCommand) -> Rendered {
    Rendered::Text(status_text(value))
}

/// Renders the status of the mesh as text.
pub fn status_text(value: &Value) -> String {
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
        format!("Peers:     {} active, {} stale, {} offline", peers["active"], peers["stale"], peers["away"]),
        format!("Messages:  {} total, {} undelivered", messages["total"], messages["undelivered"]),
        format!("Locks:     {} active", value["locks"]["active"]),
        format!("Events:    {} total", value["events"]["total"]),
        format!("Database:  {} (log {})", size(&value["db"]["sizeBytes"]), size(&value["db"]["walSizeBytes"])),
    ]
    .into_iter()
    .chain(value["damage"].as_str().map(|what| format!("Damage:    {}", plain(what))))
    .chain(value["serves"].as_str().map(|at| format!("Guests:    other machines are served at {}", plain(at))))
    .chain(value["movedPort"].as_str().map(|warning| format!("Guests:    {}", plain(warning))))
    .chain(hub_lines(&value["hubs"]))
    .chain(
        value["ownHub"]["trouble"].as_str().map(|why| format!("This hub:  takes no part in the mesh: {}", plain(why))),
    )
    .chain(rows(value, "links").iter().map(link_line))
    .collect::<Vec<_>>()
    .join("\n")
}

/// Formats the status lines of the hubs that share the mesh, and of etcd.
fn hub_lines(hubs: &Value) -> Vec<String> {
    if !hubs.is_object() {
        return Vec::new();
    }
    let minutes = hubs["leadsForMs"].as_i64().unwrap_or(0) / 60_000;
    let mut lines = vec![format!(
        "Hub:       {} has been the leader for {}; its log is at entry {}",
        word(&hubs["leader"]),
        if minutes < 120 { format!("{minutes}m") } else { format!("{}h", minutes / 60) },
        hubs["position"]
    )];
    lines.extend(rows(hubs, "standbys").iter().map(|row| {
        let behind = match row["behind"].as_u64().unwrap_or(0) {
            0 => "up to date".into(),
            n => format!("{} behind", counted(n as usize, "entry", "entries")),
        };
        format!("Standby:   {}: {behind}", word(&row["hub"]))
    }));
    lines.extend(rows(hubs, "members").iter().map(member_line));
    lines.extend(hubs["trouble"].as_str().map(|why| format!("Trouble:   {}", plain(why))));
    lines
}

/// Formats the status line of one member of etcd.
fn member_line(row: &Value) -> String {
    let url = word(&row["url"]);
    if let Some(error) = row["error"].as_str() {
        return format!("etcd:      {url}: {}", plain(error));
    }
    let megabytes = |bytes: &Value| format!("{:.1} MB", bytes.as_f64().unwrap_or(0.0) / 1_048_576.0);
    let quota =
        if row["quotaBytes"].is_u64() { format!(" of {}", megabytes(&row["quotaBytes"])) } else { String::new() };
    let alarms: Vec<&str> = rows(row, "alarms").iter().filter_map(Value::as_str).collect();
    let alarms = if alarms.is_empty() { String::new() } else { format!(", ALARM {}", plain(&alarms.join(" "))) };
    let leads = if row["leads"] == true { ", leader" } else { "" };
    let latency = row["latencyMs"].as_f64().unwrap_or(0.0);
    format!(
        "etcd:      {url}: version {}, {latency:.1} ms, {}{quota}{leads}{alarms}",
        word(&row["version"]),
        megabytes(&row["bytes"])
    )
}

/// Formats the status line of a linked mesh.
fn link_line(row: &Value) -> String {
    let trouble = row["trouble"].as_str().map_or(String::new(), |why| format!("; {}", plain(why)));
    let count = |name: &str, word: &str| {
        let n = row[name].as_u64().unwrap_or(0) as usize;
        if n == 0 { String::new() } else { format!(", {} {word}", counted(n, "message", "messages")) }
    };
    let (waiting, refused) = (count("waiting", "waiting"), count("refused", "refused"));
    let reached =
        row["heardAt"].as_str().map_or("never reached".into(), |_| format!("reached {}", ago(&row["heardAt"])));
    format!(
        "Link:      {} ({}): {}, {reached}{waiting}{refused}{trouble}",
        word(&row["url"]),
        word(&row["kind"]),
        counted(row["peers"].as_u64().unwrap_or(0) as usize, "peer", "peers")
    )
}

fn rows<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value[name].as_array().map(Vec::as_slice).unwrap_or_default()
}

/// Aligns cells in columns below the headings.
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

/// Reduces untrusted text to one line, without invisible characters and without characters that control a terminal.
pub fn plain(text: &str) -> String {
    untrusted_text::line(text)
}

/// Converts an answer to JSON, without invisible characters and without characters that control a terminal.
pub fn json_line(value: &Value) -> String {
    untrusted_text::visible_json(value.to_string())
}

fn plain_lines(text: &str) -> String {
    untrusted_text::lines(text).join("\n")
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

/// Turns a path below the working directory into a relative path.
pub fn relative(path: &str) -> String {
    let dir = std::env::current_dir().unwrap_or_default();
    path.strip_prefix(&format!("{}/", dir.display()))
        .filter(|rest| !rest.is_empty())
        .map_or_else(|| path.to_owned(), str::to_owned)
}

/// Formats a time for people. The Z means UTC. `--since` accepts a time in this form.
fn clock(iso: &Value) -> String {
    iso.as_str().map_or_else(String::new, |iso| time_format::sqlite(iso) + "Z")
}

fn ago(iso: &Value) -> String {
    let then = iso.as_str().and_then(time_format::parse);
    then.map_or_else(String::new, |then| format!("{} ago", time_format::span(sys::wall_ms() - then)))
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
    fn control_characters_become_harmless() {
        assert_eq!(super::plain("\u{1b}[31mred\u{202e}x\u{7}"), "\u{fffd}[31mred\u{fffd}x\u{fffd}");
        assert_eq!(super::json_line(&serde_json::json!("\u{9b}31m\u{202e}")), r#""\u009b31m\u202e""#);
    }
}
