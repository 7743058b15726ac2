//! Reads and writes regular files that another program may replace at any moment. If a path leads to a pipe or a
//! device, this process does not wait. Only `open_regular` follows links.

use rustix::fs::{Mode, OFlags};
use std::fs::{self, File, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

/// Opens a regular file for reading, and follows links; `None` if the path leads to anything else. Never waits, even if
/// the path leads to a pipe without a writer.
///
/// # Errors
/// If the file does not exist or cannot be opened.
pub fn open_regular(path: &Path) -> io::Result<Option<File>> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    Ok(if file.metadata()?.is_file() { Some(file) } else { None })
}

/// An empty buffer with room for a file of `len` bytes, plus 32 bytes. Without these 32 bytes, the standard library
/// would make extra small reads at the end of the file.
pub fn buffer_for(len: u64) -> Vec<u8> {
    Vec::with_capacity(len as usize + 32)
}

/// Waits until the data that was written to a file has reached the disk. On macOS, the data may still be in the disk's
/// cache when this function returns, because a full flush takes ten times as long. SQLite makes the same choice.
///
/// # Errors
/// If the file can't be opened, or the disk fails.
pub fn sync_data(path: &Path) -> io::Result<()> {
    let file = File::open(path)?;
    #[cfg(target_os = "linux")]
    rustix::fs::fdatasync(&file)?;
    #[cfg(not(target_os = "linux"))]
    rustix::fs::fsync(&file)?;
    Ok(())
}

/// Whether a file has an access control list. The list grants rights to people whom the file's mode does not name.
pub fn has_access_list(path: &Path) -> bool {
    // With an empty buffer, this call only finds out whether there is a list.
    rustix::fs::getxattr(path, "system.posix_acl_access", &mut [0_u8; 0]).is_ok()
}

/// Whether a path leads to a pipe. Opening a pipe would make this process wait for another process.
pub fn is_pipe(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|meta| meta.file_type().is_fifo())
}

/// Reads a regular file of at most `max` bytes, and returns its content and metadata. Returns `None` if the path leads
/// to anything else, if the file can't be read, or if the file changes during the read.
pub fn read_regular(path: &Path, max: u64) -> Option<(Vec<u8>, fs::Metadata)> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut file = File::from(rustix::fs::open(path, flags, Mode::empty()).ok()?);
    let before = file.metadata().ok()?;
    if !before.is_file() || before.len() > max {
        return None;
    }
    let mut content = buffer_for(before.len());
    Read::by_ref(&mut file).take(max + 1).read_to_end(&mut content).ok()?;
    let after = file.metadata().ok()?;
    let time = |meta: &fs::Metadata| (meta.len(), meta.mtime(), meta.mtime_nsec(), meta.ctime(), meta.ctime_nsec());
    let is_whole = time(&before) == time(&after) && content.len() as u64 == before.len();
    is_whole.then_some((content, before))
}

/// Replaces a file, completely or not at all. If the path is a link, the link itself is replaced.
///
/// # Errors
/// If the folder cannot be written.
pub fn replace_regular(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let draft = path.with_file_name(format!(".{name}.slm-mesh{}", std::process::id()));
    let result = (|| {
        let mut file = fs::OpenOptions::new().create_new(true).write(true).mode(0o600).open(&draft)?;
        file.write_all(content)?;
        file.set_permissions(Permissions::from_mode(mode & 0o7777))?;
        fs::rename(&draft, path)
    })();
    result.inspect_err(|_| {
        // The caller gets the original error, not an error of this removal. A draft that can't be removed does no harm,
        // because only this process uses it.
        let _ = fs::remove_file(&draft);
    })
}
