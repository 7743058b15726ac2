//! Helpers for tests that run the real program. Each test has its own mesh, with a temporary directory and a free port.
//! The broker and the directory are removed when the test ends.
#![allow(dead_code)] // each test program uses its part

pub mod home;

use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// The path of the tested program.
pub const BIN: &str = env!("CARGO_BIN_EXE_slm-mesh");

/// Environment variables that each process needs under `make coverage`. The first one names the file for the counters.
/// If the second one were missing, LLVM's runtime would set it, and so change the environment.
const COUNTERS: [&str; 2] = ["LLVM_PROFILE_FILE", "__LLVM_PROFILE_RT_INIT_ONCE"];

static N: AtomicU32 = AtomicU32::new(0);

/// A mesh for one test, with its directory and settings.
pub struct Place {
    /// The temporary directory of the test. It is removed at the end of the test.
    pub root: PathBuf,
    /// The data directory of slm-mesh.
    pub dir: PathBuf,
    /// Settings, as environment variables of each process that a test starts.
    pub env: Vec<(String, String)>,
}

impl Place {
    /// Creates a mesh with a new directory, and an HTTP port that no other test uses.
    pub fn new() -> Place {
        let n = N.fetch_add(1, Ordering::Relaxed);
        let root = std::env::temp_dir().join(format!("slm-mesh-test-{}-{n}", std::process::id()));
        let _ = std::fs::remove_dir_all(&root);
        std::fs::create_dir_all(root.join("home")).unwrap();
        let root = root.canonicalize().unwrap();
        // The kernel uses ports above this range for outgoing connections.
        let port = 20_000 + (std::process::id() * 37 + n * 11) % 12_700;
        let mut env = vec![
            ("SLM_MESH_PORT".into(), port.to_string()),
            // A test must not search the network of the machine on which it runs.
            ("SLM_MESH_DISCOVERY".into(), "off".into()),
            // A hook that runs out of time prints nothing. A long limit prevents this on a busy machine.
            ("SLM_MESH_HOOK_BUDGET_MS".into(), "20000".into()),
        ];
        // Under `make coverage`, each process needs these variables to count the lines that it runs.
        env.extend(COUNTERS.iter().filter_map(|name| Some(((*name).into(), std::env::var(name).ok()?))));
        Place { dir: root.join("mesh"), env, root }
    }

    /// Adds a setting to the environment of all processes that this mesh starts.
    pub fn with(mut self, name: &str, value: &str) -> Place {
        self.env.push((name.into(), value.into()));
        self
    }

    /// Prepares a run of slm-mesh with these arguments, and with few environment variables, as MCP clients do.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(BIN);
        command.args(args).env_clear().env("PATH", std::env::var("PATH").unwrap()).env("HOME", self.root.join("home"));
        command
            .env("SLM_MESH_DATA_DIR", &self.dir)
            .envs(self.env.iter().cloned())
            .current_dir(&self.root)
            .stdin(Stdio::null());
        command
    }

    /// Runs a verb (subcommand), and returns its output and status.
    pub fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// Runs a verb (subcommand) that must succeed, and returns its standard output.
    pub fn ok(&self, args: &[&str]) -> String {
        let out = self.run(args);
        assert!(
            out.status.success(),
            "{args:?}: {:?}\n{}\n{}\n{}",
            out.status,
            String::from_utf8_lossy(&out.stderr),
            String::from_utf8_lossy(&out.stdout),
            self.log()
        );
        String::from_utf8(out.stdout).unwrap()
    }

    /// Runs a verb (subcommand) that must succeed, and returns its JSON output.
    pub fn json(&self, args: &[&str]) -> Value {
        let args: Vec<&str> = args.iter().copied().chain(["--json"]).collect();
        serde_json::from_str(&self.ok(&args)).unwrap()
    }

    /// The content of the broker's log file.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.join("broker.log")).unwrap_or_default()
    }

    /// The process id in the broker's file; `None` if there is no such file.
    pub fn broker_pid(&self) -> Option<u32> {
        std::fs::read_to_string(self.dir.join("broker.pid")).ok()?.trim().parse().ok()
    }

    /// Starts an MCP session in this folder of the test directory, and does the handshake.
    pub fn session(&self, client: &str, folder: &str) -> Session {
        let dir = self.root.join(folder);
        std::fs::create_dir_all(&dir).unwrap();
        Session::start(self.command(&[]).current_dir(dir), client)
    }

    /// Opens a connection to the broker's Unix socket.
    pub fn socket(&self) -> Socket {
        Socket::new(UnixStream::connect(self.dir.join("mesh.sock")).unwrap())
    }
}

/// Returns environment variables that set a program's clock to a time (`@2038-01-02 00:00:00`), or move it by a span
/// (`+1h`). If libfaketime is not installed, prints this fact and returns `None`.
pub fn faketime(time: &str) -> Option<Vec<(String, String)>> {
    let folders = std::fs::read_dir("/usr/lib").unwrap().flatten();
    let libraries = folders.map(|folder| folder.path().join("faketime/libfaketime.so.1"));
    let Some(library) = libraries.into_iter().find(|library| library.exists()) else {
        eprintln!("libfaketime is not installed, so all clocks are right in this test");
        return None;
    };
    let words = [("LD_PRELOAD", library.to_str().unwrap()), ("FAKETIME", time), ("DONT_FAKE_MONOTONIC", "1")];
    Some(words.map(|(name, value)| (name.to_owned(), value.to_owned())).into())
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(pid) = self.broker_pid() {
            let _ = Command::new("kill").args(["-9", &pid.to_string()]).stderr(Stdio::null()).status();
        }
        if std::thread::panicking() {
            eprintln!("broker.log:\n{}", self.log());
        }
        let _ = std::fs::remove_dir_all(&self.root);
    }
}

/// A running MCP server, and the client's side of its input and output.
pub struct Session {
    /// The server's process.
    pub child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    next: i64,
}

impl Session {
    /// Starts an MCP session with this command, and does the handshake.
    pub fn start(command: &mut Command, client: &str) -> Session {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (input, output) = (child.stdin.take(), BufReader::new(child.stdout.take().unwrap()));
        let mut session = Session { child, input, output, next: 0 };
        let params = json!({ "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": { "name": client, "version": "1" } });
        session.request("initialize", params);
        session.send(&json!({ "jsonrpc": "2.0", "method": "notifications/initialized" }));
        session
    }

    /// Writes a JSON value as one line.
    pub fn send(&mut self, value: &Value) {
        let input = self.input.as_mut().unwrap();
        writeln!(input, "{value}").unwrap();
        input.flush().unwrap();
    }

    /// Reads one line of JSON.
    pub fn read(&mut self) -> Value {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
    }

    /// Sends a request, and returns its id. Does not wait for the answer.
    pub fn ask(&mut self, method: &str, params: Value) -> i64 {
        self.next += 1;
        self.send(&json!({ "jsonrpc": "2.0", "id": self.next, "method": method, "params": params }));
        self.next
    }

    /// Sends a request, and reads lines until its answer arrives.
    pub fn request(&mut self, method: &str, params: Value) -> Value {
        let id = self.ask(method, params);
        self.answer(id)
    }

    /// Reads lines until the answer to the request with this id arrives.
    pub fn answer(&mut self, id: i64) -> Value {
        loop {
            let value = self.read();
            if value["id"] == json!(id) {
                return value;
            }
        }
    }

    /// Calls a tool that must succeed, and returns the JSON of its answer.
    pub fn tool(&mut self, name: &str, arguments: Value) -> Value {
        let (value, is_error) = self.try_tool(name, arguments);
        assert!(!is_error, "{name}: {value}");
        value
    }

    /// Calls a tool. Returns the JSON of the answer, and whether the answer is an error.
    pub fn try_tool(&mut self, name: &str, arguments: Value) -> (Value, bool) {
        let answer = self.request("tools/call", json!({ "name": name, "arguments": arguments }));
        Session::content(&answer)
    }

    /// The JSON in the answer of a tool, and whether the answer is an error.
    pub fn content(answer: &Value) -> (Value, bool) {
        let text = answer["result"]["content"][0]["text"].as_str().unwrap_or_else(|| panic!("{answer}"));
        (serde_json::from_str(text).unwrap(), answer["result"]["isError"] == json!(true))
    }

    /// Closes the server's input, and waits until the server has exited.
    pub fn close(&mut self) -> std::process::ExitStatus {
        self.input = None;
        self.child.wait().unwrap()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.input = None;
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A connection to the broker's Unix socket, on which a test sends JSON-RPC requests.
pub struct Socket {
    /// The stream of this connection.
    pub stream: UnixStream,
    reader: BufReader<UnixStream>,
    next: i64,
}

impl Socket {
    fn new(stream: UnixStream) -> Socket {
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let reader = BufReader::new(stream.try_clone().unwrap());
        Socket { stream, reader, next: 0 }
    }

    /// Sends a request, and returns its id. Does not wait for the answer.
    pub fn ask(&mut self, method: &str, params: Value) -> i64 {
        self.next += 1;
        let line = json!({ "jsonrpc": "2.0", "id": self.next, "method": method, "params": params });
        // Writes the whole line at once. `writeln!` would make a separate write for each part of the JSON.
        self.stream.write_all(format!("{line}\n").as_bytes()).unwrap();
        self.next
    }

    /// Reads one message. Returns `None` if the broker has closed the connection.
    pub fn read(&mut self) -> Option<Value> {
        let mut line = String::new();
        match self.reader.read_line(&mut line) {
            Ok(0) => return None,
            // The broker has closed the connection without reading all of the client's bytes.
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return None,
            read => read.unwrap(),
        };
        Some(serde_json::from_str(&line).unwrap())
    }

    /// Sends a request, and reads messages until its answer arrives.
    pub fn call(&mut self, method: &str, params: Value) -> Value {
        let id = self.ask(method, params);
        loop {
            let value = self.read().expect("the broker hung up");
            if value["id"] == json!(id) {
                return value;
            }
        }
    }
}

/// Writes a program that the test will run. A separate process writes the file, because a program that is open for
/// writing can't be run. In this process, another thread could fork a child that keeps the file open.
pub fn put_program(path: &Path, text: &[u8]) {
    let mut shell = Command::new("sh");
    shell.args(["-c", "cat > \"$0\" && chmod 755 \"$0\""]).arg(path).stdin(Stdio::piped());
    let mut shell = shell.spawn().unwrap();
    shell.stdin.take().unwrap().write_all(text).unwrap();
    assert!(shell.wait().unwrap().success(), "{} can't be written", path.display());
}

/// Compiles tests/shim.c to a library that makes system calls fail in a test. Programs load it through LD_PRELOAD.
/// Returns `None` if there is no C compiler.
pub fn shim(place: &Place) -> Option<PathBuf> {
    let library = place.root.join("shim.so");
    let source = project().join("tests/shim.c");
    let built = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(source).arg("-ldl").output();
    match built {
        Ok(out) => {
            assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
            Some(library)
        }
        Err(_) => {
            eprintln!("skipped: {:?}: there is no C compiler", std::thread::current().name());
            None
        }
    }
}

/// Waits until a condition is true. The test fails after 20 s.
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < Duration::from_secs(20), "waited in vain until {what}");
        std::thread::yield_now();
    }
}

/// Whether a process still runs. A zombie counts as running only if it has other threads, which keep files open.
pub fn lives(pid: u32) -> bool {
    let is_zombie = || std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.contains(") Z "));
    let n_threads = std::fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count);
    n_threads > 1 || n_threads == 1 && !is_zombie()
}

/// Stops a process with SIGSTOP, and waits until all of its threads have stopped. A thread in a system call might stop
/// only when the system call returns.
pub fn freeze(pid: u32) {
    assert!(Command::new("kill").args(["-STOP", &pid.to_string()]).status().unwrap().success());
    let is_stopped = |task: std::io::Result<std::fs::DirEntry>| {
        std::fs::read_to_string(task.unwrap().path().join("stat")).is_ok_and(|stat| stat.contains(") T "))
    };
    // Only Linux shows the state of each thread, so on other systems, this function does not wait.
    until("the process is stopped", || {
        std::fs::read_dir(format!("/proc/{pid}/task")).map_or(true, |mut tasks| tasks.all(is_stopped))
    });
}

/// Lets a stopped process continue.
pub fn thaw(pid: u32) {
    assert!(Command::new("kill").args(["-CONT", &pid.to_string()]).status().unwrap().success());
}

/// The root directory of the source tree.
pub fn project() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
