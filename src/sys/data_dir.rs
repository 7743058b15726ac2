//! The data directory and what lies in it.

use crate::base::error::{Error, ErrorKind};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// The longest path of a Unix socket, in bytes: `sun_path` less its final zero, on macOS.
const SOCKET_PATH_MAX: usize = 103;

/// One data directory: one mesh.
#[derive(Debug, Clone)]
pub struct Places {
    /// The directory.
    pub dir: PathBuf,
}

impl Places {
    /// `SLM_MESH_DATA_DIR`, else `~/.slm-mesh`; HOME alone must do, since clients scrub the rest.
    ///
    /// # Errors
    /// When neither is set, or the path is relative, or too long for the socket in it.
    pub fn find() -> Result<Places, Error> {
        let dir = match std::env::var_os("SLM_MESH_DATA_DIR").filter(|dir| !dir.is_empty()) {
            Some(dir) => from_the_root(PathBuf::from(dir))?,
            None => match std::env::var_os("HOME").filter(|home| !home.is_empty()) {
                Some(home) => PathBuf::from(home).join(".slm-mesh"),
                None => {
                    let text =
                        "neither HOME nor SLM_MESH_DATA_DIR is set; set one, so that the mesh knows where to live";
                    return Err(Error::new(ErrorKind::Usage, text));
                }
            },
        };
        let places = Places { dir };
        let length = places.socket().as_os_str().len();
        if length > SOCKET_PATH_MAX {
            let text = format!(
                "SLM_MESH_DATA_DIR: {} is too long: the socket in it would have a path of {length} bytes, and {SOCKET_PATH_MAX} are possible; \
                 choose a shorter directory",
                places.dir.display()
            );
            return Err(Error::new(ErrorKind::Usage, text));
        }
        places.refuse_foreign()?;
        Ok(places)
    }

    /// Nothing is read from, or said to, a directory that belongs to somebody else.
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

    /// Touched when a hub did not answer.
    pub fn silent(&self) -> PathBuf {
        self.dir.join("hub.silent")
    }

    /// The hub that was found on the local network.
    pub fn hub(&self) -> PathBuf {
        self.dir.join("hub")
    }

    /// Where sessions and verbs connect.
    pub fn socket(&self) -> PathBuf {
        self.dir.join("mesh.sock")
    }
    /// The database.
    pub fn database(&self) -> PathBuf {
        self.dir.join("broker.db")
    }
    /// Held by the one broker for as long as it lives.
    pub fn broker_lock(&self) -> PathBuf {
        self.dir.join("broker.lock")
    }
    /// Held by a client while it starts a broker, so that twenty of them start one.
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
    /// What a detached broker says.
    pub fn log(&self) -> PathBuf {
        self.dir.join("broker.log")
    }
    /// Settings that the environment does not give.
    pub fn config(&self) -> PathBuf {
        self.dir.join("config")
    }
    /// Where existing clients put the sockets on which they take pushes.
    pub fn peers(&self) -> PathBuf {
        self.dir.join("peers")
    }
    /// Left by a broker that met damage: the next one looks before it trusts the file.
    pub fn suspect(&self) -> PathBuf {
        self.dir.join("broker.suspect")
    }

    /// Creates the directory, for this user alone, or checks the one that is there.
    ///
    /// # Errors
    /// When it can't be created, or belongs to somebody else.
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

    /// Writes a small file for this user alone, whole or not at all.
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
            // The draft is ours; if even that can't be removed, the error below says why.
            let _ = fs::remove_file(&draft);
            self.error("can't be written", &error)
        })
    }

    /// The sentence for a directory that does not let us.
    pub fn error(&self, what: &str, error: &std::io::Error) -> Error {
        let cure = match error.kind() {
            std::io::ErrorKind::StorageFull => "free some space on its disk",
            std::io::ErrorKind::ReadOnlyFilesystem | std::io::ErrorKind::PermissionDenied => {
                "make it writable, or set SLM_MESH_DATA_DIR to a directory that is"
            }
            _ => "set SLM_MESH_DATA_DIR to another directory, if it must be",
        };
        Error::new(ErrorKind::Storage, format!("the data directory {} {what} ({error}); {cure}", self.dir.display()))
    }
}

/// What `SLM_MESH_DATA_DIR` says. A relative path would mean another mesh in every working directory.
fn from_the_root(dir: PathBuf) -> Result<PathBuf, Error> {
    if dir.is_absolute() {
        return Ok(dir);
    }
    let (cause, cure) = match dir.strip_prefix("~") {
        Ok(rest) => ("nobody replaced the ~ in it", format!("write $HOME/{} or the whole path", rest.display())),
        Err(_) => (
            "it would be another directory, and another mesh, wherever a program starts",
            "write the whole path".into(),
        ),
    };
    let text = format!("SLM_MESH_DATA_DIR: want a path from the root, got {dir:?}; {cause}: {cure}");
    Err(Error::new(ErrorKind::Usage, text))
}

/// A path as locks want it: absolute, without `.`, `..` and symlinked folders; a folder ends in `/`.
/// What does not exist yet is resolved as far as it does; a glob as far as its first pattern.
pub fn absolute(path: &str) -> String {
    absolute_in("", path)
}

/// The same for a path that somebody else gave, who works in `dir`.
pub fn absolute_in(dir: &str, path: &str) -> String {
    let mut given = if path.starts_with('/') { path.to_owned() } else { format!("{dir}/{path}") };
    if !path.starts_with('/') && !dir.starts_with('/') {
        // Where somebody works who does not say: where we do, since an agent starts its hooks there.
        given = format!("{}/{given}", std::env::current_dir().unwrap_or_default().display());
    }
    // The file system resolves `..` behind a symlink otherwise than text does, so it goes first.
    let whole = Path::new(given.trim_end_matches('/'));
    let is_folder = given.ends_with('/') || whole.is_dir();
    let fixed = whole.ancestors().filter(|at| !crate::base::paths::is_pattern(&at.to_string_lossy()));
    let resolved = fixed.into_iter().find_map(|at| {
        let real = at.canonicalize().ok()?;
        let rest = whole.strip_prefix(at).ok()?;
        // Joining nothing would add a slash, and make a folder of a file.
        Some(if rest.as_os_str().is_empty() { real } else { real.join(rest) })
    });
    let mut text = crate::base::paths::normal(&resolved.unwrap_or_else(|| whole.to_path_buf()).to_string_lossy());
    if is_folder && !text.ends_with('/') {
        text.push('/');
    }
    text
}

/// The bearer token: kept over restarts, since some clients read it only once.
///
/// # Errors
/// When it can't be written.
pub fn keep_token(places: &Places) -> Result<String, Error> {
    if let Ok(token) = fs::read_to_string(places.token())
        && token.len() == 64
        && token.bytes().all(|byte| byte.is_ascii_hexdigit())
    {
        let private = fs::Permissions::from_mode(0o600);
        fs::set_permissions(places.token(), private).map_err(|error| places.error("can't be made private", &error))?;
        return Ok(token);
    }
    let token = format!("{:032x}{:032x}", super::chance(), super::chance());
    places.write(&places.token(), &token)?;
    Ok(token)
}
