//! Tests `slm-mesh log`, which shows, follows and searches the messages between two agents. The command marks no
//! message as read.

mod support;

use rusqlite::{Connection, params};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdout, Stdio};
use support::{Place, Socket, until};

/// Connects to the broker's socket, and attaches as a peer.
fn peer(place: &Place, name: &str) -> Socket {
    let mut socket = place.socket();
    let attached =
        socket.call("attach", json!({ "name": name, "agent": "codex", "project": place.root.join(name), "pid": 1 }));
    assert_eq!(attached["result"]["you"]["name"], json!(name), "{attached}");
    socket
}

fn send(socket: &mut Socket, to: &str, text: &str, reply_to: Option<&str>) -> String {
    let mut params = json!({ "to": to, "message": text });
    if let Some(id) = reply_to {
        params["replyTo"] = json!(id);
    }
    let sent = socket.call("send", params);
    let id = &sent["result"]["messageId"];
    id.as_str().unwrap_or_else(|| panic!("{sent}")).to_owned()
}

fn texts(answer: &Value) -> Vec<&str> {
    answer["messages"].as_array().unwrap().iter().map(|row| row["payload"].as_str().unwrap()).collect()
}

/// Runs `slm-mesh log` as the human, and returns its JSON output.
fn log(place: &Place, args: &[&str]) -> Value {
    place.json(&[&["log", "--as", "human"], args].concat())
}

/// A running `slm-mesh log --follow`, and its output.
struct Follower {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Follower {
    fn start(place: &Place, args: &[&str]) -> Follower {
        let args = [&["log", "--follow", "--as", "human"], args].concat();
        let mut child = place.command(&args).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        Follower { child, lines }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        assert!(self.lines.read_line(&mut line).unwrap() > 0, "it ended");
        line.trim_end().to_owned()
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_person_reads_what_two_agents_wrote_and_both_still_get_their_mail() {
    let place = Place::new();
    place.ok(&["start", "--detach"]);
    let (mut ann, mut bob) = (peer(&place, "ann"), peer(&place, "bob"));
    let question = send(&mut ann, "bob", "where is the Lexer?", None);
    send(&mut bob, "ann", "in src/lex.rs\n\u{1b}[2Jand its tests beside it", Some(&question));
    send(&mut ann, "human", "all is well", None);
    let text = place.ok(&["log", "--as", "human"]);
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].contains("ann → bob  [acked]") && lines[0].ends_with(&question), "{text}");
    assert_eq!(lines[1], "  where is the Lexer?");
    assert!(lines[2].contains("bob → ann  [accepted]") && lines[2].contains(&format!("answers {question}")), "{text}");
    assert_eq!(lines[3..5], ["  in src/lex.rs", "  \u{fffd}[2Jand its tests beside it"]);
    assert!(!text.contains('\u{1b}'), "{text:?}");
    assert_eq!(texts(&log(&place, &["--thread", &question]))[0], "where is the Lexer?");
    assert_eq!(texts(&log(&place, &["--with", "human"])), ["all is well"]);
    assert_eq!(texts(&log(&place, &["--search", "LEXER where"])), ["where is the Lexer?"]);
    assert_eq!(texts(&log(&place, &["--grep", "lexer"])), [""; 0]);
    assert_eq!(texts(&log(&place, &["--since", "1h", "--limit", "1"])), ["all is well"]);
    // `--as bob` shows only the messages that bob sent or received.
    assert_eq!(texts(&place.json(&["log", "--as", "bob", "--search", "well"])), [""; 0]);
    // The log has shown these messages, but they must still be new for their recipients.
    let inbox = ann.call("inbox", json!({}));
    assert!(texts(&inbox["result"])[0].starts_with("in src/lex.rs"), "{inbox}");
    assert!(inbox["result"]["messages"][0].get("redelivered").is_none(), "{inbox}");
    assert_eq!(texts(&place.json(&["inbox", "--as", "human", "--take"])), ["all is well"]);
}

#[test]
fn following_shows_the_past_and_then_each_message_once_also_over_a_restart() {
    let place = Place::new();
    place.ok(&["start", "--detach"]);
    let (mut ann, _bob) = (peer(&place, "ann"), peer(&place, "bob"));
    for n in 1..=3 {
        send(&mut ann, "bob", &format!("message {n}"), None);
    }
    let mut follower = Follower::start(&place, &["--limit", "2", "--grep", "message"]);
    assert!(follower.line().contains("ann → bob"));
    assert_eq!(follower.line(), "  message 2");
    assert!(follower.line().contains("ann → bob"));
    assert_eq!(follower.line(), "  message 3");
    until("it waits", || ann.call("status", json!({}))["result"]["waiting"] == json!(1));
    send(&mut ann, "bob", "something else", None);
    send(&mut ann, "bob", "message 4", None);
    assert!(follower.line().contains("ann → bob"));
    assert_eq!(follower.line(), "  message 4");
    place.ok(&["stop"]);
    place.ok(&["start", "--detach"]);
    let mut ann = peer(&place, "ann");
    send(&mut ann, "bob", "message 5", None);
    assert!(follower.line().contains("ann → bob"));
    assert_eq!(follower.line(), "  message 5");
}

#[test]
fn bad_input_is_named_and_search_text_is_never_an_error() {
    let place = Place::new();
    place.ok(&["start", "--detach"]);
    for (args, want) in [
        (&["log", "--since", "yesterday"][..], "--since: expected a time span before now, such as 2h"),
        (&["log", "--since", "2"], "--since"),
        (&["log", "--limit", "0"], "--limit: expected a whole number from 1 to 10000"),
        (&["log", "--thread", "x"], "no message has the id x"),
        (&["log", "--with", "nobody"], "no peer is called nobody"),
        (&["log", "words"], "log: unexpected words"),
        (&["log", "--follw"], "no flag --follw"),
        (&["inbox", "--search", "x", "--follow"], "slm-mesh log --search"),
        (&["inbox", "--filter", "sent", "--follow"], "use slm-mesh log --follow"),
        (&["inbox", "--filter", "all", "--from", "#api", "--follow"], "use slm-mesh log --with '#api' --follow"),
    ] {
        let output = place.run(&[args, &["--as", "human"]].concat());
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && error.contains(want), "{args:?}: {error}");
    }
    for text in ["\"", "* OR NEAR(", "-x", "", "  ", "%", "col:y ^ (", "'; --", "\u{202e}"] {
        for flag in ["--search", "--grep"] {
            assert_eq!(place.json(&["log", "--as", "human", &format!("{flag}={text}")])["messages"], json!([]));
        }
        assert_eq!(place.json(&["inbox", "--as", "human", &format!("--search={text}")])["messages"], json!([]));
    }
}

#[test]
fn an_agent_searches_what_it_sent_and_received() {
    let place = Place::new();
    let mut codex = place.session("codex-mcp-client", "api");
    codex.tool("mesh_status", json!({}));
    let mut ann = peer(&place, "ann");
    send(&mut ann, "codex-api", "deploy at noon", None);
    send(&mut ann, "human", "deploy, but not for agents", None);
    codex.tool("mesh_send", json!({ "to": "ann", "message": "Deploy is ready" }));
    let found = codex.tool("mesh_inbox", json!({ "search": "DEPLOY" }));
    assert_eq!(texts(&found), ["deploy at noon", "Deploy is ready"]);
    // A search shows messages, but does not mark them as offered or read.
    let inbox = codex.tool("mesh_inbox", json!({}));
    assert_eq!(texts(&inbox), ["deploy at noon"]);
    assert!(inbox["messages"][0].get("redelivered").is_none(), "{inbox}");
}

#[test]
fn a_search_in_a_hundred_thousand_messages_finds_all_and_delays_nobody() {
    let place = Place::new();
    place.ok(&["start", "--detach"]);
    send(&mut peer(&place, "ann"), "human", "the first", None);
    place.ok(&["stop"]);
    let mut db = Connection::open(place.dir.join("broker.db")).unwrap();
    let step = db.transaction().unwrap();
    {
        let sql = "INSERT INTO message(seq, sender, recipient, recipient_group, type, body, created, state, bytes_read)
                   SELECT ?1, sender, recipient, NULL, 'text', ?2, created, 2, 0 FROM message WHERE seq = 1";
        let mut insert = step.prepare(sql).unwrap();
        for seq in 2..=100_000 {
            let body = if seq % 20_000 == 0 { format!("rare needle {seq}") } else { "x".repeat(200) };
            insert.execute(params![seq, body]).unwrap();
        }
        step.execute("UPDATE counters SET message_last = 100000, messages = 100000", []).unwrap();
    }
    step.commit().unwrap();
    drop(db);
    place.ok(&["start", "--detach"]);
    let found = log(&place, &["--search", "NEEDLE rare"]);
    let want: Vec<String> = (1..=5).map(|n| format!("rare needle {}", n * 20_000)).collect();
    assert_eq!(texts(&found), want);
    assert_eq!(found["more"], json!(false));
    let found = place.json(&["inbox", "--as", "human", "--search", "needle"]);
    assert_eq!((texts(&found), &found["more"]), (want.iter().map(String::as_str).collect(), &json!(false)));
    // One call searches only a part of a long log. Otherwise, the other clients would wait too long for their answers.
    let page = place.socket().call("log", json!({ "search": "needle", "as": "human" }));
    assert_eq!((texts(&page["result"]), &page["result"]["more"]), (vec!["rare needle 100000"], &json!(true)));
    assert!(page["result"]["before"].as_i64().unwrap() > 90_000, "{page}");
}

#[test]
fn a_channel_is_a_conversation_of_its_members_and_a_thread_is_one_in_it() {
    let place = Place::new();
    place.ok(&["start", "--detach"]);
    let (mut ann, mut bob) = (peer(&place, "ann"), peer(&place, "bob"));
    for socket in [&mut ann, &mut bob] {
        socket.call("channel.join", json!({ "channel": "api" }));
    }
    assert!(place.ok(&["join", "#API", "--as", "human"]).starts_with("Joined #api: ann, bob, "));
    let asked = ann.call("send", json!({ "to": "#api", "message": "who takes the parser?" }));
    let ids = &asked["result"]["messageIds"];
    assert_eq!(ids.as_array().unwrap().len(), 2, "{asked}");
    // Each member of the channel has a separate copy of the message. Replies to different copies must end up in one
    // thread.
    let taken = bob.call("inbox", json!({ "from": "#api" }));
    let own = taken["result"]["messages"][0]["id"].as_str().unwrap().to_owned();
    send_to(&mut bob, "#api", "I do", &own);
    place.ok(&["send", "#api", "fine", "--reply-to", ids[1].as_str().unwrap(), "--as", "human"]);
    let rows = log(&place, &["--with", "#api"]);
    assert_eq!(texts(&rows), ["who takes the parser?", "I do", "fine"]);
    let shown = place.ok(&["log", "--as", "human", "--with", "#api"]);
    assert!(shown.contains("ann → #api (2 peers)  [") && shown.contains("bob → #api (2 peers)  ["), "{shown}");
    let root = &rows["messages"][0]["id"];
    assert!(rows["messages"].as_array().unwrap()[1..].iter().all(|row| row["thread"] == *root), "{rows}");
    let text = place.ok(&["channels", "--as", "human"]);
    assert!(text.contains("#api") && text.contains("ann, bob"), "{text}");
    let table = place.json(&["channels", "--as", "human"]);
    // The human's reply has acknowledged the first message, so only bob's reply is unread.
    assert_eq!(table["channels"][0]["unread"], json!(1), "{table}");
    let shown = place.ok(&["inbox", "--as", "human"]);
    // The reply from `bob` contains the id of bob's own copy of the message, but the human must see the id of the
    // human's copy.
    assert!(shown.contains(&format!("answers {}", ids[1].as_str().unwrap())) && !shown.contains(&own), "{shown}");
    // A channel's name must not contain spaces, and must not be empty.
    for args in [&["send", "--as", "human", "#no such", "x"][..], &["log", "--as", "human", "--with", "#"]] {
        assert_eq!(place.run(args).status.code(), Some(2), "{args:?}");
    }
}

fn send_to(socket: &mut Socket, to: &str, text: &str, reply_to: &str) {
    let sent = socket.call("send", json!({ "to": to, "message": text, "replyTo": reply_to }));
    assert_eq!(sent["result"]["ok"], json!(true), "{sent}");
}
