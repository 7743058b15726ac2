//! `watch`: who is here, what they hold, say and do, drawn anew as events arrive; or a line for each
//! event, for pipes.
//!
//! The terminal is driven with rustix's termios and a dozen escape sequences: four panes and a line
//! to type in are less than what a curses crate brings along.

pub mod actions;
pub mod draw;
#[cfg(test)]
mod draw_tests;
pub mod feed;
pub mod keys;
pub mod model;
pub mod text;

use super::args::Parsed;
use super::{put, render, surroundings};
use crate::base::error::{Error, ErrorKind};
use crate::sys;
use crate::sys::terminal::{self, Terminal};
use actions::Wish;
use draw::{Line, Style};
use feed::{Asked, Feed, Heard};
use keys::Keys;
use model::{Model, word};
use serde_json::{Map, Value, json};
use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

/// Events from before that the first screen shows.
const N_OLD: i64 = 50;
/// The screen is drawn at most this often: an event is to be seen within 100 ms.
const DRAWS_EVERY: Duration = Duration::from_millis(80);
/// A list that events made old is asked for at most this often.
const ASKS_EVERY: Duration = Duration::from_millis(250);
/// What no event tells (who is idle, who waits in line) is looked at this often.
const LOOKS_EVERY: Duration = Duration::from_secs(2);
/// Clocks on the screen go on this often.
const TICKS_EVERY: Duration = Duration::from_secs(1);
/// How often a lost broker is looked for.
const TRIES_EVERY: Duration = Duration::from_millis(500);
/// How long the rest of a key may take, also over ssh.
const KEY_TAKES: Duration = Duration::from_millis(60);

/// Runs the view, or prints lines where nobody can look at one.
pub fn watch(parsed: &Parsed, plain: bool) -> Result<u8, Error> {
    let (places, settings) = surroundings()?;
    let plain = plain || parsed.json || !terminal::is_capable();
    // Lists are asked for by nobody: whom this acts as does nothing while somebody looks on.
    let common = Map::from_iter([("v".to_owned(), json!(env!("CARGO_PKG_VERSION")))]);
    let mut feed = Feed::new(places, common, if plain { 0 } else { N_OLD })?;
    if plain {
        return lines(feed, parsed.json);
    }
    let named = Some(settings.text("SLM_MESH_PEER").to_owned()).filter(|name| !name.is_empty());
    let who = match parsed.acting.clone().or(named) {
        Some(name) => json!({ "as": name }),
        // Also in the shell of an agent, or of several, it is a person who looks at a screen.
        None => match feed.call("whoami", json!({})) {
            Ok(found) if found["kind"] == json!("human") => json!({ "as": found["you"]["id"] }),
            Err(error) if error.kind != ErrorKind::Ambiguous => return Err(error),
            _ => json!({ "as": "human" }),
        },
    };
    let you = feed.call("whoami", who)?["you"].clone();
    let terminal = Terminal::take().map_err(|error| {
        Error::new(ErrorKind::Internal, format!("the terminal can't be taken ({error}); try --plain"))
    })?;
    let view = View {
        feed,
        model: Model::new(word(&you["id"]), word(&you["name"])),
        terminal,
        colour: terminal::has_colour(),
        painted: Vec::new(),
        keys: Keys::default(),
        is_old: true,
        drawn: None,
        asked: [None; 4],
        looked: Instant::now(),
        tried: Instant::now(),
    };
    view.run().map_err(|error| Error::new(ErrorKind::Internal, format!("the terminal is gone ({error})")))
}

/// A line for each event, until nobody reads them.
fn lines(mut feed: Feed, is_json: bool) -> Result<u8, Error> {
    loop {
        for heard in feed.hear(true) {
            match heard {
                Heard::Event(row) => {
                    if !put(&if is_json { row.to_string() } else { render::line("events.read", &row) })? {
                        return Ok(0);
                    }
                }
                Heard::Lost(why) => {
                    sys::complain(&format!(
                        "slm-mesh: no broker ({}); this goes on when the next one is there",
                        render::plain(&why)
                    ));
                }
                Heard::Answer(..) => {}
            }
        }
        while feed.client().is_none() && !feed.retry() {
            std::thread::sleep(TRIES_EVERY);
        }
    }
}

/// The view, with all that it needs.
struct View {
    feed: Feed,
    model: Model,
    terminal: Terminal,
    colour: bool,
    /// What stands on the screen, line by line.
    painted: Vec<String>,
    keys: Keys,
    /// Something may look different since it was drawn.
    is_old: bool,
    drawn: Option<Instant>,
    /// When peers, locks, mail and names were asked for last.
    asked: [Option<Instant>; 4],
    looked: Instant,
    tried: Instant,
}

impl View {
    fn run(mut self) -> io::Result<u8> {
        loop {
            for heard in self.feed.hear(false) {
                self.is_old = true;
                self.heard(heard);
            }
            self.connect();
            self.refresh();
            self.draw()?;
            let time = self.pause();
            let woken = self.terminal.wait(self.feed.client().map(AsFd::as_fd), Some(time))?;
            if let Some(signal) = woken.end {
                return Ok(128 + signal as u8);
            }
            if woken.closed {
                return Ok(0);
            }
            if woken.anew {
                self.painted.clear();
                self.is_old = true;
            }
            let mut keys = self.keys.take(&woken.keys);
            if woken.keys.is_empty() && !woken.other && self.keys.waits() {
                keys.extend(self.keys.give_up());
            }
            for key in keys {
                (self.is_old, self.drawn) = (true, None);
                let wish = actions::press(&mut self.model, key, self.terminal.size());
                if wish == Some(Wish::Quit) {
                    return Ok(0);
                }
                self.fulfil(wish)?;
            }
        }
    }

    fn heard(&mut self, heard: Heard) {
        let now = sys::wall_ms();
        match heard {
            Heard::Event(row) => self.model.event(row),
            Heard::Lost(why) => self.model.offline = Some(why),
            Heard::Answer(asked, result) => match (asked, result) {
                (Asked::Peers, Ok(value)) => self.model.take_peers(&value, now),
                (Asked::Names, Ok(value)) => self.model.take_names(&value),
                (Asked::Locks, Ok(value)) => self.model.take_locks(&value, now),
                (Asked::Mine | Asked::Sent, Ok(value)) => self.model.take_mail(&value),
                (Asked::Me, Ok(value)) => self.model.unread = value["you"]["unread"].as_i64().unwrap_or(0),
                (Asked::Send(to), Ok(value)) => {
                    let is_away = value["recipients"][0]["here"] == json!(false);
                    let note = if is_away { " (away; it waits in the mailbox)" } else { "" };
                    self.model.note = format!("Sent to {}{note}", self.model.name(&to));
                }
                (Asked::Release(path), Ok(_)) => self.model.note = format!("Released {path}"),
                (Asked::Send(_) | Asked::Release(_), Err(error)) => self.model.note = error.text,
                // A list that was refused is asked for again with the next look.
                _ => {}
            },
        }
    }

    fn fulfil(&mut self, wish: Option<Wish>) -> io::Result<()> {
        match wish {
            Some(Wish::Suspend) => {
                self.terminal.suspend()?;
                self.painted.clear();
            }
            Some(Wish::Redraw) => self.painted.clear(),
            Some(Wish::Send { to, text }) => {
                let key = format!("auto-{:032x}", sys::chance());
                let params = self.mine(json!({ "to": to, "message": text, "key": key }));
                self.feed.ask(Asked::Send(to), "send", params);
            }
            Some(Wish::Release { path, token }) => {
                let params = self.mine(json!({ "filePath": path, "token": token }));
                self.feed.ask(Asked::Release(path), "lock.unlock", params);
            }
            Some(Wish::Opened(row)) => {
                let items = crate::mcp::shown_items(&json!({ "messages": [row] }));
                if !items.is_empty() {
                    let params = self.mine(json!({ "items": items }));
                    self.feed.ask(Asked::Nothing, "shown", params);
                }
            }
            Some(Wish::Quit) | None => {}
        }
        Ok(())
    }

    /// Parameters of a call that acts as somebody.
    fn mine(&self, mut params: Value) -> Value {
        params["as"] = json!(self.model.me.0);
        params
    }

    /// Looks for a broker when there is none.
    fn connect(&mut self) {
        if self.feed.client().is_some() || self.tried.elapsed() < TRIES_EVERY {
            return;
        }
        self.tried = Instant::now();
        if self.feed.retry() {
            self.model.offline = None;
            self.model.stale = model::Stale { peers: true, locks: true, mail: true, names: true };
        }
        // Starting one may have said something on the screen.
        self.painted.clear();
        self.is_old = true;
    }

    /// Asks for lists that are old, each at most so often and once at a time.
    fn refresh(&mut self) {
        if self.feed.client().is_none() {
            return;
        }
        if self.looked.elapsed() >= LOOKS_EVERY {
            self.looked = Instant::now();
            (self.model.stale.peers, self.model.stale.locks) = (true, true);
        }
        let whole = json!({ "scope": "machine", "includeAway": true });
        let list = |filter: &str| self.mine(json!({ "filter": filter, "limit": 40 }));
        let lists = [
            vec![(Asked::Peers, "peers", json!({ "scope": "machine" }))],
            vec![(Asked::Locks, "lock.query", json!({}))],
            vec![
                (Asked::Me, "whoami", self.mine(json!({}))),
                (Asked::Mine, "inbox", list("all")),
                (Asked::Sent, "inbox", list("sent")),
            ],
            vec![(Asked::Names, "peers", whole)],
        ];
        for (n, list) in lists.into_iter().enumerate() {
            let stale = &mut self.model.stale;
            let stale = [&mut stale.peers, &mut stale.locks, &mut stale.mail, &mut stale.names].into_iter().nth(n);
            let is_late = self.asked[n].is_none_or(|at| at.elapsed() >= ASKS_EVERY);
            let Some(stale) = stale.filter(|stale| **stale) else { continue };
            if !is_late || list.iter().any(|(asked, ..)| self.feed.awaits(asked)) {
                continue;
            }
            *stale = false;
            self.asked[n] = Some(Instant::now());
            for (asked, op, params) in list {
                self.feed.ask(asked, op, params);
            }
        }
    }

    /// How long there is nothing to do.
    fn pause(&self) -> Duration {
        let after = |since: Option<Instant>, every: Duration| {
            since.map_or(Duration::ZERO, |since| every.saturating_sub(since.elapsed()))
        };
        let mut pause = after(Some(self.looked), LOOKS_EVERY);
        if self.keys.waits() {
            pause = pause.min(KEY_TAKES);
        }
        if self.is_old {
            pause = pause.min(after(self.drawn, DRAWS_EVERY));
        } else if self.model.ticks() {
            pause = pause.min(TICKS_EVERY);
        }
        if self.feed.client().is_none() {
            return pause.min(after(Some(self.tried), TRIES_EVERY));
        }
        let stale = self.model.stale;
        let stale = [stale.peers, stale.locks, stale.mail, stale.names];
        let lists = stale.iter().zip(self.asked).filter(|(stale, _)| **stale);
        // One that is awaited comes with a wake-up of its own.
        let lists = lists.map(|(_, at)| after(at, ASKS_EVERY).max(Duration::from_millis(20)));
        lists.chain([pause]).min().unwrap_or(pause)
    }

    /// Writes the lines that look different from what stands there.
    fn draw(&mut self) -> io::Result<()> {
        let is_due = self.drawn.is_none_or(|at| at.elapsed() >= if self.is_old { DRAWS_EVERY } else { TICKS_EVERY });
        if !is_due {
            return Ok(());
        }
        let (columns, rows) = self.terminal.size();
        let lines = draw::screen(&self.model, columns, rows, sys::wall_ms());
        let lines: Vec<String> = lines.iter().map(|line| paint(line, columns, self.colour)).collect();
        let mut out = String::new();
        if self.painted.len() != lines.len() {
            out.push_str("\u{1b}[0m\u{1b}[2J");
            self.painted = vec![String::new(); lines.len()];
        }
        for (n, (new, old)) in lines.iter().zip(&self.painted).enumerate() {
            if new != old {
                out.push_str(&format!("\u{1b}[{};1H\u{1b}[0m\u{1b}[K{new}", n + 1));
            }
        }
        (self.painted, self.is_old, self.drawn) = (lines, false, Some(Instant::now()));
        if out.is_empty() {
            return Ok(());
        }
        // Terminals that know it show all of it at once; others pass over it.
        self.terminal.write(&format!("\u{1b}[?2026h{out}\u{1b}[0m\u{1b}[?2026l"))
    }
}

/// A line with its looks; the chosen one goes over the whole width.
fn paint(line: &Line, columns: usize, colour: bool) -> String {
    let mut out = String::new();
    for (style, text) in line {
        let code = match style {
            Style::Plain => "0",
            Style::Bold => "0;1",
            Style::Dim => "0;2",
            Style::Warn if colour => "0;33",
            Style::Warn => "0;1",
            Style::Chosen => "0;7",
        };
        out.push_str(&format!("\u{1b}[{code}m{text}"));
    }
    if line.len() > 1 && line.iter().all(|(style, _)| *style == Style::Chosen) {
        let n: usize = line.iter().map(|(_, text)| text::width(text)).sum();
        out.push_str(&" ".repeat(columns.saturating_sub(n)));
    }
    out
}
