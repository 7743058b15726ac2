//! The names of databases that were set aside, and the report about a damaged database.

use super::data_dir::DataDir;
use crate::base::path_suffix::with_suffix;
use crate::base::time_format;
use std::fs;
use std::path::{Path, PathBuf};

/// The beginning of the name that a damaged database gets when it is set aside. The name ends with the time.
pub const DAMAGED: &str = "broker.db.damaged-";
/// The beginning of the name that a database gets when a hub sets it aside to join another mesh. The name ends with the
/// time.
pub const LEFT: &str = "broker.db.before-rejoin-";
/// The beginning of the name that a database gets when a backup replaces it. The name ends with the time.
pub const REPLACED: &str = "broker.db.before-restore-";
/// The name of a write-ahead log is the name of its database, followed by this ending.
const LOG: &str = "-wal";
/// The name of the report is the name of the damaged database, followed by this ending.
const REPORT: &str = ".txt";

/// The new path of a database that is set aside at the time `now`.
pub fn path(places: &DataDir, prefix: &str, now: i64) -> PathBuf {
    places.dir.join(format!("{prefix}{}", file_time(now)))
}

/// Writes the report about a damaged database. The report is put beside the file that was set aside.
///
/// # Errors
/// If the report can't be written.
pub fn write_report(places: &DataDir, aside: &Path, report: &str) -> Result<(), crate::base::error::Error> {
    places.write(&with_suffix(aside, REPORT), report)
}

/// A damaged database that was set aside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DamagedDatabase {
    /// The database's main file. The names of the database's other files begin with the name of this file.
    pub path: PathBuf,
    /// What happened to the database, and what was lost.
    pub report: String,
}

/// The latest damaged database that was set aside at or after the time `since` and still exists.
pub fn last_damaged(places: &DataDir, since: i64) -> Option<DamagedDatabase> {
    damaged_names(places, since).last().map(|name| damaged_database(places, name))
}

/// All damaged databases that were set aside at or after the time `since` and still exist, oldest first.
pub fn all_damaged(places: &DataDir, since: i64) -> Vec<DamagedDatabase> {
    damaged_names(places, since).iter().map(|name| damaged_database(places, name)).collect()
}

/// The names of the main files of the damaged databases, oldest first.
fn damaged_names(places: &DataDir, since: i64) -> Vec<String> {
    let since = file_time(since);
    let entries = fs::read_dir(&places.dir).into_iter().flatten().flatten();
    // The name of a damaged database ends with a time. The last letter of a time is `Z`. The names of the database's
    // write-ahead log and of its report have another ending after the `Z`.
    let is_recent = |name: &String| name.strip_prefix(DAMAGED).is_some_and(|at| at >= &*since && at.ends_with('Z'));
    let mut names: Vec<String> =
        entries.filter_map(|entry| entry.file_name().into_string().ok()).filter(is_recent).collect();
    names.sort();
    names
}

/// Finds the write-ahead logs that were set aside without their databases, at or after the time `since`. Returns the
/// paths to which these databases would have been moved, oldest first.
pub fn logs_without_database(places: &DataDir, prefix: &str, since: i64) -> Vec<PathBuf> {
    let since = file_time(since);
    let entries = fs::read_dir(&places.dir).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let is_recent = |name: &str| name.strip_prefix(prefix).is_some_and(|at| at >= &*since);
    let mut found: Vec<PathBuf> = names
        .filter_map(|name| name.strip_suffix(LOG).filter(|name| is_recent(name)).map(|name| places.dir.join(name)))
        .filter(|path| !path.exists())
        .collect();
    found.sort();
    found
}

fn damaged_database(places: &DataDir, name: &str) -> DamagedDatabase {
    let path = places.dir.join(name);
    let report = fs::read_to_string(with_suffix(&path, REPORT)).unwrap_or_default();
    let report = match report.trim() {
        "" => format!("the database was damaged: it was moved to {}", path.display()),
        report => report.to_owned(),
    };
    DamagedDatabase { path, report }
}

/// Formats a time for a file name.
fn file_time(ms: i64) -> String {
    time_format::iso(ms).replace(':', "")
}
