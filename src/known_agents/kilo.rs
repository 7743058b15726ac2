//! Kilo, as of 7.7.7. Kilo is derived from OpenCode and runs the same plugin.

use super::opencode;
use super::vocabulary::*;

pub(super) const AGENT: Agent = Agent {
    identity: Identity {
        client_names: &["kilo"],
        environment: &["KILO_PID"],
        processes: &[ProcessSign::Name("kilo")],
        ..UNSEEN
    },
    dialect: opencode::AGENT.dialect,
    files: Files {
        programs: &["kilo"],
        directory: &[
            Directory::Variable("KILO_CONFIG_DIR", ""),
            Directory::Xdg("kilo"),
            Directory::Home(".config/kilo"),
        ],
        user: Scope {
            server: edited(
                &[FilePath::Settings("kilo.json"), FilePath::Settings("kilo.jsonc")],
                "mcp",
                EntryShape::LocalWithList,
            ),
            ..opencode::AGENT.files.user
        },
        project: Scope {
            server: edited(
                &[FilePath::Project("kilo.json"), FilePath::Project("kilo.jsonc")],
                "mcp",
                EntryShape::LocalWithList,
            ),
            commands: commands(FilePath::Project(".kilo/command/{name}.md"), CommandStyle::MarkdownWithDescription),
            own_file: Some(OwnFile {
                path: FilePath::Project(".kilo/plugin/slm-mesh.js"),
                text: opencode::PLUGIN,
                runs_hooks: true,
            }),
            ..NO_FILES
        },
        ..NO_SETTINGS
    },
    wakeups: opencode::AGENT.wakeups,
    support: Support { wakes_idle: Evidence::Docs, ..Support::run("7.7.7").with_shield(Evidence::Run) },
    ..Agent::new("kilo", "Kilo")
};
