//! Restores the content of a held file that a command overwrote. The content that the command wrote is kept, so that
//! the restore can be undone.

use super::HeldFiles;
use super::file_state::{CONTENT_MAX, Comparison, FileState};
use super::list_of_undoable_overwrites::Overwrite;
use crate::base::error::{Error, ErrorKind};
use crate::base::{time_format, untrusted_text};
use crate::sys::regular_file::replace_regular;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Maximum size of the diff that is shown, in bytes.
const DIFFERENCE_MAX: usize = 64 << 10;

/// A file change that `slm-mesh lock restore` can undo, and the current state of the file.
#[derive(Debug)]
pub struct RestorePoint {
    entry: Overwrite,
    /// The current state of the file.
    now: FileState,
}

impl RestorePoint {
    /// One line that describes the change.
    pub fn summary(&self, now_ms: i64) -> String {
        let path = untrusted_text::shown_path(&self.entry.path);
        let ago = time_format::span(now_ms - self.entry.at);
        match &self.entry.command {
            Some(command) => format!(
                "{path}, which {} had locked, changed {ago} ago, while this command ran: {}",
                untrusted_text::shown_name(&self.entry.holder),
                untrusted_text::quoted(command, 200)
            ),
            None => format!("{path} was restored {ago} ago by slm-mesh lock restore"),
        }
    }

    /// Whether a restore removes the file, because the file did not exist before the change.
    pub fn removes(&self) -> bool {
        self.entry.before == FileState::Missing
    }
}

impl HeldFiles {
    /// The latest change to a file, if that change can be undone.
    ///
    /// # Errors
    /// If there is no such change, or if the path now leads to a link, a folder or a special file.
    pub fn restore_point(&self, path: &str) -> Result<RestorePoint, Error> {
        let entry = self.overwrites.latest(path, self.now);
        let entry = entry.filter(|entry| entry.can_restore(|name| self.copies.path(name).exists()));
        let shown = untrusted_text::shown_path(path);
        let entry = entry.ok_or_else(|| {
            Error::not_found(format!(
                "there is no copy of {shown}; if a command changes a file of at most 1 MiB that another peer has \
                 locked, slm-mesh keeps the file's previous content for an hour"
            ))
        })?;
        let now = FileState::of(Path::new(path));
        match now {
            FileState::Link(_) | FileState::Other => {
                let text = format!(
                    "{shown} is no longer a regular file; remove it or move it away, and then run this command again"
                );
                Err(Error::new(ErrorKind::Refused, text))
            }
            _ => Ok(RestorePoint { entry, now }),
        }
    }

    /// The difference between the current content and the content to restore, as lines for a terminal.
    pub fn difference(&self, point: &RestorePoint) -> String {
        let (now, before) = (self.path_of(point, &point.now), self.copy_of(&point.entry.before));
        let mut diff = Command::new("diff");
        diff.args(["-u", "--label", "now", "--label", "before the command", "--"]).args([&now, &before]);
        let output = diff.stdin(Stdio::null()).stderr(Stdio::null()).output().ok();
        // diff exits with 0 or 1 if the comparison succeeded.
        let output = output.filter(|output| output.status.code().is_some_and(|code| code < 2));
        let Some(output) = output else { return size_summary(&now, &before) };
        let shown = &output.stdout[..output.stdout.len().min(DIFFERENCE_MAX)];
        let cut = if shown.len() < output.stdout.len() { "\n(cut here)" } else { "" };
        let text = String::from_utf8_lossy(shown);
        // Tabs are part of the file's text, so they are kept, unlike other control characters.
        let clean = |line: &str| line.split('\t').map(untrusted_text::line).collect::<Vec<_>>().join("\t");
        text.lines().map(clean).collect::<Vec<_>>().join("\n") + cut
    }

    /// Restores the content that the file had before the change. Keeps the replaced content, and records the restore as
    /// the latest change, so that the restore can be undone too.
    ///
    /// # Errors
    /// If the file cannot be written, or if it has changed since `point` was made. Without `force`, it is also an error
    /// if the file was changed again after the command, or if the replaced content cannot be kept.
    pub fn put_back(&self, point: &RestorePoint, force: bool) -> Result<(), Error> {
        let path = Path::new(&point.entry.path);
        let shown = untrusted_text::shown_path(&point.entry.path);
        let now = FileState::of(path);
        let is_as_left = point.entry.after.compare(&now) == Comparison::Same;
        if now != point.now || !is_as_left && !force {
            let text = format!(
                "{shown} has changed again since that command; look at the difference, and add --force to replace the \
                 file anyway"
            );
            return Err(Error::new(ErrorKind::Conflict, text));
        }
        let is_kept = match now {
            FileState::Missing => true,
            state => state.small_file().is_some_and(|stamp| self.copies.keep(path, stamp, true)),
        };
        if !is_kept && !force {
            let text = format!(
                "the current content of {shown} is too large for slm-mesh to keep a copy; copy the file elsewhere \
                 first, or add --force to replace it without a copy"
            );
            return Err(Error::new(ErrorKind::Refused, text));
        }
        self.write_back(point, path).map_err(|error| {
            Error::new(ErrorKind::Storage, format!("{shown} cannot be written ({error}); make its folder writable"))
        })?;
        let (before, after) = (now, FileState::of(path));
        self.overwrites.add(&Overwrite { at: self.now, before, after, command: None, ..point.entry.clone() });
        Ok(())
    }

    fn write_back(&self, point: &RestorePoint, path: &Path) -> std::io::Result<()> {
        match point.entry.before {
            FileState::Regular(stamp) => {
                let content = self.copies.read(&stamp.name()).ok_or(std::io::ErrorKind::NotFound)?;
                if let Some(folder) = path.parent() {
                    fs::create_dir_all(folder)?;
                }
                replace_regular(path, &content, stamp.mode)
            }
            _ if point.now == FileState::Missing => Ok(()),
            _ => fs::remove_file(path),
        }
    }

    /// The path of a copy of the file in this state. The path is `/dev/null` if the file did not exist.
    fn copy_of(&self, state: &FileState) -> PathBuf {
        state.small_file().map_or_else(|| PathBuf::from("/dev/null"), |stamp| self.copies.path(&stamp.name()))
    }

    /// A path from which diff can read the current content. If possible, the content is copied first, because diff
    /// would follow a symlink that somebody has put in place of the file.
    fn path_of(&self, point: &RestorePoint, state: &FileState) -> PathBuf {
        match state.small_file() {
            Some(stamp) if self.copies.keep(Path::new(&point.entry.path), stamp, true) => self.copy_of(state),
            Some(_) => PathBuf::from(&point.entry.path),
            None if *state == FileState::Missing => PathBuf::from("/dev/null"),
            None => PathBuf::from(&point.entry.path),
        }
    }
}

/// Describes the difference by size and number of lines. This text is shown if diff can't be run.
fn size_summary(now: &Path, before: &Path) -> String {
    let size = |path: &Path| fs::metadata(path).map_or(0, |meta| meta.len());
    let lines = |path: &Path| {
        let content = crate::sys::regular_file::read_regular(path, CONTENT_MAX).map(|(content, _)| content);
        content.unwrap_or_default().iter().filter(|byte| **byte == b'\n').count()
    };
    format!(
        "now: {} bytes in {} lines; before the command: {} bytes in {} lines",
        size(now),
        lines(now),
        size(before),
        lines(before)
    )
}
