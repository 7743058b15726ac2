//! Cline, its command line as of 3.0.65. Its hooks are left alone: one that cancels an edit ends the whole run, and
//! its model never reads why.

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
        approve: "A hook that cancels an edit would end its whole run, so it has the tools alone.",
        ..NO_SETTINGS
    },
    support: Support { version: "3.0.65", set_up: Evidence::Run, ..NO_HOOKS },
    ..Agent::new("cline", "Cline")
};
