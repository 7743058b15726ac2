//! The bell of an agent: how this session can make its client begin a turn, where the user opted in.
//!
//! **Invariant:** what is rung is the mesh's fixed sentence; the token of a session's socket stays
//! in memory.

use crate::known_agents::Agent;
use crate::known_agents::wakeup::Means;
use crate::sys::settings::Settings;
use serde_json::json;
#[cfg(target_os = "linux")]
use std::ffi::OsStr;
use std::io::Write;
#[cfg(target_os = "linux")]
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
#[cfg(target_os = "linux")]
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// What a surface may take to accept the sentence.
const RING_MAX: Duration = Duration::from_secs(10);
/// How often it is looked whether the agent's command has ended.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// A way to wake one session.
#[derive(Debug, Clone)]
pub struct Bell {
    channel: &'static str,
    road: Road,
}

/// What wakes the session.
#[derive(Debug, Clone)]
enum Road {
    /// A Unix socket of the session, and the token for it. The `user` line is what current versions of
    /// the agent accept.
    Socket { path: String, token: String },
    /// A command of the agent, with the session's key.
    Command { program: &'static str, arguments: &'static [&'static str], variable: &'static str, session: String },
}

impl Bell {
    /// The bell of a session of this agent; none if the agent has none or the user did not allow it.
    pub fn find(agent: &Agent, key: &str, settings: &Settings) -> Option<Bell> {
        let var = |name| std::env::var(name).ok().filter(|value: &String| !value.is_empty());
        let road = |means: &Means| match *means {
            Means::SessionSocket { socket, token } => Some(Road::Socket { path: var(socket)?, token: var(token)? }),
            // Without a key there is no session to queue for.
            Means::Command { program, arguments, variable } if !key.is_empty() => {
                Some(Road::Command { program, arguments, variable, session: key.to_owned() })
            }
            _ => None,
        };
        let mut bells = agent
            .wakeups
            .iter()
            .filter_map(|wakeup| Some(Bell { channel: wakeup.channel, road: road(&wakeup.means)? }));
        bells.next().filter(|_| settings.wakes(agent.id))
    }

    /// Its name among the mesh's surfaces.
    pub fn surface(&self) -> &'static str {
        self.channel
    }

    /// Rings; a sentence when it can't.
    pub fn ring(&self, text: &str) -> Result<(), String> {
        match &self.road {
            Road::Socket { path, token } => {
                let lines = format!(
                    "{}\n{}\n",
                    json!({ "type": "auth", "token": token }),
                    json!({ "type": "user", "message": { "role": "user", "content": text } })
                );
                let mut stream = UnixStream::connect(path).map_err(|error| format!("its socket: {error}"))?;
                let bounded = stream.set_write_timeout(Some(RING_MAX));
                bounded
                    .and_then(|()| stream.write_all(lines.as_bytes()))
                    .map_err(|error| format!("its socket: {error}"))
            }
            Road::Command { program, arguments, variable, session } => {
                let fill = |word: &&str| word.replace("{session}", session).replace("{text}", text);
                run(program, parent_command(program, variable).args(arguments.iter().map(fill)))
            }
        }
    }
}

/// The agent's program as it runs here. The agent may keep most of its environment from its servers,
/// `variable` too, without which the command looks for the session in another place; and the program
/// need not be on the PATH. The kernel knows both of the process that started this one.
#[cfg(target_os = "linux")]
fn parent_command(program: &str, variable: &str) -> Command {
    let above = PathBuf::from(format!("/proc/{}", std::os::unix::process::parent_id()));
    let is_agent = |path: &PathBuf| path.file_name().is_some_and(|name| name == program) && path.exists();
    // If another process stands between the two, PATH decides.
    let Some(path) = std::fs::read_link(above.join("exe")).ok().filter(is_agent) else {
        return Command::new(program);
    };
    let mut command = Command::new(path);
    let env = std::fs::read(above.join("environ")).unwrap_or_default();
    let prefix = format!("{variable}=");
    if let Some(value) = env.split(|byte| *byte == 0).find_map(|line| line.strip_prefix(prefix.as_bytes())) {
        command.env(variable, OsStr::from_bytes(value));
    }
    command
}

/// The agent's program on PATH: another process's environment can't be read here.
#[cfg(not(target_os = "linux"))]
fn parent_command(program: &str, _variable: &str) -> Command {
    Command::new(program)
}

fn run(program: &str, command: &mut Command) -> Result<(), String> {
    let quiet = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = quiet.spawn().map_err(|error| format!("{program} can't be run ({error})"))?;
    let began = Instant::now();
    loop {
        match child.try_wait() {
            Ok(Some(status)) if status.success() => return Ok(()),
            Ok(Some(status)) => return Err(format!("{program} ended with {}", status.code().unwrap_or(-1))),
            Ok(None) if began.elapsed() < RING_MAX => std::thread::sleep(LOOK_EVERY),
            _ => {
                // It is ours; one that has just ended needs no end.
                let _ = child.kill().and_then(|()| child.wait());
                return Err(format!("{program} did not end in {} s", RING_MAX.as_secs()));
            }
        }
    }
}
