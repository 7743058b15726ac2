//! `slm-mesh hook AGENT --wake`: runs in the background while an agent is idle, and waits for mail that is allowed to
//! wake the agent. When such mail arrives, this hook makes the agent begin a turn.
//!
//! **Invariant:** this hook never delays its agent. It waits only if the agent runs it in the background, and it ends
//! when the agent ends.

use super::hook::{HookAgent, print, run_guarded, session_facts};
use super::hook_input::understand;
use crate::client::Client;
use crate::known_agents::Agent;
use crate::known_agents::wakeup_means::{HookAnswer, Means};
use crate::sys::data_dir::DataDir;
use crate::sys::settings::Settings;
use serde_json::{Value, json};

/// How long one call waits, in seconds. Between two calls, the hook checks that its agent is still running.
const WAIT_SECONDS: i64 = 600;

/// The rank of this wakeup channel. The channel of a running MCP session has rank 0 and is therefore tried first.
const RANK: i64 = 1;

/// How a hook in the background can wake an agent.
struct BackgroundWake {
    channel: &'static str,
    answer: HookAnswer,
}

/// Waits for mail that is allowed to wake the session. Returns the exit status, which is part of the answer for some
/// agents.
pub fn wait_to_wake(agent: &str) -> u8 {
    run_guarded(agent, wait)
}

/// How a hook in the background can wake this agent; `None` if the agent or its environment does not allow that.
fn background_wake(agent: &Agent) -> Option<BackgroundWake> {
    agent.wakeups.iter().find_map(|wakeup| match wakeup.means {
        Means::BackgroundHook { answer, needs } => {
            let is_met = |(name, wanted): &(&str, Option<&str>)| {
                std::env::var(name).is_ok_and(|value| wanted.is_none_or(|wanted| value == wanted))
            };
            needs.iter().all(is_met).then_some(BackgroundWake { channel: wakeup.channel, answer })
        }
        _ => None,
    })
}

fn wait(agent: HookAgent, input: &Value) -> Result<u8, String> {
    let places = DataDir::find().map_err(|error| error.text)?;
    let settings = Settings::load(&places).map_err(|error| error.text)?;
    let Some(wake) = background_wake(agent.agent).filter(|_| settings.wakes(agent.agent.id)) else { return Ok(0) };
    let Some(hook) = understand(agent.dialect, input) else { return Ok(0) };
    let mut facts = session_facts(agent.agent, &hook, &settings);
    (facts["channel"], facts["waitSeconds"]) = (json!(wake.channel), json!(WAIT_SECONDS));
    facts["rank"] = json!(RANK);
    let parent = std::os::unix::process::parent_id();
    // An agent that is killed can't end its waiting hooks, so this hook ends with its agent. Otherwise, the hook would
    // keep the session online.
    crate::sys::process::end_with_parent();
    while std::os::unix::process::parent_id() == parent {
        let mut client = Client::connect(&places).map_err(|error| error.to_string())?;
        let value = client.call("wakeup.wait", &facts).map_err(|error| error.text)?;
        if value["wake"] == json!(true) {
            let report = json!({ "channel": wake.channel, "lastSeq": value["lastSeq"], "as": value["you"]["id"] });
            // The wakeup is reported before the answer is printed, because this process exits after the answer has been
            // printed. If the answer does not wake the agent, the broker tries the next channel.
            client.call("wakeup.report", &report).map_err(|error| error.text)?;
            return Ok(say(wake.answer, value["text"].as_str().unwrap_or("")));
        }
        if value["over"] == json!(true) {
            return Ok(0);
        }
    }
    Ok(0)
}

fn say(answer: HookAnswer, sentence: &str) -> u8 {
    match answer {
        HookAnswer::ExitStatus(status) => {
            crate::sys::print_error(sentence);
            status
        }
        HookAnswer::JsonLine => {
            // If the plugin that reads this line is gone, the agent cannot be woken.
            let _ = print(&json!({ "wake": sentence }).to_string());
            0
        }
    }
}
