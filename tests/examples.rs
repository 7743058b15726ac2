//! Runs every example in the documentation, and checks that its output is the text below the example.
//!
//! An example is a line that begins with `$ `. In the help, the line is indented with two spaces. In Markdown, it is in
//! a `console` block. In the man page, it is between `.nf` and `.fi`. The lines below an example are its standard
//! output, in which `…` stands for any text. An example with the comment `until interrupted` is interrupted.

mod support;

use serde_json::json;
use slm_mesh::cli::{generate_help_and_man_page, help_topics};
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use support::home::Home;
use support::{BIN, Session, project, until};

/// Examples that this test does not run, each with the reason.
const UNRUN: &[(&str, &str)] = &[
    ("make demo          # show two agents at work as real processes", "builds; .ci/run runs it"),
    ("make demo", "it builds; make recording shows what it says"),
    (
        "make               # build slm-mesh (not as root); add STATIC=1 for commands that start faster",
        "builds; .ci/run runs it",
    ),
    ("sudo make install  # install into /usr/local; root needs no cargo", "wants root; .ci/run runs it"),
    ("pip install ./python", "asks a registry; tests/python.rs installs the package"),
    (
        "SLM_MESH_HOST=0.0.0.0 SLM_MESH_SHARED_SECRET=… slm-mesh start --detach",
        "opens a port; tests/remote.rs plays a hub",
    ),
    (
        "SLM_MESH_HOST=hub.local SLM_MESH_SHARED_SECRET=… slm-mesh peers",
        "wants a second machine; tests/remote.rs plays a guest",
    ),
    (
        "SLM_MESH_HOST=ssh://hub slm-mesh peers   # or through ssh, with no open port",
        "wants a second machine; tests/remote/main.rs plays ssh",
    ),
    (
        "slm-mesh hubs                       # which hubs answer on the local network, and which was joined",
        "asks the network; tests/machines has one",
    ),
    ("systemctl --user enable --now slm-mesh", "wants systemd; make test-packages has it look at the unit"),
    ("launchctl bootstrap gui/$(id -u) ~/Library/LaunchAgents/slm-mesh.plist", "wants macOS"),
];

struct Example {
    command: String,
    shown: Vec<String>,
}

/// Finds the examples in a text. Each line of an example is indented with two spaces.
fn examples(text: &str) -> Vec<Example> {
    let mut found: Vec<Example> = Vec::new();
    let mut is_open = false;
    for line in text.lines() {
        let Some(line) = line.strip_prefix("  ") else {
            is_open = false;
            continue;
        };
        match (line.strip_prefix("$ "), found.last_mut().filter(|_| is_open)) {
            (Some(command), _) => found.push(Example { command: command.into(), shown: Vec::new() }),
            (None, Some(last)) if last.shown.is_empty() && last.command.ends_with('\\') => {
                last.command.truncate(last.command.len() - 1);
                last.command.push_str(line.trim_start());
            }
            (None, Some(last)) => last.shown.push(line.into()),
            (None, None) => continue,
        }
        is_open = true;
    }
    found
}

fn read(path: &str) -> String {
    std::fs::read_to_string(project().join(path)).unwrap()
}

/// The text of all blocks between an opening line and a closing line. Each line is indented with two spaces.
fn blocks(text: &str, opens: &str, closes: &str) -> String {
    let mut inside = false;
    let mut found = String::new();
    for line in text.lines() {
        if inside && line == closes {
            (inside, found) = (false, found + "\n");
        } else if inside {
            found.push_str(&format!("  {line}\n"));
        } else {
            inside = line == opens;
        }
    }
    found
}

fn markdown(path: &str) -> String {
    blocks(&read(path), "```console", "```")
}

fn man_page() -> String {
    blocks(
        &generate_help_and_man_page::man_page().replace("\\-", "-").replace("\\(ti", "~").replace("\\e", "\\"),
        ".nf",
        ".fi",
    )
}

/// All documents with examples, each with its name.
fn documents() -> Vec<(&'static str, String)> {
    let topics = help_topics::TOPICS.iter().map(|(name, _, text)| (*name, (*text).to_owned()));
    let pages = ["README.md", "python/README.md"].map(|path| (path, markdown(path)));
    topics.chain(pages).chain([("the man page", man_page())]).collect()
}

fn is_unrun(command: &str) -> bool {
    UNRUN.iter().any(|(known, _)| *known == command)
}

/// A machine with two agents in one repository, and a human who types the examples.
struct Stage {
    home: Home,
    sessions: Vec<Session>,
}

impl Stage {
    fn new() -> Stage {
        let mut home = Home::new();
        home.place.dir = home.home.join(".slm-mesh");
        std::os::unix::fs::symlink(BIN, home.bin.join("slm-mesh")).unwrap();
        let work = home.place.root.join("api");
        std::fs::create_dir_all(work.join("src/api")).unwrap();
        for file in ["notes.txt", "Cargo.toml", "src/auth.rs", "src/held.rs"] {
            std::fs::write(work.join(file), "b\na\n").unwrap();
        }
        for words in [&["init", "--quiet", "--initial-branch=main"][..], &["add", "."]] {
            assert!(Command::new("git").args(words).current_dir(&work).status().unwrap().success());
        }
        std::fs::write(work.join("notes.txt"), "c\nb\na\n").unwrap();
        let mut stage = Stage { home, sessions: Vec::new() };
        stage.report_transcript();
        for client in ["claude-code", "codex-mcp-client"] {
            let mut session = stage.home.place.session(client, "api");
            session.tool("mesh_status", json!({}));
            stage.sessions.push(session);
        }
        stage
    }

    /// Creates the messages, locks or files that the examples of a document need.
    fn prepare(&mut self, document: &str) {
        match document {
            "messages" => drop(self.sessions[0].tool("mesh_send", json!({ "to": "human", "message": "which port?" }))),
            "locks" => drop(self.sessions[1].tool("mesh_lock", json!({ "action": "lock", "filePath": "src/held.rs" }))),
            "agents" | "README.md" => {
                let server =
                    json!({ "type": "stdio", "command": self.home.bin.join("slm-mesh"), "args": ["mcp"], "env": {} });
                let entry = json!({ "mcpServers": { "slm-mesh": server } });
                let line = format!(
                    "case \"$2\" in add) printf '%s' '{entry}' > ~/.claude.json ;; remove) rm ~/.claude.json ;; esac"
                );
                self.home.fake("claude", &line);
            }
            // The examples of all other documents need no agents, so both sessions end.
            _ => self.sessions.drain(..).for_each(|mut session| assert!(session.close().success())),
        }
    }

    /// Reports the path of a transcript, as Claude Code's hook for a prompt does. The transcript then belongs to the
    /// session in the folder `api`.
    fn report_transcript(&self) {
        let path = self.home.home.join("session.jsonl");
        std::fs::copy(project().join("tests/data/transcripts/claude.jsonl"), &path).unwrap();
        let work = self.home.place.root.join("api");
        let prompt = json!({
            "session_id": "1", "hook_event_name": "UserPromptSubmit", "cwd": work, "transcript_path": path,
        });
        let line = format!("printf %s '{prompt}' | slm-mesh hook claude");
        assert!(self.shell(&line).status().unwrap().success());
    }

    fn shell(&self, line: &str) -> Command {
        let place = &self.home.place;
        let mut shell = Command::new("sh");
        shell.args(["-c", line]).current_dir(place.root.join("api")).env_clear().env("HOME", &self.home.home);
        // With this search path, the examples find no agent that is installed on this machine. The sessions and the
        // shell have the same parent process, so SLM_MESH_PEER tells the shell to act as the human.
        shell.env("PATH", format!("{}:/usr/bin:/bin", self.home.bin.display()));
        shell.envs((!self.sessions.is_empty()).then_some(("SLM_MESH_PEER", "human")));
        shell.env("PYTHONPATH", project().join("python")).env("PYTHONDONTWRITEBYTECODE", "1");
        shell.envs(place.env.iter().cloned()).stdin(Stdio::null());
        shell
    }

    fn run(&self, example: &Example) {
        let command = &example.command;
        if command.contains("until interrupted") {
            return self.interrupt(example);
        }
        let out = self.shell(command).output().unwrap();
        let (said, complained) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
        assert!(out.status.success(), "$ {command}\n{said}{complained}{:?}", out.status);
        let said: Vec<&str> = said.lines().collect();
        let shown: Vec<&str> = example.shown.iter().map(String::as_str).collect();
        let is_as_shown = shown.is_empty() || fits(&shown, &said);
        assert!(is_as_shown, "$ {command}\nshown:\n{}\nsaid:\n{}\n{complained}", shown.join("\n"), said.join("\n"));
    }

    /// Runs an example that does not end by itself. Interrupts it as soon as it has printed enough lines.
    fn interrupt(&self, example: &Example) {
        let mut shell = self.shell(&format!("exec {}", example.command));
        let mut child = shell.stdout(Stdio::piped()).spawn().unwrap();
        let (lines, printed) = std::sync::mpsc::channel();
        let output = BufReader::new(child.stdout.take().unwrap());
        let reader =
            std::thread::spawn(move || output.lines().map_while(Result::ok).all(|line| lines.send(line).is_ok()));
        let mut said: Vec<String> = Vec::new();
        until(&format!("{} prints something", example.command), || {
            self.home.place.ok(&["events", "emit", "example.seen", "--as", "human"]);
            said.extend(printed.try_iter());
            said.len() >= example.shown.len().max(1)
        });
        assert!(child.try_wait().unwrap().is_none(), "$ {}\nended by itself", example.command);
        assert!(Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap().success());
        child.wait().unwrap();
        drop(printed);
        reader.join().unwrap();
        let said: Vec<&str> = said.iter().map(String::as_str).take(example.shown.len()).collect();
        let shown: Vec<&str> = example.shown.iter().map(String::as_str).collect();
        assert!(fits(&shown, &said), "$ {}\nshown: {shown:?}\nsaid: {said:?}", example.command);
    }
}

/// Whether an output matches the documentation. A line that contains only `…` matches any number of lines. Within a
/// line, `…` matches any text.
fn fits(shown: &[&str], said: &[&str]) -> bool {
    match (shown, said) {
        ([], []) => true,
        (["…", rest @ ..], _) => (0..=said.len()).any(|n| fits(rest, &said[n..])),
        ([want, rest @ ..], [line, more @ ..]) => line_fits(&spaced(want), &spaced(line)) && fits(rest, more),
        _ => false,
    }
}

/// Replaces each run of spaces with one space, because the width of a column depends on its content.
fn spaced(line: &str) -> String {
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn line_fits(want: &str, line: &str) -> bool {
    let Some((before, rest)) = want.split_once('…') else { return want == line };
    let Some(line) = line.strip_prefix(before) else { return false };
    line.char_indices().map(|(at, _)| at).chain([line.len()]).any(|at| line_fits(rest, &line[at..]))
}

/// Whether the other programs that a command needs are installed.
fn has_tools(command: &str) -> bool {
    ["curl", "python3", "git"].iter().filter(|tool| command.contains(*tool)).all(|tool| {
        let is_there = Command::new(tool).arg("--version").stdout(Stdio::null()).status().is_ok();
        let all = std::env::var_os("SLM_MESH_TEST_ALL").is_some();
        assert!(is_there || !all, "{tool} is missing");
        if !is_there {
            eprintln!("skipped: {command}: there is no {tool}");
        }
        is_there
    })
}

fn run(document: &str, text: &str) {
    let mut stage = Stage::new();
    stage.prepare(document);
    for example in examples(text).iter().filter(|example| !is_unrun(&example.command) && has_tools(&example.command)) {
        eprintln!("{document}: $ {}", example.command);
        stage.run(example);
    }
}

#[test]
fn every_example_runs_as_written() {
    let documents = documents();
    std::thread::scope(|scope| {
        let running: Vec<_> = documents
            .iter()
            .filter(|(_, text)| examples(text).iter().any(|example| !is_unrun(&example.command)))
            .map(|(name, text)| (name, scope.spawn(move || run(name, text))))
            .collect();
        let failed: Vec<_> = running.into_iter().filter_map(|(name, run)| run.join().err().map(|_| name)).collect();
        assert!(failed.is_empty(), "examples of {failed:?}");
    });
}

#[test]
fn every_document_shows_how_it_is_done() {
    for (name, text) in documents() {
        // The topic `settings` is generated from a table and has no examples.
        assert!(name == "settings" || !examples(&text).is_empty(), "{name} has no example");
    }
}

#[test]
fn what_is_not_run_is_still_there() {
    let commands: Vec<String> =
        documents().iter().flat_map(|(_, text)| examples(text)).map(|example| example.command).collect();
    for (command, why) in UNRUN {
        assert!(commands.contains(&(*command).to_owned()), "no document shows this any more: {command}");
        assert!(!why.is_empty());
    }
}

#[test]
fn no_example_escapes_by_another_marking() {
    for path in ["README.md", "python/README.md"] {
        for block in read(path).split("\n```").skip(1).step_by(2) {
            let (kind, text) = block.split_once('\n').unwrap();
            let lines: Vec<&str> = text.lines().filter(|line| !line.is_empty()).collect();
            assert!(!["sh", "bash", "shell", "text"].contains(&kind), "{path}: mark it console:\n{text}");
            assert!(kind != "console" || lines[0].starts_with("$ "), "{path}: {}", lines[0]);
        }
    }
    for (name, text) in documents() {
        for line in text.lines().filter(|line| line.starts_with(' ')) {
            let first = line.split_whitespace().next().unwrap_or("");
            // A line that is indented with six or more spaces continues the command of an earlier line.
            let is_bare = !line.starts_with("      ")
                && ["slm-mesh", "make", "git", "curl", "pip", "echo", "sudo"].contains(&first);
            assert!(!is_bare, "{name}: mark it with $: {line}");
        }
    }
}

#[test]
fn what_is_shown_is_compared() {
    for (shown, said, want) in [
        (&["a b"][..], &["a   b"][..], true),
        (&["a"], &["a", "b"], false),
        (&["a", "…"], &["a", "b", "c"], true),
        (&["…", "c"], &["a", "b"], false),
        (&["{…\"n\":1…}"], &["{\"m\":0,\"n\":1,\"o\":2}"], true),
        (&["{…\"n\":1…}"], &["{\"n\":2}"], false),
    ] {
        assert_eq!(fits(shown, said), want, "{shown:?} {said:?}");
    }
    let text = "Words\n  $ one \\\n      more\n  out\n\n  no output\n  $ two # comment\n";
    let found: Vec<_> = examples(text).into_iter().map(|example| (example.command, example.shown)).collect();
    assert_eq!(found, [("one more".into(), vec!["out".to_owned()]), ("two # comment".into(), vec![])]);
}
