//! Changes the settings that contain lists of agents. One setting lists the agents that mail is allowed to wake. The
//! other lists the agents whose shell commands run in a shield.
//!
//! **Invariant:** only the list in the `config` file is changed. A list in an environment variable applies to one
//! shell, so it is never copied into the file.

use super::safe_write;
use super::setup_lock::SetupLock;
use crate::base::error::{Error, ErrorKind};
use crate::sys::data_dir::DataDir;
use crate::sys::settings::{self, Settings};

/// A list in the `config` file, after `setup` has changed it.
#[derive(Debug)]
pub struct ChangedList {
    /// The agents in the list.
    pub agents: Vec<String>,
    /// Whether the list was different before.
    pub is_changed: bool,
    /// Tells the user that an environment variable overrides this list; `None` if no variable does.
    pub note: Option<String>,
}

/// Adds agents to the list in a setting if `on` is true. Otherwise, removes them from the list. If `dry` is true,
/// changes nothing, but returns what would change.
///
/// # Errors
/// If the settings can't be read or written.
pub fn set_agents(setting: &str, agents: &[&str], on: bool, dry: bool) -> Result<ChangedList, Error> {
    let places = DataDir::find()?;
    let storage = |why: String| Error::new(ErrorKind::Storage, format!("{}: {why}", places.config().display()));
    // Two runs of `setup` at the same time must not overwrite each other's changes.
    let _lock = if dry { None } else { Some(SetupLock::take(&places).map_err(storage)?) };
    let mut words = Settings::load_file(&places)?.several(setting);
    let before = words.clone();
    words.retain(|word| !agents.contains(&word.as_str()));
    if on {
        words.extend(agents.iter().map(|agent| (*agent).to_owned()));
    }
    words.sort();
    let is_changed = words != before;
    let value = Some(words.join(",")).filter(|value| !value.is_empty());
    let list = ChangedList { agents: words, is_changed, note: override_note(setting, agents, on) };
    if !is_changed || dry {
        return Ok(list);
    }
    places.prepare()?;
    let old = safe_write::read(&places.config()).map_err(storage)?;
    let text = settings::with_line(old.as_deref().unwrap_or(""), setting, value.as_deref());
    let is_written = match &old {
        None => places.write(&places.config(), &text).map(|()| true)?,
        // The settings file contained nothing but this setting, so the file is removed. A symlink stays, because the
        // user made it.
        Some(_) if text.is_empty() && !places.config().is_symlink() => {
            std::fs::remove_file(places.config()).map_err(|error| places.error("can't be written", &error))?;
            true
        }
        // The file may be a symlink, for example into a repository of settings. `replace` then writes the file to which
        // the symlink points.
        Some(old) => safe_write::replace(&places.config(), Some(old), &text).map_err(storage)?,
    };
    if is_written { Ok(list) } else { Err(storage("another program keeps changing it; run setup again".into())) }
}

/// Returns a note for the user if an environment variable overrides the new list for at least one of these agents.
fn override_note(setting: &str, agents: &[&str], on: bool) -> Option<String> {
    let value = std::env::var(setting).ok().filter(|value| !value.is_empty())?;
    let listed = settings::words_of(&value);
    let is_other = |agent: &&str| listed.iter().any(|word| word == agent) != on;
    agents.iter().any(is_other).then(|| {
        format!(
            "the environment contains {setting}={value}, which overrides the list in the config file; unset this \
             variable"
        )
    })
}
