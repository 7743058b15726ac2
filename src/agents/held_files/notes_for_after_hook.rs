//! Keeps notes about tool calls. The hook before a call writes a note, and the hook after the call reads the note. Each
//! tool call has one small file.
//!
//! The notes are files, not entries in the broker's memory, for these reasons:
//! - The hooks of parallel commands do not share a file.
//! - A note survives a restart of the broker.
//! - The broker may run on another machine, where it cannot inspect this machine's files.
//! - The hook after a command needs no broker to find out that nothing changed.

use super::copies::{files_in, make_private_dir};
use super::file_state::FileState;
use super::hashed;
use crate::shell_writes::MaybeWritten;
use serde_json::{Value, json};
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Maximum size of a note, in bytes. Hooks do not write larger notes, so a larger file is not a note.
const NOTE_MAX: u64 = 2 << 20;

/// What a hook knows about a tool call.
#[derive(Debug, Clone, Default)]
pub struct ToolRun {
    /// The id that the agent gives to its session.
    pub session: String,
    /// A key that is the same in the hooks before and after the call.
    pub key: String,
    /// The first line of the command, if the tool runs one.
    pub command: Option<String>,
    /// The files that the tool writes, if its input shows them.
    pub named: Vec<String>,
    /// The files that the command might write. Each entry stands for several files. It may contain tests that git can
    /// run for a file. If a file passes a test, the command would write this file.
    pub maybe_written: Vec<MaybeWritten>,
    /// Whether the tool can write files, either by editing them or by running commands. Other tools leave no note.
    pub writes: bool,
}

/// A note about one tool call. The hook before the call writes the note, and the hook after the call reads it.
#[derive(Debug, Clone, Default)]
pub struct CommandNote {
    /// The first line of the command; empty for an edit.
    pub command: String,
    /// The files that the call is certain to write.
    pub named: Vec<String>,
    /// The files that other peers held before the call.
    pub files: Vec<NotedFile>,
}

/// A file that another peer held when a command began.
#[derive(Debug, Clone)]
pub struct NotedFile {
    /// The path of the file.
    pub path: String,
    /// The id of the peer that held the file.
    pub holder: String,
    /// The name of the peer that held the file.
    pub holder_name: String,
    /// The state of the file when the command began.
    pub state: FileState,
    /// Whether the file was written so recently that a further write might leave its timestamps unchanged.
    pub is_recent: bool,
}

impl NotedFile {
    /// Formats the file as a line of a note. The line is not a JSON object, because a note may have many lines, and
    /// writing an object takes longer than reading the metadata of a file.
    fn to_line(&self) -> String {
        // Serialising strings as JSON cannot fail.
        let names = serde_json::to_string(&[&self.path, &self.holder, &self.holder_name]).unwrap_or_default();
        format!("{} {} {names}\n", u8::from(self.is_recent), self.state.to_text())
    }

    fn from_line(line: &str) -> Option<NotedFile> {
        let (facts, names) = line.split_at(line.find('[')?);
        let (is_recent, state) = facts.trim_end().split_once(' ')?;
        let [path, holder, holder_name] = serde_json::from_str(names).ok()?;
        Some(NotedFile { path, holder, holder_name, state: FileState::from_text(state)?, is_recent: is_recent == "1" })
    }
}

impl CommandNote {
    fn to_text(&self) -> String {
        let head = json!({ "command": self.command, "named": self.named });
        std::iter::once(format!("{head}\n")).chain(self.files.iter().map(NotedFile::to_line)).collect()
    }

    /// Parses a note; `None` if the text is damaged.
    fn from_text(text: &str) -> Option<CommandNote> {
        let (head, files) = text.split_once('\n')?;
        let head: Value = serde_json::from_str(head).ok()?;
        let named = head["named"].as_array().map(Vec::as_slice).unwrap_or_default();
        Some(CommandNote {
            command: head["command"].as_str()?.to_owned(),
            named: named.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
            files: files.lines().map(NotedFile::from_line).collect::<Option<_>>()?,
        })
    }
}

/// The folder that contains the notes.
#[derive(Debug)]
pub struct CommandNotes {
    dir: PathBuf,
}

impl CommandNotes {
    /// The notes in the folder `dir`.
    pub fn new(dir: PathBuf) -> CommandNotes {
        CommandNotes { dir }
    }

    /// Writes a note. If two calls have the same key, only the note of the first call is written.
    pub fn write(&self, peer: &str, run: &ToolRun, note: &CommandNote) {
        let path = self.dir.join(format!("{}{}", hashed(peer), ending(run)));
        let open = || OpenOptions::new().create_new(true).write(true).mode(0o600).open(&path);
        let opened = open().or_else(|error| if make_private_dir(&self.dir) { open() } else { Err(error) });
        // If this fails, the hook after the command finds no note and reports nothing.
        let _ = opened.and_then(|mut file| file.write_all(note.to_text().as_bytes()));
    }

    /// Reads and removes the note of a call. If the call has no key, takes the session's only note, because an agent
    /// without keys runs one call at a time.
    pub fn take(&self, run: &ToolRun) -> Option<CommandNote> {
        let sign = if run.key.is_empty() { format!(".{}.", hashed(&run.session)) } else { ending(run) };
        let path = files_in(&self.dir).find(|path| file_name(path).contains(&sign))?;
        take_note(&path)
    }

    /// Reads and removes all remaining notes of this session. A note remains if no hook ran after its call.
    pub fn take_all(&self, session: &str) -> Vec<CommandNote> {
        let middle = format!(".{}.", hashed(session));
        let paths = files_in(&self.dir).filter(|path| file_name(path).contains(&middle));
        paths.filter_map(|path| take_note(&path)).collect()
    }

    /// Whether a tool call of this session is running.
    pub fn is_running(&self, session: &str) -> bool {
        let middle = format!(".{}.", hashed(session));
        files_in(&self.dir).any(|path| file_name(&path).contains(&middle))
    }

    /// Whether a tool call of another session is running.
    pub fn is_other_running(&self, session: &str) -> bool {
        let middle = format!(".{}.", hashed(session));
        files_in(&self.dir).any(|path| !file_name(&path).contains(&middle))
    }

    /// The folder that contains the notes.
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

fn file_name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

fn ending(run: &ToolRun) -> String {
    format!(".{}.{}", hashed(&run.session), hashed(&run.key))
}

/// Reads a note and removes it.
fn take_note(path: &Path) -> Option<CommandNote> {
    let read = crate::sys::regular_file::read_regular(path, NOTE_MAX);
    // If two hooks read the same note, only the one that removes the file gets the note.
    fs::remove_file(path).ok()?;
    CommandNote::from_text(std::str::from_utf8(&read?.0).ok()?)
}
