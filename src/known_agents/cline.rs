//! Cline's command line, as of 3.0.65. Set-up adds no hooks, because a hook that cancels an edit ends the whole run,
//! and the model never reads the reason.

use super::vocabulary::*;

pub(super) const AGENT: Agent = Agent {
    identity: Identity {
        client_names: &["@cline/core", "Cline"],
        processes: &[ProcessSign::Name("cline"), ProcessSign::ArgumentsHave("/@cline/")],
        ..UNSEEN
    },
    files: Files {
        programs: &["cline"],
        directory: &[Directory::Variable("CLINE_DIR", ""), Directory::Home(".cline")],
        user: Scope {
            server: edited(
                &[FilePath::Settings("data/settings/cline_mcp_settings.json")],
                "mcpServers",
                EntryShape::Plain,
            ),
            ..NO_FILES
        },
        approve: "Cline gets the tools but no hooks, because Cline ends its whole run if a hook cancels an edit.",
        server_switches: &[Switch {
            file: FilePath::Settings("data/settings/cline_mcp_settings.json"),
            keys: &["mcpServers", "slm-mesh", "disabled"],
            off: Off::Flag(true),
        }],
        ..NO_SETTINGS
    },
    support: Support { version: "3.0.65", set_up: Evidence::Run, ..NO_HOOKS },
    ..Agent::new("cline", "Cline")
};
