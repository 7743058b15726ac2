//! What a file looked like at one moment, told by a `stat`, and whether it is another file now.

use crate::sys::regular_file::read_regular;
use serde_json::{Value, json};
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Content of at most this size is kept and compared.
pub const CONTENT_MAX: u64 = 1 << 20;
/// A file system that counts in ticks may not show two writes in this time, ms.
const TICK_MS: i64 = 50;
/// The same for a file system that counts in seconds, as FAT does.
const COARSE_TICK_MS: i64 = 2_000;

/// What stands at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileState {
    /// Nothing.
    Missing,
    /// A regular file.
    Regular(FileStamp),
    /// A symbolic link, which is never followed.
    Link(FileStamp),
    /// A folder or a special file, in which no change is looked for.
    Other,
}

/// What a `stat` says of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileStamp {
    device: u64,
    inode: u64,
    /// Bytes.
    pub size: u64,
    modified_ns: i64,
    /// Unlike the time of the content, no program can set this one back.
    changed_ns: i64,
    /// Permissions and kind.
    pub mode: u32,
}

/// What two states tell of the content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    /// It is the same.
    Same,
    /// Only reading it can tell.
    InDoubt,
    /// It is different.
    Different,
}

impl FileState {
    /// What stands at a path now.
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

    /// The stamp of a regular file whose content is small enough to be kept.
    pub fn small_file(&self) -> Option<&FileStamp> {
        match self {
            FileState::Regular(stamp) if stamp.size <= CONTENT_MAX => Some(stamp),
            _ => None,
        }
    }

    /// Whether another write could follow so soon that a `stat` would not show it.
    pub fn is_recent(&self, now: i64) -> bool {
        let FileState::Regular(stamp) = self else { return false };
        let is_coarse = stamp.changed_ns % 1_000_000_000 == 0;
        now - stamp.changed_ns / 1_000_000 < if is_coarse { COARSE_TICK_MS } else { TICK_MS }
    }

    /// The state as JSON.
    pub fn to_value(self) -> Value {
        match self {
            FileState::Missing => json!("missing"),
            FileState::Other => json!("other"),
            FileState::Regular(stamp) => json!({ "file": stamp.numbers() }),
            FileState::Link(stamp) => json!({ "link": stamp.numbers() }),
        }
    }

    /// The state from JSON; `None` if it is not one.
    pub fn from_value(value: &Value) -> Option<FileState> {
        match value.as_str() {
            Some("missing") => return Some(FileState::Missing),
            Some("other") => return Some(FileState::Other),
            _ => {}
        }
        let file = value.get("file").map(|numbers| FileStamp::from_numbers(numbers).map(FileState::Regular));
        file.or_else(|| value.get("link").map(|numbers| FileStamp::from_numbers(numbers).map(FileState::Link)))?
    }
}

impl FileStamp {
    /// The stamp in a file's metadata.
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

    /// A name that no other content of any file has.
    pub fn name(&self) -> String {
        format!("{:x}-{:x}-{:x}-{:x}-{:x}", self.device, self.inode, self.size, self.modified_ns, self.changed_ns)
    }

    fn numbers(&self) -> Value {
        json!([self.device, self.inode, self.size, self.modified_ns, self.changed_ns, self.mode])
    }

    fn from_numbers(value: &Value) -> Option<FileStamp> {
        let unsigned = |n: usize| value.get(n)?.as_u64();
        let signed = |n: usize| value.get(n)?.as_i64();
        Some(FileStamp {
            device: unsigned(0)?,
            inode: unsigned(1)?,
            size: unsigned(2)?,
            modified_ns: signed(3)?,
            changed_ns: signed(4)?,
            mode: u32::try_from(unsigned(5)?).ok()?,
        })
    }
}

/// A number for the content of a small regular file, by which it is recognised later.
pub fn content_hash(path: &Path) -> Option<u64> {
    read_regular(path, CONTENT_MAX).map(|(content, _)| {
        let mut hasher = DefaultHasher::new();
        content.hash(&mut hasher);
        hasher.finish()
    })
}
