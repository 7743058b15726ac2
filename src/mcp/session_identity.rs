//! Describes this session to the broker when it attaches: the agent, the agent's own session key, and the project.

use crate::base::ids;
use crate::known_agents::{self, Agent};
use crate::sys::data_dir::DataDir;
use crate::sys::settings::Settings;
use crate::sys::{git, process};
use serde_json::{Value, json};

/// Maximum length of the name of an agent that slm-mesh does not know, in characters.
const NAME_MAX: usize = 40;

/// What is known about the client's identity.
#[derive(Debug, Clone, Default)]
pub struct ClientIdentity {
    /// The agent that the command line names (`mcp --agent NAME`). It takes precedence over the client's name, the
    /// environment and the process tree.
    pub chosen: Option<String>,
    /// The name that the client gave itself; the first one if it gave several.
    pub name: Option<String>,
}

/// The client's agent, found by the client's name, or otherwise by the environment or the process tree.
pub fn agent_of(client: &ClientIdentity) -> Option<&'static Agent> {
    if let Some(chosen) = &client.chosen {
        return known_agents::by_id(chosen).or_else(|| known_agents::by_kind(chosen));
    }
    known_agents::by_client_name(client.name.as_deref().unwrap_or(""))
        .or_else(|| known_agents::by_environment(|name| std::env::var_os(name).is_some()))
        .or_else(process::agent_above)
}

/// The agent's own key for this session. An environment variable is used only if the client is the agent that sets it,
/// because a client that another agent started inherits that other agent's variables.
fn session_key(agent: &Agent) -> Option<String> {
    let name = agent.identity.session_variable?;
    std::env::var(name).ok().map(|key| ids::session_key(&key)).filter(|key| !key.is_empty())
}

/// Normalises the name of an agent that slm-mesh does not know: shortens it, and uses only lowercase letters, digits,
/// `.`, `_` and `-`.
pub fn own_name(name: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c.to_ascii_lowercase() } else { '-' };
    let name: String = name.chars().map(plain).take(NAME_MAX).collect();
    let name = name.trim_matches('-');
    if name.is_empty() { "unknown".to_owned() } else { name.to_owned() }
}

/// The parameters of `attach`. `thread` is the client's key for one of its threads (conversations), and `id` is the
/// peer that represented this session before, if any.
pub fn attach_params(thread: &str, id: Option<&String>, client: &ClientIdentity) -> Value {
    let agent = agent_of(client);
    let named = client.chosen.as_ref().or(client.name.as_ref()).map_or("", String::as_str);
    let dir = std::env::current_dir().unwrap_or_default();
    let git = git::facts(&dir);
    let session = Some(thread.to_owned()).filter(|key| !key.is_empty()).or_else(|| session_key(agent?));
    // The settings were valid when the session connected. If a setting has become wrong since then, the session keeps
    // its name.
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
