//! What is known as lines of text, for a screen of a given size at a given time.
//!
//! **Invariant:** no line is wider than the screen, and there are as many as it has rows.

use super::model::{Mail, Mode, Model, PANES, Pane, Prompt, word};
use super::text::{cell, cut, cut_front, tame, width, wrap};
use crate::base::time;
use serde_json::Value;

/// How a piece of a line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// As the terminal writes.
    Plain,
    /// What matters.
    Bold,
    /// What does not.
    Dim,
    /// What somebody waits for or should see.
    Warn,
    /// The chosen row.
    Chosen,
}

/// A line, in pieces.
pub type Line = Vec<(Style, String)>;

/// Below this many rows one pane has the screen.
const ROWS_FOR_ALL: usize = 14;
/// Columns from which on a row has all its cells.
const WIDE: usize = 64;

const HELP: &str = "\
Tab  arrows   move between panes and rows; Home goes back to the newest
Enter         open what is chosen: a message, a peer, a lock, an event
w             write to the peer of the chosen row, as yourself
x             release the chosen lock, after asking; its holder is told
/             show one project: a part of its path; empty shows all
q  Ctrl-C     quit

A message shows its text only if you sent or got it; opening one that you
got counts as reading it. Sent: it waits in the mailbox. Read: it was shown
whole. Acked: its reader confirmed or answered it.";

/// The whole screen.
pub fn screen(model: &Model, columns: usize, rows: usize, now: i64) -> Vec<Line> {
    let mut lines = Vec::with_capacity(rows);
    lines.push(header(model));
    let n_rows = rows.saturating_sub(2);
    match &model.mode {
        Mode::Open { title, body, scroll } => lines.extend(opened(title, body, *scroll, columns, n_rows)),
        _ => {
            for (pane, n) in share(model, n_rows) {
                lines.extend(pane_lines(model, pane, columns, n, now));
            }
        }
    }
    lines.resize(rows.saturating_sub(1), Line::new());
    lines.push(footer(model, columns));
    lines.truncate(rows);
    lines.into_iter().map(|line| fit(line, columns)).collect()
}

/// The text of the help.
pub fn help() -> Mode {
    Mode::Open { title: "Keys".into(), body: HELP.into(), scroll: 0 }
}

fn fit(line: Line, columns: usize) -> Line {
    let mut room = columns;
    let mut kept = Line::new();
    for (style, text) in line {
        let text = cut(&text, room);
        room -= width(&text);
        if !text.is_empty() {
            kept.push((style, text));
        }
    }
    kept
}

fn header(model: &Model) -> Line {
    let mut line = vec![(Style::Bold, format!(" slm-mesh  you are {}", tame(&model.me.1)))];
    if model.unread > 0 {
        line.push((Style::Warn, format!("  {} unread for you", model.unread)));
    }
    if !model.filter.is_empty() {
        line.push((Style::Bold, format!("  only {}", tame(&model.filter))));
    }
    if let Some(why) = &model.offline {
        line.push((Style::Warn, format!("  no broker ({}); waiting for the next", tame(why))));
    }
    line
}

fn footer(model: &Model, columns: usize) -> Line {
    match &model.mode {
        Mode::Type { prompt, text } => {
            let ask = match prompt {
                Prompt::Filter => " show project: ".to_owned(),
                Prompt::Write(to) => format!(" to {}: ", cut(&model.name(to), 20)),
            };
            // The end of what is typed is what one looks at.
            let room = columns.saturating_sub(width(&ask) + 1);
            vec![(Style::Bold, ask), (Style::Plain, cut_front(&tame(text), room)), (Style::Chosen, " ".into())]
        }
        Mode::Confirm { path, holder, own, .. } => {
            let cost = if *own { "" } else { ", who is told" };
            let ask = format!("? Its holder is {}{cost}. y/n", cut(&tame(holder), 20));
            let room = columns.saturating_sub(width(&ask) + 9);
            vec![(Style::Warn, format!(" Release {}{ask}", cut_front(&tame(path), room)))]
        }
        Mode::Open { .. } => vec![(Style::Dim, " ↑↓ scroll · Esc back".into())],
        Mode::Look if !model.note.is_empty() => vec![(Style::Bold, format!(" {}", tame(&model.note)))],
        Mode::Look if columns < WIDE => vec![(Style::Dim, " Tab pane · ? help · q quit".into())],
        Mode::Look => {
            vec![(Style::Dim, " Tab pane · Enter open · w write · x release · / project · ? help · q quit".into())]
        }
    }
}

/// The panes to be shown, with their rows, title included. What there is little of gets what it
/// wants; events take the rest.
fn share(model: &Model, n_rows: usize) -> Vec<(Pane, usize)> {
    if n_rows + 2 < ROWS_FOR_ALL {
        return vec![(model.pane, n_rows)];
    }
    let wants = PANES.map(|pane| model.keys(pane).len().max(1));
    let room = n_rows - PANES.len();
    let fair = room / PANES.len();
    let mut shares = wants.map(|want| want.min(fair));
    let mut free = room - shares.iter().sum::<usize>();
    for n in 0..PANES.len() {
        let more = (wants[n] - shares[n]).min(free.div_ceil(if n == 3 { 1 } else { 2 }));
        shares[n] += more;
        free -= more;
    }
    shares[3] += free;
    PANES.into_iter().zip(shares).map(|(pane, n)| (pane, n + 1)).collect()
}

fn pane_lines(model: &Model, pane: Pane, columns: usize, n_rows: usize, now: i64) -> Vec<Line> {
    let focused = model.pane == pane;
    let rows = match pane {
        Pane::Peers => peers(model, columns, now),
        Pane::Locks => locks(model, columns, now),
        Pane::Mail => mail(model, columns, now),
        Pane::Events => events(model, columns, now),
    };
    let (title, none) = match pane {
        Pane::Peers => (format!("Peers {}", rows.len()), "nobody is here"),
        Pane::Locks => (format!("Locks {}", rows.len()), "nothing is locked"),
        Pane::Mail => ("Messages".into(), "none yet"),
        Pane::Events => ("Events".into(), "none yet"),
    };
    let rule = "─".repeat(columns.saturating_sub(width(&title) + 3));
    let style = if focused { Style::Bold } else { Style::Dim };
    let mut lines = vec![vec![(style, format!(" {title} ")), (Style::Dim, rule)]];
    let n_rows = n_rows.saturating_sub(1);
    if rows.is_empty() {
        lines.push(vec![(Style::Dim, format!("  {none}"))]);
    }
    let place = model.place(pane);
    let first = (place + 1).saturating_sub(n_rows);
    for (n, row) in rows.into_iter().enumerate().skip(first).take(n_rows) {
        let is_chosen = focused && n == place;
        let mark = if is_chosen { "› " } else { "  " };
        let mut line = vec![(if is_chosen { Style::Chosen } else { Style::Plain }, mark.to_owned())];
        line.extend(row.into_iter().map(|(style, text)| (if is_chosen { Style::Chosen } else { style }, text)));
        lines.push(line);
    }
    lines.resize(n_rows + 1, Line::new());
    lines.truncate(n_rows + 1);
    lines
}

/// The widest of some cells, within bounds.
fn column<'a>(cells: impl Iterator<Item = &'a String>, max: usize) -> usize {
    cells.map(|cell| width(cell)).max().unwrap_or(0).min(max)
}

fn peers(model: &Model, columns: usize, now: i64) -> Vec<Line> {
    let rows = model.shown_peers();
    let names: Vec<String> = rows.iter().map(|row| tame(word(&row["name"]))).collect();
    let agents: Vec<String> = rows.iter().map(|row| tame(word(&row["agentType"]))).collect();
    let places: Vec<String> = rows.iter().map(|row| place_of(row)).collect();
    let name = column(names.iter(), columns / 4);
    let agent = column(agents.iter(), 11);
    let place = column(places.iter(), columns / 4);
    let unread =
        |row: &Value| row["unread"].as_i64().filter(|n| *n > 0).map_or(String::new(), |n| format!("{n} new  "));
    let unread: Vec<String> = rows.iter().map(|row| unread(row)).collect();
    let n_unread = column(unread.iter(), 16);
    let row = |n: usize| {
        let mut line = vec![(Style::Bold, cell(&names[n], name) + "  ")];
        if columns >= WIDE {
            line.push((Style::Dim, cell(&agents[n], agent) + "  "));
        }
        line.push((Style::Plain, cell(&places[n], place) + "  "));
        let (style, state) = state(rows[n], now - model.told.0);
        line.push((style, cell(&state, 11) + "  "));
        line.push((Style::Warn, cell(&unread[n], n_unread)));
        line.push((Style::Plain, tame(word(&rows[n]["summary"]))));
        line
    };
    (0..rows.len()).map(row).collect()
}

/// The name of its project's directory, and its branch.
fn place_of(row: &Value) -> String {
    let project = word(&row["projectPath"]).trim_end_matches('/');
    let project = tame(project.rsplit('/').next().unwrap_or(""));
    match row["gitBranch"].as_str().filter(|branch| !branch.is_empty()) {
        Some(branch) => format!("{project}@{}", tame(branch)),
        None => project,
    }
}

fn state(row: &Value, passed: i64) -> (Style, String) {
    let idle = row["idleSeconds"].as_i64().unwrap_or(0) * 1000 + passed.max(0);
    match word(&row["status"]) {
        "active" if idle < 60_000 => (Style::Plain, "active".into()),
        "active" => (Style::Dim, format!("idle {}", short_span(idle))),
        other => (Style::Dim, tame(other)),
    }
}

/// A length of time in whole minutes, hours or days: what changes each second is not calm.
fn short_span(ms: i64) -> String {
    match ms / 60_000 {
        minutes @ 0..90 => format!("{minutes} min"),
        minutes @ 90..2880 => format!("{} h", minutes / 60),
        minutes => format!("{} d", minutes / 1440),
    }
}

fn age(at: i64, now: i64) -> String {
    cell(&if now - at < 60_000 { "now".to_owned() } else { short_span(now - at) }, 6) + "  "
}

fn locks(model: &Model, columns: usize, now: i64) -> Vec<Line> {
    let rows = model.shown_locks();
    let paths: Vec<String> = rows.iter().map(|row| path_of(model, word(&row["lockedBy"]), &row["filePath"])).collect();
    let names: Vec<String> = rows.iter().map(|row| tame(word(&row["holder"]))).collect();
    let path = column(paths.iter(), columns * 2 / 5);
    let name = column(names.iter(), columns / 5);
    let row = |n: usize| {
        let left = rows[n]["expiresInSeconds"].as_i64().unwrap_or(0) * 1000 - (now - model.told.1);
        let mut line = vec![
            (Style::Bold, cell(&cut_front(&paths[n], path), path) + "  "),
            (Style::Plain, cell(&names[n], name) + "  "),
            (Style::Dim, cell(&time::span(left), 6) + "  "),
        ];
        let queue: Vec<&str> = rows[n]["queue"].as_array().into_iter().flatten().map(word).collect();
        if !queue.is_empty() {
            let verb = if queue.len() == 1 { "waits" } else { "wait" };
            line.push((Style::Warn, format!("{} {verb}  ", tame(&queue.join(", ")))));
        }
        line.push((Style::Plain, tame(word(&rows[n]["reason"]))));
        line
    };
    (0..rows.len()).map(row).collect()
}

/// A path as people say it: inside its holder's project, or with the name of the project that it is in.
fn path_of(model: &Model, holder: &str, path: &Value) -> String {
    let path = word(path);
    let inside = |root: &str| {
        path.strip_prefix(Some(root).filter(|root| root.len() > 1)?)?.strip_prefix('/').filter(|rest| !rest.is_empty())
    };
    if let Some(rest) = model.project(holder).and_then(inside) {
        return tame(rest);
    }
    let roots = model.projects().filter(|root| inside(root).is_some());
    match roots.max_by_key(|root| root.len()).and_then(|root| root.rsplit_once('/')) {
        Some((above, _)) => tame(&path[above.len() + 1..]),
        None => tame(path),
    }
}

fn mail(model: &Model, columns: usize, now: i64) -> Vec<Line> {
    let rows = model.shown_mail();
    let ways: Vec<String> = rows.iter().map(|mail| way(model, mail)).collect();
    let way = column(ways.iter(), columns * 2 / 5);
    let row = |(mail, shown): (&&Mail, &String)| {
        let (style, receipt) = receipt(mail);
        let is_new = mail.to == model.me.0 && ["sent", "offered"].contains(&receipt.as_str());
        let (style, receipt) = if is_new { (Style::Warn, "unread".to_owned()) } else { (style, receipt) };
        vec![
            (Style::Dim, age(mail.at, now)),
            (Style::Bold, cell(shown, way) + "  "),
            (style, cell(&receipt, 9) + "  "),
            (Style::Plain, excerpt(mail)),
        ]
    };
    rows.iter().zip(&ways).map(row).collect()
}

/// From whom to whom.
pub fn way(model: &Model, mail: &Mail) -> String {
    let to = if mail.group.is_some() { tame(&mail.to) } else { model.name(&mail.to) };
    format!("{} → {to}", model.name(&mail.from))
}

/// How far it got, in a word.
pub fn receipt(mail: &Mail) -> (Style, String) {
    match (mail.receipt.as_str(), mail.group) {
        (_, Some(n)) if n > 0 && mail.n_read() > 0 => (Style::Plain, format!("{}/{n} read", mail.n_read())),
        (_, Some(n)) if n > 0 => (Style::Plain, format!("sent to {n}")),
        ("accepted", _) => (Style::Plain, "sent".into()),
        ("expired", _) => (Style::Warn, "expired".into()),
        (other, _) => (Style::Dim, tame(other)),
    }
}

/// How far each copy of a message to a group got, a line each; nothing for a message of others.
pub fn copies(model: &Model, mail: &Mail) -> String {
    let mut lines: Vec<String> =
        mail.copies.iter().map(|(to, receipt)| format!("{:<24} {}", model.name(to), tame(receipt))).collect();
    lines.sort_by_key(|line| line.to_lowercase());
    let n_more = mail.group.map_or(0, |n| n as usize).saturating_sub(lines.len());
    if n_more > 0 && !lines.is_empty() {
        lines.push(format!("and {n_more} more: slm-mesh inbox --filter sent"));
    }
    if lines.is_empty() { String::new() } else { format!("\n\n{}", lines.join("\n")) }
}

fn excerpt(mail: &Mail) -> String {
    let Some(row) = &mail.row else { return String::new() };
    let kind = match word(&row["type"]) {
        "text" | "" => String::new(),
        other => format!("{}: ", tame(other)),
    };
    // A line has an end; what stands beyond it is not even looked at.
    kind + &tame(&word(&row["payload"]).chars().take(400).collect::<String>())
}

fn events(model: &Model, columns: usize, now: i64) -> Vec<Line> {
    let rows = model.shown_events();
    let who = |row: &&Value| match word(&row["emittedByName"]) {
        "" => model.name(word(&row["emittedBy"])),
        name => tame(name),
    };
    let whos: Vec<String> = rows.iter().map(who).collect();
    let who = column(whos.iter(), columns / 4);
    let row = |(row, shown): (&&Value, &String)| {
        let at = time::parse(word(&row["createdAt"])).unwrap_or(now);
        vec![
            (Style::Dim, age(at, now)),
            (Style::Plain, cell(&tame(word(&row["type"])), 16) + "  "),
            (Style::Bold, cell(shown, who) + "  "),
            (Style::Plain, facts(model, row)),
        ]
    };
    rows.iter().zip(&whos).map(row).collect()
}

/// What an event tells beyond who did what.
fn facts(model: &Model, row: &Value) -> String {
    let (payload, by) = (&row["payload"], word(&row["emittedBy"]));
    let with = |text: String, more: &Value| match more.as_str().filter(|more| !more.is_empty()) {
        Some(more) => format!("{text}  {}", tame(more)),
        None => text,
    };
    match word(&row["type"]) {
        "file_locked" | "file_unlocked" => with(path_of(model, by, &payload["filePath"]), &payload["reason"]),
        "message_received" if payload["count"].is_i64() => {
            format!("to {} ({})", tame(word(&payload["toPeer"])), payload["count"])
        }
        "message_received" => format!("to {}", model.name(word(&payload["toPeer"]))),
        "message_read" => format!("from {}", model.name(word(&payload["fromPeer"]))),
        "peer_joined" => with(tame(word(&payload["agentType"])), &payload["projectPath"]),
        "peer_left" => tame(word(&payload["reason"])),
        "peer_updated" => tame(word(&payload["summary"])),
        "state_changed" => {
            let value = payload["value"].as_str().map_or_else(|| format!("{} bytes", payload["bytes"]), tame);
            format!("{} = {value}", tame(word(&payload["key"])))
        }
        "state_deleted" => tame(word(&payload["key"])),
        _ => {
            let fact = |(name, value): (&String, &Value)| {
                format!("{name}={}", value.as_str().map_or_else(|| value.to_string(), str::to_owned))
            };
            let facts: Vec<String> = payload.as_object().into_iter().flatten().map(fact).collect();
            tame(&facts.join(" ").chars().take(400).collect::<String>())
        }
    }
}

fn opened(title: &str, body: &str, scroll: usize, columns: usize, n_rows: usize) -> Vec<Line> {
    let text = wrap(body, columns.saturating_sub(4));
    let title = tame(title);
    let rule = "─".repeat(columns.saturating_sub(width(&title) + 3));
    let mut lines = vec![vec![(Style::Bold, format!(" {title} ")), (Style::Dim, rule)]];
    let room = n_rows.saturating_sub(1);
    let first = scroll.min(text.len().saturating_sub(room));
    lines.extend(text.into_iter().skip(first).take(room).map(|line| vec![(Style::Plain, format!("  {line}"))]));
    lines
}

/// How far a text can be scrolled on this screen.
pub fn scroll_max(body: &str, columns: usize, rows: usize) -> usize {
    wrap(body, columns.saturating_sub(4)).len().saturating_sub(rows.saturating_sub(3))
}
