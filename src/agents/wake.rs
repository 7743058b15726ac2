//! `slm-mesh hook AGENT --wake`: waits behind an idle agent until the mesh would wake it, then says
//! the sentence where that agent's client takes it for a reason to begin a turn.
//!
//! **Invariant:** it holds nothing up: it runs only where the client runs it in the background, and
//! ends with the agent.

use super::dialect::Agent;
use crate::base::error::Error;
use crate::client::Client;
use crate::sys::data_dir::Places;
use crate::sys::settings::{self, Settings, WAKE};
use serde_json::{Value, json};

/// Changes which agents mail may wake, in the settings; answers whether that changed anything.
///
/// # Errors
/// When the settings can't be read or written.
pub fn allow(agents: &[&str], on: bool, dry: bool) -> Result<bool, Error> {
    let places = Places::find()?;
    let mut words = Settings::load(&places)?.several(WAKE);
    let before = words.clone();
    words.retain(|word| !agents.contains(&word.as_str()));
    if on {
        words.extend(agents.iter().map(|agent| (*agent).to_owned()));
    }
    words.sort();
    if words == before || dry {
        return Ok(words != before);
    }
    places.prepare()?;
    let text = std::fs::read_to_string(places.config()).unwrap_or_default();
    let value = Some(words.join(",")).filter(|value| !value.is_empty());
    let text = settings::with_line(&text, WAKE, value.as_deref());
    if text.is_empty() {
        // It held this line alone.
        std::fs::remove_file(places.config()).map_err(|error| places.error("can't be written", &error))?;
    } else {
        places.write(&places.config(), &text)?;
    }
    Ok(true)
}

/// One wait; between two it is looked whether the agent still lives.
const WAIT_S: i64 = 600;
/// A channel of a running MCP session, of rank 0, is tried before this one.
const RANK: i64 = 1;
/// What a client shows to the model when a hook in the background ends: Claude Code's `asyncRewake`.
const REWAKE: u8 = 2;

/// Waits for one ring. The exit status is part of the answer.
pub fn run(agent: &str) -> u8 {
    super::hook::guarded(agent, wait)
}

fn wait(agent: Agent, input: &Value) -> Result<u8, String> {
    let places = Places::find().map_err(|error| error.text)?;
    let settings = Settings::load(&places).map_err(|error| error.text)?;
    let (word, surface) = match agent {
        Agent::Claude => ("claude", "claude rewake"),
        Agent::OpenCode => ("opencode", "opencode prompt"),
        _ => return Ok(0),
    };
    // Other agents run Claude's hooks as well, and would wait for this one.
    // And `claude -p` does not end while a hook of it waits: only a session that has a window does.
    let stays = std::env::var("CLAUDE_CODE_ENTRYPOINT").is_ok_and(|by| by == "cli");
    let is_its_own = agent != Agent::Claude || stays && std::env::var_os("CLAUDE_PID").is_some();
    let Some(told) = agent.understand(input).filter(|_| is_its_own && settings.wakes(word)) else { return Ok(0) };
    let mut ask = super::hook::identity(agent, &told);
    (ask["surface"], ask["waitSeconds"]) = (json!(surface), json!(WAIT_S));
    ask["rank"] = json!(RANK);
    let parent = std::os::unix::process::parent_id();
    // An agent that is ended may not get to end its waiters, which would hold its place in the mesh.
    crate::sys::process::end_with_parent();
    while std::os::unix::process::parent_id() == parent {
        let mut client = Client::connect(&places).map_err(|error| error.to_string())?;
        let value = client.call("turn.wake", &ask).map_err(|error| error.text)?;
        if value["ring"] == json!(true) {
            let sentence = value["text"].as_str().unwrap_or("");
            let said = json!({ "surface": surface, "upto": value["upto"], "as": value["you"]["id"] });
            // Said before it is: afterwards there is nobody left to say so. What nothing came of is
            // tried another way.
            client.call("turn.rang", &said).map_err(|error| error.text)?;
            return Ok(say(agent, sentence));
        }
        if value["over"] == json!(true) {
            return Ok(0);
        }
    }
    Ok(0)
}

fn say(agent: Agent, sentence: &str) -> u8 {
    if agent == Agent::Claude {
        crate::sys::complain(sentence);
        return REWAKE;
    }
    // A plugin that is gone wakes nobody.
    let _ = super::hook::print(&json!({ "wake": sentence }).to_string());
    0
}
