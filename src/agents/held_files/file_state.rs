//! Describes the state of a file at one moment, as `stat` shows it. Also compares two states of the same file.

use crate::sys::regular_file::read_regular;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Maximum size, in bytes, of a file whose content is kept and compared.
pub const CONTENT_MAX: u64 = 1 << 20;
/// Two writes within this time, in ms, may get the same timestamp, because many file systems take timestamps only at
/// timer ticks.
const TICK_MS: i64 = 50;
/// Like `TICK_MS`, but for a file system whose timestamps have no fractions of a second. The timestamps of FAT advance
/// in steps of 2 s.
const COARSE_TICK_MS: i64 = 2_000;

/// What exists at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileState {
    /// Nothing exists at the path.
    Missing,
    /// A regular file.
    Regular(FileStamp),
    /// A symbolic link, which is never followed.
    Link(FileStamp),
    /// A folder or a special file, whose content is never compared.
    Other,
}

/// The metadata that `stat` returns for a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileStamp {
    device: u64,
    inode: u64,
    /// The size, in bytes.
    pub size: u64,
    modified_ns: i64,
    /// The time at which the inode last changed. Programs can set back a file's modification time, but they can't set
    /// back the change time.
    changed_ns: i64,
    /// The permissions and the kind of the file.
    pub mode: u32,
}

/// The result of comparing two states.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    /// The content is the same.
    Same,
    /// The size is the same, but other metadata differs, so the contents must be compared.
    InDoubt,
    /// The content is different.
    Different,
}

impl FileState {
    /// The current state of the file at a path.
    pub fn of(path: &Path) -> FileState {
        let Ok(meta) = fs::symlink_metadata(path) else { return FileState::Missing };
        let stamp = FileStamp::of(&meta);
        match meta.file_type() {
            kind if kind.is_file() => FileState::Regular(stamp),
            kind if kind.is_symlink() => FileState::Link(stamp),
            _ => FileState::Other,
        }
    }

    /// Compares this earlier state with a later one.
    pub fn compare(&self, later: &FileState) -> Comparison {
        match (self, later) {
            (before, after) if before == after => Comparison::Same,
            (FileState::Regular(before), FileState::Regular(after)) if before.size == after.size => Comparison::InDoubt,
            _ => Comparison::Different,
        }
    }

    /// The stamp, if this is a regular file that is small enough to copy.
    pub fn small_file(&self) -> Option<&FileStamp> {
        match self {
            FileState::Regular(stamp) if stamp.size <= CONTENT_MAX => Some(stamp),
            _ => None,
        }
    }

    /// Whether the file was written so recently that a further write might leave its timestamps unchanged.
    pub fn is_recent(&self, now: i64) -> bool {
        let FileState::Regular(stamp) = self else { return false };
        let is_coarse = stamp.changed_ns % 1_000_000_000 == 0;
        now - stamp.changed_ns / 1_000_000 < if is_coarse { COARSE_TICK_MS } else { TICK_MS }
    }

    /// Formats the state as text, which [`FileState::from_text`] can parse.
    pub fn to_text(self) -> String {
        match self {
            FileState::Missing => "missing".into(),
            FileState::Other => "other".into(),
            FileState::Regular(stamp) => format!("file {}", stamp.to_text()),
            FileState::Link(stamp) => format!("link {}", stamp.to_text()),
        }
    }

    /// Parses a state from text; `None` if the text is invalid.
    pub fn from_text(text: &str) -> Option<FileState> {
        match text.split_once(' ') {
            None if text == "missing" => Some(FileState::Missing),
            None if text == "other" => Some(FileState::Other),
            Some(("file", numbers)) => FileStamp::from_text(numbers).map(FileState::Regular),
            Some(("link", numbers)) => FileStamp::from_text(numbers).map(FileState::Link),
            _ => None,
        }
    }
}

impl FileStamp {
    /// Creates a stamp from a file's metadata.
    pub fn of(meta: &fs::Metadata) -> FileStamp {
        let nanos = |seconds: i64, rest: i64| seconds.saturating_mul(1_000_000_000).saturating_add(rest);
        FileStamp {
            device: meta.dev(),
            inode: meta.ino(),
            size: meta.len(),
            modified_ns: nanos(meta.mtime(), meta.mtime_nsec()),
            changed_ns: nanos(meta.ctime(), meta.ctime_nsec()),
            mode: meta.mode(),
        }
    }

    /// A name for the copy of a file in this state. Different contents get different names, unless the file was written
    /// again while [`FileState::is_recent`] was true.
    pub fn name(&self) -> String {
        format!("{:x}-{:x}-{:x}-{:x}-{:x}", self.device, self.inode, self.size, self.modified_ns, self.changed_ns)
    }

    fn to_text(self) -> String {
        let FileStamp { device, inode, size, modified_ns, changed_ns, mode } = self;
        format!("{device} {inode} {size} {modified_ns} {changed_ns} {mode}")
    }

    fn from_text(text: &str) -> Option<FileStamp> {
        let mut words = text.split(' ');
        let stamp = FileStamp {
            device: words.next()?.parse().ok()?,
            inode: words.next()?.parse().ok()?,
            size: words.next()?.parse().ok()?,
            modified_ns: words.next()?.parse().ok()?,
            changed_ns: words.next()?.parse().ok()?,
            mode: words.next()?.parse().ok()?,
        };
        words.next().is_none().then_some(stamp)
    }
}

/// A hash of the content of a small regular file. With the hash, a later check can find out whether the content is
/// still the same.
pub fn content_hash(path: &Path) -> Option<u64> {
    read_regular(path, CONTENT_MAX).map(|(content, _)| {
        let mut hasher = DefaultHasher::new();
        content.hash(&mut hasher);
        hasher.finish()
    })
}
