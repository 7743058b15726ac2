//! Notes that a hook writes before a tool runs, for the hook after it: one small file for each tool call.
//!
//! The notes are files instead of entries in the broker's memory, for four reasons. The hooks of parallel commands
//! never share a file, a note survives a restart of the broker, only this machine can inspect its own files, and the
//! hook after a command needs no broker to see that nothing changed.

use super::copies::{files_in, make_private_dir};
use super::file_state::FileState;
use super::hashed;
use serde_json::{Value, json};
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Maximum size of a note, in bytes. A longer file is not ours.
const NOTE_MAX: u64 = 2 << 20;

/// One call of a tool, as the hooks around it know it.
#[derive(Debug, Clone, Default)]
pub struct ToolRun {
    /// The agent's key for the session.
    pub session: String,
    /// The key that the hooks before and after the call share.
    pub key: String,
    /// The first line of the command, if the tool runs one.
    pub command: Option<String>,
    /// The files that the tool writes, if its input shows them.
    pub named: Vec<String>,
    /// Whether the tool edits files or runs commands. Other tools leave no note.
    pub writes: bool,
}

/// The note from before a call.
#[derive(Debug, Clone, Default)]
pub struct CommandNote {
    /// The first line of the command; empty for an edit.
    pub command: String,
    /// The files that the call surely writes.
    pub named: Vec<String>,
    /// The files that other peers held.
    pub files: Vec<NotedFile>,
}

/// A file that another peer held before a command.
#[derive(Debug, Clone)]
pub struct NotedFile {
    /// Its path.
    pub path: String,
    /// The id of the peer that held it.
    pub holder: String,
    /// The name of that peer.
    pub holder_name: String,
    /// The state of the file.
    pub state: FileState,
    /// Whether the file was written so recently that a `stat` may not show another write.
    pub is_recent: bool,
}

impl NotedFile {
    /// The file as a line of a note. For many files, JSON objects would take longer than reading the files' metadata.
    fn to_line(&self) -> String {
        // Serialising texts as JSON cannot fail.
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

/// The folder with the notes.
#[derive(Debug)]
pub struct CommandNotes {
    dir: PathBuf,
}

impl CommandNotes {
    /// The notes in this folder.
    pub fn new(dir: PathBuf) -> CommandNotes {
        CommandNotes { dir }
    }

    /// Writes a note. If two calls have the same key, the first note counts for both.
    pub fn write(&self, peer: &str, run: &ToolRun, note: &CommandNote) {
        let path = self.dir.join(format!("{}{}", hashed(peer), ending(run)));
        let open = || OpenOptions::new().create_new(true).write(true).mode(0o600).open(&path);
        let opened = open().or_else(|error| if make_private_dir(&self.dir) { open() } else { Err(error) });
        // Without a note, the hook after the command cannot compare, and reports nothing.
        let _ = opened.and_then(|mut file| file.write_all(note.to_text().as_bytes()));
    }

    /// Reads and removes the note of a call. An agent that does not identify its calls runs only one at a time.
    pub fn take(&self, run: &ToolRun) -> Option<CommandNote> {
        let sign = if run.key.is_empty() { format!(".{}.", hashed(&run.session)) } else { ending(run) };
        let path = files_in(&self.dir).find(|path| file_name(path).contains(&sign))?;
        take_note(&path)
    }

    /// Reads and removes the notes of a session's calls whose second hook did not run.
    pub fn take_all(&self, session: &str) -> Vec<CommandNote> {
        let middle = format!(".{}.", hashed(session));
        let paths = files_in(&self.dir).filter(|path| file_name(path).contains(&middle));
        paths.filter_map(|path| take_note(&path)).collect()
    }

    /// Whether a call of this session is running.
    pub fn is_running(&self, session: &str) -> bool {
        let middle = format!(".{}.", hashed(session));
        files_in(&self.dir).any(|path| file_name(&path).contains(&middle))
    }

    /// Whether a call of another session is running.
    pub fn is_other_running(&self, session: &str) -> bool {
        let middle = format!(".{}.", hashed(session));
        files_in(&self.dir).any(|path| !file_name(&path).contains(&middle))
    }

    /// The folder.
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
    // If two hooks read a note at the same time, only one of them gets it.
    fs::remove_file(path).ok()?;
    CommandNote::from_text(std::str::from_utf8(&read?.0).ok()?)
}
