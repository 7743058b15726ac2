//! Mistakes of new users: typos, odd values, closed pipes, a stopped broker. Each is harmless, or its error is helpful.

mod support;

use serde_json::{Value, json};
use slm_mesh::cli::{args, generate_help_and_man_page, verb_and_flag_tables};
use std::ffi::{OsStr, OsString};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Command, Stdio};
use support::{BIN, Place, until};

/// Runs a wrong command line, checks that it exits with the status for usage errors, and returns the error.
fn refused(place: &Place, args: &[&str]) -> String {
    let out = place.run(args);
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(out.status.code() == Some(2) && said.starts_with("slm-mesh: "), "{args:?}: {out:?}");
    said
}

/// Runs a line of shell code in which `slm-mesh` stands for the tested program. Returns its status and output.
fn shell(place: &Place, line: &str) -> (i32, String) {
    let verb = place.command(&[]);
    let mut command = Command::new("sh");
    command.args(["-c", &format!("exec 2>&1; {}", line.replace("slm-mesh", BIN))]).env_clear().stdin(Stdio::null());
    command.envs(verb.get_envs().filter_map(|(name, value)| Some((name, value?)))).current_dir(&place.root);
    let out = command.output().unwrap();
    (out.status.code().unwrap(), String::from_utf8(out.stdout).unwrap())
}

fn unread(place: &Place) -> Value {
    place.json(&["inbox", "--filter", "sent"])["messages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| m["receipt"].clone())
        .collect()
}

#[test]
fn an_argument_that_is_no_text_is_named() {
    let place = Place::new();
    let odd = OsStr::from_bytes(b"bad\xff");
    let out = place.command(&["lock"]).arg(odd).output().unwrap();
    assert_eq!(out.status.code(), Some(2), "{out:?}");
    assert_eq!(String::from_utf8_lossy(&out.stderr), "slm-mesh: \"bad\\xFF\": expected UTF-8\n");
    for words in [[odd, OsStr::new("--json")], [OsStr::new("--json"), odd]] {
        let out = place.command(&["state", "set", "k"]).args(words).output().unwrap();
        let error: Value = serde_json::from_slice(&out.stdout).unwrap();
        assert_eq!((&error["kind"], out.status.code()), (&json!("usage"), Some(2)));
    }
}

#[test]
fn a_negative_number_is_a_value_and_other_dashes_get_their_cure() {
    let place = Place::new();
    for number in ["-5", "-0.5", "-.5", "-1e3"] {
        place.ok(&["state", "set", "n", number]);
        assert_eq!(place.ok(&["state", "get", "n"]).trim(), number);
    }
    place.ok(&["send", "human", "-3", "degrees"]);
    assert_eq!(place.json(&["inbox"])["messages"][0]["payload"], json!("-3 degrees"));
    for text in ["-> see the diff", "- a\n- b", "-- signed", "-5 degrees", "--> next", "-=x"] {
        place.ok(&["send", "human", text]);
        assert_eq!(place.json(&["inbox"])["messages"][0]["payload"], json!(text), "it can be no flag");
    }
    place.ok(&["send", "human", "--", "--as", "-x"]);
    assert_eq!(place.json(&["inbox"])["messages"][0]["payload"], json!("--as -x"));
    assert!(refused(&place, &["state", "set", "n", "--x"]).contains("put -- before a value that begins with -"));
    place.ok(&["state", "set", "n", "--", "--x"]);
    assert_eq!(place.ok(&["state", "get", "n"]).trim(), "--x");
}

#[test]
fn what_is_wrong_is_named_as_it_was_typed() {
    let place = Place::new();
    for (args, words) in [
        (&["lock", "a.rs", "--ttl", "soon"][..], &["--ttl: expected a whole number", "\"soon\""][..]),
        (&["lock", "a.rs", "--ttl="], &["--ttl: expected"]),
        (&["lock", "a.rs", "--ttl"], &["--ttl: expected a value"]),
        (&["lock", "a.rs", "--json=1"], &["--json takes no value", "1"]),
        (&["lock", ""], &["FILE: expected"]),
        (&["unlock", "a.rs", ""], &["FILE: expected"]),
        (&["state", "set", "", "v"], &["KEY: expected"]),
        (&["state", "watch", "k", "--wait", "x"], &["--wait: expected"]),
        (&["inbox", "--follow", "--wait", "1"], &["--wait: --follow waits until", "leave out"]),
        (&["events", "--wait", "0", "--follow"], &["--wait: --follow waits until", "leave out"]),
        (&["state", "watch", "k", "--ttl", "3"], &["no flag --ttl", "--wait"]),
        (&["send", "human", ""], &["MESSAGE: expected"]),
        (&["events", "--since", "yesterday"], &["--since: expected a time"]),
        (&["events", "emit", "a.b", "{"], &["PAYLOAD: expected a JSON object"]),
        (&["peers", "-x"], &["no flag -x", "--scope"]),
        (&["peers", "--shout=loud"], &["no flag --shout"]),
        (&["send", "human", "x", "--as", ""], &["--as: expected"]),
        (&["broadcast", "x", "--to", "human"], &["broadcast: no flag --to"]),
        (&["broadcast"], &["usage: slm-mesh broadcast MESSAGE"]),
        (&["-v"], &["-v needs a verb"]),
        (&["start", "--follow"], &["unexpected --follow"]),
    ] {
        let said = refused(&place, args);
        assert!(words.iter().all(|word| said.contains(word)), "{args:?}: want {words:?} in: {said}");
    }
    assert!(place.json(&["lock", "list"])["locks"].as_array().unwrap().is_empty(), "no file does not mean every file");
}

#[test]
fn a_misspelt_verb_is_met_with_the_one_that_was_meant() {
    let place = Place::new();
    for (args, meant) in [
        (&["lok", "a.rs"][..], "lock"),
        (&["statsu"], "status"),
        (&["help", "setting"], "settings"),
        (&["Lock"], "lock"),
    ] {
        let said = refused(&place, args);
        assert!(said.contains(&format!("did you mean {meant}?")), "{args:?}: {said}");
    }
    assert!(!refused(&place, &["fly"]).contains("mean"));
}

#[test]
fn a_data_directory_without_its_root_is_refused() {
    for (given, cure) in
        [("mesh", "write the absolute path"), ("./mesh", "write the absolute path"), ("~/mesh", "$HOME/mesh")]
    {
        let place = Place::new().with("SLM_MESH_DATA_DIR", given);
        let said = refused(&place, &["peers"]);
        assert!(said.contains("SLM_MESH_DATA_DIR: ") && said.contains(given) && said.contains(cure), "{said}");
        assert!(!place.root.join("mesh").exists() && !place.root.join("~").exists());
    }
}

#[test]
fn doctor_looks_at_the_mesh_also_where_there_is_no_home() {
    let place = Place::new();
    let out = place.command(&["doctor"]).env_remove("HOME").output().unwrap();
    let said = String::from_utf8(out.stdout).unwrap();
    assert!(said.contains("broker") && said.contains("no broker is running"), "{said}");
    assert!(!said.contains("HOME"), "the account has a home directory: {said}");
}

#[test]
fn an_unknown_argument_of_a_tool_is_answered_with_those_that_it_takes() {
    let place = Place::new();
    let mut agent = place.session("codex-mcp-client", "api");
    let tools = agent.request("tools/list", json!({}));
    for (tool, given) in [
        ("mesh_lock", json!({ "action": "lock", "repo": "x" })),
        ("mesh_lock", json!({ "action": "lock", "steal": true })),
        ("mesh_lock", json!({ "action": "unlock", "paths": ["a"] })),
        ("mesh_state", json!({ "action": "get", "key": "k", "value": "v" })),
        ("mesh_events", json!({ "tpyes": ["a"] })),
        ("mesh_peers", json!({ "whoami": true })),
        ("mesh_status", json!({ "all": true })),
    ] {
        let (error, is_error) = agent.try_tool(tool, given.clone());
        let said = error["error"].as_str().unwrap();
        assert!(is_error && said.contains(tool), "{given}: {said}");
        assert!(given["action"].as_str().is_none_or(|action| said.contains(&format!("action `{action}`"))), "{said}");
        let offered = tools["result"]["tools"].as_array().unwrap().iter().find(|known| known["name"] == tool).unwrap();
        let listed = said.split(" takes ").nth(1).unwrap_or_else(|| panic!("{said}"));
        for name in listed.split(", ").filter(|name| *name != "no arguments") {
            assert!(offered["inputSchema"]["properties"].get(name).is_some(), "{tool} has no {name}: {said}");
        }
    }
    let (error, _) = agent.try_tool("mesh_lock", json!({ "action": "lock", "filePaths": [""] }));
    assert_eq!(error["kind"], json!("usage"), "no file does not mean every file: {error}");
}

#[test]
fn every_flag_that_a_verb_takes_is_in_its_help_and_in_the_man_page() {
    let place = Place::new();
    let page = generate_help_and_man_page::man_page().replace("\\-", "-");
    let mut names: Vec<String> = verb_and_flag_tables::FLAGS
        .iter()
        .flat_map(|flag| flag.also.iter().chain([&flag.name]))
        .map(|name| verb_and_flag_tables::with_dashes(name))
        .collect();
    let args = slm_mesh::core::OPS.iter().flat_map(|op| op.args);
    names.extend(args.flat_map(|arg| [verb_and_flag_tables::flag_name(arg), format!("--{}", arg.flag())]));
    names.sort();
    names.dedup();
    let mut n_taken = 0;
    for verb in verb_and_flag_tables::all_verbs() {
        let words: Vec<&str> = verb.split(' ').collect();
        let help = place.ok(&[&["help"][..], &words].concat());
        let section = page.split(&format!("\n.B {verb}")).nth(1).unwrap_or_else(|| panic!("the man page lacks {verb}"));
        let section = section.split("\n.RE\n.TP\n").next().unwrap();
        for name in &names {
            let bare = name.trim_start_matches('-');
            let value = verb_and_flag_tables::takes_value(bare) == Some(true);
            let given = words.iter().copied().chain([name.as_str()]).chain(value.then_some("1")).map(OsString::from);
            let refusal = args::parse(given.collect()).err().map(|error| error.text).unwrap_or_default();
            if ["no flag", "unexpected", "has no such flag"].iter().any(|no| refusal.contains(no)) {
                continue;
            }
            n_taken += 1;
            let shows = |text: &str| text.split(|c: char| !c.is_alphanumeric() && c != '-').any(|word| word == name);
            assert!(shows(&help), "slm-mesh help {verb} lacks {name}, which it takes ({refusal})");
            let common = page.split("\nThe commands:\n").next().unwrap();
            assert!(shows(section) || shows(common), "the man page lacks {name} of {verb}");
        }
    }
    assert!(n_taken > 100, "{n_taken}: verbs take flags");
}

#[test]
fn mail_that_nobody_can_read_stays_unread() {
    let place = Place::new();
    place.ok(&["send", "human", "hello"]);
    for line in
        ["slm-mesh inbox >&-", "slm-mesh inbox --json >&-", "slm-mesh inbox > /dev/full", "slm-mesh inbox --follow >&-"]
    {
        shell(&place, line);
        assert_eq!(unread(&place), json!(["offered"]), "{line}");
    }
    // The reader closes the connection before `slm-mesh inbox` writes the first line.
    let (reader, writer) = UnixStream::pair().unwrap();
    drop(reader);
    let status = place.command(&["inbox"]).stdout(std::os::fd::OwnedFd::from(writer)).status().unwrap();
    assert_eq!((status.code(), unread(&place)), (Some(0), json!(["offered"])));
    // Messages that are printed to /dev/null count as read.
    shell(&place, "slm-mesh inbox > /dev/null");
    assert_eq!(unread(&place), json!(["read"]));
}

#[test]
fn a_change_whose_answer_was_lost_is_to_be_checked_before_it_is_repeated() {
    let place = Place::new();
    std::fs::create_dir(&place.dir).unwrap();
    let broker = UnixListener::bind(place.dir.join("mesh.sock")).unwrap();
    // This fake broker reads the call, and then closes the connection.
    let serve = std::thread::spawn(move || {
        let mut line = String::new();
        BufReader::new(broker.accept().unwrap().0).read_line(&mut line).unwrap();
        line
    });
    let out = place.run(&["events", "emit", "a.b"]);
    assert!(serve.join().unwrap().contains("events.emit"));
    let said = String::from_utf8(out.stderr).unwrap();
    assert_eq!(out.status.code(), Some(3), "{said}");
    assert!(
        said.contains("ended before the answer came") && said.contains("check whether the call took effect"),
        "{said}"
    );
}

/// Waits until a running command (`watch`, for example) gets news from the broker.
fn until_it_follows(place: &Place, verb: &[&str]) {
    until("it follows", || {
        let status = place.json(&["status"]);
        // `watch` makes no waiting call, because the broker pushes events to it. The status shows only its connection.
        if verb[0] == "watch" { status["connections"].as_i64() > Some(1) } else { status["waiting"] == json!(1) }
    });
}

#[test]
fn a_stream_ends_quietly_with_its_reader_even_if_nothing_more_happens() {
    let place = Place::new();
    place.ok(&["start", "--detach"]);
    let streams = [
        &["events", "--follow"][..],
        &["state", "watch", "k"],
        &["inbox", "--follow"],
        &["log", "--follow"],
        &["watch", "--plain"],
    ];
    for verb in streams {
        for n_rows in [0, 1] {
            let mut child = place.command(verb).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
            let mut rows = BufReader::new(child.stdout.take().unwrap());
            until_it_follows(&place, verb);
            if n_rows > 0 {
                let read = std::thread::spawn(move || rows.read_line(&mut String::new()).map(|_| rows));
                until("a row is printed", || {
                    place.ok(&["send", "human", "hello"]);
                    place.ok(&["events", "emit", "a.b"]);
                    read.is_finished()
                });
                drop(read.join().unwrap());
            } else {
                drop(rows);
            }
            let status = child.wait().unwrap();
            let mut said = String::new();
            child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
            assert_eq!((status.code(), said.as_str()), (Some(0), ""), "{verb:?} after {n_rows} rows");
        }
    }
}

#[test]
fn a_stream_ends_with_its_reader_while_it_waits_for_a_broker() {
    let place = Place::new();
    place.ok(&["start", "--detach"]);
    for verb in [&["events", "--follow"][..], &["watch", "--plain"]] {
        let mut child = place.command(verb).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        until_it_follows(&place, verb);
        place.ok(&["stop"]);
        BufReader::new(child.stderr.take().unwrap()).read_line(&mut String::new()).unwrap();
        drop(child.stdout.take());
        assert_eq!(child.wait().unwrap().code(), Some(0), "{verb:?}");
        place.ok(&["start", "--detach"]);
    }
}

#[test]
fn following_events_leaves_a_stopped_broker_stopped_and_continues_with_the_next() {
    let place = Place::new();
    place.ok(&["start", "--detach"]);
    let mut command = place.command(&["events", "--follow", "--types", "a.b", "--json"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut said = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut socket = place.socket();
    until("it waits in the broker", || socket.call("status", json!({}))["result"]["waiting"] == json!(1));
    for n in 0..2 {
        place.ok(&["stop"]);
        assert!(said.next().unwrap().unwrap().contains("the broker was stopped"));
        assert_eq!(place.run(&["status"]).status.code(), Some(3), "nobody needs it, so it stays stopped");
        place.ok(&["events", "emit", "a.b", &format!("{{\"n\":{n}}}")]);
        let row: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        assert_eq!(row["payload"], json!({ "n": n }), "no event is lost or repeated");
    }
    assert!(Command::new("kill").arg(child.id().to_string()).status().unwrap().success());
    assert_eq!(child.wait().unwrap().code(), None, "SIGTERM ends it as it ends others");
    assert!(said.next().is_none(), "and quietly");
}

#[test]
fn a_script_that_follows_events_learns_that_some_of_them_are_gone() {
    let place = Place::new();
    for n in 0..4 {
        place.ok(&["events", "emit", "a.b", &format!("{{\"n\":{n}}}")]);
    }
    let first = place.json(&["events", "--types", "a.b"])["events"][0]["seq"].as_i64().unwrap();
    place.ok(&["stop"]);
    // Deletes events, as the broker does after 48 hours.
    let db = rusqlite::Connection::open(place.dir.join("broker.db")).unwrap();
    db.execute("DELETE FROM event WHERE seq < ?1 + 2", [first]).unwrap();
    drop(db);
    let follow_after = |seq: i64| {
        let mut command =
            place.command(&["events", "--types", "a.b", "--after", &seq.to_string(), "--follow", "--json"]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut row = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut row).unwrap();
        child.kill().unwrap();
        let mut said = String::new();
        child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        child.wait().unwrap();
        (serde_json::from_str::<Value>(&row).unwrap()["payload"]["n"].clone(), said)
    };
    let gap = "slm-mesh: some events are missing here, because they have already been deleted\n";
    assert_eq!(follow_after(first), (json!(2), gap.to_owned()));
    assert_eq!(follow_after(first + 2), (json!(3), String::new()), "nothing is missing here");
}

#[test]
fn a_watch_with_an_end_ends_in_time_also_without_a_broker() {
    let place = Place::new();
    let mut command = place.command(&["state", "watch", "k", "--wait", "2"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut first = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut first).unwrap();
    assert_eq!(first, "k is not set\n");
    place.ok(&["stop"]);
    assert_eq!(child.wait().unwrap().code(), Some(4));
}

#[test]
fn a_watched_entry_shows_each_of_many_changes_and_those_whose_events_are_gone() {
    let place = Place::new();
    place.ok(&["state", "set", "k", "v1"]);
    let mut child = place.command(&["state", "watch", "k"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut next = || lines.next().expect("it ended").unwrap();
    assert_eq!(next(), "k = v1  (version 1)");
    let mut socket = place.socket();
    until("it waits", || socket.call("status", json!({}))["result"]["waiting"] == json!(1));
    // All changes arrive at the broker together, so the broker's next answer to the watcher contains many of them.
    let long = "x".repeat(5000);
    let value = |n: i32| if n == 60 { long.clone() } else { format!("v{n}") };
    let lines_of = |n| {
        json!({ "jsonrpc": "2.0", "id": n, "method": "state.set", "params": { "key": "k", "value": value(n) } })
            .to_string()
            + "\n"
    };
    socket.stream.write_all((2..=60).map(lines_of).collect::<String>().as_bytes()).unwrap();
    for n in 2..=60 {
        assert_eq!(next(), format!("k = {}  (version {n})", value(n)));
    }
    support::freeze(child.id());
    // The frozen watcher misses this change. Later, it can learn of the change only from the gap in the events.
    place.ok(&["stop"]);
    place.ok(&["state", "set", "k", "unseen"]);
    place.ok(&["events", "emit", "a.b"]);
    place.ok(&["stop"]);
    // Deletes events, as the broker does after 48 hours.
    let db = rusqlite::Connection::open(place.dir.join("broker.db")).unwrap();
    db.execute_batch("DELETE FROM event; UPDATE counters SET events = 0").unwrap();
    drop(db);
    place.ok(&["start", "--detach"]);
    support::thaw(child.id());
    assert_eq!(next(), "k = unseen  (version 61)");
    place.ok(&["state", "delete", "k"]);
    assert_eq!(next(), "k is not set");
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_watched_entry_is_shown_as_it_is_in_a_database_that_replaces_the_other() {
    let place = Place::new();
    for value in ["a", "b", "c"] {
        place.ok(&["state", "set", "k", value]);
    }
    let mut child = place.command(&["state", "watch", "k"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut next = || lines.next().expect("it ended").unwrap();
    assert_eq!(next(), "k = c  (version 3)");
    until_it_follows(&place, &["state"]);
    place.ok(&["stop"]);
    // After the database is lost, the numbers of events continue, but the versions of entries start again at 1.
    for file in ["broker.db", "broker.db-wal", "broker.db-shm"] {
        let _ = std::fs::remove_file(place.dir.join(file));
    }
    place.ok(&["start", "--detach"]);
    assert_eq!(next(), "k is not set");
    for n in 1..=3 {
        place.ok(&["state", "set", "k", "new"]);
        assert_eq!(next(), format!("k = new  (version {n})"));
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn completions_of_bash_complete() {
    let place = Place::new();
    let complete = |words: &str| {
        let script = format!(
            "{}\nCOMP_WORDS=({BIN} {words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); \
             COMP_LINE=${{COMP_WORDS[*]}}; COMP_POINT=${{#COMP_LINE}}; _slm_mesh; printf '%s\\n' \"${{COMPREPLY[@]}}\"",
            place.ok(&["help", "completions", "bash"])
        );
        let verb = place.command(&[]);
        let mut command = Command::new("bash");
        command.envs(verb.get_envs().filter_map(|(name, value)| Some((name, value?)))).current_dir(&place.root);
        command.env("SLM_MESH_PEER", "human");
        let out = command.args(["--norc", "-c", &script]).output().unwrap();
        assert!(out.stderr.is_empty(), "{out:?}");
        String::from_utf8(out.stdout).unwrap().lines().map(str::to_owned).collect::<Vec<_>>()
    };
    if Command::new("bash").arg("--version").output().is_err() {
        assert!(std::env::var_os("SLM_MESH_TEST_ALL").is_none(), "bash is missing");
        return eprintln!("skipped: completions_of_bash_complete: there is no bash");
    }
    assert!(complete("send ''").contains(&"all".into()) && place.broker_pid().is_none(), "it starts no broker");
    let mut agent = place.session("codex-mcp-client", "api");
    agent.tool("mesh_status", json!({}));
    place.ok(&["--as", "human", "lock", "held.rs", "my file.txt"]);
    place.ok(&["--as", "human", "state", "set", "build", "ok"]);
    for (words, wanted) in [
        ("lo", &["lock"][..]),
        ("setup --", &["--dry-run", "--remove", "--project"]),
        ("events --fo", &["--follow"]),
        ("start --d", &["--detach"]),
        ("state w", &["watch"]),
        ("broadcast --t", &["--type"]),
        ("mcp --l", &["--legacy"]),
        ("peers --scope ''", &["machine", "directory", "repo"]),
        ("setup cod", &["codex"]),
        ("doctor --prove cl", &["claude"]),
        ("help me", &["messages"]),
        ("send ''", &["codex-api", "all", "human"]),
        ("--as co", &["codex-api"]),
        ("inbox --from co", &["codex-api"]),
        ("unlock ''", &["held.rs"]),
        ("unlock my", &["my\\ file.txt"]),
        ("unlock 'my\\ f'", &["my\\ file.txt"]),
        ("unlock '\"my f'", &["my file.txt"]),
        ("state get ''", &["build"]),
        ("hook claude --agent co", &["codex", "copilot"]),
    ] {
        let found = complete(words);
        assert!(wanted.iter().all(|word| found.contains(&(*word).to_owned())), "{words}: {found:?}");
    }
    assert!(place.ok(&["help", "completions"]).contains("help completions bash >"));
}

#[test]
fn launchd_starts_this_program() {
    let list = Place::new().ok(&["help", "launchd"]);
    let start = format!("<string>{BIN}</string>\n    <string>start</string>");
    assert!(list.starts_with("<?xml ") && list.contains(&start), "{list}");
    // launchd requires that the label equals the file's name. `help machines` names the file slm-mesh.
    assert!(list.contains("<key>Label</key>\n  <string>slm-mesh</string>"), "{list}");
}
