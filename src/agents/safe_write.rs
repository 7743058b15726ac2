//! Changes a file of another program safely: the new text is written atomically, and no concurrent change by another
//! program is lost.
//!
//! **Invariant:** a symlink stays a symlink, and a file keeps its group, its mode and its hard links. A file that the
//! user has no permission to write is not replaced. A draft that a killed run has left is removed by the next run.

use crate::base::shell_wildcards::shell_quoted;
use crate::sys;
use crate::sys::file_lock_with_timeout::is_at;
use crate::sys::regular_file::{has_access_list, open_regular};
use std::ffi::OsString;
use std::fs::{self, File, Metadata, OpenOptions, Permissions, TryLockError};
use std::io::{self, ErrorKind, Read, Seek, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

/// Maximum size of a file that can be edited, in bytes. A larger file is not a settings file.
const SIZE_MAX: u64 = 16 << 20;
/// Maximum size of a file that is only read, in bytes. Some agents keep their history in the file that registers
/// servers. The limit protects the memory of this machine.
const READ_MAX: u64 = 256 << 20;

/// Reads a file; `None` if the file does not exist.
///
/// # Errors
/// If the file cannot be edited as text; the error says why.
pub fn read(path: &Path) -> Result<Option<String>, String> {
    read_up_to(path, SIZE_MAX)
}

/// Reads a file that is not going to be edited; `None` if the file does not exist. The file may be larger than a file
/// for [`read`].
///
/// # Errors
/// If the file can't be read as text; the error says why.
pub fn read_only(path: &Path) -> Result<Option<String>, String> {
    read_up_to(path, READ_MAX)
}

fn read_up_to(path: &Path, max: u64) -> Result<Option<String>, String> {
    let file = match open_regular(path) {
        Ok(Some(file)) => file,
        Ok(None) => return Err("it is not a regular file; move it away, or replace it with a regular file".into()),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(format!("it can't be read ({error})")),
    };
    let mut bytes = Vec::new();
    file.take(max + 1).read_to_end(&mut bytes).map_err(|error| format!("it can't be read ({error})"))?;
    if bytes.len() as u64 > max {
        return Err(format!("it is larger than {max} bytes"));
    }
    if bytes.starts_with(b"\xef\xbb\xbf") {
        return Err("it begins with a byte order mark; save it without one".into());
    }
    String::from_utf8(bytes).map(Some).map_err(|_| "it is not UTF-8".into())
}

/// Writes a file if its text still equals `expected`. If the path is a symlink, writes the file to which it points.
/// Creates missing folders. Returns false if another program has changed the file since it was read, or if another
/// process is running this function for the same file.
///
/// # Errors
/// If the file can't be written; the error says why.
pub fn replace(path: &Path, expected: Option<&str>, text: &str) -> Result<bool, String> {
    let real = behind_links(path);
    if let Some(folder) = real.parent() {
        fs::create_dir_all(folder).map_err(|error| format!("{} can't be created ({error})", folder.display()))?;
    }
    let old = fs::metadata(&real).ok();
    let write = || {
        let Some(mut draft) = Draft::create(&real, old.is_some())? else { return Ok(false) };
        draft.file.write_all(text.as_bytes())?;
        draft.file.sync_all()?;
        if !read(path).is_ok_and(|now| now.as_deref() == expected) {
            return Ok(false);
        }
        let may_replace = old.is_none_or(|old| draft.has_access_like(&real, &old));
        let renamed = if may_replace { draft.rename_to(&real) } else { Err(ErrorKind::ResourceBusy.into()) };
        match renamed {
            // A file that is itself a mount point can't be replaced. In containers, single files are often mount
            // points.
            Err(error) if error.kind() == ErrorKind::ResourceBusy => overwrite(&real, expected.unwrap_or(""), text),
            done => done,
        }
        .map(|()| true)
    };
    write().map_err(|error: io::Error| {
        format!("it can't be written ({error}); check who owns its folder, and whether the disk is full")
    })
}

/// Removes the draft that a killed run has left beside a file. The draft contains the whole text of the file, so it may
/// contain secrets, and it may be in a work tree.
pub fn remove_left_draft(path: &Path) {
    // If the draft can't be removed, the next write of the file fails and reports why.
    let _ = remove_unused(&draft_path(&behind_links(path)));
}

/// Removes a file. If the path is a symlink, removes the file to which it points, and keeps the symlink.
///
/// # Errors
/// If the file can't be removed; the error says why.
pub fn remove(path: &Path) -> Result<(), String> {
    fs::remove_file(behind_links(path))
        .map_err(|error| format!("it can't be removed ({error}); check who owns its folder"))
}

/// Checks that the user has permission to write a file. A file is replaced by renaming a draft, so without this check,
/// even a read-only file would be replaced.
///
/// # Errors
/// If the file is read-only or belongs to another user.
pub fn may_write(path: &Path) -> Result<(), String> {
    let Ok(meta) = fs::metadata(path) else { return Ok(()) };
    if meta.mode() & 0o222 == 0 {
        return Err("it is read-only; make it writable (chmod u+w), and run this command again".into());
    }
    if meta.uid() != sys::uid() {
        // If root runs this program, the cure contains no `chown`, because root must not take the file away from its
        // owner.
        let cure = match sys::uid() {
            0 => "run this command as that user".to_owned(),
            uid => {
                let file = shell_quoted(&path.to_string_lossy());
                format!("make it yours (sudo chown {uid} {file}), and run this command again")
            }
        };
        return Err(format!("it belongs to another user (uid {}); {cure}", meta.uid()));
    }
    Ok(())
}

/// The file to which a symlink points, even if that file does not exist yet.
pub(super) fn behind_links(path: &Path) -> PathBuf {
    let mut real = path.to_path_buf();
    for _ in 0..16 {
        let Ok(target) = fs::read_link(&real) else { break };
        real = real.parent().map_or(target.clone(), |folder| folder.join(&target));
    }
    real
}

/// The path of a file's draft. The name is always the same, so that the next run finds the draft of a killed run.
fn draft_path(real: &Path) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(real.file_name().unwrap_or_default());
    name.push(".slm-mesh.tmp");
    real.with_file_name(name)
}

/// Removes a draft, unless another process is writing it.
fn remove_unused(draft: &Path) -> io::Result<()> {
    // The writer of a draft holds a lock on it. This function takes the same lock and holds it until the draft is
    // removed. So no other process can begin to write the draft meanwhile.
    let file = open_regular(draft).ok().flatten();
    match file.as_ref().map(File::try_lock) {
        Some(Err(TryLockError::WouldBlock)) => Ok(()),
        _ => fs::remove_file(draft),
    }
}

/// A new file beside the file that it will replace. It is removed when this value is dropped, unless it has been
/// renamed.
struct Draft {
    path: PathBuf,
    /// The open file, which is locked.
    file: File,
    is_renamed: bool,
}

impl Draft {
    /// Creates a draft for the file `real`. Only the user can read the draft if `is_private` is true. Returns `None` if
    /// another process is writing a draft for the same file.
    fn create(real: &Path, is_private: bool) -> io::Result<Option<Draft>> {
        let path = draft_path(real);
        match remove_unused(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mode = if is_private { 0o600 } else { 0o644 };
        let file = match OpenOptions::new().create_new(true).write(true).mode(mode).open(&path) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => return Ok(None),
            opened => opened?,
        };
        // Some file systems have no locks. The draft is then protected by the lock of `setup` alone.
        let _ = file.lock();
        // Before this process got the lock, another process may have removed the draft, in the belief that a killed run
        // had left it.
        if !is_at(&file, &path) {
            return Ok(None);
        }
        Ok(Some(Draft { path, file, is_renamed: false }))
    }

    /// Gives the draft the group and the mode of the old file at `real`. Returns false if the draft can't replace the
    /// old file, because other people would lose or gain access, or because the old file has other names, which would
    /// keep the old text.
    fn has_access_like(&self, real: &Path, old: &Metadata) -> bool {
        // Changing the group clears some bits of the mode, so the mode is set afterwards.
        let has_group = || {
            let gid = self.file.metadata().map(|meta| meta.gid());
            gid.is_ok_and(|gid| gid == old.gid()) || fchown(&self.file, None, Some(old.gid())).is_ok()
        };
        let set_mode = || self.file.set_permissions(Permissions::from_mode(old.mode() & 0o7777)).is_ok();
        old.nlink() == 1 && !has_access_list(real) && has_group() && set_mode()
    }

    fn rename_to(&mut self, real: &Path) -> io::Result<()> {
        fs::rename(&self.path, real)?;
        self.is_renamed = true;
        Ok(())
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.is_renamed {
            // If the draft can't be removed, the next run tries again.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Writes the new text over the old text of a file that can't be replaced. If that fails, puts the old text back.
fn overwrite(path: &Path, old: &str, new: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).open(path)?;
    let mut put = |text: &str| {
        file.rewind()?;
        file.write_all(text.as_bytes())?;
        file.set_len(text.len() as u64)?;
        file.sync_all()
    };
    put(new).inspect_err(|_| {
        // The old text fits on the disk, because it was there before. The caller gets the original error.
        let _ = put(old);
    })
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

        let draft = draft_path(&path);
        let other = File::create(&draft).unwrap();
        other.lock().unwrap();
        assert_eq!(replace(&path, Some("two"), "three"), Ok(false), "another process is writing the file");
        remove_left_draft(&path);
        assert!(draft.exists());
        drop(other);
        assert_eq!(replace(&path, Some("two"), "three"), Ok(true), "the other process has ended");
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
        fs::remove_dir_all(&folder).unwrap();
    }
}
