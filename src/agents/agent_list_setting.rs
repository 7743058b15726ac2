//! Settings that list agents: which agents may be woken by mail, and whose shell commands run in a shield.

use crate::base::error::Error;
use crate::sys::data_dir::DataDir;
use crate::sys::settings::{self, Settings};

/// Adds agents to the list in a setting, or removes them from the list. Returns whether the list changed.
///
/// # Errors
/// If the settings can't be read or written.
pub fn set_agents(setting: &str, agents: &[&str], on: bool, dry: bool) -> Result<bool, Error> {
    let places = DataDir::find()?;
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
    let text = std::fs::read_to_string(places.config()).unwrap_or_default();
    let value = Some(words.join(",")).filter(|value| !value.is_empty());
    let text = settings::with_line(&text, setting, value.as_deref());
    if text.is_empty() {
        // The settings file contained nothing but this setting, or the list came from the environment and there is no
        // file.
        match std::fs::remove_file(places.config()) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(places.error("can't be written", &error));
            }
            _ => {}
        }
    } else {
        places.write(&places.config(), &text)?;
    }
    Ok(true)
}
