//! Changes a file of another program safely: the new text is written atomically, and no concurrent change by another
//! program is lost.
//!
//! **Invariant:** a symlink stays a symlink, and a file keeps its mode. A file that the user has no permission to write
//! is not replaced.

use crate::sys;
use crate::sys::regular_file::open_regular;
use std::fs::{self, OpenOptions, Permissions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Maximum size of a file that can be edited, in bytes. A larger file is not a settings file.
const SIZE_MAX: u64 = 16 << 20;

/// Reads a file; `None` if the file does not exist.
///
/// # Errors
/// If the file cannot be edited as text; the error says why.
pub fn read(path: &Path) -> Result<Option<String>, String> {
    let file = match open_regular(path) {
        Ok(Some(file)) => file,
        Ok(None) => return Err("it is not a regular file; move it away, or replace it with a regular file".into()),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(format!("it can't be read ({error})")),
    };
    let mut bytes = Vec::new();
    file.take(SIZE_MAX + 1).read_to_end(&mut bytes).map_err(|error| format!("it can't be read ({error})"))?;
    if bytes.len() as u64 > SIZE_MAX {
        return Err(format!("it is larger than {SIZE_MAX} bytes"));
    }
    if bytes.starts_with(b"\xef\xbb\xbf") {
        return Err("it begins with a byte order mark; save it without one".into());
    }
    String::from_utf8(bytes).map(Some).map_err(|_| "it is not UTF-8".into())
}

/// Writes a file if its text still equals `expected`. If the path is a symlink, writes the file to which it points.
/// Creates missing folders. Returns false if another program has changed the file since it was read.
///
/// # Errors
/// If the file can't be written; the error says why.
pub fn replace(path: &Path, expected: Option<&str>, text: &str) -> Result<bool, String> {
    let real = behind_links(path);
    let mode = fs::metadata(&real).map_or(0o644, |meta| meta.mode() & 0o7777);
    if let Some(folder) = real.parent() {
        fs::create_dir_all(folder).map_err(|error| format!("{} can't be created ({error})", folder.display()))?;
    }
    let draft = write_draft(&real, text, mode)?;
    let is_unchanged = read(path).is_ok_and(|now| now.as_deref() == expected);
    let renamed = if is_unchanged { fs::rename(&draft, &real) } else { fs::remove_file(&draft) };
    renamed.map_err(|error| {
        // If the draft can't be removed, the error below probably has the same cause.
        let _ = fs::remove_file(&draft);
        cant_write(&error)
    })?;
    Ok(is_unchanged)
}

/// Removes a file, and the folders below `root` that become empty. If the path is a symlink, removes the file to which
/// it points, and keeps the symlink.
///
/// # Errors
/// If the file can't be removed; the error says why.
pub fn remove(path: &Path, root: &Path) -> Result<(), String> {
    fs::remove_file(behind_links(path))
        .map_err(|error| format!("it can't be removed ({error}); check who owns its folder"))?;
    let above = path.ancestors().skip(1).take_while(|folder| folder.starts_with(root) && *folder != root);
    for folder in above {
        // A folder that is not empty stays, so its parent folders stay too.
        if fs::remove_dir(folder).is_err() {
            break;
        }
    }
    Ok(())
}

/// Checks that the user has permission to write a file. Without this check, the rename would replace even a read-only
/// file.
///
/// # Errors
/// If the file is read-only or belongs to another user.
pub fn may_write(path: &Path) -> Result<(), String> {
    let Ok(meta) = fs::metadata(path) else { return Ok(()) };
    if meta.mode() & 0o222 == 0 {
        return Err("it is read-only; make it writable (chmod u+w), and run this command again".into());
    }
    if meta.uid() != sys::uid() {
        return Err(format!("it belongs to another user (uid {}); run this command as that user", meta.uid()));
    }
    Ok(())
}

/// The file to which a symlink points, even if that file does not exist yet.
fn behind_links(path: &Path) -> PathBuf {
    let mut real = path.to_path_buf();
    for _ in 0..16 {
        let Ok(target) = fs::read_link(&real) else { break };
        real = real.parent().map_or(target.clone(), |folder| folder.join(&target));
    }
    real
}

fn cant_write(error: &std::io::Error) -> String {
    format!("it can't be written ({error}); check who owns its folder, and whether the disk is full")
}

/// Writes the text into a new file in the same folder. The new file will then replace the file at `path`.
fn write_draft(path: &Path, text: &str, mode: u32) -> Result<PathBuf, String> {
    let draft = PathBuf::from(format!("{}.{:08x}.tmp", path.display(), sys::random_u128() as u32));
    let result = (|| {
        let mut file = OpenOptions::new().create_new(true).write(true).mode(mode & 0o777).open(&draft)?;
        // The umask may have cleared some bits of the mode.
        file.set_permissions(Permissions::from_mode(mode))?;
        file.write_all(text.as_bytes())?;
        file.sync_all()
    })();
    result.map_err(|error| {
        // If the draft can't be removed, the error below probably has the same cause.
        let _ = fs::remove_file(&draft);
        cant_write(&error)
    })?;
    Ok(draft)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_of_another_program_is_not_overwritten() {
        let folder = std::env::temp_dir().join(format!("slm-mesh-replace-{:08x}", sys::random_u128() as u32));
        let path = folder.join("settings.json");
        assert_eq!(replace(&path, None, "one"), Ok(true), "a new file, in a new folder");
        fs::write(&path, "theirs").unwrap();
        assert_eq!(replace(&path, Some("one"), "two"), Ok(false));
        assert_eq!(read(&path), Ok(Some("theirs".into())));
        assert_eq!(replace(&path, Some("theirs"), "two"), Ok(true));
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1, "no draft stays");
        fs::remove_dir_all(&folder).unwrap();
    }
}
