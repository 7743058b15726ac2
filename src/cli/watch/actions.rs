//! What a key does to what is known, and what it asks of the world.

use super::draw;
use super::keys::Key;
use super::model::{Mode, Model, PANES, Pane, Prompt, word};
use crate::base::{limits, time};
use serde_json::Value;

/// What is to be done outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wish {
    /// End.
    Quit,
    /// Stop the job, as Ctrl-Z does elsewhere.
    Suspend,
    /// Draw everything anew.
    Redraw,
    /// Send a message.
    #[allow(missing_docs)]
    Send { to: String, text: String },
    /// Free a lock: exactly the grant that was seen.
    #[allow(missing_docs)]
    Release { path: String, token: i64 },
    /// A message was opened: its row.
    Opened(Value),
}

/// Presses a key. The size of the screen says how far things scroll.
pub fn press(model: &mut Model, key: Key, size: (usize, usize)) -> Option<Wish> {
    model.note.clear();
    match key {
        Key::Suspend => return Some(Wish::Suspend),
        Key::Redraw => return Some(Wish::Redraw),
        Key::Quit => return Some(Wish::Quit),
        _ => {}
    }
    match std::mem::replace(&mut model.mode, Mode::Look) {
        Mode::Look => look(model, key, size),
        Mode::Type { prompt, text } => typed(model, key, prompt, text),
        Mode::Confirm { path, token, .. } => match key {
            Key::Char('y' | 'Y') => Some(Wish::Release { path, token }),
            _ => {
                model.note = "Nothing was released".into();
                None
            }
        },
        Mode::Open { title, body, scroll } => {
            read(model, key, (title, body, scroll), size);
            None
        }
    }
}

fn look(model: &mut Model, key: Key, size: (usize, usize)) -> Option<Wish> {
    match key {
        Key::Char('q') => return Some(Wish::Quit),
        Key::Char('?' | 'h') => model.mode = draw::help(),
        Key::Char('/') => {
            model.mode = Mode::Type { prompt: Prompt::Filter, text: model.filter.clone() };
        }
        Key::Char('w') => match other(model) {
            Some(to) => model.mode = Mode::Type { prompt: Prompt::Write(to), text: String::new() },
            None => model.note = "Choose a peer to write to".into(),
        },
        Key::Char('x') => release(model),
        Key::Enter => return open(model),
        Key::Next | Key::Back => {
            let step = if key == Key::Next { 1 } else { PANES.len() - 1 };
            model.pane = PANES[(model.pane as usize + step) % PANES.len()];
        }
        Key::Up | Key::Char('k') => walk(model, -1),
        Key::Down | Key::Char('j') => walk(model, 1),
        Key::PageUp => walk(model, -(size.1 as i64 / 3)),
        Key::PageDown => walk(model, size.1 as i64 / 3),
        Key::Home => model.chosen[model.pane as usize] = None,
        // What one backs out of when nothing is open is the filter.
        Key::Escape => model.filter.clear(),
        _ => {}
    }
    None
}

fn walk(model: &mut Model, by: i64) {
    let keys = model.keys(model.pane);
    let last = keys.len().saturating_sub(1) as i64;
    let place = (model.place(model.pane) as i64 + by).clamp(0, last) as usize;
    // The first row is the newest, whichever that is.
    model.chosen[model.pane as usize] = keys.get(place).cloned().filter(|_| place > 0);
}

fn typed(model: &mut Model, key: Key, prompt: Prompt, mut text: String) -> Option<Wish> {
    match key {
        Key::Escape => return None,
        Key::Enter => {
            return match prompt {
                Prompt::Filter => {
                    model.filter = text.trim().to_owned();
                    model.chosen = [const { None }; 4];
                    None
                }
                Prompt::Write(to) if !text.trim().is_empty() => Some(Wish::Send { to, text }),
                Prompt::Write(_) => None,
            };
        }
        Key::Char(c) if text.len() + c.len_utf8() <= limits::PAYLOAD_MAX => text.push(c),
        Key::Erase => drop(text.pop()),
        Key::Clear => text.clear(),
        _ => {}
    }
    model.mode = Mode::Type { prompt, text };
    None
}

fn read(model: &mut Model, key: Key, open: (String, String, usize), size: (usize, usize)) {
    let (title, body, scroll) = open;
    let max = draw::scroll_max(&body, size.0, size.1);
    let page = size.1.saturating_sub(4);
    let scroll = match key {
        Key::Char('q' | '?') | Key::Escape | Key::Enter | Key::Back => return,
        Key::Up | Key::Char('k') => scroll.saturating_sub(1),
        Key::Down | Key::Char('j') => scroll + 1,
        Key::PageUp => scroll.saturating_sub(page),
        Key::PageDown | Key::Char(' ') => scroll + page,
        Key::Home => 0,
        _ => scroll,
    };
    model.mode = Mode::Open { title, body, scroll: scroll.min(max) };
}

/// The peer that the chosen row is about, other than ourselves.
fn other(model: &Model) -> Option<String> {
    let place = model.place(model.pane);
    let id = match model.pane {
        Pane::Peers => word(&model.shown_peers().get(place)?["id"]).to_owned(),
        Pane::Locks => word(&model.shown_locks().get(place)?["lockedBy"]).to_owned(),
        Pane::Mail => {
            let mail = model.shown_mail().get(place).map(|mail| (*mail).clone())?;
            if mail.from == model.me.0 { mail.to } else { mail.from }
        }
        Pane::Events => word(&model.shown_events().get(place)?["emittedBy"]).to_owned(),
    };
    (!id.is_empty() && id != model.me.0).then_some(id)
}

fn release(model: &mut Model) {
    let place = model.place(Pane::Locks);
    let row = model.shown_locks().get(place).map(|row| (*row).clone());
    match row {
        Some(row) if model.pane == Pane::Locks => {
            model.mode = Mode::Confirm {
                path: word(&row["filePath"]).to_owned(),
                holder: word(&row["holder"]).to_owned(),
                own: word(&row["lockedBy"]) == model.me.0,
                token: row["token"].as_i64().unwrap_or(0),
            };
        }
        _ => model.note = "Choose a lock to release: Tab goes to the locks".into(),
    }
}

fn open(model: &mut Model) -> Option<Wish> {
    let place = model.place(model.pane);
    let (mut wish, mut found) = (None, None);
    match model.pane {
        Pane::Peers => found = model.shown_peers().get(place).map(|row| ("Peer", fields(row))),
        Pane::Locks => found = model.shown_locks().get(place).map(|row| ("Lock", fields(row))),
        Pane::Events => found = model.shown_events().get(place).map(|row| ("Event", fields(row))),
        Pane::Mail => {
            if let Some(mail) = model.shown_mail().get(place) {
                let head = format!(
                    "{}\n{}, {}\n\n",
                    draw::way(model, mail),
                    time::sqlite(&time::iso(mail.at)) + " UTC",
                    draw::receipt(mail).1
                );
                let body = match &mail.row {
                    Some(row) => {
                        wish = Some(Wish::Opened(row.clone())).filter(|_| row["toName"].is_null());
                        let part =
                            row["parts"].as_i64().map(|_| "\n\n(only the first part is shown here: slm-mesh inbox)");
                        word(&row["payload"]).to_owned() + part.unwrap_or("")
                    }
                    None => "Its text is for its sender and its recipient alone.".into(),
                };
                found = Some(("Message", head + &body + &draw::copies(model, mail)));
            }
        }
    }
    if let Some((title, body)) = found {
        model.mode = Mode::Open { title: title.into(), body, scroll: 0 };
    }
    wish
}

/// A row as lines of name and value.
fn fields(row: &Value) -> String {
    let shown = |value: &Value| match value {
        Value::String(text) => text.clone(),
        Value::Array(list) => list.iter().map(|item| word(item).to_owned()).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    };
    let rows = row.as_object().into_iter().flatten().filter(|(_, value)| !value.is_null() && **value != "");
    rows.map(|(name, value)| format!("{name:<16} {}", shown(value))).collect::<Vec<_>>().join("\n")
}
