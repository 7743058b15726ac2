//! Zed's agent, according to its documentation of autumn 2026. The agent has no hooks.

use super::vocabulary::*;

#[cfg(target_os = "macos")]
const DIRECTORY: &[Directory] = &[Directory::Home(".config/zed")];
#[cfg(not(target_os = "macos"))]
const DIRECTORY: &[Directory] = &[Directory::Xdg("zed"), Directory::Home(".config/zed")];

pub(super) const AGENT: Agent = Agent {
    identity: Identity { client_names: &["Zed"], hosts_terminals: true, ..UNSEEN },
    files: Files {
        programs: &["zed", "zeditor"],
        directory: DIRECTORY,
        user: Scope {
            server: edited(&[FilePath::Settings("settings.json")], "context_servers", EntryShape::Plain),
            ..NO_FILES
        },
        project: Scope {
            server: edited(&[FilePath::Project(".zed/settings.json")], "context_servers", EntryShape::Plain),
            ..NO_FILES
        },
        approve: "Zed gets only the tools, because Zed has no hooks.",
        server_switches: &[
            Switch {
                file: FilePath::Settings("settings.json"),
                keys: &["context_servers", "slm-mesh", "enabled"],
                off: Off::Flag(false),
            },
            Switch {
                file: FilePath::Project(".zed/settings.json"),
                keys: &["context_servers", "slm-mesh", "enabled"],
                off: Off::Flag(false),
            },
        ],
        ..NO_SETTINGS
    },
    ..Agent::new("zed", "Zed")
};
