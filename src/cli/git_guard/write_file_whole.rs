//! Writes a file completely or not at all. A hook that is cut off could let every commit pass.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::{fs, io};

/// Writes a file completely or not at all. Other hard links to the old file keep the old content.
///
/// # Errors
/// If the file can't be written. The old file then stays as it was.
pub fn write_whole(path: &Path, text: &[u8], mode: u32) -> io::Result<()> {
    let draft = write_draft(path, text, mode)?;
    fs::rename(&draft, path).inspect_err(|_| {
        // The error of the rename matters more, so an error of the removal is ignored.
        let _ = fs::remove_file(&draft);
    })
}

/// Writes a file that will replace the file at this path, and returns the new file's path.
///
/// # Errors
/// If the file can't be written.
pub fn write_draft(path: &Path, text: &[u8], mode: u32) -> io::Result<PathBuf> {
    let draft = draft_path(path);
    let permissions = fs::Permissions::from_mode(mode & 0o7777);
    let written = fs::write(&draft, text).and_then(|()| fs::set_permissions(&draft, permissions));
    written.map(|()| draft.clone()).inspect_err(|_| {
        // The error of the write matters more, so an error of the removal is ignored.
        let _ = fs::remove_file(&draft);
    })
}

/// The path of the draft of a file. The name is fixed, so that a draft of a killed process is found again.
pub fn draft_path(path: &Path) -> PathBuf {
    let mut draft = path.as_os_str().to_owned();
    draft.push(".new-slm-mesh");
    PathBuf::from(draft)
}

/// Removes a file, if it exists.
///
/// # Errors
/// If the file exists and can't be removed.
pub fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(()),
        removed => removed,
    }
}
