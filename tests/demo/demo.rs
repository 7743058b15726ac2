//! Shows a newcomer the main use of slm-mesh: two agents work together through a real broker. `make demo` runs this
//! program in a temporary directory.

use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// The MCP session of an agent: a separate `slm-mesh` process. The demo starts this process in the same way as a real
/// agent.
struct Agent {
    name: &'static str,
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    n: i64,
}

impl Agent {
    fn start(stage: &Stage, name: &'static str, client: &str) -> Agent {
        let mut child =
            stage.command(&[]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the session starts");
        let input = child.stdin.take().expect("its input is piped");
        let output = BufReader::new(child.stdout.take().expect("its output is piped"));
        let mut agent = Agent { name, child, input, output, n: 0 };
        agent.request("initialize", &json!({ "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": { "name": client, "version": "1" } }));
        agent
    }

    fn send(&mut self, method: &str, params: &Value) -> i64 {
        self.n += 1;
        let line = json!({ "jsonrpc": "2.0", "id": self.n, "method": method, "params": params });
        writeln!(self.input, "{line}").expect("the session reads");
        self.n
    }

    fn receive(&mut self, id: i64) -> Value {
        loop {
            let mut line = String::new();
            self.output.read_line(&mut line).expect("the session writes");
            let value: Value = serde_json::from_str(&line).expect("a line is JSON");
            if value["id"] == json!(id) {
                return value;
            }
        }
    }

    fn request(&mut self, method: &str, params: &Value) -> Value {
        let id = self.send(method, params);
        self.receive(id)
    }

    fn ask(&mut self, tool: &str, arguments: &Value) -> i64 {
        self.send("tools/call", &json!({ "name": tool, "arguments": arguments }))
    }

    fn tool(&mut self, tool: &str, arguments: Value) -> Value {
        let id = self.ask(tool, &arguments);
        self.result(id)
    }

    fn result(&mut self, id: i64) -> Value {
        let answer = self.receive(id);
        let text = answer["result"]["content"][0]["text"].as_str().unwrap_or("{}").to_owned();
        serde_json::from_str(&text).expect("a result is JSON")
    }

    fn says(&self, text: &str) {
        println!("  {:<12} {text}", self.name);
    }
}

/// The temporary directories of the demo: a data directory and a project.
struct Stage {
    root: PathBuf,
    program: PathBuf,
}

impl Stage {
    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(args).current_dir(self.root.join("api")).env("SLM_MESH_DATA_DIR", self.root.join("mesh"));
        command.env_remove("SLM_MESH_PEER").env_remove("SLM_MESH_NAME");
        command
    }

    fn verb(&self, args: &[&str]) {
        println!("\n$ slm-mesh {}", args.join(" "));
        let out = self.command(args).output().expect("the verb runs");
        for line in String::from_utf8_lossy(&out.stdout).lines() {
            println!("  {line}");
        }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // Stops the broker that the demo started, even if the demo failed.
        let _ = self.command(&["stop"]).stdout(Stdio::null()).stderr(Stdio::null()).status();
        let _ = std::fs::remove_dir_all(&self.root);
    }
}

fn main() {
    let program = std::env::args().nth(1).expect("usage: demo PATH-OF-SLM-MESH");
    let root = std::env::temp_dir().join(format!("slm-mesh-demo-{}", std::process::id()));
    std::fs::create_dir_all(root.join("api/src")).expect("a temporary directory");
    let stage = Stage { root, program: Path::new(&program).canonicalize().expect("the program is built") };
    println!(
        "Two agents on one machine: real processes and a real broker, in a data directory that is removed at the end.\n"
    );
    let mut claude = Agent::start(&stage, "claude-api", "claude-code");
    let mut codex = Agent::start(&stage, "codex-api", "codex-mcp-client");
    find_each_other(&mut claude, &mut codex);
    talk(&mut claude, &mut codex);
    share_state(&mut claude, &mut codex);
    contend_for_a_file(&mut claude, &mut codex);
    stage.verb(&["peers"]);
    stage.verb(&["lock", "list"]);
    stage.verb(&["events", "--limit", "6"]);
    for agent in [claude, codex] {
        leave(agent);
    }
    stage.verb(&["stop"]);
    println!("\nThis is the end. To connect your own agents, read README.md or slm-mesh help agents.");
}

fn find_each_other(claude: &mut Agent, codex: &mut Agent) {
    claude.tool("mesh_summary", json!({ "summary": "refactoring the login" }));
    claude.says("mesh_summary: refactoring the login");
    let peers = codex.tool("mesh_peers", json!({ "scope": "repo" }));
    let peer = &peers["peers"][0];
    codex.says(&format!("mesh_peers: I am {}; here is {}, {}", peers["you"]["name"], peer["name"], peer["summary"]));
    assert_eq!(peer["name"], json!("claude-api"));
}

fn talk(claude: &mut Agent, codex: &mut Agent) {
    codex.tool("mesh_send", json!({ "to": "claude-api", "message": "Which port does the API use?" }));
    codex.says("mesh_send to claude-api: Which port does the API use?");
    let status = claude.tool("mesh_status", json!({}));
    claude.says(&format!("any tool's result says: mail {}", status["mail"]));
    let mail = claude.tool("mesh_inbox", json!({}));
    let message = &mail["messages"][0];
    claude.says(&format!("mesh_inbox: {} from {}", message["payload"], message["fromName"]));
    claude.tool("mesh_send", json!({ "to": "codex-api", "message": "8080", "replyTo": message["id"] }));
    claude.says("mesh_send, as an answer: 8080");
    let answer = codex.tool("mesh_inbox", json!({ "waitSeconds": 10 }));
    codex.says(&format!("mesh_inbox, waiting: {}", answer["messages"][0]["payload"]));
    let sent = codex.tool("mesh_inbox", json!({ "filter": "sent" }));
    codex.says(&format!("and my question is {}", sent["messages"][0]["receipt"]));
    assert_eq!(sent["messages"][0]["receipt"], json!("acked"));
}

fn share_state(claude: &mut Agent, codex: &mut Agent) {
    let set = claude.tool("mesh_state", json!({ "action": "set", "key": "port", "value": "8080", "expect": 0 }));
    claude.says(&format!("mesh_state set port = 8080, version {}", set["version"]));
    let late = codex.tool("mesh_state", json!({ "action": "set", "key": "port", "value": "9090", "expect": 0 }));
    codex.says(&format!("mesh_state set port, if there is none: {}", late["error"]));
    assert_eq!(late["kind"], json!("conflict"));
}

fn contend_for_a_file(claude: &mut Agent, codex: &mut Agent) {
    let mine = claude.tool("mesh_lock", json!({ "action": "lock", "filePath": "src/auth.rs", "reason": "refactor" }));
    claude.says(&format!("mesh_lock src/auth.rs: mine, token {}", mine["token"]));
    let refused = codex.tool("mesh_lock", json!({ "action": "lock", "filePath": "src/auth.rs" }));
    codex.says(&format!("mesh_lock src/auth.rs: {}", refused["error"].as_str().unwrap_or("")));
    assert_eq!(refused["kind"], json!("held"));
    let waiting = codex.ask("mesh_lock", &json!({ "action": "lock", "filePath": "src/auth.rs", "waitSeconds": 20 }));
    codex.says("mesh_lock src/auth.rs, waiting in line …");
    claude.tool("mesh_lock", json!({ "action": "unlock", "filePath": "src/auth.rs" }));
    claude.says("mesh_lock unlock src/auth.rs");
    let granted = codex.result(waiting);
    codex.says(&format!("… mine now, token {}", granted["token"]));
    assert_eq!(granted["token"].as_i64(), mine["token"].as_i64().map(|token| token + 1));
}

/// Ends an agent. Closes the session's input, and waits until the session has ended by itself.
fn leave(agent: Agent) {
    let Agent { mut child, input, .. } = agent;
    drop(input);
    child.wait().expect("the session ends");
}
