//! Tests lists with several pages. Even if rows are added or removed between two requests, no row may be missing or
//! appear twice.

mod support;

use serde_json::{Value, json};
use std::collections::BTreeSet;
use support::{Place, Socket};

const N_PEERS: usize = 300;
const N_LOCKS: usize = 700;

/// Attaches many peers. The first few of them also take locks.
fn crowd(place: &Place) -> Vec<Socket> {
    let mut sockets = Vec::new();
    for n in 0..N_PEERS {
        let mut socket = place.socket();
        let ask = json!({ "name": format!("peer-{n}"), "agent": "codex", "project": format!("/p/{n}"), "pid": 1 });
        let you = socket.call("attach", ask);
        assert!(you["result"]["ok"] == json!(true), "{you}");
        sockets.push(socket);
    }
    for (n, socket) in sockets.iter_mut().enumerate().take(N_LOCKS / 50) {
        let files: Vec<String> = (0..50).map(|file| format!("/work/{}/{n}/{file}.rs", "folder".repeat(8))).collect();
        let locked = socket.call("lock.lock", json!({ "filePaths": files }));
        assert!(locked["result"]["ok"] == json!(true), "{locked}");
    }
    sockets
}

fn names(value: &Value, list: &str, name: &str) -> Vec<String> {
    value[list].as_array().unwrap().iter().map(|row| row[name].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_list_continues_where_its_last_page_ended() {
    let place = Place::new().with("SLM_MESH_RATE", "1000000");
    place.ok(&["start", "--detach"]);
    let mut sockets = crowd(&place);
    for (verb, list, name, n_all) in
        [(&["peers"][..], "peers", "name", N_PEERS), (&["lock", "list"], "locks", "filePath", N_LOCKS)]
    {
        let mut found = Vec::new();
        let mut page = place.json(verb);
        while let Some(next) = page["next"].as_str() {
            found.extend(names(&page, list, name));
            assert_eq!(page["remaining"], json!(n_all - found.len()), "{page}");
            page = place.json(&[verb, &["--after", next]].concat());
        }
        found.extend(names(&page, list, name));
        assert!(page["remaining"].is_null(), "{page}");
        let whole: BTreeSet<&String> = found.iter().collect();
        assert_eq!((found.len(), whole.len()), (n_all, n_all), "{list}");
    }
    // The next page must not repeat a row of this page, even if a row is added, or if the last row of this page is
    // removed.
    let first = place.json(&["lock", "list"]);
    let shown = names(&first, "locks", "filePath");
    let last = shown.last().unwrap();
    let holder = (0..).find(|n| shown.len() <= (n + 1) * 50).unwrap();
    let given = sockets[holder].call("lock.unlock", json!({ "filePath": last }));
    assert!(given["result"]["ok"] == json!(true), "{given}");
    place.ok(&["lock", "/work/new.rs", "--as", "human"]);
    let second = place.json(&["lock", "list", "--after", first["next"].as_str().unwrap()]);
    assert!(names(&second, "locks", "filePath").iter().all(|path| !shown.contains(path)));
    assert_eq!(
        second["locks"].as_array().unwrap().len() as u64 + second["remaining"].as_u64().unwrap(),
        (N_LOCKS - shown.len() + 1) as u64
    );
}

#[test]
fn the_output_says_how_to_see_the_rest() {
    let place = Place::new().with("SLM_MESH_RATE", "1000000");
    place.ok(&["start", "--detach"]);
    let _sockets = crowd(&place);
    let said = place.ok(&["peers"]);
    let hint = said.lines().last().unwrap();
    let (count, next) = hint.split_once(" more; continue with --after '").unwrap();
    let n_shown = said.lines().count() - 2;
    assert_eq!(count.parse::<usize>().unwrap() + n_shown, N_PEERS);
    let rest = place.ok(&["peers", "--after", next.trim_end_matches('\'')]);
    let mut named: Vec<&str> = said.lines().chain(rest.lines()).filter_map(|line| line.split(' ').next()).collect();
    let n_lines = named.len();
    named.sort();
    named.dedup();
    assert_eq!((named.len(), n_lines > n_shown), (n_lines - 1, true), "only the heading comes twice: {rest}");
    let out = place.run(&["peers", "--after", "nonsense"]);
    assert_eq!(out.status.code(), Some(2), "{out:?}");
    assert!(String::from_utf8_lossy(&out.stderr).contains("--after"), "{out:?}");
}

/// The messages in the output of `inbox`, and its hint about further messages.
fn texts_and_hint(said: &str) -> (Vec<&str>, &str) {
    let texts = said.lines().filter_map(|line| line.strip_prefix("  ")).collect();
    (texts, said.lines().find(|line| line.starts_with("there are")).unwrap_or(""))
}

#[test]
fn a_mailbox_that_is_longer_than_an_answer_says_how_to_see_the_rest() {
    let place = Place::new();
    place.ok(&["start", "--detach"]);
    let mut sockets = ["ann", "bob"].map(|name| {
        let mut socket = place.socket();
        socket.call("attach", json!({ "name": name, "agent": "codex", "project": "/p", "pid": 1 }));
        socket.call("channel.join", json!({ "channel": "api" }));
        socket
    });
    for n in 1..=4 {
        sockets[0].call("send", json!({ "to": "#api", "message": format!("message {n}") }));
    }
    let inbox = |args: &[&str]| place.ok(&[&["inbox", "--as", "bob", "--limit", "2"], args].concat());
    // Without a filter, `inbox` shows unread messages, oldest first, on the first page as well as on the second.
    for (args, texts, hint) in [
        (&[][..], ["message 1", "message 2"], "there are more messages; continue with --after 2"),
        (&["--after", "2"], ["message 3", "message 4"], ""),
        // With `--filter all`, the first page ends with the newest message.
        (
            &["--filter", "all"],
            ["message 3", "message 4"],
            "there are older messages; show them with --after 0 (oldest first)",
        ),
        (
            &["--filter", "all", "--after", "0"],
            ["message 1", "message 2"],
            "there are more messages; continue with --after 2",
        ),
        (
            &["--filter", "all", "--from", "#api"],
            ["message 3", "message 4"],
            "there are older messages; show them with --before 3",
        ),
        (&["--filter", "all", "--from", "#api", "--before", "3"], ["message 1", "message 2"], ""),
    ] {
        let said = inbox(args);
        assert_eq!(texts_and_hint(&said), (texts.to_vec(), hint), "{args:?}: {said}");
    }
}

#[test]
fn a_list_of_events_says_how_to_see_the_rest() {
    let place = Place::new();
    for n in 1..=4 {
        place.ok(&["events", "emit", "n.n", &json!({ "n": n }).to_string(), "--as", "human"]);
    }
    let events = |args: &[&str]| place.ok(&[&["events", "--types", "n.n", "--limit", "2"], args].concat());
    let latest = events(&[]);
    let lines: Vec<&str> = latest.lines().collect();
    assert_eq!(lines[0], "there are older events; show them with --after 0 (oldest first)");
    assert!(lines.len() == 3 && lines[1].ends_with("n=3") && lines[2].ends_with("n=4"), "{latest}");
    let first = events(&["--after", "0"]);
    let lines: Vec<&str> = first.lines().collect();
    assert!(lines.len() == 3 && lines[0].ends_with("n=1") && lines[1].ends_with("n=2"), "{first}");
    let after = lines[2].strip_prefix("there are more events; continue with --after ").unwrap();
    let last = events(&["--after", after]);
    let lines: Vec<&str> = last.lines().collect();
    assert!(lines.len() == 2 && lines[0].ends_with("n=3") && lines[1].ends_with("n=4"), "{last}");
    // With the cursor `seq`, a program gets only later events. So a note says how to get the older events.
    let latest = place.json(&["events", "--types", "n.n", "--limit", "2"]);
    assert!(latest["note"].as_str().unwrap().contains("set `after` to 0"), "{latest}");
    assert!(place.json(&["events", "--types", "n.n", "--limit", "4"])["note"].is_null());
}
