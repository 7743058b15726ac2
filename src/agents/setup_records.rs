//! Records each file that `setup` has edited: the text without our entries, the text that `setup` wrote, and the agents
//! for which `setup` edited the file. With these records, `setup --remove` can restore a file byte for byte, even after
//! the slm-mesh program has moved.
//!
//! Settings may contain secrets, so the records are in the data directory, which only the user can read. A copy beside
//! the file could be in a work tree and get committed.

use super::safe_write;
use super::setup_lock::SetupLock;
use crate::sys::data_dir::DataDir;
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};

/// The record of one file.
#[derive(Debug, Clone, PartialEq)]
pub struct FileRecord {
    /// The text without our entries; `None` if there was no file.
    pub before: Option<String>,
    /// The text that `setup` wrote.
    pub after: String,
    /// The ids of the agents for which `setup` edited the file.
    pub agents: Vec<String>,
}

/// All records of this user.
#[derive(Debug)]
pub struct Records {
    places: DataDir,
    files: Map<String, Value>,
    /// Held from reading the records until they are written; `None` if they are only read.
    lock: Option<SetupLock>,
}

fn file_of(places: &DataDir) -> PathBuf {
    places.dir.join("setup.json")
}

fn key_of(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

impl Records {
    /// Reads the records in order to show them, or for a dry run.
    ///
    /// # Errors
    /// If there is no data directory, or the records can't be read.
    pub fn load() -> Result<Records, String> {
        let places = DataDir::find().map_err(|error| error.text)?;
        Records::read(places, None)
    }

    /// Reads the records in order to change them. Another run of `setup` waits until this value is dropped.
    ///
    /// # Errors
    /// If there is no data directory, or the records can't be locked or read.
    pub fn load_locked() -> Result<Records, String> {
        let places = DataDir::find().map_err(|error| error.text)?;
        let lock = SetupLock::take(&places)?;
        Records::read(places, Some(lock))
    }

    fn read(places: DataDir, lock: Option<SetupLock>) -> Result<Records, String> {
        let path = file_of(&places);
        let text = safe_write::read(&path).map_err(|why| format!("{}: {why}", path.display()))?.unwrap_or_default();
        let files = match serde_json::from_str::<Value>(&text) {
            Ok(Value::Object(files)) => files,
            _ => Map::new(),
        };
        Ok(Records { places, files, lock })
    }

    /// The record of a file.
    pub fn get(&self, path: &Path) -> Option<FileRecord> {
        let record = self.files.get(&key_of(path))?;
        let text = |name: &str| record[name].as_str().map(str::to_owned);
        let agents = record["agents"].as_array().into_iter().flatten();
        let agents = agents.filter_map(Value::as_str).map(str::to_owned).collect();
        Some(FileRecord { before: text("before"), after: text("after")?, agents })
    }

    /// Writes the record of a file.
    ///
    /// # Errors
    /// If the record can't be written.
    pub fn set(&mut self, path: &Path, record: &FileRecord) -> Result<(), String> {
        let FileRecord { before, after, agents } = record;
        self.files.insert(key_of(path), json!({ "before": before, "after": after, "agents": agents }));
        self.save()
    }

    /// Removes the record of a file.
    ///
    /// # Errors
    /// If the records can't be written.
    pub fn forget(&mut self, path: &Path) -> Result<(), String> {
        if self.files.shift_remove(&key_of(path)).is_none() { Ok(()) } else { self.save() }
    }

    fn save(&self) -> Result<(), String> {
        if self.lock.is_none() {
            return Err("the records of setup were read without the lock, so they can't be written".into());
        }
        let path = file_of(&self.places);
        if self.files.is_empty() {
            std::fs::remove_file(&path).map_err(|error| format!("{} can't be removed ({error})", path.display()))?;
            // The end of the lock removes the directory if it is empty.
            return Ok(());
        }
        self.places.prepare().map_err(|error| error.text)?;
        self.places.write(&path, &json!(self.files).to_string()).map_err(|error| error.text)
    }
}
