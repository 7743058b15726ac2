//! Checks the data directory for `doctor`: whether it is private and writable, and whether its files belong to the
//! user.

use super::Check;
use crate::base::shell_wildcards::shell_quoted;
use crate::sys;
use crate::sys::data_dir::DataDir;
use crate::sys::find_set_aside_databases::{self, DamagedDatabase};
use std::fs;
use std::io::Write;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// The size of the test file, in bytes. A much smaller file can sometimes be written even if the disk is full.
const WRITE_BYTES: usize = 64 * 1024;

/// Maximum number of files whose owners are checked.
const FILES_MAX: usize = 10_000;

/// How long doctor keeps reporting a damaged database that the broker has set aside, in ms.
const DAMAGE_SHOWN_MS: i64 = 7 * 86_400_000;

/// Checks the data directory, and the files in it.
pub fn check_data_dir(places: &DataDir) -> Vec<Check> {
    let numbers = places.database().with_extension("numbers");
    let files = [places.broker_lock(), places.start_lock(), places.log(), places.database(), numbers];
    let unusable = (files.iter().find_map(|file| check_usable(file, 0o600)))
        .or_else(|| check_usable(&places.config(), 0o400))
        // The broker replaces these files, so it needs no permission to write them.
        .or_else(|| [places.pid(), places.port()].iter().find_map(|file| check_usable(file, 0)))
        .or_else(|| check_folders(places));
    let token = check_private(&places.token(), "token");
    let checks = [Some(check_directory(places)), check_owners(places), unusable, token];
    checks.into_iter().flatten().chain(check_damage(places)).collect()
}

fn check_directory(places: &DataDir) -> Check {
    let about = "data directory";
    let shown = places.dir.display();
    match places.dir.metadata() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => check_creatable(places),
        Err(error) => Check::error(about, format!("{shown} can't be read ({error})"), chmod("u+rwx", &places.dir)),
        Ok(meta) if !meta.is_dir() => Check::error(about, format!("{shown} is not a directory"), "move that file away"),
        Ok(meta) if meta.uid() != sys::uid() => {
            let cure = "set SLM_MESH_DATA_DIR to a directory of your own";
            Check::error(about, format!("{shown} belongs to another user (uid {})", meta.uid()), cure)
        }
        Ok(meta) if meta.mode() & 0o077 != 0 => {
            let found = format!("{shown} is open to others (mode {:o})", meta.mode() & 0o777);
            Check::error(about, found, chmod("700", &places.dir))
        }
        Ok(_) => match try_write(&places.dir) {
            Ok(()) => Check::well(about, format!("{shown} is private and writable")),
            Err(error) => {
                let cure = match error.kind() {
                    std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
                        "free some space on its disk".into()
                    }
                    _ => format!("make {shown} writable, or set SLM_MESH_DATA_DIR to a writable directory"),
                };
                Check::error(about, format!("no file can be written in {shown} ({error})"), cure)
            }
        },
    }
}

/// The shell command that changes a file's permissions to `mode`.
fn chmod(mode: &str, path: &Path) -> String {
    format!("chmod {mode} {}", shell_quoted(&path.to_string_lossy()))
}

/// Checks whether the first session can create the data directory.
fn check_creatable(places: &DataDir) -> Check {
    let about = "data directory";
    let shown = places.dir.display();
    // A broken symbolic link counts as existing, because no directory can be created at its path.
    let nearest = places.dir.ancestors().find(|at| at.symlink_metadata().is_ok()).unwrap_or(&places.dir);
    if let Ok(target) = fs::read_link(nearest)
        && !nearest.exists()
    {
        let word = |path: &Path| shell_quoted(&path.to_string_lossy());
        let link = nearest.display();
        let found = format!("{shown} can't be created, because {link} is a broken symbolic link");
        let target = nearest.parent().unwrap_or(nearest).join(target);
        let cure =
            format!("create the link's target (mkdir -p {}), or remove the link (rm {})", word(&target), word(nearest));
        return Check::error(about, found, cure);
    }
    match try_write(nearest) {
        Ok(()) => Check::well(about, format!("{shown} does not exist yet; the first session can create it")),
        Err(error) => {
            let cure = "set SLM_MESH_DATA_DIR to a directory that you can create";
            Check::error(about, format!("{shown} does not exist and can't be created ({error})"), cure)
        }
    }
}

/// Tries to create and write a file in a directory. Removes the file afterwards.
fn try_write(dir: &Path) -> std::io::Result<()> {
    let path = dir.join(format!("doctor.new{}", std::process::id()));
    let mut file = fs::File::options().create_new(true).write(true).mode(0o600).open(&path)?;
    let written = file.write_all(&[b'x'; WRITE_BYTES]).and_then(|()| file.sync_all());
    fs::remove_file(&path)?;
    written
}

fn check_private(path: &Path, about: &str) -> Option<Check> {
    let meta = path.metadata().ok()?;
    let mode = meta.permissions().mode() & 0o777;
    let shown = path.display();
    Some(if mode & 0o077 == 0 {
        Check::well(about, format!("{shown}, readable only by you"))
    } else {
        Check::error(about, format!("{shown} can be read by others (mode {mode:o})"), chmod("600", path))
    })
}

/// Reports each damaged database that the broker has set aside in the last week. Some rows of such a database may be
/// lost.
fn check_damage(places: &DataDir) -> Vec<Check> {
    let check = |damaged: DamagedDatabase| {
        let cure = format!(
            "check the disk; if something that you need is lost, restore a backup (see slm-mesh help broker); then remove \
             the damaged file: rm {}*",
            shell_quoted(&damaged.path.to_string_lossy())
        );
        Check::error("database", damaged.report, cure)
    };
    find_set_aside_databases::all_damaged(places, sys::wall_ms() - DAMAGE_SHOWN_MS).into_iter().map(check).collect()
}

/// Returns a fault if a file is at the path of a folder that the broker needs, or if a folder with files is at the path
/// of the broker's socket.
fn check_folders(places: &DataDir) -> Option<Check> {
    let (peers, socket) = (places.peers(), places.socket());
    // The broker replaces an empty folder with its socket.
    let has_files = fs::read_dir(&socket).is_ok_and(|mut files| files.next().is_some());
    let (path, fault) = match peers.symlink_metadata() {
        Ok(_) if !peers.is_dir() => (peers, "is not a folder"),
        _ if has_files => (socket, "is a folder that is not empty, but must be a socket"),
        _ => return None,
    };
    let name = shell_quoted(&path.to_string_lossy());
    Some(Check::error("files", format!("{} {fault}", path.display()), format!("mv {name} {name}.old")))
}

/// Returns a fault if the path leads to a folder or a pipe, if it is a symbolic link into a folder that does not exist,
/// or if the file's owner lacks a permission in `needed`.
fn check_usable(path: &Path, needed: u32) -> Option<Check> {
    let name = shell_quoted(&path.to_string_lossy());
    if let Ok(target) = fs::read_link(path)
        && let Some(target) = path.parent().map(|dir| dir.join(target))
        && !target.parent().is_some_and(Path::exists)
    {
        let found = format!("{} is a broken symbolic link", path.display());
        return Some(Check::error("files", found, format!("rm {name}")));
    }
    let meta = path.metadata().ok()?;
    let (shown, mode) = (path.display(), meta.permissions().mode() & 0o777);
    // A link to a device such as /dev/null is not a fault, because somebody made it on purpose.
    if meta.is_dir() || meta.file_type().is_fifo() {
        let found = format!("{shown} is {}", if meta.is_dir() { "a folder" } else { "a pipe" });
        return Some(Check::error("files", found, format!("mv {name} {name}.old")));
    }
    let is_usable = mode & needed == needed || !meta.is_file() || meta.uid() != sys::uid();
    (!is_usable).then(|| {
        let found = format!("{shown} has mode {mode:o}, which does not give slm-mesh the permissions that it needs");
        Check::error("files", found, chmod("600", path))
    })
}

/// Looks for files that belong to another user and that the broker therefore can't write. A single run of slm-mesh with
/// sudo can leave such files behind. Returns `None` if the data directory does not exist or can't be read.
fn check_owners(places: &DataDir) -> Option<Check> {
    let about = "owners";
    let shown = places.dir.display();
    let files = files_below(&places.dir).ok()?;
    let is_foreign = |file: &&PathBuf| file.symlink_metadata().is_ok_and(|meta| meta.uid() != sys::uid());
    let foreign: Vec<&PathBuf> = files.iter().filter(is_foreign).collect();
    Some(match foreign.first() {
        None => Check::well(about, format!("all {} files in {shown} are yours", files.len())),
        Some(first) => {
            let found = match foreign.len() {
                1 => format!("{} belongs to another user", first.display()),
                n => format!("{n} files in {shown}, such as {}, belong to another user", first.display()),
            };
            let word = shell_quoted(&places.dir.to_string_lossy());
            Check::error(about, found, format!("sudo chown -R {} {word}", sys::uid()))
        }
    })
}

/// The files and folders below a folder. An unreadable folder below `root` counts as empty.
fn files_below(root: &Path) -> std::io::Result<Vec<PathBuf>> {
    let names = |folder: &Path| Ok(fs::read_dir(folder)?.flatten().map(|entry| entry.path()).collect());
    let mut found: Vec<PathBuf> = names(root)?;
    let mut n_read = 0;
    while n_read < found.len() && found.len() < FILES_MAX {
        if found[n_read].symlink_metadata().is_ok_and(|meta| meta.is_dir()) {
            let inside: std::io::Result<Vec<PathBuf>> = names(&found[n_read]);
            found.extend(inside.unwrap_or_default());
        }
        n_read += 1;
    }
    Ok(found)
}
