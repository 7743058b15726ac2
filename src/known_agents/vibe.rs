//! Mistral Vibe, as of 3.0.3. Vibe's MCP client calls itself `mcp`, so Vibe is recognised by its processes. Vibe runs
//! our server only during a tool call. Set-up does not edit Vibe's list of servers.

use super::vocabulary::*;

pub(super) const AGENT: Agent = Agent {
    identity: Identity {
        processes: &[ProcessSign::Name("vibe"), ProcessSign::Name("vibe-rs"), ProcessSign::Name("vibe-app-server")],
        ..UNSEEN
    },
    files: Files {
        approve: "Setup does not edit Vibe's list of servers, so add the server to ~/.vibe/config.toml yourself: the \
                  program slm-mesh with the argument mcp.",
        ..NO_SETTINGS
    },
    support: Support { version: "3.0.3", set_up: Evidence::No, ..NO_HOOKS },
    ..Agent::new("vibe", "Mistral Vibe")
};
