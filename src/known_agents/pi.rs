//! Pi, as of 0.73.1. It has no MCP by design: a skill tells it about our commands.

use super::files::{Directory, FilePath, Files, NO_FILES, OwnFile, Scope};
use super::identity::{Identity, ProcessSign, UNSEEN};
use super::{Agent, Evidence, Support};

const SKILL: &str = include_str!("pi_skill.md");

pub(super) const AGENT: Agent = Agent {
    id: "pi",
    title: "Pi",
    kind: "pi",
    short_name: "pi",
    // It sets its process's title itself.
    identity: Identity {
        processes: &[ProcessSign::Name("pi"), ProcessSign::ArgumentsHave("/pi-coding-agent/")],
        ..UNSEEN
    },
    dialect: None,
    files: Files {
        programs: &["pi"],
        directory: &[Directory::Home(".pi/agent")],
        user: Scope {
            own_file: Some(OwnFile {
                path: FilePath::Settings("skills/slm-mesh/SKILL.md"),
                text: SKILL,
                runs_hooks: false,
            }),
            ..NO_FILES
        },
        project: Scope {
            own_file: Some(OwnFile {
                path: FilePath::Project(".pi/skills/slm-mesh/SKILL.md"),
                text: SKILL,
                runs_hooks: false,
            }),
            ..NO_FILES
        },
        approve: "It has neither MCP nor hooks: it reads the skill, and runs the verbs.",
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
