//! `restore BACKUP`: replaces the broker's database with a backup.

use super::start_stop::{refuse_beside_hub, stop_if_running};
use super::{load_environment, print_line, render};
use crate::base::error::{Error, ErrorKind};
use crate::broker::startup::{self, CheckedBackup};
use crate::sys::file_lock_with_timeout::LockWait;
use crate::sys::settings::STORE;
use serde_json::json;
use std::path::Path;
use std::time::Duration;

/// How long to wait for another process that is starting a broker.
const STARTED_WITHIN: Duration = Duration::from_secs(4);

/// Stops the broker, moves its database aside, and replaces the database with a copy of the backup.
///
/// # Errors
/// If the backup is not an intact database, if the broker can't be stopped, or if the data directory can't be written.
pub fn restore(backup: &str, json: bool) -> Result<u8, Error> {
    let (places, settings) = load_environment()?;
    startup::own_address(&settings)?;
    refuse_beside_hub(&places, &settings, "restore")?;
    places.prepare()?;
    let checked = CheckedBackup::copy(&places, Path::new(backup))?;
    // While this process holds the start lock, no client starts a broker. Without the lock, a client could start the
    // next broker before the database has been replaced.
    let _lock = LockWait::begin(places.open_lock(&places.start_lock())?)
        .for_time(STARTED_WITHIN)
        .map_err(|error| places.error("can't be locked (does its file system support locks?)", &error))?;
    stop_if_running(&places)?;
    let aside = checked.put_in_place(&places).map_err(|error| match error.kind {
        ErrorKind::Refused => Error::new(error.kind, format!("{}; then run slm-mesh restore again", error.text)),
        _ => error,
    })?;
    let aside = aside.map(|path| path.display().to_string());
    if json {
        let data = json!({ "restored": backup, "setAside": aside });
        return print_line(&json!({ "ok": true, "data": data }).to_string());
    }
    let old = aside.map(|path| format!(" The old database was moved to {path}.")).unwrap_or_default();
    let next = match settings.text(STORE) {
        "" => "",
        _ => " This hub shares its mesh; slm-mesh help machines says how the other hubs get the restored data.",
    };
    print_line(&render::plain(&format!("Restored {backup}.{old}{next}")))
}
