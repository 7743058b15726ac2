//! The data directory: where it is, and the names of the files in it.

use super::regular_file::{buffer_for, is_pipe, open_regular};
use crate::base::error::{Error, ErrorKind};
use crate::base::id_types::fnv1a;
use rustix::fs::{Access, access};
use rustix::io::Errno;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Maximum number of bytes that are read from a small file. All small files are shorter than this.
const SMALL_FILE_MAX: u64 = 64 * 1024;
/// Most small files are not longer than this, in bytes.
const SMALL_FILE_USUAL: u64 = 128;

/// The file name of the broker's socket.
const SOCKET: &str = "mesh.sock";
/// Maximum length of a Unix socket's path, in bytes: the size of macOS's `sun_path` without the final zero.
const SOCKET_PATH_MAX: usize = 103;

/// A data directory. Each data directory has its own mesh.
#[derive(Debug, Clone)]
pub struct DataDir {
    /// The directory.
    pub dir: PathBuf,
}

impl DataDir {
    /// Returns the directory in `SLM_MESH_DATA_DIR`, or `.slm-mesh` in the home directory if the variable is not set.
    /// No other variable is used, because MCP clients remove most of the environment.
    ///
    /// # Errors
    /// If the variable is not set and the user has no home directory, or if the path in the variable is relative. Also
    /// if another user owns the directory. Under `sudo`, also if another user owns the home directory.
    pub fn find() -> Result<DataDir, Error> {
        let dir = match std::env::var_os("SLM_MESH_DATA_DIR").filter(|dir| !dir.is_empty()) {
            Some(dir) => require_absolute(PathBuf::from(dir))?,
            None => match super::home() {
                Some(home) => {
                    super::refuse_borrowed_home(&home)?;
                    home.join(".slm-mesh")
                }
                None => {
                    let text = "neither HOME nor SLM_MESH_DATA_DIR is set, and this user's account has no home \
                                directory; set SLM_MESH_DATA_DIR to the directory that slm-mesh should use";
                    return Err(Error::new(ErrorKind::Usage, text));
                }
            },
        };
        let places = DataDir { dir };
        places.refuse_foreign()?;
        Ok(places)
    }

    /// Refuses a directory that belongs to another user. The other user could read all messages, and could send
    /// messages in this user's name.
    fn refuse_foreign(&self) -> Result<(), Error> {
        match fs::metadata(&self.dir) {
            Ok(meta) if meta.uid() != super::uid() => {
                let text = format!(
                    "the data directory {} belongs to another user (uid {}); set SLM_MESH_DATA_DIR to a directory of your own",
                    self.dir.display(),
                    meta.uid()
                );
                Err(Error::new(ErrorKind::Usage, text))
            }
            _ => Ok(()),
        }
    }

    /// The file whose modification time shows when a hub last failed to answer.
    pub fn silent(&self) -> PathBuf {
        self.dir.join("hub.silent")
    }

    /// The file that describes the hub that was discovered on the local network.
    pub fn hub(&self) -> PathBuf {
        self.dir.join("hub")
    }

    /// The file in which a guest with several hubs stores the most recent leader.
    pub fn leader(&self) -> PathBuf {
        self.dir.join("leader")
    }

    /// The path of the socket to which sessions and commands connect. If a path in the data directory would be too long
    /// for a socket, the socket is in a directory below `/tmp`. The name of the directory below `/tmp` contains a hash
    /// of the data directory's path.
    pub fn socket(&self) -> PathBuf {
        let dir = self.canonical();
        runtime_dir_of(&dir).unwrap_or(dir).join(SOCKET)
    }

    /// The directory below `/tmp` for the socket. `None` if the data directory itself can contain the socket.
    pub fn runtime_dir(&self) -> Option<PathBuf> {
        runtime_dir_of(&self.canonical())
    }

    /// The path of the data directory without symlinks. So two paths to the same directory lead to the same socket.
    fn canonical(&self) -> PathBuf {
        fs::canonicalize(&self.dir).unwrap_or_else(|_| self.dir.clone())
    }

    /// Creates the directory below `/tmp` for the socket. Everybody may create files in `/tmp`, so a directory that
    /// another user created is refused.
    fn prepare_runtime_dir(&self, dir: &Path) -> Result<(), Error> {
        let made = DirBuilder::new().mode(0o700).create(dir);
        if let Err(error) = made.or_else(|error| match error.kind() {
            std::io::ErrorKind::AlreadyExists => Ok(()),
            _ => Err(error),
        }) {
            return Err(self
                .error(&format!("needs {} for its socket, but this folder can't be created", dir.display()), &error));
        }
        let meta = fs::symlink_metadata(dir).map_err(|error| self.error("can't be read", &error))?;
        if meta.is_dir() && meta.uid() == super::uid() && meta.mode() & 0o077 == 0 {
            return Ok(());
        }
        let text = format!(
            "the mesh in {} keeps its socket in the directory {}, but that directory belongs to another user or is \
             open to others; remove this directory, or set SLM_MESH_DATA_DIR to a shorter path, so that the data \
             directory itself can contain the socket",
            self.dir.display(),
            dir.display()
        );
        Err(Error::new(ErrorKind::Refused, text))
    }

    /// The file in which the last broker saved its clock, the times without a broker, and its process id.
    pub fn clock(&self) -> PathBuf {
        self.dir.join("broker.clock")
    }
    /// The file that contains the name that this machine had when the mesh was last opened.
    pub fn machine(&self) -> PathBuf {
        self.dir.join("broker.machine")
    }
    /// The file that contains the number of a message. This machine's user has already been notified of all alerts up
    /// to this message.
    pub fn alerts(&self) -> PathBuf {
        self.dir.join("broker.alerts")
    }
    /// The database.
    pub fn database(&self) -> PathBuf {
        self.dir.join("broker.db")
    }
    /// The lock that the broker holds while it runs, so that there is only one broker.
    pub fn broker_lock(&self) -> PathBuf {
        self.dir.join("broker.lock")
    }
    /// The lock that a client holds while it starts a broker, so that several clients do not start several brokers at
    /// once.
    pub fn start_lock(&self) -> PathBuf {
        self.dir.join("start.lock")
    }
    /// The file with the broker's process id, for clients of slm-mesh 1.x.
    pub fn pid(&self) -> PathBuf {
        self.dir.join("broker.pid")
    }
    /// The file with the HTTP port, for clients of slm-mesh 1.x.
    pub fn port(&self) -> PathBuf {
        self.dir.join("port")
    }
    /// The file with the HTTP bearer token.
    pub fn token(&self) -> PathBuf {
        self.dir.join("broker.token")
    }
    /// The log of a detached broker.
    pub fn log(&self) -> PathBuf {
        self.dir.join("broker.log")
    }
    /// The file with the settings that are not in the environment.
    pub fn config(&self) -> PathBuf {
        self.dir.join("config")
    }
    /// The folder for the sockets on which clients of slm-mesh 1.x receive notifications.
    pub fn peers(&self) -> PathBuf {
        self.dir.join("peers")
    }
    /// The folder in which hooks keep their records of locked files, such as copies of the files and overwritten
    /// contents. Each record is kept for an hour.
    pub fn held_files(&self) -> PathBuf {
        self.dir.join("held-files")
    }
    /// The folder that contains one file for each session whose shell commands run in a shield. A shield is a sandbox
    /// in which locked files are read-only.
    pub fn shields(&self) -> PathBuf {
        self.held_files().join("shields")
    }
    /// The folder of files that bash runs before each command of a session with a shield. `BASH_ENV` contains the path
    /// of such a file.
    pub fn bash_env_files(&self) -> PathBuf {
        self.dir.join("bash-env")
    }
    /// The file that a broker creates when it finds the database damaged. If this file exists, the next broker first
    /// checks the database.
    pub fn suspect(&self) -> PathBuf {
        self.dir.join("broker.suspect")
    }

    /// Creates a directory that only this user can read, or makes the existing directory private.
    ///
    /// # Errors
    /// If the directory can't be created, read, written or made private.
    pub fn prepare(&self) -> Result<(), Error> {
        for dir in [&self.dir, &self.peers()] {
            let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
            made.map_err(|error| self.error("can't be created", &error))?;
        }
        let meta = fs::metadata(&self.dir).map_err(|error| self.error("can't be read", &error))?;
        if meta.mode() & 0o077 != 0 {
            let private = fs::Permissions::from_mode(0o700);
            fs::set_permissions(&self.dir, private).map_err(|error| self.error("can't be made private", &error))?;
        }
        // Without this check, SQLite would fail later. Its error would contain neither the directory nor a remedy.
        let writable = access(&self.dir, Access::WRITE_OK | Access::EXEC_OK);
        writable.map_err(|error| self.error("can't be written", &error.into()))?;
        self.runtime_dir().map_or(Ok(()), |dir| self.prepare_runtime_dir(&dir))
    }

    /// Opens a lock file.
    ///
    /// # Errors
    /// If the file can't be created or opened.
    pub fn open_lock(&self, path: &Path) -> Result<File, Error> {
        let opened = OpenOptions::new().create(true).truncate(false).read(true).write(true).mode(0o600).open(path);
        opened.map_err(|error| self.file_error(path, "can't be written", &error))
    }

    /// Opens the log for appending.
    ///
    /// # Errors
    /// If the file can't be created or opened, or if it is a pipe. Opening a pipe would wait for a reader.
    pub fn open_log(&self) -> Result<File, Error> {
        let path = self.log();
        if is_pipe(&path) {
            return Err(self.file_error(&path, "can't be written", &std::io::Error::other("it is a pipe")));
        }
        let opened = OpenOptions::new().create(true).append(true).mode(0o600).open(&path);
        opened.map_err(|error| self.file_error(&path, "can't be written", &error))
    }

    /// Reads a small file. Returns `None` if the file does not exist or can't be read. Never waits, even if the path
    /// leads to a pipe or to something else that is not a regular file.
    pub fn read(&self, path: &Path) -> Option<String> {
        let mut bytes = buffer_for(SMALL_FILE_USUAL);
        open_regular(path).ok()??.take(SMALL_FILE_MAX).read_to_end(&mut bytes).ok()?;
        String::from_utf8(bytes).ok()
    }

    /// Writes a small file that only this user can read. An existing file is replaced completely or not at all.
    ///
    /// # Errors
    /// If the directory can't be written, or the file can't be replaced.
    pub fn write(&self, path: &Path, text: &str) -> Result<(), Error> {
        // Two threads may write two files at the same time, so each file has a separate draft.
        let mut draft = path.as_os_str().to_owned();
        draft.push(format!(".new{}", std::process::id()));
        let draft = PathBuf::from(draft);
        let result = (|| {
            let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&draft)?;
            file.write_all(text.as_bytes())
        })();
        let result = result.map_err(|error| self.error("can't be written", &error));
        let renamed = result.and_then(|()| {
            fs::rename(&draft, path).map_err(|error| self.file_error(path, "can't be replaced", &error))
        });
        renamed.inspect_err(|_| {
            // A draft that can't be removed does no harm, because no other process uses it. The caller gets the
            // original error, not an error of this removal.
            let _ = fs::remove_file(&draft);
        })
    }

    /// Refuses an existing database file if this user can't read it or can't write it. SQLite's error would not contain
    /// the name of the file.
    ///
    /// # Errors
    /// If the file can't be read or written.
    pub fn require_writable(&self, path: &Path) -> Result<(), Error> {
        match access(path, Access::READ_OK | Access::WRITE_OK) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => {
                let text = format!(
                    "{} can't be opened for reading and writing ({error}); make it a file that you own and can write \
                     (slm-mesh doctor says how), or set SLM_MESH_DATA_DIR to another directory",
                    path.display()
                );
                Err(Error::new(ErrorKind::Storage, text))
            }
        }
    }

    /// Returns the error for a file that can't be used. The error contains a remedy. If the file does not exist, or if
    /// the disk or the limit on open files is the cause, the error is about the whole directory.
    fn file_error(&self, path: &Path, what: &str, error: &std::io::Error) -> Error {
        use std::io::ErrorKind::{QuotaExceeded, ReadOnlyFilesystem, StorageFull};
        let is_own_fault = !matches!(error.kind(), StorageFull | QuotaExceeded | ReadOnlyFilesystem)
            && error.raw_os_error() != Some(Errno::MFILE.raw_os_error());
        if !is_own_fault || path.symlink_metadata().is_err() {
            return self.error(what, error);
        }
        let text =
            format!("{} {what} ({error}); remove it, or make it a file that you own and can write", path.display());
        Error::new(ErrorKind::Storage, text)
    }

    /// If the error says that the disk is full, replaces its text. The new text contains the directory on this disk,
    /// and how much space is free.
    pub fn name_full_disk(&self, error: Error) -> Error {
        if error.kind != ErrorKind::DiskFull {
            return error;
        }
        let free = super::free_bytes(&self.dir).map_or(String::new(), |free| format!(" ({} KB are free)", free / 1000));
        let text =
            format!("the disk that holds {} is full{free}; free some space there and try again", self.dir.display());
        Error { text, ..error }
    }

    /// Returns the error for a data directory that can't be used. The error contains a remedy.
    pub fn error(&self, what: &str, error: &std::io::Error) -> Error {
        let cure = match error.kind() {
            _ if error.raw_os_error() == Some(Errno::MFILE.raw_os_error()) => {
                "raise the limit on open files (ulimit -n)"
            }
            std::io::ErrorKind::StorageFull => "free some space on its disk",
            std::io::ErrorKind::ReadOnlyFilesystem | std::io::ErrorKind::PermissionDenied => {
                "make it writable, or set SLM_MESH_DATA_DIR to a writable directory"
            }
            _ => "repair it, or set SLM_MESH_DATA_DIR to another directory",
        };
        Error::new(ErrorKind::Storage, format!("the data directory {} {what} ({error}); {cure}", self.dir.display()))
    }
}

/// The directory below `/tmp` for the socket. `None` if the data directory `dir` itself can contain the socket.
fn runtime_dir_of(dir: &Path) -> Option<PathBuf> {
    if dir.as_os_str().len() + 1 + SOCKET.len() <= SOCKET_PATH_MAX {
        return None;
    }
    let hash = fnv1a(dir.as_os_str().as_bytes());
    Some(PathBuf::from(format!("/tmp/slm-mesh-{}-{hash:016x}", super::uid())))
}

/// Refuses a relative path in `SLM_MESH_DATA_DIR`. Such a path would mean a different mesh in each working directory.
fn require_absolute(dir: PathBuf) -> Result<PathBuf, Error> {
    if dir.is_absolute() {
        return Ok(dir);
    }
    let (cause, cure) = match dir.strip_prefix("~") {
        Ok(rest) => ("the ~ in it was not expanded", format!("write $HOME/{} or the absolute path", rest.display())),
        Err(_) => {
            ("a relative path would mean a different mesh in each working directory", "write the absolute path".into())
        }
    };
    let text = format!("SLM_MESH_DATA_DIR: expected an absolute path, got {dir:?} ({cause}); {cure}");
    Err(Error::new(ErrorKind::Usage, text))
}

/// Returns the stored bearer token. If no token is stored, creates and stores a new token. The token stays the same
/// when the broker restarts, because some clients read it only once.
///
/// # Errors
/// If the token's file can't be made private, or a new token can't be written.
pub fn keep_token(places: &DataDir) -> Result<String, Error> {
    if let Some(token) = places.read(&places.token())
        && token.len() == 64
        && token.bytes().all(|byte| byte.is_ascii_hexdigit())
    {
        let private = fs::Permissions::from_mode(0o600);
        fs::set_permissions(places.token(), private).map_err(|error| places.error("can't be made private", &error))?;
        return Ok(token);
    }
    let token = format!("{:032x}{:032x}", super::random_u128(), super::random_u128());
    places.write(&places.token(), &token)?;
    Ok(token)
}
