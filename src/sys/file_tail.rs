//! Reads the last lines of a file whose path comes from another program.
//!
//! **Invariant:** the path is not trusted. Symlinks, pipes, devices and other users' files are refused, both before and
//! after the file is opened. Only the last [`READ_MAX`] bytes are read, and no read waits.

use super::uid;
use rustix::fs::OFlags;
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

/// Maximum number of bytes to read from the end of a file.
pub const READ_MAX: u64 = 4 << 20;
/// Maximum length of a line, in bytes. A longer line is skipped, because parsing it would need many times as much
/// memory.
const LINE_MAX: usize = 1 << 20;
/// The number of bytes that the first attempt reads. This is usually enough. Each further attempt reads four times as
/// many bytes.
const FIRST_READ: u64 = 64 << 10;

/// Passes the last lines of a file to `take`, newest first, until `take` returns false. If more bytes must be read,
/// `take` gets all lines again. For the newest line, the second argument of `take` is true, and `take` must forget all
/// lines that it got before. Returns whether there may be older lines.
///
/// # Errors
/// If the path does not lead to a regular file of this user, or if the file can't be read. The error is a sentence with
/// the cause.
pub fn read_last_lines(path: &Path, mut take: impl FnMut(&[u8], bool) -> bool) -> Result<bool, String> {
    let mut file = open_own(path)?;
    let failed = |error: io::Error| format!("{} can't be read ({error})", path.display());
    let len = file.metadata().map_err(failed)?.len();
    let mut size = FIRST_READ;
    loop {
        size = size.min(len).min(READ_MAX);
        let is_whole = size == len;
        let bytes = read_end(&mut file, len, size).map_err(failed)?;
        let mut lines = bytes.split(|byte| *byte == b'\n').collect::<Vec<_>>();
        if !is_whole {
            // The beginning of the first line may be missing, because it may be before the bytes that were read.
            lines.remove(0);
        }
        let mut is_first = true;
        let mut newest_first = lines.iter().rev().filter(|line| line.len() <= LINE_MAX && !line.is_empty());
        while let Some(line) = newest_first.next() {
            if !take(line, is_first) {
                return Ok(!is_whole || newest_first.next().is_some());
            }
            is_first = false;
        }
        if is_whole || size == READ_MAX {
            return Ok(!is_whole);
        }
        size *= 4;
    }
}

fn read_end(file: &mut File, len: u64, size: u64) -> io::Result<Vec<u8>> {
    file.seek(SeekFrom::Start(len - size))?;
    let mut bytes = Vec::with_capacity(size as usize);
    file.take(size).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Opens a regular file that belongs to this user. The path is checked first, because opening a device can have
/// effects. The open file is checked again, because another program may have replaced the file.
fn open_own(path: &Path) -> Result<File, String> {
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => format!("{} is gone; the agent may have removed it", path.display()),
        _ => format!("{} can't be read ({error})", path.display()),
    };
    if !path.is_absolute() {
        return Err(format!("{} is not an absolute path", path.display()));
    }
    require_own(path, &std::fs::symlink_metadata(path).map_err(failed)?)?;
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = OpenOptions::new().read(true).custom_flags(flags.bits() as i32).open(path).map_err(failed)?;
    require_own(path, &file.metadata().map_err(failed)?)?;
    Ok(file)
}

fn require_own(path: &Path, meta: &Metadata) -> Result<(), String> {
    let kind = meta.file_type();
    if kind.is_symlink() {
        return Err(format!("{} is a symbolic link, which is not followed", path.display()));
    }
    if !kind.is_file() {
        return Err(format!("{} is not a plain file", path.display()));
    }
    if meta.uid() != uid() {
        return Err(format!("{} belongs to another user (uid {})", path.display(), meta.uid()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines_of(text: &[u8], wanted: usize) -> (Vec<String>, bool) {
        let path = std::env::temp_dir().join(format!("slm-mesh-tail-{}-{}", std::process::id(), crate::sys::wall_ms()));
        let path = path.with_extension(format!("{:?}", std::thread::current().id()));
        std::fs::write(&path, text).unwrap();
        let mut found = Vec::new();
        let more = read_last_lines(&path, |line, is_first| {
            if is_first {
                found.clear();
            }
            found.push(String::from_utf8_lossy(line).into_owned());
            found.len() < wanted
        });
        std::fs::remove_file(&path).unwrap();
        (found, more.unwrap())
    }

    #[test]
    fn lines_come_from_the_end() {
        assert_eq!(lines_of(b"", 3), (vec![], false));
        assert_eq!(lines_of(b"a\nb\nc\n", 2), (vec!["c".into(), "b".into()], true));
        assert_eq!(lines_of(b"\na\nb\n", 2), (vec!["b".into(), "a".into()], false), "no older line is left");
        assert_eq!(lines_of(b"a\n\nb", 9), (vec!["b".into(), "a".into()], false));
    }

    #[test]
    fn a_long_line_hides_no_short_one_before_it() {
        let text = [b"first\n".to_vec(), vec![b'x'; 2 << 20], b"\nlast\n".to_vec()].concat();
        assert_eq!(lines_of(&text, 9), (vec!["last".into(), "first".into()], false));
        let text = [b"first\n".to_vec(), vec![b'x'; 5 << 20], b"\nlast\n".to_vec()].concat();
        assert_eq!(lines_of(&text, 9), (vec!["last".into()], true));
    }

    #[test]
    fn what_is_no_plain_file_is_refused() {
        for path in ["/dev/zero", "/tmp", "relative", "/nowhere/at/all"] {
            let refused = read_last_lines(Path::new(path), |_, _| panic!("{path} was read"));
            assert!(refused.is_err(), "{path}");
        }
    }
}
