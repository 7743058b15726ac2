//! Continue's command line, as of 1.5.47. Continue runs no hooks, and `setup` does not edit Continue's list of servers.

use super::vocabulary::*;

pub(super) const AGENT: Agent = Agent {
    identity: Identity {
        client_names: &["continue-cli-client"],
        processes: &[ProcessSign::Name("cn"), ProcessSign::ArgumentsHave("/@continuedev/cli/")],
        ..UNSEEN
    },
    files: Files {
        approve: "Setup does not edit Continue's list of servers, so add the server to ~/.continue/config.yaml \
                  yourself: the program slm-mesh with the argument mcp.",
        ..NO_SETTINGS
    },
    support: Support { version: "1.5.47", set_up: Evidence::No, ..NO_HOOKS },
    ..Agent::new("continue", "Continue")
};
