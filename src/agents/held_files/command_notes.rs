//! What a hook notes before a tool runs, for the hook after it: one small file for each call of a tool.
//!
//! A file, and not the broker's memory: two hooks of parallel commands never meet in one file, the note outlives a
//! broker that restarts, only this machine can look at its own files, and the hook after a command needs no broker
//! to see that nothing changed.

use super::copies::{files_in, make_private_dir};
use super::file_state::FileState;
use super::hashed;
use serde_json::{Value, json};
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// A longer note is not ours.
const NOTE_MAX: u64 = 2 << 20;

/// One call of a tool, as its hooks know it.
#[derive(Debug, Clone, Default)]
pub struct ToolRun {
    /// The agent's key for the session.
    pub session: String,
    /// What the hooks before and after the call have in common.
    pub key: String,
    /// The first line of the command, if the tool runs one.
    pub command: Option<String>,
    /// The files that it writes, as far as its input tells.
    pub named: Vec<String>,
    /// Whether the tool edits files or runs commands; others leave no note.
    pub writes: bool,
}

/// What was noted before a call.
#[derive(Debug, Clone, Default)]
pub struct CommandNote {
    /// The first line of the command; empty for an edit.
    pub command: String,
    /// The files that the call was known to write.
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
    /// What stood there.
    pub state: FileState,
    /// Whether it was written so shortly before that a `stat` may not show another write.
    pub is_recent: bool,
}

impl NotedFile {
    fn to_value(&self) -> Value {
        json!({ "path": self.path, "holder": self.holder, "holderName": self.holder_name,
                "state": self.state.to_value(), "recent": self.is_recent })
    }

    fn from_value(value: &Value) -> Option<NotedFile> {
        let text = |name: &str| value[name].as_str().map(str::to_owned);
        Some(NotedFile {
            path: text("path")?,
            holder: text("holder")?,
            holder_name: text("holderName")?,
            state: FileState::from_value(&value["state"])?,
            is_recent: value["recent"].as_bool()?,
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

    /// Writes a note. If two calls look alike, the note of the first one counts for both.
    pub fn write(&self, peer: &str, run: &ToolRun, note: &CommandNote) {
        let files: Vec<Value> = note.files.iter().map(NotedFile::to_value).collect();
        let text = json!({ "command": note.command, "named": note.named, "files": files }).to_string();
        let path = self.dir.join(format!("{}{}", hashed(peer), ending(run)));
        let open = || OpenOptions::new().create_new(true).write(true).mode(0o600).open(&path);
        let opened = open().or_else(|error| if make_private_dir(&self.dir) { open() } else { Err(error) });
        // Without a note, the hook after the command has nothing to compare with, and stays silent.
        let _ = opened.and_then(|mut file| file.write_all(text.as_bytes()));
    }

    /// Takes the note of a call. An agent that says nothing by which a call is known has only one at a time.
    pub fn take(&self, run: &ToolRun) -> Option<CommandNote> {
        let sign = if run.key.is_empty() { format!(".{}.", hashed(&run.session)) } else { ending(run) };
        let path = files_in(&self.dir).find(|path| file_name(path).contains(&sign))?;
        take_note(&path)
    }

    /// Takes the notes of all calls of a session: the hooks after them did not come.
    pub fn take_all(&self, session: &str) -> Vec<CommandNote> {
        let middle = format!(".{}.", hashed(session));
        let paths = files_in(&self.dir).filter(|path| file_name(path).contains(&middle));
        paths.filter_map(|path| take_note(&path)).collect()
    }

    /// Whether a call of this session runs.
    pub fn is_running(&self, session: &str) -> bool {
        let middle = format!(".{}.", hashed(session));
        files_in(&self.dir).any(|path| file_name(&path).contains(&middle))
    }

    /// Whether a call of another session runs.
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
    // Of two hooks that come at once, only one gets the note.
    fs::remove_file(path).ok()?;
    let value: Value = serde_json::from_slice(&read?.0).ok()?;
    let list = |name: &str| value[name].as_array().cloned().unwrap_or_default();
    Some(CommandNote {
        command: value["command"].as_str()?.to_owned(),
        named: list("named").iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        files: list("files").iter().filter_map(NotedFile::from_value).collect(),
    })
}
