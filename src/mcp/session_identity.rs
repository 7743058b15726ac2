//! What a session tells the broker about itself when it attaches: the agent, the agent's session key, and the project.

use crate::base::id_types;
use crate::known_agents::{self, Agent};
use crate::sys::data_dir::DataDir;
use crate::sys::settings::Settings;
use crate::sys::{process, read_git_files};
use serde_json::{Value, json};

/// Maximum length, in characters, of the name of an agent that slm-mesh does not know.
const NAME_MAX: usize = 40;

/// What is known about the client's identity.
#[derive(Debug, Clone, Default)]
pub struct ClientIdentity {
    /// The agent's name from the command line (`mcp --agent NAME`). If this name is set, the client's name, the
    /// environment and the process tree are ignored.
    pub chosen: Option<String>,
    /// The name that the client sent for itself. If the client sent several names, this is the first name.
    pub name: Option<String>,
}

/// The agent that runs the client. If the command line specifies no agent, this is the agent that matches the client's
/// name, the environment or the process tree.
pub fn agent_of(client: &ClientIdentity) -> Option<&'static Agent> {
    if let Some(chosen) = &client.chosen {
        return known_agents::by_id(chosen).or_else(|| known_agents::by_kind(chosen));
    }
    known_agents::by_client_name(client.name.as_deref().unwrap_or(""))
        .or_else(|| known_agents::by_environment(|name| std::env::var_os(name).is_some()))
        .or_else(process::agent_above)
}

/// The key of an agent's session. The agent passes the key in an environment variable. Only the variable of the given
/// agent is read. A variable of another agent may be inherited, because one agent can start another.
fn session_key(agent: &Agent) -> Option<String> {
    let name = agent.identity.session_variable?;
    std::env::var(name).ok().and_then(|key| id_types::session_key(&key))
}

/// Turns the name of an unknown agent into a valid name. A valid name is short, and contains only lowercase letters,
/// digits, `.`, `_` and `-`.
pub fn own_name(name: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c.to_ascii_lowercase() } else { '-' };
    let name: String = name.chars().map(plain).take(NAME_MAX).collect();
    let name = name.trim_matches('-');
    if name.is_empty() { "unknown".to_owned() } else { name.to_owned() }
}

/// The parameters of `attach`. `thread` is the client's key for one of its conversations. `id` is the id of the peer
/// that this session had before, if any.
pub fn attach_params(thread: &str, id: Option<&String>, client: &ClientIdentity) -> Value {
    let agent = agent_of(client);
    let named = client.chosen.as_ref().or(client.name.as_ref()).map_or("", String::as_str);
    let dir = std::env::current_dir().unwrap_or_default();
    let git = read_git_files::facts(&dir);
    let session = Some(thread.to_owned()).filter(|key| !key.is_empty()).or_else(|| session_key(agent?));
    // The settings had no errors when the session connected. If they have errors now, they are ignored, and the session
    // is not renamed.
    let settings = DataDir::find().and_then(|data_dir| Settings::load(&data_dir));
    let name = settings.ok().and_then(|settings| settings.session_name().map(str::to_owned));
    json!({
        "agent": agent.map_or_else(|| own_name(named), |agent| agent.kind.to_owned()),
        "shortName": agent.map(|agent| agent.short_name), "knownAgent": agent.is_some(),
        "project": dir.display().to_string(), "pid": std::process::id(), "v": env!("CARGO_PKG_VERSION"),
        "gitRoot": git.root, "gitBranch": git.branch, "repo": git.repo, "session": session,
        "id": id, "name": name,
    })
}
