//! Zed's agent, as its documentation of autumn 2026 says. It has no hooks.

use super::files::{Directory, EntryShape, FilePath, Files, NO_FILES, Scope, edited};
use super::identity::{Identity, UNSEEN};
use super::{Agent, Evidence, Support};

#[cfg(target_os = "macos")]
const DIRECTORY: &[Directory] = &[Directory::Home(".config/zed")];
#[cfg(not(target_os = "macos"))]
const DIRECTORY: &[Directory] = &[Directory::Xdg("zed"), Directory::Home(".config/zed")];

pub(super) const AGENT: Agent = Agent {
    id: "zed",
    title: "Zed",
    kind: "zed",
    short_name: "zed",
    identity: Identity { client_names: &["Zed"], hosts_terminals: true, ..UNSEEN },
    dialect: None,
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
        approve: "It has no hooks: it has the tools alone.",
        why_edited: "",
        switches: &[],
    },
    transcript: None,
    wakeups: &[],
    support: Support {
        version: "",
        mail_at_prompt: Evidence::No,
        mail_mid_turn: Evidence::No,
        wakes_idle: Evidence::No,
        edit_denied: Evidence::No,
        set_up: Evidence::Test,
    },
};
