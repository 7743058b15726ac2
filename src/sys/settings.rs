//! The settings. Each setting is read from the environment. If it is not set there, it is read from the `config` file
//! in the data directory.
//!
//! A table in `definitions.rs` contains each setting's name, range, default and help text.

mod definitions;

pub use definitions::{
    DISCOVERY, HOST, LINKS, MACHINE, NOTIFY, SECRET, SESSION, SETTINGS, SHIELD, STORE, STORE_PASSWORD, Setting,
    SettingRange, TRANSCRIPTS, WAKE,
};

use super::data_dir::DataDir;
use super::regular_file::is_pipe;
use crate::base::error::{Error, ErrorKind};
use std::collections::HashMap;
use std::io;

/// The values of all settings.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    values: HashMap<&'static str, String>,
}

impl Settings {
    /// Reads and checks all settings.
    ///
    /// # Errors
    /// If a setting is wrong. The error contains the name of the first wrong setting and the values that it accepts.
    pub fn load(places: &DataDir) -> Result<Settings, Error> {
        Settings::read(places, true)
    }

    /// Reads and checks the settings in the file, and ignores the environment.
    ///
    /// # Errors
    /// If a setting in the file is wrong. The error contains the name of the first wrong setting and the values that it
    /// accepts.
    pub fn load_file(places: &DataDir) -> Result<Settings, Error> {
        Settings::read(places, false)
    }

    fn read(places: &DataDir, with_environment: bool) -> Result<Settings, Error> {
        let file = read_file(places)?;
        let mut settings = Settings::default();
        for setting in SETTINGS {
            let from_env = match std::env::var(setting.name) {
                _ if !with_environment => None,
                Ok(value) => Some(value),
                Err(std::env::VarError::NotPresent) => None,
                Err(_) => return Err(setting.error("something that is not UTF-8")),
            };
            let value = from_env.filter(|value| !value.is_empty()).or_else(|| file.get(setting.name).cloned());
            let Some(value) = value else { continue };
            setting.check(value.trim())?;
            settings.values.insert(setting.name, value.trim().to_owned());
        }
        Ok(settings)
    }

    /// The value of a setting, as text.
    pub fn text(&self, name: &str) -> &str {
        let default = || SETTINGS.iter().find(|setting| setting.name == name).map_or("", |setting| setting.default);
        self.values.get(name).map_or_else(default, String::as_str)
    }

    /// The name that the user chose for the session.
    pub fn session_name(&self) -> Option<&str> {
        Some(self.text("SLM_MESH_NAME")).filter(|name| !name.is_empty())
    }

    /// Whether the environment or the file sets the setting.
    pub fn is_set(&self, name: &str) -> bool {
        self.values.contains_key(name)
    }

    /// The value of a setting, as a number.
    pub fn int(&self, name: &str) -> i64 {
        self.text(name).parse().unwrap_or(0)
    }

    /// Whether the user allows the mesh to wake idle sessions of this agent.
    pub fn wakes(&self, agent: &str) -> bool {
        self.several(WAKE).iter().any(|word| word == agent)
    }

    /// Whether the user wants the shell commands of this agent to run in a shield, a sandbox in which locked files are
    /// read-only.
    pub fn shields(&self, agent: &str) -> bool {
        self.several(SHIELD).iter().any(|word| word == agent)
    }

    /// Whether the user allows discovery of hubs on the local network.
    pub fn discovers(&self) -> bool {
        self.text(DISCOVERY) != "off"
    }

    /// Whether the user allows peers to read the transcripts of this user's sessions.
    pub fn reads_transcripts(&self) -> bool {
        self.text(TRANSCRIPTS) != "off"
    }

    /// Whether the user wants notifications of alerts.
    pub fn notifies(&self) -> bool {
        !["off", ""].contains(&self.text(NOTIFY))
    }

    /// The value of a setting, as a list of words.
    pub fn several(&self, name: &str) -> Vec<String> {
        words_of(self.text(name))
    }

    /// The settings that affect a broker, as text. Programs compare such texts to find out whether two brokers have the
    /// same settings. Settings that affect only a single session are left out.
    pub fn fingerprint(&self) -> String {
        // Clients on this machine can see the fingerprint, so it contains only hashes of the secrets.
        let is_secret = |name| [SECRET, STORE_PASSWORD].contains(&name);
        let value = |name| if is_secret(name) { hash(self.text(name)).to_string() } else { self.text(name).to_owned() };
        shared_settings().map(|name| format!("{name}={}", value(name))).collect::<Vec<_>>().join(" ")
    }

    /// The names of the settings whose values differ from the values in a fingerprint. Returns no names if a different
    /// version of slm-mesh made the fingerprint.
    pub fn different_from(&self, fingerprint: &str) -> Vec<&'static str> {
        let own = self.fingerprint();
        let (Some(ours), Some(theirs)) = (fingerprint_values(&own), fingerprint_values(fingerprint)) else {
            return Vec::new();
        };
        let differ = ours.into_iter().zip(theirs).filter(|(ours, theirs)| ours != theirs);
        differ.map(|((name, _), _)| name).collect()
    }
}

/// Splits the value of a setting at its commas.
pub fn words_of(value: &str) -> Vec<String> {
    value.split(',').map(|word| word.trim().to_owned()).filter(|word| !word.is_empty()).collect()
}

/// The names of the settings that affect a broker and not only a single session.
fn shared_settings() -> impl Iterator<Item = &'static str> {
    let of_session = ["SLM_MESH_NAME", "SLM_MESH_PEER", SESSION, "SLM_MESH_HOOK_BUDGET_MS", WAKE, SHIELD, TRANSCRIPTS];
    SETTINGS.iter().map(|setting| setting.name).filter(move |name| !of_session.contains(name))
}

/// Splits a fingerprint into names and values; `None` if a different version of slm-mesh made the fingerprint. A value
/// may contain spaces, so the name of the next setting marks the end of the value.
fn fingerprint_values(fingerprint: &str) -> Option<Vec<(&'static str, &str)>> {
    let names: Vec<&'static str> = shared_settings().collect();
    let (mut rest, mut values) = (fingerprint, Vec::new());
    for (n, name) in names.iter().enumerate() {
        rest = rest.strip_prefix(name)?.strip_prefix('=')?;
        let next = names.get(n + 1).map(|next| format!(" {next}="));
        let end = next.map_or(Some(rest.len()), |next| rest.find(&next))?;
        values.push((*name, &rest[..end]));
        rest = rest[end..].trim_start();
    }
    Some(values)
}

/// A hash of a string. Hashes from different builds can't be compared.
fn hash(text: &str) -> u64 {
    let mut hasher = std::hash::DefaultHasher::new();
    std::hash::Hash::hash(text, &mut hasher);
    std::hash::Hasher::finish(&hasher)
}

/// The text of a settings file after one setting is changed or removed. All other lines stay as they are, with their
/// line ends.
pub fn with_line(text: &str, name: &str, value: Option<&str>) -> String {
    let is_it = |line: &&str| line.split_once('=').is_some_and(|(known, _)| known.trim() == name);
    let mut new: String = text.split_inclusive('\n').filter(|line| !is_it(line)).collect();
    if let Some(value) = value {
        let end = if text.contains("\r\n") { "\r\n" } else { "\n" };
        if !new.is_empty() && !new.ends_with('\n') {
            new.push_str(end);
        }
        new.push_str(&format!("{name}={value}{end}"));
    }
    new
}

/// Reads `NAME=value` lines. Blank lines and lines that begin with `#` are skipped.
fn read_file(places: &DataDir) -> Result<HashMap<String, String>, Error> {
    let path = places.config();
    if is_pipe(&path) {
        let text = format!("{}: can't be read, because it is a pipe; replace it with a file", path.display());
        return Err(Error::new(ErrorKind::Usage, text));
    }
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        // If the data directory is a file, the program fails later with a clearer error, when it first writes to the
        // directory.
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(HashMap::new());
        }
        Err(error) => {
            let text = format!("{}: can't be read ({error}); make this file and its folder readable", path.display());
            return Err(Error::new(ErrorKind::Usage, text));
        }
    };
    let mut values = HashMap::new();
    for (n, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let named = line.split_once('=').filter(|(name, _)| SETTINGS.iter().any(|setting| setting.name == name.trim()));
        let Some((name, value)) = named else {
            let text = format!(
                "{} line {}: expected NAME=value, where NAME is a setting; see slm-mesh(1)",
                path.display(),
                n + 1
            );
            return Err(Error::new(ErrorKind::Usage, text));
        };
        values.insert(name.trim().to_owned(), value.trim().trim_matches('"').to_owned());
    }
    Ok(values)
}
