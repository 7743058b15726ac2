//! The bell of an agent: how this session can make its client begin a turn, where the user opted in.
//!
//! **Invariant:** what is rung is the mesh's fixed sentence; the token of Claude Code's socket stays
//! in memory.

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
pub enum Bell {
    /// Claude Code's session inbox: a Unix socket and the token for it. Documented for hooks and shell
    /// commands since 2.1.224; the `user` line is what current versions accept.
    Inbox(String, String),
    /// `codex queue` for this thread.
    Queue(String),
}

impl Bell {
    /// The bell of a session of this agent; none where it has none or the user did not ask for it.
    pub fn find(agent: &str, key: &str, settings: &Settings) -> Option<Bell> {
        let var = |name| std::env::var(name).ok().filter(|value: &String| !value.is_empty());
        match agent {
            "claude-code" if settings.wakes("claude") => {
                Some(Bell::Inbox(var("CLAUDE_CODE_MESSAGING_SOCKET")?, var("CLAUDE_CODE_MESSAGING_TOKEN")?))
            }
            // Without a thread there is nothing to queue for.
            "codex" if settings.wakes("codex") && !key.is_empty() => Some(Bell::Queue(key.to_owned())),
            _ => None,
        }
    }

    /// Its name among the mesh's surfaces.
    pub fn surface(&self) -> &'static str {
        match self {
            Bell::Inbox(..) => "claude inbox",
            Bell::Queue(_) => "codex queue",
        }
    }

    /// Rings; a sentence when it can't.
    pub fn ring(&self, text: &str) -> Result<(), String> {
        match self {
            Bell::Inbox(socket, token) => {
                let lines = format!(
                    "{}\n{}\n",
                    json!({ "type": "auth", "token": token }),
                    json!({ "type": "user", "message": { "role": "user", "content": text } })
                );
                let mut stream = UnixStream::connect(socket).map_err(|error| format!("its socket: {error}"))?;
                let bounded = stream.set_write_timeout(Some(RING_MAX));
                bounded
                    .and_then(|()| stream.write_all(lines.as_bytes()))
                    .map_err(|error| format!("its socket: {error}"))
            }
            Bell::Queue(thread) => run(codex().args(["queue", "--thread", thread, "--message", text])),
        }
    }
}

/// Codex as it runs here. It keeps most of its environment from its servers, `CODEX_HOME` too, without
/// which the thread would be looked for in another place; and it need not be on the PATH. The kernel
/// knows both of the process that started this one.
#[cfg(target_os = "linux")]
fn codex() -> Command {
    let above = PathBuf::from(format!("/proc/{}", std::os::unix::process::parent_id()));
    let is_codex = |path: &PathBuf| path.file_name().is_some_and(|name| name == "codex") && path.exists();
    // Something else may stand between the two; then it is what PATH says.
    let Some(program) = std::fs::read_link(above.join("exe")).ok().filter(is_codex) else {
        return Command::new("codex");
    };
    let mut command = Command::new(program);
    let env = std::fs::read(above.join("environ")).unwrap_or_default();
    if let Some(home) = env.split(|byte| *byte == 0).find_map(|line| line.strip_prefix(b"CODEX_HOME=")) {
        command.env("CODEX_HOME", OsStr::from_bytes(home));
    }
    command
}

/// Codex as PATH has it: another process's environment can't be read here.
#[cfg(not(target_os = "linux"))]
fn codex() -> Command {
    Command::new("codex")
}

fn run(command: &mut Command) -> Result<(), String> {
    let quiet = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = quiet.spawn().map_err(|error| format!("codex can't be run ({error})"))?;
    let began = Instant::now();
    loop {
        match child.try_wait() {
            Ok(Some(status)) if status.success() => return Ok(()),
            Ok(Some(status)) => return Err(format!("codex queue ended with {}", status.code().unwrap_or(-1))),
            Ok(None) if began.elapsed() < RING_MAX => std::thread::sleep(LOOK_EVERY),
            _ => {
                // It is ours; one that has just ended needs no end.
                let _ = child.kill().and_then(|()| child.wait());
                return Err(format!("codex queue did not end in {} s", RING_MAX.as_secs()));
            }
        }
    }
}
