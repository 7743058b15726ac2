//! A mount namespace in which each file is mounted over itself, read-only. If the user is not allowed to create a mount
//! namespace, it is created inside a user namespace, in which the user keeps the same id.
//!
//! A program in the namespace cannot write to such a file, remove it, or rename another file over it. Only root could
//! unmount the file.

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use rustix::fs::StatVfsMountFlags;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Makes files and whole folders read-only from now on. Special files, and paths at which there is no file, are
/// skipped. Returns the words to put before a command; on Linux there are none.
///
/// # Errors
/// If the system allows no namespace, or a mount fails. In that case, the caller must not run the command unprotected,
/// unless the protection is optional.
pub fn protect(files: &[PathBuf]) -> io::Result<Vec<OsString>> {
    enter_namespace()?;
    let mut has_folder = false;
    for path in files {
        match fs::metadata(path) {
            Ok(meta) if meta.is_file() => make_read_only(path, MsFlags::empty())?,
            // The new mount must include the file systems that are mounted below the folder.
            Ok(meta) if meta.is_dir() => {
                make_read_only(path, MsFlags::MS_REC)?;
                has_folder = true;
            }
            _ => {}
        }
    }
    if has_folder && let Ok(directory) = std::env::current_dir() {
        // The working directory may still be a writable folder that a new mount hides. Entering it again by its path
        // leads into the mount.
        std::env::set_current_dir(directory)?;
    }
    Ok(Vec::new())
}

fn enter_namespace() -> io::Result<()> {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    match unshare(CloneFlags::CLONE_NEWNS) {
        // Root gets the error instead: inside a user namespace, it would lose its power over the files of other users.
        Err(Errno::EPERM) if uid != 0 => {
            unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS)?;
            // The kernel requires this before a group can be mapped.
            fs::write("/proc/self/setgroups", "deny")?;
            fs::write("/proc/self/uid_map", format!("{uid} {uid} 1"))?;
            fs::write("/proc/self/gid_map", format!("{gid} {gid} 1"))?;
        }
        result => result?,
    }
    // Our mounts must not be visible outside the namespace.
    let nothing = None::<&Path>;
    Ok(mount(nothing, Path::new("/"), nothing, MsFlags::MS_REC | MsFlags::MS_SLAVE, nothing)?)
}

fn make_read_only(path: &Path, reach: MsFlags) -> io::Result<()> {
    let nothing = None::<&Path>;
    mount(Some(path), path, nothing, MsFlags::MS_BIND | reach, nothing)?;
    // In a user namespace, nobody may remove the restrictions that the file system's mount already has, so the new
    // mount keeps them.
    let now = rustix::fs::statvfs(path)?.f_flag;
    let kept = [
        (StatVfsMountFlags::NOSUID, MsFlags::MS_NOSUID),
        (StatVfsMountFlags::NODEV, MsFlags::MS_NODEV),
        (StatVfsMountFlags::NOEXEC, MsFlags::MS_NOEXEC),
    ];
    let flags = kept
        .iter()
        .filter(|(flag, _)| now.contains(*flag))
        .fold(MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY, |flags, (_, flag)| flags | *flag);
    Ok(mount(nothing, path, nothing, flags, nothing)?)
}
