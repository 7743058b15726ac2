//! Aider, as of 0.86.2. Aider supports neither MCP nor hooks. Set-up gives Aider a file that describes our commands.

use super::vocabulary::*;

const CONVENTIONS: &str = include_str!("aider_conventions.md");

pub(super) const AGENT: Agent = Agent {
    identity: Identity { processes: &[ProcessSign::Name("aider"), ProcessSign::ArgumentsHave("/aider")], ..UNSEEN },
    files: Files {
        programs: &["aider"],
        directory: &[Directory::Home(".aider")],
        user: Scope {
            server: edited(&[FilePath::Home(".aider.conf.yml")], "read", EntryShape::YamlLine),
            hooks: None,
            commands: None,
            own_file: Some(OwnFile { path: FilePath::Settings("slm-mesh.md"), text: CONVENTIONS, runs_hooks: false }),
        },
        project: Scope {
            server: edited(&[FilePath::Project(".aider.conf.yml")], "read", EntryShape::YamlLine),
            hooks: None,
            commands: None,
            own_file: Some(OwnFile {
                path: FilePath::Project(".aider.slm-mesh.md"),
                text: CONVENTIONS,
                runs_hooks: false,
            }),
        },
        approve: "Aider has neither MCP nor hooks, so setup gives it a description of the slm-mesh commands. Run these \
                  commands yourself, or let Aider run them.",
        ..NO_SETTINGS
    },
    support: Support { version: "0.86.2", set_up: Evidence::Run, ..NO_HOOKS },
    ..Agent::new("aider", "Aider")
};
