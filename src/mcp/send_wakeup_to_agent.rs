//! If the user has allowed wakeups, wakes the client of this session, so that the client begins a turn.
//!
//! **Invariant:** a wakeup sends only a fixed sentence. The token for the session's socket is kept only in memory.

use crate::known_agents::Agent;
use crate::known_agents::wakeup_means::Means;
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
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Maximum time that the client may take to accept a wakeup.
const NOTIFY_MAX: Duration = Duration::from_secs(10);
/// How often the waker checks whether the agent's command has ended.
const POLL_EVERY: Duration = Duration::from_millis(20);

/// A way to wake one session of an agent.
#[derive(Debug, Clone)]
pub struct AgentNotifier {
    channel: &'static str,
    route: NotifyRoute,
}

/// How the wakeup sentence is sent to the session.
#[derive(Debug, Clone)]
enum NotifyRoute {
    /// The session's Unix socket, and its token. The token is sent first. The wakeup sentence follows in a message of
    /// type `user`, which the agent treats like a prompt.
    Socket { path: String, token: String },
    /// One of the agent's commands, and the session's key.
    Command { program: &'static str, arguments: &'static [&'static str], variable: &'static str, session: String },
}

impl AgentNotifier {
    /// Finds a way to wake a session of this agent; `None` if there is no way, or if the user has not allowed wakeups.
    pub fn find(agent: &Agent, session: &str, settings: &Settings) -> Option<AgentNotifier> {
        let var = |name| std::env::var(name).ok().filter(|value: &String| !value.is_empty());
        let route = |means: &Means| match *means {
            Means::SessionSocket { socket, token } => {
                Some(NotifyRoute::Socket { path: var(socket)?, token: var(token)? })
            }
            // Without the session's key, the command can't know which session to wake.
            Means::Command { program, arguments, variable } if !session.is_empty() => {
                Some(NotifyRoute::Command { program, arguments, variable, session: session.to_owned() })
            }
            _ => None,
        };
        let mut notifiers = agent
            .wakeups
            .iter()
            .filter_map(|wakeup| Some(AgentNotifier { channel: wakeup.channel, route: route(&wakeup.means)? }));
        notifiers.next().filter(|_| settings.wakes(agent.id))
    }

    /// The name of this wakeup channel in the broker's records.
    pub fn channel(&self) -> &'static str {
        self.channel
    }

    /// Sends the wakeup sentence to the client, so that the client begins a turn.
    ///
    /// # Errors
    /// If the client does not accept the sentence. The error says why.
    pub fn notify(&self, text: &str) -> Result<(), String> {
        match &self.route {
            NotifyRoute::Socket { path, token } => {
                write_to_inbox(path, token, text).map_err(|error| format!("the session's socket: {error}"))
            }
            NotifyRoute::Command { program, arguments, variable, session } => {
                let fill = |word: &&str| word.replace("{session}", session).replace("{text}", text);
                run_briefly(program, parent_command(program, variable).args(arguments.iter().map(fill)))
            }
        }
    }
}

fn write_to_inbox(socket: &str, token: &str, text: &str) -> std::io::Result<()> {
    let lines = format!(
        "{}\n{}\n",
        json!({ "type": "auth", "token": token }),
        json!({ "type": "user", "message": { "role": "user", "content": text } })
    );
    let mut stream = UnixStream::connect(socket)?;
    stream.set_write_timeout(Some(NOTIFY_MAX))?;
    stream.write_all(lines.as_bytes())
}

/// Makes the command that starts another process of the agent's program. The program may be missing from PATH. The
/// program needs the environment variable `variable`, which the agent may hide from its MCP servers. But the agent is
/// the parent of this MCP server, so `/proc` shows the program's path and the variable's value.
#[cfg(target_os = "linux")]
fn parent_command(program: &str, variable: &str) -> Command {
    let parent = PathBuf::from(format!("/proc/{}", std::os::unix::process::parent_id()));
    let is_agent = |path: &PathBuf| path.file_name().is_some_and(|name| name == program) && path.exists();
    // If our parent process is not the agent, the agent's program is looked up on PATH.
    let Some(path) = std::fs::read_link(parent.join("exe")).ok().filter(is_agent) else {
        return Command::new(program);
    };
    let mut command = Command::new(path);
    let env = std::fs::read(parent.join("environ")).unwrap_or_default();
    let prefix = format!("{variable}=");
    if let Some(value) = env.split(|byte| *byte == 0).find_map(|line| line.strip_prefix(prefix.as_bytes())) {
        command.env(variable, OsStr::from_bytes(value));
    }
    command
}

#[cfg(not(target_os = "linux"))]
fn parent_command(program: &str, _variable: &str) -> Command {
    Command::new(program)
}

fn run_briefly(program: &str, command: &mut Command) -> Result<(), String> {
    let quiet = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = quiet.spawn().map_err(|error| format!("{program} cannot be run ({error})"))?;
    let began = Instant::now();
    loop {
        match child.try_wait() {
            Ok(Some(status)) if status.success() => return Ok(()),
            Ok(Some(status)) => return Err(format!("{program} ended with {}", status.code().unwrap_or(-1))),
            Ok(None) if began.elapsed() < NOTIFY_MAX => std::thread::sleep(POLL_EVERY),
            _ => return Err(give_up_on(program, &mut child)),
        }
    }
}

fn give_up_on(program: &str, child: &mut Child) -> String {
    // If the command has already ended, there is nothing left to kill.
    let _ = child.kill().and_then(|()| child.wait());
    format!("{program} did not finish within {} s", NOTIFY_MAX.as_secs())
}
