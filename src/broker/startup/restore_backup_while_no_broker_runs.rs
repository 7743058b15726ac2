//! Replaces the database with a backup. The backup is copied and checked first, so that a running broker is stopped
//! only if the backup can be used.

use super::database::{FILE_SUFFIXES, RESTORED, draft_path, remove_database, replace_database};
use super::single_instance;
use crate::base::error::{Error, ErrorKind};
use crate::base::path_suffix::with_suffix;
use crate::store::{Store, StoreError};
use crate::sys::data_dir::DataDir;
use crate::sys::{find_set_aside_databases, regular_file, typescript_broker};
use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// A checked copy of a backup, which can replace the database.
#[derive(Debug)]
pub struct CheckedBackup {
    draft: PathBuf,
    /// The name of the machine whose peers the backup contains; `None` if no file beside the backup contains the name.
    machine: Option<String>,
}

impl Drop for CheckedBackup {
    fn drop(&mut self) {
        remove_database(&self.draft);
    }
}

impl CheckedBackup {
    /// Copies a backup into the data directory, and checks the copy. The backup itself is not changed. If a broker was
    /// running when the backup was made, the backup may include a write-ahead log, which is copied too.
    ///
    /// # Errors
    /// When the backup can't be read or is not a sound database, or when the data directory can't be written.
    pub fn copy(places: &DataDir, backup: &Path) -> Result<CheckedBackup, Error> {
        let shown = backup.display();
        let refused = |why: &str| Error::new(ErrorKind::Usage, format!("{shown} {why}; nothing was changed"));
        let source = match regular_file::open_regular(backup) {
            Ok(Some(source)) => source,
            Ok(None) => return Err(refused("is not a file")),
            Err(error) => return Err(refused(&format!("can't be read ({error})"))),
        };
        let id = |meta: fs::Metadata| (meta.dev(), meta.ino());
        let is_database =
            fs::metadata(places.database()).is_ok_and(|own| source.metadata().is_ok_and(|it| id(it) == id(own)));
        if is_database {
            return Err(refused("is the database of this mesh, not a backup"));
        }
        let checked = CheckedBackup { draft: draft_path(places), machine: machine_of(places, backup) };
        let draft = &checked.draft;
        remove_database(draft);
        let unwritten = |error: io::Error| places.error("can't be written", &error);
        copy_file(source, draft).map_err(unwritten)?;
        let log = with_suffix(backup, FILE_SUFFIXES[1]);
        if let Ok(Some(log)) = regular_file::open_regular(&log) {
            copy_file(log, &with_suffix(draft, FILE_SUFFIXES[1])).map_err(unwritten)?;
        }
        match Store::check_backup(draft) {
            Ok(()) => {}
            Err(StoreError::Corrupt(why)) => {
                let cure = "use another backup; to restore a locked file instead, run slm-mesh lock restore FILE";
                return Err(Error::new(
                    ErrorKind::Usage,
                    format!("{shown} can't replace the database ({why}), and nothing was changed; {cure}"),
                ));
            }
            Err(error) => return Err(error.into()),
        }
        File::open(draft).and_then(|file| file.sync_all()).map_err(unwritten)?;
        Ok(checked)
    }

    /// Moves the database aside, and puts the copy in its place. The caller must stop the broker first. Returns the new
    /// path of the old database; `None` if there was no database.
    ///
    /// # Errors
    /// When a broker is running, or the data directory can't be written.
    pub fn put_in_place(self, places: &DataDir) -> Result<Option<PathBuf>, Error> {
        // While this process holds the lock, no broker can start.
        let _lock = single_instance::lock(places)?;
        typescript_broker::refuse(places)?;
        let had_database = places.database().exists();
        let renamed = fs::rename(&self.draft, places.dir.join(RESTORED));
        renamed.map_err(|error| places.error("can't be written", &error))?;
        let aside = replace_database(places, RESTORED, find_set_aside_databases::REPLACED)?;
        if let Some(machine) = &self.machine {
            places.write(&places.machine(), &format!("{machine}\n"))?;
        }
        Ok(had_database.then_some(aside))
    }
}

/// The name of the machine on which the backup was made, from a copy of broker.machine beside the backup. In the
/// backup, the rows of peers (the user is one of them) contain that machine's name. The next broker replaces that name
/// with the name of this machine.
fn machine_of(places: &DataDir, backup: &Path) -> Option<String> {
    let name = places.read(&backup.with_extension("machine"))?.trim().to_owned();
    Some(name).filter(|name| !name.is_empty() && name.lines().count() == 1)
}

/// Copies a file. Only this user can read the copy, whatever the permissions of the original file are.
fn copy_file(mut from: File, to: &Path) -> io::Result<()> {
    let mut copy = File::create(to)?;
    copy.set_permissions(Permissions::from_mode(0o600))?;
    io::copy(&mut from, &mut copy).map(|_| ())
}
