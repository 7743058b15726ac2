//! `slm-mesh hook AGENT --wake`: runs in the background while an agent is idle, and waits for mail that is allowed to
//! wake the agent. When such mail arrives, this hook makes the agent begin a turn.
//!
//! **Invariant:** this hook never delays its agent. It waits only if the agent runs it in the background, and it ends
//! when the agent ends. If the broker ends first, the hook connects to the next broker and waits again, but it never
//! starts a broker.

use super::hook::{HookAgent, print, run_guarded, session_facts};
use super::hook_input::understand;
use crate::base::error::{Error, ErrorKind};
use crate::client::{Client, route_to_broker};
use crate::known_agents::Agent;
use crate::known_agents::wakeup_means::{HookAnswer, Means};
use crate::sys::data_dir::DataDir;
use crate::sys::settings::Settings;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// How long one call waits, in seconds. Between two calls, the hook checks that its agent is still running.
const WAIT_SECONDS: i64 = 600;

/// The rank of this wakeup channel. The channel of a running MCP session has rank 0 and is therefore tried first.
const RANK: i64 = 1;

/// The shortest pause before the hook connects again. Each failure in a row doubles the pause.
const PAUSE_MIN: Duration = Duration::from_millis(250);

/// The longest pause before the hook connects again.
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// How long a hook tries to reach a broker for the first time. Each turn of the agent starts a hook. An older hook ends
/// only when a newer hook of the session has reached the broker. Without this limit, more and more hooks would wait
/// while a hub can't be reached. After a hook has reached a broker, it tries without limit, because it is the session's
/// only hook.
const FIRST_CONTACT_MAX: Duration = Duration::from_secs(600);

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
    // The session may have ended while the hook had no connection. In this case, the hook must not make the session
    // active again.
    (facts["rank"], facts["mayBeLate"]) = (json!(RANK), json!(true));
    let parent = std::os::unix::process::parent_id();
    // An agent that is killed can't end its waiting hooks, so this hook ends with its agent. Otherwise, the hook would
    // keep the session online.
    crate::sys::process::end_with_parent();
    let (began, mut has_reached_broker, mut pause) = (Instant::now(), false, PAUSE_MIN);
    while std::os::unix::process::parent_id() == parent {
        let tried_at = Instant::now();
        let waited = connect(&places).and_then(|mut client| {
            has_reached_broker = true;
            wait_once(&mut client, &wake, &facts)
        });
        if tried_at.elapsed() > PAUSE_MAX {
            pause = PAUSE_MIN;
        }
        match waited {
            Ok(WakeupWaitEnd::Wake(sentence)) => return Ok(say(wake.answer, &sentence)),
            Ok(WakeupWaitEnd::TimeUp) => {}
            Ok(WakeupWaitEnd::Over) => return Ok(0),
            Err(error) if is_temporary(&error) && (has_reached_broker || began.elapsed() < FIRST_CONTACT_MAX) => {
                std::thread::sleep(pause);
                pause = (pause * 2).min(PAUSE_MAX);
            }
            Err(error) => return Err(error.text),
        }
    }
    Ok(0)
}

/// How a call that waits for mail ended.
enum WakeupWaitEnd {
    /// The agent must be woken with this sentence.
    Wake(String),
    /// No mail came within [`WAIT_SECONDS`].
    TimeUp,
    /// The hook must not wait any more, because the session has ended or has a newer hook.
    Over,
}

/// Connects to a running broker, unless its hub is known to be silent.
fn connect(places: &DataDir) -> Result<Client, Error> {
    if route_to_broker::is_marked_silent(places) {
        return Err(Error::new(ErrorKind::Gone, "the hub did not answer a moment ago"));
    }
    Client::connect_to_running(places)
}

/// Whether a later attempt may succeed, because no broker is running, or because the broker or the hub does not answer.
fn is_temporary(error: &Error) -> bool {
    matches!(error.kind, ErrorKind::NotFound | ErrorKind::Gone | ErrorKind::Standby | ErrorKind::TimedOut)
}

fn wait_once(client: &mut Client, wake: &BackgroundWake, facts: &Value) -> Result<WakeupWaitEnd, Error> {
    let value = client.call("wakeup.wait", facts)?;
    if value["wake"] != json!(true) {
        return Ok(if value["over"] == json!(true) { WakeupWaitEnd::Over } else { WakeupWaitEnd::TimeUp });
    }
    let report = json!({ "channel": wake.channel, "lastSeq": value["lastSeq"], "as": value["you"]["id"] });
    // The wakeup is reported before the answer is printed, because this process exits after the answer has been
    // printed. If the answer does not wake the agent, the broker tries the next channel. If the connection is lost now,
    // the broker may have stored the report. Then no broker will ask for this wakeup again, so the agent is woken now.
    match client.call("wakeup.report", &report) {
        Err(error) if !is_temporary(&error) => Err(error),
        _ => Ok(WakeupWaitEnd::Wake(value["text"].as_str().unwrap_or("").to_owned())),
    }
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
