//! Mounts each file read-only over itself, in a mount namespace. If the user is not allowed to create a mount
//! namespace, the namespace is created inside a user namespace, in which the user keeps the same id.
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
use std::os::unix::ffi::OsStringExt;
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
                make_read_only_below(path)?;
                has_folder = true;
            }
            _ => {}
        }
    }
    if has_folder && let Ok(directory) = std::env::current_dir() {
        // If a new mount covers the working directory, this process is still in the writable folder below the mount.
        // The folder's path now leads to the read-only mount.
        std::env::set_current_dir(directory)?;
    }
    Ok(Vec::new())
}

fn enter_namespace() -> io::Result<()> {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    match unshare(CloneFlags::CLONE_NEWNS) {
        // Root does not try a user namespace, because root could not access other users' files from there.
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
    mount(Some(path), path, None::<&Path>, MsFlags::MS_BIND | reach, None::<&Path>)?;
    remount_read_only(path)
}

/// Makes each file system that is mounted below a folder read-only. Each one needs a call of its own, because a remount
/// applies to a single mount.
fn make_read_only_below(folder: &Path) -> io::Result<()> {
    let folder = fs::canonicalize(folder)?;
    for path in mounts(&fs::read("/proc/self/mountinfo")?) {
        if path == folder || !path.starts_with(&folder) {
            continue;
        }
        match remount_read_only(&path) {
            // A mount can't be reached for one of two reasons: another mount hides it, or it belongs to another user.
            // In both cases, the command can't enter the mount.
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied) => {
                let is_hidden = fs::metadata(&path).is_err();
                is_hidden.then_some(()).ok_or(error)?;
            }
            result => result?,
        }
    }
    Ok(())
}

fn remount_read_only(path: &Path) -> io::Result<()> {
    // In a user namespace, the kernel refuses to remove restrictions such as `nosuid` from a mount. So the current
    // restrictions are kept.
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
    Ok(mount(None::<&Path>, path, None::<&Path>, flags, None::<&Path>)?)
}

/// Returns the paths of all mounts from the content of `/proc/self/mountinfo` (proc_pid_mountinfo(5)). The path is the
/// fifth field of each line. A backslash and three octal digits stand for a space, tab, line break or backslash.
fn mounts(mountinfo: &[u8]) -> Vec<PathBuf> {
    let fields = mountinfo.split(|byte| *byte == b'\n').filter_map(|line| line.split(|byte| *byte == b' ').nth(4));
    let unescaped = |field: &[u8]| {
        let mut path = Vec::new();
        let mut rest = field;
        while let [byte, after @ ..] = rest {
            rest = after;
            match (byte, after) {
                (b'\\', [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', after @ ..]) => {
                    path.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                    rest = after;
                }
                _ => path.push(*byte),
            }
        }
        PathBuf::from(OsString::from_vec(path))
    };
    fields.map(unescaped).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_paths_of_mounts_may_contain_any_byte() {
        let mountinfo = b"22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n\
            30 22 0:25 / /a\\040b\\134c\\012\xff rw - tmpfs none rw\n\n31 22 0:26 / /d\\04 rw - tmpfs none rw\n";
        let expected = [b"/".as_slice(), b"/a b\\c\n\xff", b"/d\\04"];
        assert_eq!(mounts(mountinfo), expected.map(|path| PathBuf::from(OsString::from_vec(path.to_vec()))));
    }
}
