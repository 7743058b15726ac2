//! The data directory: where it is, and the files in it.

use crate::base::error::{Error, ErrorKind};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// The longest path of a Unix socket, in bytes: `sun_path` less its final zero, on macOS.
const SOCKET_PATH_MAX: usize = 103;

/// A data directory. Each has a mesh of its own.
#[derive(Debug, Clone)]
pub struct DataDir {
    /// The directory.
    pub dir: PathBuf,
}

impl DataDir {
    /// `SLM_MESH_DATA_DIR`, else `~/.slm-mesh`. HOME alone has to do, since clients scrub the rest of the
    /// environment.
    ///
    /// # Errors
    /// When neither is set, or the path is relative, or too long for the socket in it.
    pub fn find() -> Result<DataDir, Error> {
        let dir = match std::env::var_os("SLM_MESH_DATA_DIR").filter(|dir| !dir.is_empty()) {
            Some(dir) => require_absolute(PathBuf::from(dir))?,
            None => match std::env::var_os("HOME").filter(|home| !home.is_empty()) {
                Some(home) => PathBuf::from(home).join(".slm-mesh"),
                None => {
                    let text = "neither HOME nor SLM_MESH_DATA_DIR is set; set one of them, which says where the data directory is";
                    return Err(Error::new(ErrorKind::Usage, text));
                }
            },
        };
        let places = DataDir { dir };
        let length = places.socket().as_os_str().len();
        if length > SOCKET_PATH_MAX {
            let text = format!(
                "SLM_MESH_DATA_DIR: {} is too long: the path of its socket has {length} bytes, and {SOCKET_PATH_MAX} are possible; \
                 choose a shorter directory",
                places.dir.display()
            );
            return Err(Error::new(ErrorKind::Usage, text));
        }
        places.refuse_foreign()?;
        Ok(places)
    }

    /// Refuses a directory of another user: that user could read what is sent, and answer in our name.
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

    /// Its time says when a hub last failed to answer.
    pub fn silent(&self) -> PathBuf {
        self.dir.join("hub.silent")
    }

    /// The hub that was discovered on the local network.
    pub fn hub(&self) -> PathBuf {
        self.dir.join("hub")
    }

    /// The socket to which sessions and verbs connect.
    pub fn socket(&self) -> PathBuf {
        self.dir.join("mesh.sock")
    }
    /// The database.
    pub fn database(&self) -> PathBuf {
        self.dir.join("broker.db")
    }
    /// The lock that the one broker holds for as long as it runs.
    pub fn broker_lock(&self) -> PathBuf {
        self.dir.join("broker.lock")
    }
    /// The lock that a client holds while it starts a broker, so that twenty clients start one.
    pub fn start_lock(&self) -> PathBuf {
        self.dir.join("start.lock")
    }
    /// The broker's process id, for existing clients.
    pub fn pid(&self) -> PathBuf {
        self.dir.join("broker.pid")
    }
    /// The HTTP port, for existing clients.
    pub fn port(&self) -> PathBuf {
        self.dir.join("port")
    }
    /// The HTTP bearer token.
    pub fn token(&self) -> PathBuf {
        self.dir.join("broker.token")
    }
    /// The log of a detached broker.
    pub fn log(&self) -> PathBuf {
        self.dir.join("broker.log")
    }
    /// The settings that are not in the environment.
    pub fn config(&self) -> PathBuf {
        self.dir.join("config")
    }
    /// The folder where existing clients put the sockets on which they take pushes.
    pub fn peers(&self) -> PathBuf {
        self.dir.join("peers")
    }
    /// A broker that found the database damaged leaves this file: the next broker checks the database first.
    pub fn suspect(&self) -> PathBuf {
        self.dir.join("broker.suspect")
    }

    /// Creates the directory for this user alone, or makes an existing one private.
    ///
    /// # Errors
    /// When it can't be created, read or made private.
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
        Ok(())
    }

    /// Opens a lock file.
    ///
    /// # Errors
    /// When it can't be created.
    pub fn open_lock(&self, path: &Path) -> Result<File, Error> {
        let opened = OpenOptions::new().create(true).truncate(false).read(true).write(true).mode(0o600).open(path);
        opened.map_err(|error| self.error("can't be written", &error))
    }

    /// Writes a small file that only this user can read, whole or not at all.
    ///
    /// # Errors
    /// When the directory can't be written.
    pub fn write(&self, path: &Path, text: &str) -> Result<(), Error> {
        let draft = path.with_extension(format!("new{}", std::process::id()));
        let result = (|| {
            let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&draft)?;
            file.write_all(text.as_bytes())?;
            fs::rename(&draft, path)
        })();
        result.map_err(|error| {
            // Only this process knows the draft; if it can't be removed, the error below says why.
            let _ = fs::remove_file(&draft);
            self.error("can't be written", &error)
        })
    }

    /// The error for a directory that can't be used, with the cure.
    pub fn error(&self, what: &str, error: &std::io::Error) -> Error {
        let cure = match error.kind() {
            std::io::ErrorKind::StorageFull => "free some space on its disk",
            std::io::ErrorKind::ReadOnlyFilesystem | std::io::ErrorKind::PermissionDenied => {
                "make it writable, or set SLM_MESH_DATA_DIR to a directory that is"
            }
            _ => "repair it, or set SLM_MESH_DATA_DIR to another directory",
        };
        Error::new(ErrorKind::Storage, format!("the data directory {} {what} ({error}); {cure}", self.dir.display()))
    }
}

/// Checks `SLM_MESH_DATA_DIR`: a relative path would mean another mesh in each working directory.
fn require_absolute(dir: PathBuf) -> Result<PathBuf, Error> {
    if dir.is_absolute() {
        return Ok(dir);
    }
    let (cause, cure) = match dir.strip_prefix("~") {
        Ok(rest) => ("the ~ in it was not expanded", format!("write $HOME/{} or the whole path", rest.display())),
        Err(_) => (
            "it would mean another directory, and so another mesh, in each working directory",
            "write the whole path".into(),
        ),
    };
    let text = format!("SLM_MESH_DATA_DIR: want an absolute path, got {dir:?}; {cause}: {cure}");
    Err(Error::new(ErrorKind::Usage, text))
}

/// The bearer token: it stays the same across restarts, since some clients read it only once.
///
/// # Errors
/// When it can't be written.
pub fn keep_token(places: &DataDir) -> Result<String, Error> {
    if let Ok(token) = fs::read_to_string(places.token())
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
