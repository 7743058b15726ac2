//! Checks whether notifications can be shown, without showing one.

use super::Check;
use crate::agents::setup_environment::{find_on_path, is_program};
use crate::sys::settings::{NOTIFY, Settings};
use std::path::Path;

/// Checks the program that shows notifications: the desktop's own program, or the user's command.
pub fn check_notifications(settings: &Settings) -> Check {
    check(settings.text(NOTIFY), cfg!(target_os = "macos"), |name| find_on_path(name).is_some())
}

fn check(setting: &str, is_macos: bool, is_on_path: impl Fn(&str) -> bool) -> Check {
    let about = "notifications";
    let program = match setting {
        "off" | "" => return Check::well(about, format!("off; to see alerts on your desktop, set {NOTIFY}=desktop")),
        "desktop" if is_macos => "osascript",
        "desktop" => "notify-send",
        command => command.split_whitespace().next().unwrap_or(""),
    };
    let is_there = if program.contains('/') { is_program(Path::new(program)) } else { is_on_path(program) };
    if is_there {
        return Check::well(about, format!("{program} is installed; doctor sends no test notification"));
    }
    let cure = match setting {
        "desktop" => "install libnotify-bin (notify-send), or set SLM_MESH_NOTIFY to your own command".to_owned(),
        _ => format!("set {NOTIFY} to the absolute path of an executable program, without shell syntax"),
    };
    Check::error(about, format!("{NOTIFY} needs {program}, which is not an executable file"), cure)
}

#[cfg(test)]
mod tests {
    use super::check;

    #[test]
    fn a_setting_that_can_raise_nothing_has_a_cure() {
        for (setting, is_macos, is_on_path, is_well) in [
            ("off", false, false, true),
            ("desktop", false, false, false),
            ("desktop", false, true, true),
            ("desktop", true, true, true),
            ("/bin/sh -c x", false, false, true),
            ("/bin/no-such-program", false, true, false),
            ("/etc/passwd", false, true, false),
            ("tell-me phone", false, true, true),
            ("tell-me phone", false, false, false),
        ] {
            let found = check(setting, is_macos, |_| is_on_path);
            assert_eq!(found.cure.is_none(), is_well, "{setting}: {found:?}");
        }
    }
}
