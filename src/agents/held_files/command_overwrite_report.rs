//! Reports changes to locked files. Writes a text for the agent, and sends a message to the holder of each lock.

use super::{Cause, ChangedFile, CommandNote, HeldFiles};
use crate::base::error::Error;
use crate::base::untrusted_text;
use serde_json::{Value, json};

/// Maximum number of files in one list of a report. Further files are only counted.
const FILES_SHOWN: usize = 20;

/// A report on the changes that one command made.
#[derive(Debug, Clone)]
pub struct ChangeReport {
    /// The first line of the command.
    pub command: String,
    /// The changed files.
    pub files: Vec<ChangedFile>,
}

impl ChangeReport {
    /// The report on a command; `None` if the command changed no held file.
    pub fn new(note: Option<&CommandNote>, files: Vec<ChangedFile>) -> Option<ChangeReport> {
        let command = note.map(|note| note.command.clone()).unwrap_or_default();
        (!files.is_empty()).then_some(ChangeReport { command, files })
    }

    /// Whether a command of this session may have changed one of the files.
    pub fn blames_session(&self) -> bool {
        self.files.iter().any(|file| file.cause != Cause::ProbablyHolder)
    }

    /// The text for the agent.
    pub fn text(&self) -> String {
        let groups = [
            (Cause::Command, "your command changed {files} that another agent has locked:"),
            (
                Cause::Unsure,
                "your command, or another command that ran at the same time, changed {files} that another agent has \
                 locked:",
            ),
            (
                Cause::ProbablyHolder,
                "while your command ran, another agent probably changed {files} that it has locked:",
            ),
        ];
        let mut parts: Vec<String> = groups.iter().filter_map(|(cause, head)| self.group(*cause, head)).collect();
        if self.files.iter().any(|file| file.can_restore) {
            parts.push(
                "The previous content is kept for an hour. To see the difference, run slm-mesh lock restore FILE; to \
                 restore that content, add --yes."
                    .into(),
            );
        }
        parts.join("\n")
    }

    fn group(&self, cause: Cause, head: &str) -> Option<String> {
        let files: Vec<&ChangedFile> = self.files.iter().filter(|file| file.cause == cause).collect();
        let line = |file: &&ChangedFile| {
            let (path, holder) =
                (untrusted_text::shown_path(&file.path), untrusted_text::shown_name(&file.holder_name));
            let gone = if file.is_removed { " (the file is gone)" } else { "" };
            format!("- {path}, locked by {holder}{gone}")
        };
        let mut lines: Vec<String> = files.iter().take(FILES_SHOWN).map(line).collect();
        if files.len() > FILES_SHOWN {
            lines.push(format!("- and {} more", files.len() - FILES_SHOWN));
        }
        let head = head.replace("{files}", if files.len() == 1 { "a file" } else { "files" });
        (!files.is_empty()).then(|| format!("slm-mesh: {head}\n{}", lines.join("\n")))
    }

    /// Sends a message to each holder whose files this session may have changed. If a message can't be sent, the
    /// holder's own hooks detect the change later.
    pub fn send(&self, held: &HeldFiles, facts: &Value, call: &mut dyn FnMut(&Value) -> Result<Value, Error>) {
        let mut holders: Vec<&str> = self.files.iter().map(|file| file.holder.as_str()).collect();
        holders.sort_unstable();
        holders.dedup();
        for holder in holders {
            let to_report = |file: &&ChangedFile| file.holder == holder && file.cause != Cause::ProbablyHolder;
            let files: Vec<&ChangedFile> = self.files.iter().filter(to_report).collect();
            if files.is_empty() {
                continue;
            }
            let mut params = facts.clone();
            params["holder"] = json!(holder);
            params["files"] = json!(files.iter().map(|file| &file.path).collect::<Vec<_>>());
            params["command"] = json!(self.command);
            params["isCertain"] = json!(files.iter().all(|file| file.cause == Cause::Command));
            params["isKept"] = json!(files.iter().any(|file| file.can_restore));
            if call(&params).is_ok_and(|answer| answer["sent"] == json!(true)) {
                files.iter().for_each(|file| held.note_reported(file));
            }
        }
    }
}

/// The text that tells a holder which of its locked files have changed; empty if no file has changed.
pub fn own_news_text(paths: &[String]) -> String {
    if paths.is_empty() {
        return String::new();
    }
    let mut lines: Vec<String> =
        paths.iter().take(FILES_SHOWN).map(|path| format!("- {}", untrusted_text::shown_path(path))).collect();
    if paths.len() > FILES_SHOWN {
        lines.push(format!("- and {} more", paths.len() - FILES_SHOWN));
    }
    format!(
        "slm-mesh: this session has locked these files, but a person, a program or a tool without hooks has changed \
         them since the session's last edit:\n{}",
        lines.join("\n")
    )
}
