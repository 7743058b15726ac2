//! The account of the user who runs this program: the user's name and home directory. Also detects when `sudo` has left
//! another user's home directory in the environment.

use crate::base::error::{Error, ErrorKind};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// This user's entry in the account database.
#[derive(Debug)]
struct Account {
    name: String,
    home: PathBuf,
}

/// This user's entry in `/etc/passwd`. Even a statically linked program can read this file.
#[cfg(not(target_os = "macos"))]
fn own_account() -> Option<Account> {
    let uid = uid().to_string();
    let accounts = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let mut rows = accounts.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let row = rows.find(|row| row.get(2) == Some(&uid.as_str()))?;
    Some(Account { name: row[0].to_owned(), home: PathBuf::from(row.get(5).copied().unwrap_or_default()) })
}

/// This user's entry in the account database. On macOS, `/etc/passwd` contains only system accounts.
#[cfg(target_os = "macos")]
fn own_account() -> Option<Account> {
    let user = nix::unistd::User::from_uid(nix::unistd::getuid()).ok().flatten()?;
    Some(Account { name: user.name, home: user.dir })
}

/// The user's name. The account database has priority over `USER`, because MCP clients remove most of the environment.
pub fn user() -> String {
    own_account()
        .map(|account| account.name)
        .or_else(|| std::env::var("USER").ok())
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| "user".into())
}

/// The user's home directory: `HOME`, or the directory in the account database if a client has removed `HOME`.
pub fn home() -> Option<PathBuf> {
    let named = std::env::var_os("HOME").map(PathBuf::from).filter(|home| home.is_absolute());
    named.or_else(|| own_account().map(|account| account.home).filter(|home| home.is_absolute()))
}

/// This user's id.
pub fn uid() -> u32 {
    rustix::process::getuid().as_raw()
}

/// Refuses another user's `HOME` that `sudo` has left in root's environment. The other user could not use the files
/// that root creates in that directory.
///
/// # Errors
/// If root runs this program through `sudo` and `HOME` is the home of another user.
pub fn refuse_borrowed_home(home: &Path) -> Result<(), Error> {
    let is_sudo = uid() == 0 && std::env::var_os("SUDO_UID").is_some_and(|id| id != "0");
    let Some(owner) = fs::metadata(home).ok().filter(|meta| is_sudo && meta.uid() != 0) else { return Ok(()) };
    let text = format!(
        "HOME: {} belongs to another user (uid {}), but slm-mesh runs as root under sudo, and that user could not use \
         the files that root creates there; run slm-mesh without sudo, or with sudo -H, which gives root its own mesh",
        home.display(),
        owner.uid()
    );
    Err(Error::new(ErrorKind::Usage, text))
}
