//! The records of the files that `setup` has written. A record contains the text without our entries, the text that
//! `setup` wrote, and the agents that use the file. With these records, `setup --remove` restores every file byte for
//! byte, even if our program or the agent's settings directory has moved.
//!
//! The folders that `setup` has created are recorded too, so that they can be removed. If such a folder stayed, an
//! agent could count as installed, because its settings directory would still exist.
//!
//! Settings may contain secrets, so the records are in the data directory, which only the user can read. A copy beside
//! the file could be in a work tree and get committed.

pub mod registrations_by_agent_command;

use super::safe_write::{self, behind_links};
use super::setup_lock::SetupLock;
use crate::sys::data_dir::DataDir;
use crate::sys::regular_file::open_regular;
use serde_json::{Map, Value, json};
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

/// The record of one file.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct FileRecord {
    /// The text without our entries; `None` if there was no file.
    pub before: Option<String>,
    /// The text that `setup` wrote.
    pub after: String,
    /// The text that the file had before `setup` last wrote the file, if this text already contained our entries. If
    /// that write failed, the file still has this text.
    pub earlier: Option<String>,
    /// The ids of the agents for which `setup` wrote the file.
    pub agents: Vec<String>,
    /// The project's directory, if `setup --project` wrote the file.
    pub project: Option<PathBuf>,
    /// Whether the whole text of the file comes from `setup`, as in the file of a slash command.
    pub is_own: bool,
}

impl FileRecord {
    /// Whether a file with this text is unchanged since the last run of `setup`. An unchanged file has the text that
    /// `setup` wrote. If that write failed, it has the earlier text.
    pub fn has_text(&self, text: &str) -> bool {
        self.after == text || self.earlier.as_deref() == Some(text)
    }
}

/// Maximum size of the records, in bytes. The records contain several texts of each file. Larger records could not be
/// read again, so `setup` refuses a change that would make the records larger than this.
const SIZE_MAX: u64 = 256 << 20;

/// The key that marks the record of a folder that `setup` has created.
const FOLDER: &str = "folder";

/// All records of this user.
#[derive(Debug)]
pub struct Records {
    places: DataDir,
    files: Map<String, Value>,
    /// The lock that other runs of `setup` wait for; `None` if the records are only read.
    lock: Option<SetupLock>,
}

fn file_of(places: &DataDir) -> PathBuf {
    places.dir.join("setup.json")
}

/// The text of the records; empty if there are none.
fn read_text(path: &Path) -> Result<String, String> {
    let cant_read = |error: std::io::Error| format!("it can't be read ({error}); check who owns it");
    let file = match open_regular(path) {
        Ok(Some(file)) => file,
        Ok(None) => return Err("it is not a regular file; move it away".into()),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(String::new()),
        Err(error) => return Err(cant_read(error)),
    };
    let mut text = String::new();
    let n_bytes = file.take(SIZE_MAX + 1).read_to_string(&mut text).map_err(cant_read)?;
    if n_bytes as u64 > SIZE_MAX {
        return Err(format!("it is larger than {SIZE_MAX} bytes; move it away"));
    }
    Ok(text)
}

fn text_of(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// The path under which a file is recorded, with all links resolved. So if the paths of two agents lead to the same
/// file, the file has only one record. The file and its folders need not exist.
pub fn real_path(path: &Path) -> PathBuf {
    let target = behind_links(path);
    let found = target.ancestors().skip(1).find_map(|folder| Some((folder, folder.canonicalize().ok()?)));
    let inside = found.and_then(|(folder, real)| Some(real.join(target.strip_prefix(folder).ok()?)));
    inside.unwrap_or(target)
}

impl Records {
    /// Reads the records, for display or for a dry run.
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
        let mut records = Records::read(places, Some(lock))?;
        records.record_data_directory();
        Ok(records)
    }

    /// If this run of `setup` created the data directory, records this fact. If an earlier run created the directory
    /// and recorded this, tells the lock.
    fn record_data_directory(&mut self) {
        let key = text_of(&self.places.dir);
        let Some(lock) = self.lock.as_mut() else { return };
        if self.files.contains_key(&key) {
            lock.own_directory();
        } else if lock.is_own_directory() {
            self.files.insert(key, json!({ FOLDER: true }));
        }
    }

    fn read(places: DataDir, lock: Option<SetupLock>) -> Result<Records, String> {
        let path = file_of(&places);
        let text = read_text(&path).map_err(|why| format!("{}: {why}", path.display()))?;
        let files = match serde_json::from_str::<Value>(&text) {
            Ok(Value::Object(files)) => files,
            _ => Map::new(),
        };
        Ok(Records { places, files, lock })
    }

    /// The record of a file.
    pub fn get(&self, path: &Path) -> Option<FileRecord> {
        // Older versions recorded the path of a link.
        let record = self.files.get(&text_of(&real_path(path))).or_else(|| self.files.get(&text_of(path)))?;
        let text = |name: &str| record[name].as_str().map(str::to_owned);
        let agents = record["agents"].as_array().into_iter().flatten();
        let agents = agents.filter_map(Value::as_str).map(str::to_owned).collect();
        let project = text("project").map(PathBuf::from);
        let is_own = record["own"] == json!(true);
        let (before, after, earlier) = (text("before"), text("after")?, text("earlier"));
        Some(FileRecord { before, after, earlier, agents, project, is_own })
    }

    /// The files that are recorded for an agent. Returns the files of `project`, or the user's own files if `project`
    /// is `None`.
    pub fn files_of(&self, agent: &str, project: Option<&Path>) -> Vec<(PathBuf, FileRecord)> {
        let all = self.files.keys().map(PathBuf::from).filter_map(|path| self.get(&path).map(|record| (path, record)));
        let is_theirs = |record: &FileRecord| {
            record.project.as_deref() == project && record.agents.iter().any(|known| known == agent)
        };
        all.filter(|(_, record)| is_theirs(record)).collect()
    }

    /// Whether `setup --project` wrote a file in this project.
    pub fn has_project(&self, project: &Path) -> bool {
        let mut records = self.files.keys().filter_map(|path| self.get(Path::new(path)));
        records.any(|record| record.project.as_deref() == Some(project))
    }

    /// The projects that still contain files that `setup --project` wrote for one of these agents.
    pub fn projects_of(&self, agents: &[&str]) -> Vec<PathBuf> {
        self.projects_with(agents, |path, _| path.exists())
    }

    /// The projects that no longer exist at the path where `setup --project` wrote files for one of these agents.
    pub fn vanished_projects_of(&self, agents: &[&str]) -> Vec<PathBuf> {
        self.projects_with(agents, |_, project| !project.exists())
    }

    /// The projects that contain a recorded file of one of these agents. Counts only files for which `picks` returns
    /// true;
    /// `picks` gets the path of the file, and the project.
    fn projects_with(&self, agents: &[&str], picks: impl Fn(&Path, &Path) -> bool) -> Vec<PathBuf> {
        let records = self.files.keys().map(Path::new).filter_map(|path| Some((path, self.get(path)?)));
        let theirs = records.filter(|(_, record)| record.agents.iter().any(|known| agents.contains(&known.as_str())));
        let projects = theirs.filter_map(|(path, record)| record.project.filter(|project| picks(path, project)));
        let mut found: Vec<PathBuf> = projects.collect();
        found.sort();
        found.dedup();
        found
    }

    /// Removes the record of each project file that no longer exists, if only these agents used the file.
    ///
    /// # Errors
    /// If the records can't be written.
    pub fn forget_vanished(&mut self, agents: &[&str]) -> Result<(), String> {
        let is_vanished = |path: &&Path| {
            let record = self.get(path).filter(|record| record.project.is_some());
            let is_theirs = |record: &FileRecord| record.agents.iter().all(|known| agents.contains(&known.as_str()));
            record.is_some_and(|record| is_theirs(&record) && path.symlink_metadata().is_err())
        };
        let vanished: Vec<PathBuf> =
            self.files.keys().map(Path::new).filter(is_vanished).map(Path::to_path_buf).collect();
        for path in &vanished {
            self.forget(path)?;
        }
        if vanished.is_empty() { Ok(()) } else { self.remove_created_folders() }
    }

    /// Records a file that `setup` is about to write, and the folders that `setup` will create for the file.
    ///
    /// # Errors
    /// If the records can't be written.
    pub fn set(&mut self, path: &Path, record: &FileRecord) -> Result<(), String> {
        let FileRecord { before, after, earlier, agents, project, is_own } = record;
        let mut value = json!({ "before": before, "after": after, "agents": agents });
        if let Some(earlier) = earlier {
            value["earlier"] = json!(earlier);
        }
        if let Some(project) = project {
            value["project"] = json!(text_of(project));
        }
        if *is_own {
            value["own"] = json!(true);
        }
        let real = real_path(path);
        self.files.shift_remove(&text_of(path));
        self.files.insert(text_of(&real), value);
        for folder in real.ancestors().skip(1).take_while(|folder| folder.symlink_metadata().is_err()) {
            self.files.insert(text_of(folder), json!({ FOLDER: true }));
        }
        self.save()
    }

    /// Removes the folders that `setup` has created, if they are empty and no recorded file belongs in them.
    ///
    /// # Errors
    /// If the records can't be written.
    pub fn remove_created_folders(&mut self) -> Result<(), String> {
        // The data directory contains the records, so it is removed after them.
        let data_directory = text_of(&self.places.dir);
        let is_folder = |path: &str, record: &Value| record[FOLDER] == json!(true) && path != data_directory;
        let all =
            self.files.iter().filter(|(path, record)| is_folder(path, record)).map(|(path, _)| PathBuf::from(path));
        let mut folders: Vec<PathBuf> = all.collect();
        let n_before = folders.len();
        // Inner folders are removed first.
        folders.sort_by_key(|folder| std::cmp::Reverse(folder.components().count()));
        folders.retain(|folder| {
            // Older versions did not resolve the symlinks in the path of a folder.
            let real = real_path(folder);
            let is_below =
                |path: &Path| [folder, &real].iter().any(|folder| path.starts_with(folder) && path != *folder);
            let is_needed = self.files.keys().any(|path| is_below(Path::new(path)));
            if !is_needed {
                // If the folder is not empty, it contains files that `setup` did not write. The folder then stays, and
                // only its record is removed.
                let _ = std::fs::remove_dir(folder);
                self.files.shift_remove(&text_of(folder));
            }
            is_needed
        });
        if folders.len() == n_before { Ok(()) } else { self.save() }
    }

    /// Removes the record of a file, and the draft that a killed run has left beside the file.
    ///
    /// # Errors
    /// If the records can't be written.
    pub fn forget(&mut self, path: &Path) -> Result<(), String> {
        safe_write::remove_left_draft(path);
        let keys = [text_of(&real_path(path)), text_of(path)];
        let n_removed = keys.iter().filter_map(|key| self.files.shift_remove(key)).count();
        if n_removed == 0 { Ok(()) } else { self.save() }
    }

    fn save(&self) -> Result<(), String> {
        if self.lock.is_none() {
            return Err("the records of setup were read without the lock, so they can't be written".into());
        }
        let path = file_of(&self.places);
        let data_directory = text_of(&self.places.dir);
        if self.files.keys().all(|path| *path == data_directory) {
            std::fs::remove_file(&path).map_err(|error| format!("{} can't be removed ({error})", path.display()))?;
            // Dropping the lock removes the directory if `setup` created it and it is empty.
            return Ok(());
        }
        let text = json!(self.files).to_string();
        if text.len() as u64 > SIZE_MAX {
            return Err(format!(
                "`setup` keeps a copy of this file in {}, which would become larger than {SIZE_MAX} bytes; make this \
                 file smaller",
                path.display()
            ));
        }
        // `prepare` is not called, because it would also create folders that stay after `--remove`. The lock has
        // already created the data directory.
        self.places.write(&path, &text).map_err(|error| error.text)
    }
}
