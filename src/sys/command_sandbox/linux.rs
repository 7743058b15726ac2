//! A mount namespace in which each file is mounted over itself, read-only. Whoever may not create one gets it inside a
//! user namespace in which they are still themselves.
//!
//! A program in the namespace cannot write such a file, remove it, or rename another one over it. As root it could
//! unmount it; nobody else can.

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use rustix::fs::StatVfsMountFlags;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Makes files and whole folders read-only from now on. A path where nothing is, or a special file, is passed over.
/// Answers the words to put before a command, of which there are none here.
///
/// # Errors
/// When the system allows no namespace, or a mount fails; this process must then start no command as if it had not
/// asked, unless its caller prefers that.
pub fn protect(files: &[PathBuf]) -> io::Result<Vec<OsString>> {
    enter_namespace()?;
    let mut has_folder = false;
    for path in files {
        match fs::metadata(path) {
            Ok(meta) if meta.is_file() => make_read_only(path, MsFlags::empty())?,
            // What is mounted below a folder must come along.
            Ok(meta) if meta.is_dir() => {
                make_read_only(path, MsFlags::MS_REC)?;
                has_folder = true;
            }
            _ => {}
        }
    }
    if has_folder && let Ok(directory) = std::env::current_dir() {
        // The working directory is still the folder below the mount.
        std::env::set_current_dir(directory)?;
    }
    Ok(Vec::new())
}

fn enter_namespace() -> io::Result<()> {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    match unshare(CloneFlags::CLONE_NEWNS) {
        // Root in a user namespace of its own is no root: it owns no other user's file.
        Err(Errno::EPERM) if uid != 0 => {
            unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS)?;
            // The kernel wants this before it maps a group.
            fs::write("/proc/self/setgroups", "deny")?;
            fs::write("/proc/self/uid_map", format!("{uid} {uid} 1"))?;
            fs::write("/proc/self/gid_map", format!("{gid} {gid} 1"))?;
        }
        result => result?,
    }
    // What we mount must not appear outside.
    let nothing = None::<&Path>;
    Ok(mount(nothing, Path::new("/"), nothing, MsFlags::MS_REC | MsFlags::MS_SLAVE, nothing)?)
}

fn make_read_only(path: &Path, reach: MsFlags) -> io::Result<()> {
    let nothing = None::<&Path>;
    mount(Some(path), path, nothing, MsFlags::MS_BIND | reach, nothing)?;
    // In a user namespace nobody may drop a restriction of the file system.
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
