//! Reads from an agent's settings how the agent starts our MCP server, and tries to start the server in the same way.

use super::generated_file_texts::NAME;
use crate::sys;
use crate::sys::socket_wait::{SocketEvent, wait_for};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

/// How long a server may take to answer.
const ANSWERS_WITHIN: Duration = Duration::from_secs(5);
/// Maximum size of the answer to `initialize`, in bytes.
const ANSWER_MAX: usize = 1 << 20;
/// The programs that run a package from npm or PyPI without installing it.
const PACKAGE_RUNNERS: [&str; 2] = ["npx", "uvx"];

/// The command that an agent runs to start our MCP server.
#[derive(Debug, Clone)]
pub struct RegisteredServer {
    /// The path or the name of the program.
    pub program: String,
    args: Vec<String>,
    variables: Vec<(String, String)>,
}

impl RegisteredServer {
    /// Reads a server's entry. Some agents have the program and its arguments in one list, others in two fields.
    pub fn parse(entry: &Value) -> Option<RegisteredServer> {
        let texts = |value: &Value| {
            let list = value.as_array().into_iter().flatten();
            list.filter_map(Value::as_str).map(str::to_owned).collect::<Vec<_>>()
        };
        let words = match &entry["command"] {
            Value::String(program) => vec![program.clone()],
            list => texts(list),
        };
        let mut words = words.into_iter().chain(texts(&entry["args"]));
        let variables = ["env", "environment"].iter().filter_map(|name| entry[*name].as_object()).flatten();
        let variables = variables.filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned())));
        Some(RegisteredServer { program: words.next()?, args: words.collect(), variables: variables.collect() })
    }

    /// The program with its arguments.
    pub fn command_line(&self) -> String {
        self.args.iter().fold(self.program.clone(), |line, arg| format!("{line} {arg}"))
    }

    /// Whether this is npx or uvx, and runs the server from a package with the major version of this program. A package
    /// name without a version, as in `npx -y slm-mesh mcp`, means the newest version, and counts too.
    pub fn runs_our_package(&self) -> bool {
        let runner = Path::new(&self.program).file_name().and_then(|name| name.to_str());
        let is_ours = |word: &str| {
            let version = word.strip_prefix(NAME).map(|rest| rest.trim_start_matches(['@', '=']));
            version.is_some_and(|version| {
                ["", "latest"].contains(&version) || version.split('.').next() == Some(env!("CARGO_PKG_VERSION_MAJOR"))
            })
        };
        let starts_server = |words: &[String]| is_ours(&words[0]) && words[1] == "mcp";
        runner.is_some_and(|name| PACKAGE_RUNNERS.contains(&name)) && self.args.windows(2).any(starts_server)
    }

    /// Starts the server as the agent would, and lets it answer `initialize`. The user's mesh is not affected: the
    /// server gets a data directory that does not exist, and is killed before it connects to a broker.
    ///
    /// # Errors
    /// If there is no answer, or the answer comes from another program or another version of slm-mesh; the error says
    /// why.
    pub fn try_start(&self) -> Result<(), String> {
        let nowhere = std::env::temp_dir().join(format!("slm-mesh-trial-{:032x}", sys::random_u128()));
        let mut command = Command::new(&self.program);
        command.args(&self.args).envs(self.variables.iter().cloned());
        command.env("SLM_MESH_DATA_DIR", nowhere).env("SLM_MESH_DISCOVERY", "off");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().map_err(|error| format!("it can't be run ({error})"))?;
        let answer = ask(&mut child);
        // A failure is harmless. It means that the server has already ended.
        let _ = child.kill().and_then(|()| child.wait());
        let about = &answer?["result"]["serverInfo"];
        match (about["name"].as_str(), about["version"].as_str()) {
            (Some(NAME), Some(env!("CARGO_PKG_VERSION"))) => Ok(()),
            (Some(NAME), version) => {
                let version = version.unwrap_or("?");
                Err(format!("it is version {version}, but this program is version {}", env!("CARGO_PKG_VERSION")))
            }
            _ => Err("it does not answer as an MCP server".into()),
        }
    }
}

/// Sends `initialize` to a server and returns the answer.
fn ask(child: &mut Child) -> Result<Value, String> {
    let params = json!({ "protocolVersion": "2025-11-25", "capabilities": {},
                         "clientInfo": { "name": "slm-mesh-doctor", "version": env!("CARGO_PKG_VERSION") } });
    let request = json!({ "jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params });
    // The server ends when its standard input is closed, so the input stays open until the answer has arrived.
    let mut input = child.stdin.take();
    if let Some(input) = &mut input {
        // A failure is harmless. A server that does not read the request sends no answer, and a missing answer is an
        // error below.
        let _ = writeln!(input, "{request}");
    }
    let line = child.stdout.take().map_or(Ok(Vec::new()), first_line)?;
    serde_json::from_slice(&line).map_err(|_| "it does not answer as an MCP server".into())
}

/// The first line that a server prints, or the beginning of this line if the server ends before the line is complete.
fn first_line(mut output: ChildStdout) -> Result<Vec<u8>, String> {
    let until = Instant::now() + ANSWERS_WITHIN;
    let (mut line, mut buffer) = (Vec::new(), [0; 4096]);
    while !line.contains(&b'\n') && line.len() < ANSWER_MAX {
        let left = until.saturating_duration_since(Instant::now());
        let cant_read = |error: std::io::Error| format!("its answer can't be read ({error})");
        if !wait_for(&output, SocketEvent::Readable, left).map_err(cant_read)? {
            return Err(format!("it does not answer within {} s", ANSWERS_WITHIN.as_secs()));
        }
        match output.read(&mut buffer).map_err(cant_read)? {
            0 => break,
            n => line.extend(&buffer[..n]),
        }
    }
    line.truncate(line.iter().position(|byte| *byte == b'\n').unwrap_or(line.len()));
    Ok(line)
}
