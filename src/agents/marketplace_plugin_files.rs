//! Builds the files of the plugin that an agent's marketplace offers. The plugin contains the server, the hooks and the
//! commands that `setup` would otherwise add. Also detects whether the user has installed the plugin.
//!
//! **Invariant:** `setup` does not repeat the work of an installed plugin.

use super::edit_own_config_entries::Entries;
use super::generated_file_texts::{self, NAME};
use super::setup_environment::{Environment, read_json};
use crate::known_agents::Agent;
use crate::known_agents::settings_file_types::{EntryShape, HookFile, PluginSign};
use serde_json::{Map, Value, json};

/// The script that a plugin starts. It runs the installed slm-mesh, or fetches slm-mesh with npx if it is not
/// installed.
const LAUNCHER: &str = include_str!("plugin_launcher.sh");
/// The path of the script within the plugin.
const LAUNCHER_PATH: &str = "bin/slm-mesh";
/// The description that a marketplace shows.
const DESCRIPTION: &str = env!("CARGO_PKG_DESCRIPTION");

/// The files of an agent's plugin, with their texts; `None` if the agent has no plugins.
pub fn files(agent: &'static Agent) -> Option<Vec<(String, String)>> {
    let plugin = agent.files.plugin?;
    let program = format!("{}/{LAUNCHER_PATH}", plugin.root);
    let hooks = agent.files.user.hooks.map(|hooks| HookFile { key: Some("hooks"), wake_event: None, ..hooks });
    let entries = Entries { agent, program: &program, own_file: "", server: None, hooks, may_wake: false };
    let servers = json!({ "mcpServers": { NAME: entries.server_entry(EntryShape::Plain) } });
    let mut manifest = json!({ "name": NAME, "version": env!("CARGO_PKG_VERSION"), "description": DESCRIPTION });
    let mut found = Vec::new();
    match plugin.server_file {
        Some(path) => {
            manifest["author"] = json!({ "name": "The slm-mesh maintainers" });
            manifest["license"] = json!(env!("CARGO_PKG_LICENSE"));
            found.push((path.to_owned(), pretty(&servers)));
        }
        None => manifest["mcpServers"] = servers["mcpServers"].clone(),
    }
    found.push((plugin.manifest.to_owned(), pretty(&manifest)));
    // The entries are added to an empty object, so they cannot conflict with other text.
    found.push(("hooks/hooks.json".into(), entries.put_into("{}\n").unwrap_or_default()));
    let (pattern, style) = plugin.skills;
    let skills = generated_file_texts::plugin_commands(style).into_iter();
    found.extend(skills.map(|(name, text)| (pattern.replace("{name}", name), text)));
    found.push((LAUNCHER_PATH.into(), LAUNCHER.replace("@VERSION@", env!("CARGO_PKG_VERSION"))));
    Some(found)
}

/// The files of an agent's plugin as one JSON object, which maps each path to its text.
pub fn files_as_json(agent: &'static Agent) -> Option<Value> {
    let files = files(agent)?.into_iter().map(|(path, text)| (path, json!(text)));
    Some(Value::Object(Map::from_iter(files)))
}

fn pretty(value: &Value) -> String {
    format!("{value:#}\n")
}

/// Returns the path of a file whose content or existence shows that the agent's plugin is installed; `None` if the
/// plugin is not installed.
pub fn installed(environment: &Environment, agent: &Agent) -> Option<String> {
    let sign = agent.files.plugin?.sign;
    let path = match sign {
        PluginSign::EnabledIn(file, _) | PluginSign::Exists(file) => environment.path(agent, file),
    };
    let is_there = match sign {
        PluginSign::Exists(_) => path.exists(),
        PluginSign::EnabledIn(_, key) => read_json(&path).is_some_and(|whole| is_enabled(&whole[key])),
    };
    is_there.then(|| environment.shown(&path))
}

fn is_enabled(list: &Value) -> bool {
    let is_ours = |name: &str| name.split('@').next() == Some(NAME);
    list.as_object().is_some_and(|list| list.iter().any(|(name, on)| is_ours(name) && *on == json!(true)))
}
