//! Times a call of the Python package, and compares it with the same call of the Rust client. Both use the Unix socket.

use super::calls::VALUE;
use super::figures::{Reach, Samples, Table, micros_since};
use super::place::Mesh;
use serde_json::{Value, json};
use slm_mesh::client::Client;
use slm_mesh::sys::data_dir::DataDir;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

/// The number of batches of calls for each row.
const ROUNDS: usize = 30;
/// The number of timed calls in a batch.
const BATCH: usize = 80;
/// The number of untimed calls at the start of a batch.
const WARM: usize = 5;

/// A Python process that reads a number, and makes this number of calls.
struct Script {
    child: Child,
    answers: BufReader<std::process::ChildStdout>,
}

impl Script {
    /// Starts the script, if python3 is installed.
    fn start(mesh: &Mesh, words: &[&str]) -> Option<Script> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bench/calls.py");
        let mut command = Command::new("python3");
        command
            .arg(script)
            .args(words)
            .arg(VALUE)
            .env("SLM_MESH_DATA_DIR", mesh.dir())
            .env("PYTHONDONTWRITEBYTECODE", "1");
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().ok()?;
        let answers = BufReader::new(child.stdout.take().expect("piped"));
        Some(Script { child, answers })
    }

    /// Makes `n` calls, and returns how many microseconds each call took.
    fn times(&mut self, n: usize) -> Vec<f64> {
        let input = self.child.stdin.as_mut().expect("piped");
        writeln!(input, "{n}").expect("the script reads");
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("the script answers");
        serde_json::from_str(&line).expect("a list of times")
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        // The script ends when its input ends.
        let _ = self.child.wait();
    }
}

/// Times three scripts. Two have no peer name: one reads, and one writes. The third acts as a named peer, and reads.
pub fn python(table: &mut Table) {
    let mesh = Mesh::started();
    let mut client = Client::connect(&DataDir { dir: mesh.dir() }).expect("a broker");
    let (get, set) = (json!({ "key": "port" }), json!({ "key": "port", "value": VALUE }));
    client.call("state.set", &set).expect("it is set");
    let rows: [(&str, &str, &str, &Value); 3] =
        [("get", "plain", "state.get", &get), ("get", "named", "state.get", &get), ("set", "plain", "state.set", &set)];
    for (what, who, method, params) in rows {
        let Some(mut script) = Script::start(&mesh, &[what, who]) else {
            return println!("no python3: no rows for it");
        };
        let (mut python, mut rust) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            python.extend(script.times(WARM + BATCH).drain(WARM..));
            for n in 0..WARM + BATCH {
                let began = Instant::now();
                client.call(method, params).expect("an answer");
                if n >= WARM {
                    rust.push(micros_since(began));
                }
            }
        }
        let (python, rust) = (Samples::new(python), Samples::new(rust));
        let name = if who == "named" { "as a peer, " } else { "" };
        table.times(&format!("Python {what}, {name}against Rust"), &python, Some(rust.median()), Reach::Times(3.0));
    }
}
