//! `clean`: removes the files that a crash left in the data directory, and nothing else.

use super::{load_environment, print_line};
use crate::agents::held_files::HeldFiles;
use crate::base::error::Error;
use crate::sys::typescript_broker;
use serde_json::json;
use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

/// Removes the files that a crash left behind. Stops no process, because any process may still be needed.
pub fn clean(json: bool) -> Result<u8, Error> {
    let (places, _) = load_environment()?;
    let mut found: Vec<PathBuf> = list_files(&places.peers()).into_iter().filter(|path| is_dead_socket(path)).collect();
    let n_sockets = found.len();
    let lock = places.open_lock(&places.broker_lock());
    // While this process holds the lock, no broker is running, so all files that describe a running broker are stale.
    if let Ok(file) = &lock
        && file.try_lock().is_ok()
    {
        typescript_broker::refuse(&places)?;
        let left = [places.socket(), places.pid(), places.port()];
        // If the files contain the id of a running process, a broker of the older TypeScript version may still use
        // them. So the files are kept.
        let left = left.into_iter().filter(|_| !typescript_broker::may_live(&places));
        found.extend(left.filter(|path| path.symlink_metadata().is_ok()));
        found.extend(list_files(&places.dir).into_iter().filter(|path| is_temporary(path)));
    }
    for path in &found {
        fs::remove_file(path).map_err(|error| places.error("contains a file that cannot be removed", &error))?;
    }
    let mut names: Vec<String> = found.iter().map(|path| path.display().to_string()).collect();
    // Copies of locked files expire after an hour, but a user who runs `clean` wants them removed now. Records of
    // running commands stay. When such a command has ended, a hook uses its record to report writes to locked files.
    let is_removed = HeldFiles::remove_copies(&places);
    if is_removed.map_err(|error| places.error("contains copies that cannot be removed", &error))? {
        names.push(places.held_files().join("copies").display().to_string());
    }
    if json {
        return print_line(
            &json!({ "ok": true, "killed": 0, "socksCleaned": n_sockets, "removed": names }).to_string(),
        );
    }
    for name in &names {
        print_line(&format!("removed {name}"))?;
    }
    print_line(&format!("Done: 0 zombie(s) killed, {n_sockets} stale socket(s) removed."))
}

fn list_files(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}

fn is_dead_socket(path: &Path) -> bool {
    let is_socket = path.symlink_metadata().is_ok_and(|meta| meta.file_type().is_socket());
    is_socket && UnixStream::connect(path).is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused)
}

/// The names of database copies that a crash of a hub may leave behind. The first name is that of a copy to send; only
/// earlier versions of slm-mesh use this name. The second name is that of a received copy.
const COPIES: [&str; 2] = ["broker.db.copy", "broker.db.fetched"];
/// SQLite creates further files beside a database. Each name consists of the database's name and one of these suffixes.
const SQLITE_SUFFIXES: [&str; 3] = ["-wal", "-shm", "-journal"];

/// Whether a crash left this file behind. Such a file has a temporary name, for example `broker.new1234`. If the file
/// is a database, SQLite may have created more files beside it, such as `broker.new1234-wal`.
fn is_temporary(path: &Path) -> bool {
    let Some(name) = path.file_name().and_then(|name| name.to_str()) else { return false };
    let name = SQLITE_SUFFIXES.iter().find_map(|suffix| name.strip_suffix(suffix)).unwrap_or(name);
    let is_draft = |extension: &str| {
        let pid = extension.strip_prefix("new");
        pid.is_some_and(|pid| !pid.is_empty() && pid.bytes().all(|byte| byte.is_ascii_digit()))
    };
    COPIES.contains(&name) || name.rsplit_once('.').is_some_and(|(_, extension)| is_draft(extension))
}
