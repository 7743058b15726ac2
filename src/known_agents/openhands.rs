//! OpenHands' command line, as of 1.16.0. If tmux is installed, OpenHands runs its shell in tmux. The slm-mesh commands
//! in that shell are then not descendants of OpenHands' own process.

use super::vocabulary::*;

pub(super) const AGENT: Agent = Agent {
    identity: Identity { processes: &[ProcessSign::Name("openhands")], ..UNSEEN },
    files: Files {
        programs: &["openhands"],
        directory: &[Directory::Variable("OPENHANDS_PERSISTENCE_DIR", ""), Directory::Home(".openhands")],
        user: Scope { server: edited(&[FilePath::Settings("mcp.json")], "mcpServers", EntryShape::Plain), ..NO_FILES },
        approve: "OpenHands gets the tools but no hooks.",
        ..NO_SETTINGS
    },
    support: Support { version: "1.16.0", set_up: Evidence::Run, ..NO_HOOKS },
    ..Agent::new("openhands", "OpenHands")
};
