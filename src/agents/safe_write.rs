//! Changing a file of somebody else's with care: what can't be read for certain is left alone, the
//! text of before is kept once, and a new text is there whole or not at all.
//!
//! **Invariant:** a symlink stays one, a file keeps its mode, and a file that nobody may write is not
//! replaced behind its owner's back.

use crate::sys;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// A settings file beyond this is none.
const SIZE_MAX: u64 = 16 << 20;
/// What a file's text of before is called.
const BEFORE: &str = "before-slm-mesh";

/// Reads a file; `None` if there is none.
///
/// # Errors
/// When it is not a text that we can take apart, in words.
pub fn read(path: &Path) -> Result<Option<String>, String> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(format!("it can't be read ({error})")),
    };
    let mut bytes = Vec::new();
    file.take(SIZE_MAX + 1).read_to_end(&mut bytes).map_err(|error| format!("it can't be read ({error})"))?;
    if bytes.len() as u64 > SIZE_MAX {
        return Err(format!("it is larger than {SIZE_MAX} bytes"));
    }
    if bytes.starts_with(b"\xef\xbb\xbf") {
        return Err("it begins with a byte order mark".into());
    }
    String::from_utf8(bytes).map(Some).map_err(|_| "it is not UTF-8".into())
}

/// Where a file's text of before is kept: beside it, under the name by which it is known.
pub fn before(path: &Path) -> PathBuf {
    PathBuf::from(format!("{}.{BEFORE}", path.display()))
}

/// Keeps a text as it was before us.
///
/// # Errors
/// When it can't be written, in words.
pub fn keep(path: &Path, text: &str) -> Result<(), String> {
    let mode = fs::metadata(path).map_or(0o600, |meta| meta.mode() & 0o777);
    put(&before(path), text, mode)
}

/// Writes a file, through a symlink if it is one, creating the folders on the way.
///
/// # Errors
/// When it can't be written, in words.
pub fn write(path: &Path, text: &str) -> Result<(), String> {
    let real = behind_links(path);
    let mode = fs::metadata(&real).map_or(0o644, |meta| meta.mode() & 0o7777);
    if let Some(folder) = real.parent() {
        fs::create_dir_all(folder).map_err(|error| format!("{} can't be created ({error})", folder.display()))?;
    }
    put(&real, text, mode)
}

/// Removes a file of ours, and the folders up to `root` that it leaves empty.
///
/// # Errors
/// When it can't be removed, in words.
pub fn remove(path: &Path, root: &Path) -> Result<(), String> {
    fs::remove_file(path).map_err(|error| format!("it can't be removed ({error}); see who owns its folder"))?;
    let above = path.ancestors().skip(1).take_while(|folder| folder.starts_with(root) && *folder != root);
    for folder in above {
        // One that is not empty stays, and so do those above it.
        if fs::remove_dir(folder).is_err() {
            break;
        }
    }
    Ok(())
}

/// Asks whether a file may be written: a rename would get past both of what forbids it.
///
/// # Errors
/// When it is read-only or somebody else's, in words.
pub fn may_write(path: &Path) -> Result<(), String> {
    let Ok(meta) = fs::metadata(path) else { return Ok(()) };
    if meta.mode() & 0o222 == 0 {
        return Err("it is read-only; make it writable (chmod u+w) and run this again".into());
    }
    if meta.uid() != sys::uid() {
        return Err(format!("it belongs to another user (uid {}); run this as that user", meta.uid()));
    }
    Ok(())
}

/// The file behind a symlink, also behind one that leads to nothing yet.
fn behind_links(path: &Path) -> PathBuf {
    let mut real = path.to_path_buf();
    for _ in 0..16 {
        let Ok(target) = fs::read_link(&real) else { break };
        real = real.parent().map_or(target.clone(), |folder| folder.join(&target));
    }
    real
}

fn put(path: &Path, text: &str, mode: u32) -> Result<(), String> {
    let draft = PathBuf::from(format!("{}.{:08x}.tmp", path.display(), sys::chance() as u32));
    let result = (|| {
        let mut file = OpenOptions::new().create_new(true).write(true).mode(mode & 0o777).open(&draft)?;
        // The mask took bits away that the file of before may have.
        file.set_permissions(Permissions::from_mode(mode))?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&draft, path)
    })();
    result.map_err(|error| {
        // The draft is ours; if even that can't be removed, the error below says why.
        let _ = fs::remove_file(&draft);
        format!("it can't be written ({error}); see who owns its folder, and what room its disk has")
    })
}
