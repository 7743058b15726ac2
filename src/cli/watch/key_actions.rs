//! Handles keys. A key changes the state of the view, or requests an action such as sending a message.

use super::conversations::conversation_text;
use super::draw;
use super::key_decoder::Key;
use super::model::{InputMode, InputPrompt, PANES, Pane, WatchModel, word};
use crate::base::limits;
use serde_json::Value;

/// The placeholder for a text that has not arrived yet.
pub const LOADING: &str = "…";

/// An action that a key requests, and that the caller must perform.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UserAction {
    /// Quit the view.
    Quit,
    /// Suspend the process, as Ctrl-Z does in other programs.
    Suspend,
    /// Redraw the whole screen.
    Redraw,
    /// Send a message.
    #[allow(missing_docs)]
    Send { to: String, text: String },
    /// Release the lock that has this token. A newer lock on the same path is kept.
    #[allow(missing_docs)]
    Release { path: String, token: i64 },
    /// Report the messages in these rows as read.
    Opened(Vec<Value>),
    /// Request the messages of this conversation.
    Fetch(String),
    /// Search for messages with these words.
    Search(String),
    /// Show the mailbox of this peer.
    LookAtMailbox(String),
}

/// Handles one key. The size of the screen limits how far text can scroll.
pub fn handle_key(model: &mut WatchModel, key: Key, size: (usize, usize)) -> Option<UserAction> {
    model.note.clear();
    match key {
        Key::Suspend => return Some(UserAction::Suspend),
        Key::Redraw => return Some(UserAction::Redraw),
        Key::Quit => return Some(UserAction::Quit),
        _ => {}
    }
    match std::mem::replace(&mut model.mode, InputMode::Browse) {
        InputMode::Browse => handle_key_in_panes(model, key, size),
        InputMode::Type { prompt, text } => edit_input(model, key, prompt, text),
        InputMode::Confirm { path, token, .. } => match key {
            Key::Char('y' | 'Y') => Some(UserAction::Release { path, token }),
            _ => {
                model.note = "Nothing was released".into();
                None
            }
        },
        InputMode::Open { title, body, scroll } => {
            scroll_open_text(model, key, (title, body, scroll), size);
            None
        }
    }
}

fn handle_key_in_panes(model: &mut WatchModel, key: Key, size: (usize, usize)) -> Option<UserAction> {
    match key {
        Key::Char('q') => return Some(UserAction::Quit),
        Key::Char('?' | 'h') => model.mode = draw::help_text(),
        Key::Char('/') => {
            model.mode = InputMode::Type { prompt: InputPrompt::Filter, text: model.filter.clone() };
        }
        Key::Char('w') => match selected_peer(model) {
            Some(to) => model.mode = InputMode::Type { prompt: InputPrompt::Write(to), text: String::new() },
            None => model.note = "Select a peer to write to".into(),
        },
        Key::Char('m') => match selected_peer(model) {
            Some(owner) => return Some(UserAction::LookAtMailbox(owner)),
            None => model.note = "Select a peer to see its mailbox".into(),
        },
        Key::Char('s') => model.mode = InputMode::Type { prompt: InputPrompt::Search, text: String::new() },
        Key::Char('x') => ask_to_release(model),
        Key::Enter => return open_selected(model),
        Key::Next | Key::Back => {
            let step = if key == Key::Next { 1 } else { PANES.len() - 1 };
            model.pane = PANES[(model.pane as usize + step) % PANES.len()];
        }
        Key::Up | Key::Char('k') => move_selection(model, -1),
        Key::Down | Key::Char('j') => move_selection(model, 1),
        Key::PageUp => move_selection(model, -(size.1 as i64 / 3)),
        Key::PageDown => move_selection(model, size.1 as i64 / 3),
        Key::Home => model.selected[model.pane as usize] = None,
        // If nothing is open, Escape clears the filter.
        Key::Escape => model.filter.clear(),
        _ => {}
    }
    None
}

fn move_selection(model: &mut WatchModel, by: i64) {
    let keys = model.row_keys(model.pane);
    let last = keys.len().saturating_sub(1) as i64;
    let place = (model.selected_row(model.pane) as i64 + by).clamp(0, last) as usize;
    // For the first row, no key is stored, so that the selection stays on the first row when a newer entry arrives.
    model.selected[model.pane as usize] = keys.get(place).cloned().filter(|_| place > 0);
}

fn edit_input(model: &mut WatchModel, key: Key, prompt: InputPrompt, mut text: String) -> Option<UserAction> {
    match key {
        Key::Escape => return None,
        Key::Enter => {
            return match prompt {
                InputPrompt::Filter => {
                    model.filter = text.trim().to_owned();
                    model.selected = [const { None }; 4];
                    None
                }
                InputPrompt::Search => {
                    Some(text.trim().to_owned()).filter(|words| !words.is_empty()).map(UserAction::Search)
                }
                InputPrompt::Write(to) if !text.trim().is_empty() => Some(UserAction::Send { to, text }),
                InputPrompt::Write(_) => None,
            };
        }
        Key::Char(c) if text.len() + c.len_utf8() <= limits::PAYLOAD_MAX => text.push(c),
        Key::Erase => drop(text.pop()),
        Key::Clear => text.clear(),
        _ => {}
    }
    model.mode = InputMode::Type { prompt, text };
    None
}

fn scroll_open_text(model: &mut WatchModel, key: Key, open: (String, String, usize), size: (usize, usize)) {
    let (title, body, scroll) = open;
    let max = draw::max_scroll(&body, size.0, size.1);
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
    model.mode = InputMode::Open { title, body, scroll: scroll.min(max) };
}

/// Returns the peer in the selected row, unless it is the user's own peer.
fn selected_peer(model: &WatchModel) -> Option<String> {
    let place = model.selected_row(model.pane);
    let id = match model.pane {
        Pane::Peers => word(&model.shown_peers().get(place)?["id"]).to_owned(),
        Pane::Locks => word(&model.shown_locks().get(place)?["lockedBy"]).to_owned(),
        Pane::Mail => {
            let mail = model.shown_conversations().get(place)?.last();
            if mail.from == model.me.0 { mail.to.clone() } else { mail.from.clone() }
        }
        Pane::Events => word(&model.shown_events().get(place)?["emittedBy"]).to_owned(),
    };
    (!id.is_empty() && id != model.me.0).then_some(id)
}

fn ask_to_release(model: &mut WatchModel) {
    let place = model.selected_row(Pane::Locks);
    let row = model.shown_locks().get(place).map(|row| (*row).clone());
    match row {
        Some(row) if model.pane == Pane::Locks => {
            model.mode = InputMode::Confirm {
                path: word(&row["filePath"]).to_owned(),
                holder: word(&row["holder"]).to_owned(),
                own: word(&row["lockedBy"]) == model.me.0,
                token: row["token"].as_i64().unwrap_or(0),
            };
        }
        _ => model.note = "Select a lock to release; press Tab to reach the locks".into(),
    }
}

/// Shows the selected row of the focused pane as text over the panes.
pub fn open_selected(model: &mut WatchModel) -> Option<UserAction> {
    let place = model.selected_row(model.pane);
    let (mut action, mut found) = (None, None);
    match model.pane {
        Pane::Peers => found = model.shown_peers().get(place).map(|row| ("Peer", format_fields(row))),
        Pane::Locks => found = model.shown_locks().get(place).map(|row| ("Lock", format_fields(row))),
        Pane::Events => found = model.shown_events().get(place).map(|row| ("Event", format_fields(row))),
        Pane::Mail => {
            if let Some(one) = model.shown_conversations().get(place) {
                let own: Vec<Value> = one.messages.iter().filter_map(|mail| mail.own_as_shown()).collect();
                let is_whole = one.has_beginning() && one.messages.iter().all(|mail| mail.is_whole());
                action = match is_whole {
                    true => {
                        Some(UserAction::Opened(own)).filter(|_| one.messages.iter().any(|mail| mail.own.is_some()))
                    }
                    false => Some(UserAction::Fetch(one.id.to_owned())),
                };
                let before = if one.has_beginning() { String::new() } else { format!("{LOADING}\n\n\n") };
                found = Some(("Conversation", before + &conversation_text(model, one)));
            }
        }
    }
    if let Some((title, body)) = found {
        model.mode = InputMode::Open { title: title.into(), body, scroll: 0 };
    }
    action
}

/// Updates the open text of a conversation after more of its messages have arrived. Returns an action that reports them
/// as read.
pub fn show_more(model: &mut WatchModel, id: &str) -> Option<UserAction> {
    let is_open = matches!(&model.mode, InputMode::Open { body, .. } if body.contains(LOADING));
    let is_selected = model.pane == Pane::Mail
        && model.shown_conversations().get(model.selected_row(Pane::Mail)).is_some_and(|one| one.id == id);
    // The broker has sent all messages that still exist. So a missing message is not requested again.
    let shown = (is_open && is_selected).then(|| open_selected(model)).flatten();
    shown.filter(|action| matches!(action, UserAction::Opened(_)))
}

/// Formats a row as one line per field: the name, then the value.
fn format_fields(row: &Value) -> String {
    let shown = |value: &Value| match value {
        Value::String(text) => text.clone(),
        Value::Array(list) => list.iter().map(|item| word(item).to_owned()).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    };
    let rows = row.as_object().into_iter().flatten().filter(|(_, value)| !value.is_null() && **value != "");
    rows.map(|(name, value)| format!("{name:<16} {}", shown(value))).collect::<Vec<_>>().join("\n")
}
