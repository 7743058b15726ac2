//! Windsurf, before it became Devin. Windsurf's hooks cannot show anything to the model.

use super::vocabulary::*;

pub(super) const AGENT: Agent = Agent {
    identity: Identity {
        client_names: &["windsurf-client"],
        processes: &[ProcessSign::ArgumentsHave("windsurf.app"), ProcessSign::Name("windsurf")],
        hosts_terminals: true,
        ..UNSEEN
    },
    files: Files {
        programs: &["windsurf"],
        directory: &[Directory::Home(".codeium/windsurf")],
        user: Scope {
            server: edited(&[FilePath::Settings("mcp_config.json")], "mcpServers", EntryShape::Plain),
            ..NO_FILES
        },
        approve: "Windsurf gets the tools from slm-mesh but no hooks, because Windsurf does not show the output of \
                  hooks to the model. Press refresh in its MCP panel.",
        ..NO_SETTINGS
    },
    ..Agent::new("windsurf", "Windsurf")
};
