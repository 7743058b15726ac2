//! Draws the state of the live view as lines of styled text, for a given screen size and time.
//!
//! **Invariant:** no line is wider than the screen, and there is exactly one line for each row of the screen.

use super::conversations::Conversation;
use super::model::{InputMode, InputPrompt, PANES, Pane, WatchModel, WatchedMessage, word};
use super::sanitize_and_wrap_text::{cell, cut, cut_front, tame, width, wrap};
use crate::base::counted::counted;
use crate::base::domain_enums::MessageState;
use crate::base::time_format;
use serde_json::Value;

/// The look of a piece of text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TextStyle {
    /// The terminal's default.
    Plain,
    /// Important text.
    Bold,
    /// Secondary text.
    Dim,
    /// Text that needs attention, or that shows who is waiting.
    Warn,
    /// The selected row.
    Selected,
}

/// A line that consists of pieces of text, each with its style.
pub type StyledLine = Vec<(TextStyle, String)>;

/// On a screen with fewer rows than this, the focused pane fills the whole screen.
const ROWS_FOR_ALL: usize = 14;
/// On a screen with at least this many columns, rows are shown with all their cells.
const WIDE: usize = 64;

/// Explains the keys and the receipts. No line is wider than 80 columns.
const HELP: &str = include_str!("keys.txt");

/// Draws the whole screen.
pub fn draw_screen(model: &WatchModel, columns: usize, rows: usize, now: i64) -> Vec<StyledLine> {
    let mut lines = Vec::with_capacity(rows);
    lines.push(header(model));
    let n_rows = rows.saturating_sub(2);
    match &model.mode {
        InputMode::Open { title, body, scroll } => lines.extend(draw_open_text(title, body, *scroll, columns, n_rows)),
        _ => {
            for (pane, n) in divide_rows(model, n_rows) {
                lines.extend(draw_pane(model, pane, columns, n, now));
            }
        }
    }
    lines.resize(rows.saturating_sub(1), StyledLine::new());
    lines.push(footer(model, columns));
    lines.truncate(rows);
    lines.into_iter().map(|line| cut_to_width(line, columns)).collect()
}

/// The help text, which is shown over the panes.
pub fn help_text() -> InputMode {
    InputMode::Open { title: "Keys".into(), body: HELP.into(), scroll: 0 }
}

fn cut_to_width(line: StyledLine, columns: usize) -> StyledLine {
    let mut room = columns;
    let mut kept = StyledLine::new();
    for (style, text) in line {
        let text = cut(&text, room);
        room -= width(&text);
        if !text.is_empty() {
            kept.push((style, text));
        }
    }
    kept
}

fn header(model: &WatchModel) -> StyledLine {
    let mut line = vec![(TextStyle::Bold, format!(" slm-mesh  you are {}", tame(&model.me.1)))];
    if model.unread > 0 {
        line.push((TextStyle::Warn, format!("  {} unread for you", model.unread)));
    }
    if let Some((leader, n_standbys)) = &model.hubs {
        let style = if *n_standbys == 0 { TextStyle::Warn } else { TextStyle::Dim };
        line.push((style, format!("  leader {}, {n_standbys} on standby", tame(leader))));
    }
    if !model.filter.is_empty() {
        line.push((TextStyle::Bold, format!("  showing {}", tame(&model.filter))));
    }
    if let Some(why) = &model.offline {
        line.push((TextStyle::Warn, format!("  no broker ({}); waiting for one", tame(why))));
    }
    line
}

fn footer(model: &WatchModel, columns: usize) -> StyledLine {
    match &model.mode {
        InputMode::Type { prompt, text } => {
            let ask = match prompt {
                InputPrompt::Filter => " show project: ".to_owned(),
                InputPrompt::Search => " messages with: ".to_owned(),
                InputPrompt::Write(to) => format!(" to {}: ", cut(&model.name(to), 20)),
            };
            // If the text is too long for the line, its end is shown, because the user types there.
            let room = columns.saturating_sub(width(&ask) + 1);
            vec![
                (TextStyle::Bold, ask),
                (TextStyle::Plain, cut_front(&tame(text), room)),
                (TextStyle::Selected, " ".into()),
            ]
        }
        InputMode::Confirm { path, holder, own, .. } => {
            let ask = match own {
                true => "? You hold it. y/n".to_owned(),
                false => format!("? {} holds it and will be notified. y/n", cut(&tame(holder), 20)),
            };
            let room = columns.saturating_sub(width(&ask) + 9);
            vec![(TextStyle::Warn, format!(" Release {}{ask}", cut_front(&tame(path), room)))]
        }
        InputMode::Open { .. } => vec![(TextStyle::Dim, " ↑↓ scroll · Esc back".into())],
        InputMode::Browse if !model.note.is_empty() => vec![(TextStyle::Bold, format!(" {}", tame(&model.note)))],
        InputMode::Browse if columns < WIDE => vec![(TextStyle::Dim, " Tab pane · ? help · q quit".into())],
        InputMode::Browse => {
            vec![(TextStyle::Dim, " Tab pane · Enter open · w write · m mailbox · s search · ? help · q quit".into())]
        }
    }
}

/// Divides the lines of the screen among the panes and their titles. A pane with few rows gets only as many lines as it
/// needs. The remaining lines go to the events.
fn divide_rows(model: &WatchModel, n_rows: usize) -> Vec<(Pane, usize)> {
    if n_rows + 2 < ROWS_FOR_ALL {
        return vec![(model.pane, n_rows)];
    }
    let wants = PANES.map(|pane| model.row_keys(pane).len().max(1));
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

fn draw_pane(model: &WatchModel, pane: Pane, columns: usize, n_rows: usize, now: i64) -> Vec<StyledLine> {
    let focused = model.pane == pane;
    let rows = match pane {
        Pane::Peers => draw_peers(model, columns, now),
        Pane::Locks => draw_locks(model, columns, now),
        Pane::Mail => draw_messages(model, columns, now),
        Pane::Events => draw_events(model, columns, now),
    };
    let (title, none) = match pane {
        Pane::Peers => (format!("Peers {}", rows.len()), "no peers"),
        Pane::Locks => (format!("Locks {}", rows.len()), "no locks"),
        Pane::Mail => ("Messages".into(), "none yet"),
        Pane::Events => ("Events".into(), "none yet"),
    };
    let rule = "─".repeat(columns.saturating_sub(width(&title) + 3));
    let style = if focused { TextStyle::Bold } else { TextStyle::Dim };
    let mut lines = vec![vec![(style, format!(" {title} ")), (TextStyle::Dim, rule)]];
    let n_rows = n_rows.saturating_sub(1);
    if rows.is_empty() {
        lines.push(vec![(TextStyle::Dim, format!("  {none}"))]);
    }
    let place = model.selected_row(pane);
    let first = (place + 1).saturating_sub(n_rows);
    for (n, row) in rows.into_iter().enumerate().skip(first).take(n_rows) {
        let is_chosen = focused && n == place;
        let mark = if is_chosen { "› " } else { "  " };
        let mut line = vec![(if is_chosen { TextStyle::Selected } else { TextStyle::Plain }, mark.to_owned())];
        line.extend(row.into_iter().map(|(style, text)| (if is_chosen { TextStyle::Selected } else { style }, text)));
        lines.push(line);
    }
    lines.resize(n_rows + 1, StyledLine::new());
    lines.truncate(n_rows + 1);
    lines
}

/// The width of the widest cell, but no more than `max`.
fn column_width<'a>(cells: impl Iterator<Item = &'a String>, max: usize) -> usize {
    cells.map(|cell| width(cell)).max().unwrap_or(0).min(max)
}

fn draw_peers(model: &WatchModel, columns: usize, now: i64) -> Vec<StyledLine> {
    let rows = model.shown_peers();
    let names: Vec<String> = rows.iter().map(|row| tame(word(&row["name"]))).collect();
    let agents: Vec<String> = rows.iter().map(|row| tame(word(&row["agentType"]))).collect();
    let places: Vec<String> = rows.iter().map(|row| project_and_branch(row)).collect();
    let name = column_width(names.iter(), columns / 4);
    let agent = column_width(agents.iter(), 11);
    let place = column_width(places.iter(), columns / 4);
    let unread =
        |row: &Value| row["unread"].as_i64().filter(|n| *n > 0).map_or(String::new(), |n| format!("{n} new  "));
    let unread: Vec<String> = rows.iter().map(|row| unread(row)).collect();
    let n_unread = column_width(unread.iter(), 16);
    let row = |n: usize| {
        let mut line = vec![(TextStyle::Bold, cell(&names[n], name) + "  ")];
        if columns >= WIDE {
            line.push((TextStyle::Dim, cell(&agents[n], agent) + "  "));
        }
        line.push((TextStyle::Plain, cell(&places[n], place) + "  "));
        let (style, state) = state(rows[n], now - model.received_at.0);
        line.push((style, cell(&state, 11) + "  "));
        line.push((TextStyle::Warn, cell(&unread[n], n_unread)));
        line.push((TextStyle::Plain, tame(word(&rows[n]["summary"]))));
        line
    };
    (0..rows.len()).map(row).collect()
}

/// Formats the peer's project directory and branch, as in `api@main`.
fn project_and_branch(row: &Value) -> String {
    let project = word(&row["projectPath"]).trim_end_matches('/');
    let project = tame(project.rsplit('/').next().unwrap_or(""));
    match row["gitBranch"].as_str().filter(|branch| !branch.is_empty()) {
        Some(branch) => format!("{project}@{}", tame(branch)),
        None => project,
    }
}

fn state(row: &Value, passed: i64) -> (TextStyle, String) {
    let idle = row["idleSeconds"].as_i64().unwrap_or(0) * 1000 + passed.max(0);
    match word(&row["status"]) {
        "active" if idle < 60_000 => (TextStyle::Plain, "active".into()),
        "active" => (TextStyle::Dim, format!("idle {}", short_span(idle))),
        other => (TextStyle::Dim, tame(other)),
    }
}

/// Formats a time span in whole minutes, hours or days. Seconds would change all the time and distract the user.
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

fn draw_locks(model: &WatchModel, columns: usize, now: i64) -> Vec<StyledLine> {
    let rows = model.shown_locks();
    let paths: Vec<String> =
        rows.iter().map(|row| short_path(model, word(&row["lockedBy"]), &row["filePath"])).collect();
    let names: Vec<String> = rows.iter().map(|row| tame(word(&row["holder"]))).collect();
    let path = column_width(paths.iter(), columns * 2 / 5);
    let name = column_width(names.iter(), columns / 5);
    let row = |n: usize| {
        let left = rows[n]["expiresInSeconds"].as_i64().unwrap_or(0) * 1000 - (now - model.received_at.1);
        let mut line = vec![
            (TextStyle::Bold, cell(&cut_front(&paths[n], path), path) + "  "),
            (TextStyle::Plain, cell(&names[n], name) + "  "),
            (TextStyle::Dim, cell(&time_format::span(left), 6) + "  "),
        ];
        let queue: Vec<&str> = rows[n]["queue"].as_array().into_iter().flatten().map(word).collect();
        if !queue.is_empty() {
            let verb = if queue.len() == 1 { "waits" } else { "wait" };
            line.push((TextStyle::Warn, format!("{} {verb}  ", tame(&queue.join(", ")))));
        }
        line.push((TextStyle::Plain, tame(word(&rows[n]["reason"]))));
        line
    };
    (0..rows.len()).map(row).collect()
}

/// Shortens a path. The path of a file in the holder's project is shown relative to the project. The path of a file in
/// a different project begins with the name of that project's folder.
fn short_path(model: &WatchModel, holder: &str, path: &Value) -> String {
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

fn draw_messages(model: &WatchModel, columns: usize, now: i64) -> Vec<StyledLine> {
    let rows = model.shown_conversations();
    let ways: Vec<String> = rows.iter().map(|one| route(model, one.last())).collect();
    let way = column_width(ways.iter(), columns * 2 / 5);
    let row = |(one, shown): (&Conversation<'_>, &String)| {
        let mail = one.last();
        let n_before = one.messages.len() - 1;
        let folded = if n_before > 0 { format!("({n_before} before) ") } else { String::new() };
        let (style, receipt) = receipt_label(mail);
        let is_new = mail.to == model.me.0
            && mail.group.is_none_or(|n| n == 0)
            && mail.receipt.is_some_and(MessageState::is_unread);
        let (style, receipt) = if is_new { (TextStyle::Warn, "unread".to_owned()) } else { (style, receipt) };
        vec![
            (TextStyle::Dim, age(mail.at, now)),
            (TextStyle::Bold, cell(shown, way) + "  "),
            (style, cell(&receipt, 9) + "  "),
            (TextStyle::Dim, folded),
            (TextStyle::Plain, excerpt(mail)),
        ]
    };
    rows.iter().zip(&ways).map(row).collect()
}

/// Formats the sender and the recipient, as in `a → b`.
pub fn route(model: &WatchModel, mail: &WatchedMessage) -> String {
    let to = if mail.group.is_some() { tame(&mail.to) } else { model.name(&mail.to) };
    format!("{} → {to}", model.name(&mail.from))
}

/// Returns the receipt in one word, with its style.
pub fn receipt_label(mail: &WatchedMessage) -> (TextStyle, String) {
    match (mail.receipt, mail.group) {
        (_, Some(n)) if n > 0 && mail.n_read() > 0 => (TextStyle::Plain, format!("{}/{n} read", mail.n_read())),
        (_, Some(n)) if n > 0 => (TextStyle::Plain, format!("sent to {n}")),
        (Some(MessageState::Accepted), _) => (TextStyle::Plain, "sent".into()),
        (Some(MessageState::Expired), _) => (TextStyle::Warn, "expired".into()),
        (other, _) => (TextStyle::Dim, other.map_or("", MessageState::word).to_owned()),
    }
}

/// Lists the receipt of each copy of a group message, one per line. Returns an empty string if the user did not send
/// the message.
pub fn copy_receipts(model: &WatchModel, mail: &WatchedMessage) -> String {
    let mut lines: Vec<String> =
        mail.copies.iter().map(|(to, receipt)| format!("{:<24} {}", model.name(to), receipt.word())).collect();
    lines.sort_by_key(|line| line.to_lowercase());
    let n_more = mail.group.map_or(0, |n| n as usize).saturating_sub(lines.len());
    if n_more > 0 && !lines.is_empty() {
        lines.push(format!("and {n_more} more; run slm-mesh inbox --filter sent"));
    }
    if lines.is_empty() { String::new() } else { format!("\n\n{}", lines.join("\n")) }
}

fn excerpt(mail: &WatchedMessage) -> String {
    let Some(row) = &mail.row else { return String::new() };
    let kind = match word(&row["type"]) {
        "text" | "" => String::new(),
        other => format!("{}: ", tame(other)),
    };
    // No line has more than 400 characters, so the rest of the text is not processed.
    kind + &tame(&word(&row["payload"]).chars().take(400).collect::<String>())
}

fn draw_events(model: &WatchModel, columns: usize, now: i64) -> Vec<StyledLine> {
    let rows = model.shown_events();
    let who = |row: &&Value| match word(&row["emittedByName"]) {
        "" => model.name(word(&row["emittedBy"])),
        name => tame(name),
    };
    let whos: Vec<String> = rows.iter().map(who).collect();
    let who = column_width(whos.iter(), columns / 4);
    let row = |(row, shown): (&&Value, &String)| {
        let at = time_format::parse(word(&row["createdAt"])).unwrap_or(now);
        vec![
            (TextStyle::Dim, age(at, now)),
            (TextStyle::Plain, cell(&tame(word(&row["type"])), 16) + "  "),
            (TextStyle::Bold, cell(shown, who) + "  "),
            (TextStyle::Plain, event_details(model, row)),
        ]
    };
    rows.iter().zip(&whos).map(row).collect()
}

/// Formats the details of an event, without its type and its author.
fn event_details(model: &WatchModel, row: &Value) -> String {
    let (payload, by) = (&row["payload"], word(&row["emittedBy"]));
    let with = |text: String, more: &Value| match more.as_str().filter(|more| !more.is_empty()) {
        Some(more) => format!("{text}  {}", tame(more)),
        None => text,
    };
    match word(&row["type"]) {
        "file_locked" | "file_unlocked" => with(short_path(model, by, &payload["filePath"]), &payload["reason"]),
        "message_received" if payload["count"].is_i64() => {
            format!("to {} ({})", tame(word(&payload["toPeer"])), payload["count"])
        }
        "message_received" => format!("to {}", model.name(word(&payload["toPeer"]))),
        "message_read" => format!("from {}", model.name(word(&payload["fromPeer"]))),
        "peer_joined" => with(tame(word(&payload["agentType"])), &payload["projectPath"]),
        "peer_left" => tame(word(&payload["reason"])),
        "peer_updated" => tame(word(&payload["summary"])),
        "state_changed" => {
            // If both the text and the size are missing, the value has been removed, because its entry was deleted
            // later.
            let value = match (payload["value"].as_str(), payload["bytes"].as_u64()) {
                (Some(text), _) => tame(text),
                (None, Some(size)) => counted(size as usize, "byte", "bytes"),
                (None, None) => "(deleted since)".into(),
            };
            format!("{} = {value}", tame(word(&payload["key"])))
        }
        "state_deleted" => tame(word(&payload["key"])),
        "channel_joined" | "channel_left" => tame(word(&payload["channel"])),
        _ => {
            let fact = |(name, value): (&String, &Value)| {
                format!("{name}={}", value.as_str().map_or_else(|| value.to_string(), str::to_owned))
            };
            let facts: Vec<String> = payload.as_object().into_iter().flatten().map(fact).collect();
            tame(&facts.join(" ").chars().take(400).collect::<String>())
        }
    }
}

fn draw_open_text(title: &str, body: &str, scroll: usize, columns: usize, n_rows: usize) -> Vec<StyledLine> {
    let text = wrap(body, columns.saturating_sub(4));
    let title = tame(title);
    let rule = "─".repeat(columns.saturating_sub(width(&title) + 3));
    let mut lines = vec![vec![(TextStyle::Bold, format!(" {title} ")), (TextStyle::Dim, rule)]];
    let room = n_rows.saturating_sub(1);
    let first = scroll.min(text.len().saturating_sub(room));
    lines.extend(text.into_iter().skip(first).take(room).map(|line| vec![(TextStyle::Plain, format!("  {line}"))]));
    lines
}

/// Returns how many lines the text can be scrolled on a screen of this size.
pub fn max_scroll(body: &str, columns: usize, rows: usize) -> usize {
    wrap(body, columns.saturating_sub(4)).len().saturating_sub(rows.saturating_sub(3))
}
