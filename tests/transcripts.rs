//! Reads the transcripts of other agents' sessions. The path of a transcript comes from a hook, so the path may be
//! wrong, and the file may contain anything.

mod support;

use serde_json::{Value, json};
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use support::Place;

/// For each agent, the event for a prompt, and the field of the hook's input that contains the transcript's path.
const AGENTS: &[(&str, &str, &str)] = &[
    ("claude", "UserPromptSubmit", "transcript_path"),
    ("codex", "UserPromptSubmit", "transcript_path"),
    ("copilot", "userPromptSubmitted", "transcriptPath"),
    ("gemini", "BeforeAgent", "transcript_path"),
    ("qwen", "UserPromptSubmit", "transcript_path"),
];

#[test]
fn each_agent_whose_transcripts_are_read_is_tested() {
    let tested: Vec<&str> = AGENTS.iter().map(|(id, ..)| *id).collect();
    let mut read: Vec<&str> = slm_mesh::known_agents::AGENTS
        .iter()
        .filter(|agent| agent.transcript.is_some())
        .map(|agent| agent.id)
        .collect();
    read.sort_unstable();
    assert_eq!(tested, read, "add an example to tests/data/transcripts, and a row to AGENTS in this file");
}

/// Runs an agent's hook for a prompt. The hook's input contains the path of a transcript. Returns the session's name.
fn report(place: &Place, agent: &str, transcript: &Path) -> String {
    let (_, event, word) = AGENTS.iter().find(|(id, ..)| *id == agent).unwrap();
    let input = json!({
        "session_id": format!("{agent}-1"), "hook_event_name": event, "cwd": place.root, "prompt": "hi",
        *word: transcript,
    });
    let mut command = place.command(&["hook", agent]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.to_string().as_bytes()).unwrap();
    let out = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&out.stderr), "");
    format!("{agent}-{}", place.root.file_name().unwrap().to_str().unwrap())
}

fn recorded(agent: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/data/transcripts/{agent}.jsonl"));
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// One line of a transcript in Claude Code's format.
fn said(speaker: &str, text: &str) -> String {
    json!({ "type": speaker, "timestamp": "2026-11-23T02:52:10Z", "message": { "role": speaker, "content": text } })
        .to_string()
        + "\n"
}

/// Starts a Claude Code session that has this transcript. Returns the session's name and the transcript's path.
fn claude_with(place: &Place, transcript: &[u8]) -> (String, PathBuf) {
    let path = place.root.join("session.jsonl");
    fs::write(&path, transcript).unwrap();
    (report(place, "claude", &path), path)
}

fn texts(answer: &Value) -> Vec<&str> {
    answer["passages"].as_array().unwrap().iter().map(|row| row["text"].as_str().unwrap()).collect()
}

#[test]
fn people_read_what_was_said_in_each_agents_session() {
    for (agent, ..) in AGENTS {
        let place = Place::new();
        let path = place.root.join("session.jsonl");
        fs::write(&path, recorded(agent)).unwrap();
        let name = report(&place, agent, &path);
        let answer = place.json(&["transcript", &name]);
        assert_eq!(texts(&answer), ["Rename the parser.", "The parser is renamed."], "{agent}");
        let speakers = answer["passages"].as_array().unwrap().iter().map(|row| &row["speaker"]);
        assert!(speakers.eq([&json!("user"), &json!("agent")]), "{agent}: {answer}");
        assert!(answer["passages"][0]["at"].as_str().unwrap().starts_with("2026-11-23T02:52:10"), "{agent}");
        assert_eq!((&answer["peer"], &answer["more"]), (&json!(name), &json!(false)), "{agent}");
        let shown = place.ok(&["transcript", &name]);
        assert!(shown.contains("> Rename the parser.\n") && shown.contains("> The parser is renamed."), "{shown}");
    }
}

#[test]
fn the_last_words_come_first_to_mind_and_a_text_is_found() {
    let place = Place::new();
    let lines: String = (0..50).map(|n| said("user", &format!("task {n}")) + &said("assistant", "Done.")).collect();
    let (name, path) = claude_with(&place, lines.as_bytes());
    assert_eq!(texts(&place.json(&["transcript", &name, "--last", "3"])), ["Done.", "task 49", "Done."]);
    assert_eq!(texts(&place.json(&["transcript", &name])).len(), 20);
    assert_eq!(texts(&place.json(&["transcript", &name, "--grep", "TASK 4", "--last", "2"])), ["task 48", "task 49"]);
    let nothing = place.ok(&["transcript", &name, "--grep", "no such words"]);
    assert!(nothing.contains("does not contain this text"), "{nothing}");
    // The agent appends a line to its transcript.
    OpenOptions::new().append(true).open(path).unwrap().write_all(said("user", "one more").as_bytes()).unwrap();
    assert_eq!(texts(&place.json(&["transcript", &name, "--last", "1"])), ["one more"]);
    for wrong in [&["transcript"][..], &["transcript", &name, "--last", "0"], &["transcript", &name, "more"]] {
        assert_eq!(place.run(wrong).status.code(), Some(2), "{wrong:?}");
    }
    assert!(!place.run(&["transcript", "nobody"]).status.success());
}

#[test]
fn another_agent_sees_the_last_prompts_and_words_shortened() {
    let place = Place::new();
    let long = "x".repeat(5000);
    let lines: String = (0..9).map(|n| said("user", &format!("task {n}")) + &said("assistant", &long)).collect();
    let (name, _) = claude_with(&place, lines.as_bytes());
    let mut codex = place.session("codex-mcp-client", "api");
    let seen = codex.tool("mesh_peers", json!({ "detail": name }));
    assert_eq!(seen["peers"][0]["name"], json!(name));
    let prompts: Vec<&Value> =
        seen["transcript"]["lastPrompts"].as_array().unwrap().iter().map(|row| &row["text"]).collect();
    assert_eq!(prompts, ["task 6", "task 7", "task 8"]);
    let words = seen["transcript"]["lastWords"].as_array().unwrap();
    assert_eq!((words.len(), words[0]["text"].as_str().unwrap().chars().count()), (3, 401));
    assert!(seen["transcript"]["path"].is_null(), "the path is nobody's business: {seen}");
    let (_, is_error) = codex.try_tool("mesh_peers", json!({ "detail": "nobody" }));
    assert!(is_error);
    // A peer has no transcript if no hook has reported one. Its other details must be shown anyway.
    let own = codex.tool("mesh_peers", json!({ "detail": "codex-api" }));
    assert!(own["transcript"]["why"].as_str().unwrap().contains("no hook"), "{own}");
}

#[test]
fn the_broker_keeps_the_path_and_none_of_the_words() {
    let place = Place::new();
    let (name, path) = claude_with(&place, said("user", "very private words").as_bytes());
    place.ok(&["transcript", &name]);
    place.ok(&["stop"]);
    let files = fs::read_dir(&place.dir).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_file());
    let kept: Vec<u8> = files.flat_map(|path| fs::read(path).unwrap()).collect();
    let has = |text: &str| kept.windows(text.len()).any(|bytes| bytes == text.as_bytes());
    assert!(has(path.to_str().unwrap()) && !has("very private words"));
    // After a restart, the broker must still know the path of the transcript.
    assert_eq!(texts(&place.json(&["transcript", &name])), ["very private words"]);
}

#[test]
fn switched_off_nothing_is_reported_or_read() {
    let place = Place::new();
    let (name, path) = claude_with(&place, said("user", "hello").as_bytes());
    let off = |args: &[&str]| place.command(args).env("SLM_MESH_TRANSCRIPTS", "off").output().unwrap();
    let refused = off(&["transcript", &name]);
    assert!(!refused.status.success() && String::from_utf8_lossy(&refused.stderr).contains("SLM_MESH_TRANSCRIPTS"));
    // The agent's hooks run with transcripts turned off. From now on, nobody may get this transcript, not even a reader
    // with transcripts turned on.
    let place = place.with("SLM_MESH_TRANSCRIPTS", "off");
    report(&place, "claude", &path);
    let on = place.command(&["transcript", &name]).env("SLM_MESH_TRANSCRIPTS", "on").output().unwrap();
    assert!(!on.status.success() && String::from_utf8_lossy(&on.stderr).contains("no hook"), "{on:?}");
}

#[test]
fn damaged_lines_hide_no_good_ones() {
    let place = Place::new();
    let mut bytes = said("user", "good").into_bytes();
    bytes.extend(b"\xff\xfe not text \xc3\n{\"type\":\"user\",\"message\":{\"content\":\"\xff\"}}\n");
    bytes.extend([b"[".repeat(100_000), b"\n".to_vec()].concat());
    bytes.extend(b"null\n17\n\"user\"\n{\"type\":\"user\"}\n{\"type\":17,\"message\":[]}\n\n\r\n\0\0\n");
    bytes.extend(said("assistant", "also good").as_bytes());
    bytes.extend(b"{\"type\":\"user\",\"message\":{\"content\":\"cut o");
    let (name, _) = claude_with(&place, &bytes);
    assert_eq!(texts(&place.json(&["transcript", &name])), ["good", "also good"]);
}

#[test]
fn words_in_a_transcript_steer_no_terminal() {
    let place = Place::new();
    let text = "\u{1b}]0;owned\u{7}\u{1b}[2J\u{202e}evil\r\n2026-11-23  to somebody\n> else";
    let (name, _) = claude_with(&place, said("user", text).as_bytes());
    let shown = place.ok(&["transcript", &name]);
    assert!(!shown.contains(['\u{1b}', '\u{7}', '\u{202e}', '\r']), "{shown:?}");
    assert!(shown.lines().skip(1).all(|line| line.starts_with("> ")), "{shown}");
    let line = place.command(&["transcript", &name, "--json"]).output().unwrap().stdout;
    assert!(!line.contains(&0x1b) && line.iter().filter(|byte| **byte == b'\n').count() == 1);
}

/// Runs `slm-mesh transcript`, and checks that it does not take long. Returns whether it succeeded, and its output.
fn look(place: &Place, name: &str) -> (bool, String) {
    let began = Instant::now();
    let out = place.run(&["transcript", name, "--json"]);
    assert!(began.elapsed() < Duration::from_secs(20), "it took {:?}", began.elapsed());
    (out.status.success(), String::from_utf8_lossy(&out.stdout).into_owned())
}

#[test]
fn a_huge_file_costs_no_more_than_its_end() {
    let place = Place::new();
    let path = place.root.join("session.jsonl");
    // The file has a gigabyte of zero bytes, and no newline.
    File::create(&path).unwrap().set_len(1 << 30).unwrap();
    let name = report(&place, "claude", &path);
    let (is_ok, seen) = look(&place, &name);
    assert!(is_ok && seen.contains(r#""passages":[]"#) && seen.contains(r#""more":true"#), "{seen}");
    let end = format!("\n{}", said("assistant", "the end"));
    OpenOptions::new().append(true).open(&path).unwrap().write_all(end.as_bytes()).unwrap();
    let (_, seen) = look(&place, &name);
    assert!(seen.contains("the end"), "{seen}");
}

#[test]
fn a_line_of_a_hundred_megabytes_is_left_out() {
    let place = Place::new();
    let path = place.root.join("session.jsonl");
    let mut file = File::create(&path).unwrap();
    file.write_all(br#"{"type":"user","message":{"content":""#).unwrap();
    std::io::copy(&mut std::io::repeat(b'x').take(100 << 20), &mut file).unwrap();
    file.write_all(b"\"}}\n").unwrap();
    let name = report(&place, "claude", &path);
    assert!(look(&place, &name).1.contains(r#""passages":[]"#));
    file.write_all(said("user", "after it").as_bytes()).unwrap();
    assert!(look(&place, &name).1.contains("after it"));
}

#[test]
fn a_path_that_leads_elsewhere_is_not_followed() {
    let place = Place::new();
    let at = |name: &str| place.root.join(name);
    let secret = at("secret.jsonl");
    fs::write(&secret, said("user", "a secret")).unwrap();
    std::os::unix::fs::symlink(&secret, at("link.jsonl")).unwrap();
    assert!(Command::new("mkfifo").arg(at("pipe.jsonl")).status().unwrap().success());
    let _socket = std::os::unix::net::UnixListener::bind(at("socket.jsonl")).unwrap();
    // A file of a different user. If the test does not run as root, it can't create such a file, and uses /etc/passwd
    // instead.
    let foreign = at("foreign.jsonl");
    fs::write(&foreign, said("user", "a secret")).unwrap();
    let given = std::os::unix::fs::chown(&foreign, Some(12_345), None).is_ok();
    let foreign = if given { foreign } else { PathBuf::from("/etc/passwd") };
    for (path, why) in [
        (at("link.jsonl"), "symbolic link"),
        (at("pipe.jsonl"), "not a plain file"),
        (at("socket.jsonl"), "not a plain file"),
        (place.root.clone(), "not a plain file"),
        (PathBuf::from("/dev/zero"), "not a plain file"),
        (foreign, "another user"),
        (at("gone.jsonl"), "is gone"),
        (PathBuf::from("session.jsonl"), "not an absolute path"),
    ] {
        let name = report(&place, "claude", &path);
        let (is_ok, said) = look(&place, &name);
        assert!(!is_ok && said.contains(why) && !said.contains("a secret"), "{}: {said}", path.display());
    }
}
