//! The name of this machine in the mesh: the setting `SLM_MESH_MACHINE`, or the name that the system gives the machine.
//!
//! A mesh distinguishes machines by their names, so each name should be unique and should rarely change.

use super::data_dir::DataDir;
use super::settings::{MACHINE, Settings};
use std::sync::LazyLock;

/// Maximum length of the name of a machine or a user, in characters. Longer names are cut.
const NAME_MAX: usize = 64;

/// macOS stores the local host name in this file. Everybody may read it.
#[cfg(target_os = "macos")]
const PREFERENCES: &str = "/Library/Preferences/SystemConfiguration/preferences.plist";

/// Returns the name of this machine in the mesh. The settings are read only once.
pub fn machine_name() -> &'static str {
    static NAME: LazyLock<String> = LazyLock::new(|| {
        // An error in the settings is ignored here, because every command reports it when it reads the settings.
        let settings = DataDir::find().and_then(|places| Settings::load(&places)).unwrap_or_default();
        [cleaned(settings.text(MACHINE)), cleaned(&system_name())]
            .into_iter()
            .find(|name| !name.is_empty())
            .unwrap_or_else(|| "localhost".into())
    });
    &NAME
}

/// The name without control characters, and without the characters that separate the parts of an address. A name that
/// is too long is cut. A hub uses this function for the names of its guests, so that a machine has the same name
/// everywhere.
pub fn cleaned(name: &str) -> String {
    name.chars().filter(|c| !c.is_control() && *c != '@' && *c != '/').take(NAME_MAX).collect()
}

/// On macOS, a network can change the kernel's host name, but not the local host name. macOS makes the local host name
/// unique on the local network.
#[cfg(target_os = "macos")]
fn system_name() -> String {
    let preferences = std::fs::read_to_string(PREFERENCES).unwrap_or_default();
    local_host_name(&preferences).unwrap_or_else(super::host)
}

#[cfg(not(target_os = "macos"))]
fn system_name() -> String {
    super::host()
}

/// Finds the local host name in macOS's network preferences. The preferences are a property list in XML.
#[cfg(any(target_os = "macos", test))]
fn local_host_name(preferences: &str) -> Option<String> {
    let (_, after_key) = preferences.split_once("<key>LocalHostName</key>")?;
    let value = after_key.trim_start().strip_prefix("<string>")?;
    let (name, _) = value.split_once("</string>")?;
    // A local host name consists of letters, digits and hyphens. Any other value is ignored.
    let is_name = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    is_name.then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_local_host_name_is_found_in_the_preferences_of_macos() {
        let preferences = |value: &str| {
            format!(
                "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<plist version=\"1.0\">\n<dict>\n\t<key>System</key>\n\t<dict>\n\
                 \t\t<key>Network</key>\n\t\t<dict>\n\t\t\t<key>HostNames</key>\n\t\t\t<dict>\n\
                 \t\t\t\t<key>LocalHostName</key>\n\t\t\t\t{value}\n\t\t\t</dict>\n\t\t</dict>\n\t</dict>\n</dict>\n</plist>\n"
            )
        };
        let found = |value: &str| local_host_name(&preferences(value));
        assert_eq!(found("<string>Adas-MacBook-Pro-2</string>").as_deref(), Some("Adas-MacBook-Pro-2"));
        for value in
            ["<string></string>", "<string/>", "<integer>2</integer>", "<string>a&amp;b</string>", "<string>cut"]
        {
            assert_eq!(found(value), None, "{value}");
        }
        assert_eq!(local_host_name("bplist00"), None, "a binary property list");
    }

    #[test]
    fn a_name_contains_no_character_that_separates_the_parts_of_an_address() {
        assert_eq!(cleaned("ada@desk/2\n"), "adadesk2");
        assert_eq!(cleaned(&"x".repeat(100)).len(), NAME_MAX);
    }
}
