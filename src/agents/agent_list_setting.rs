//! Settings that list agents: the agents that mail may wake, and the agents that run shell commands in a shield.

use super::safe_write;
use super::setup_lock::SetupLock;
use crate::base::error::{Error, ErrorKind};
use crate::sys::data_dir::DataDir;
use crate::sys::settings::{self, Settings};

/// Adds agents to the list in a setting, or removes them from the list. Returns whether the list changed.
///
/// # Errors
/// If the settings can't be read or written.
pub fn set_agents(setting: &str, agents: &[&str], on: bool, dry: bool) -> Result<bool, Error> {
    let places = DataDir::find()?;
    let storage = |why: String| Error::new(ErrorKind::Storage, format!("{}: {why}", places.config().display()));
    // Two runs at once must not overwrite each other's lists.
    let _lock = if dry { None } else { Some(SetupLock::take(&places).map_err(storage)?) };
    let mut words = Settings::load(&places)?.several(setting);
    let before = words.clone();
    words.retain(|word| !agents.contains(&word.as_str()));
    if on {
        words.extend(agents.iter().map(|agent| (*agent).to_owned()));
    }
    words.sort();
    if words == before || dry {
        return Ok(words != before);
    }
    places.prepare()?;
    let old = safe_write::read(&places.config()).map_err(storage)?;
    let value = Some(words.join(",")).filter(|value| !value.is_empty());
    let text = settings::with_line(old.as_deref().unwrap_or(""), setting, value.as_deref());
    let is_written = match &old {
        // There is no settings file, because the list came from the environment.
        None if text.is_empty() => true,
        None => places.write(&places.config(), &text).map(|()| true)?,
        // The settings file contained nothing but this setting. A symlink stays, because the user made it.
        Some(_) if text.is_empty() && !places.config().is_symlink() => {
            std::fs::remove_file(places.config()).map_err(|error| places.error("can't be written", &error))?;
            true
        }
        // The file may be a symlink, for example into a repository of settings. `replace` then writes its target.
        Some(old) => safe_write::replace(&places.config(), Some(old), &text).map_err(storage)?,
    };
    if is_written { Ok(true) } else { Err(storage("another program keeps changing it; run setup again".into())) }
}
