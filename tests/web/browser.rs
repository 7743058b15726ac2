//! Tests the web page in a real browser: Chromium without a window. `SLM_MESH_SHOTS=DIR` saves screenshots.

use super::client::*;
use super::clients;
use super::page::*;
use super::support::{Session, until};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// A message with HTML, text in the reverse direction, and terminal codes. The page must show all of it as plain text.
const EVIL: &str = "<img src=x onerror=alert(1)><b class=evil>bold</b> \u{202e}drawkcab\u{202c} \u{1b}[31mred\u{1b}[0m <script>alert(2)</script>";

/// A running script that controls the browser as a person would, and waits after each step.
struct Person {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Person {
    /// Waits until the script has done a step, and returns what the script found on the page.
    fn sees(&mut self) -> Value {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
    }

    fn goes_on(&mut self) {
        writeln!(self.input, "go on").unwrap();
    }
}

impl Drop for Person {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Finds Chromium on the search path. Chromium has different names on different systems.
fn chromium(test: &str) -> Option<PathBuf> {
    let names = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];
    let path = std::env::var("PATH").unwrap();
    let found = path.split(':').flat_map(|dir| names.map(|name| Path::new(dir).join(name))).find(|file| file.exists());
    if found.is_none() {
        skip(test, "there is no Chromium (package chromium)");
    }
    found
}

fn start(test: &str, url: &str) -> Option<Person> {
    let browser = chromium(test)?;
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/web");
    let dir = clients::node_with(test, "web", &here, &["browser.mjs"])?;
    let shots = std::env::var("SLM_MESH_SHOTS").unwrap_or_default();
    let mut child = Command::new("node")
        .arg(dir.join("browser.mjs"))
        .args([url.as_ref(), browser.as_os_str(), shots.as_ref()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (input, output) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
    Some(Person { child, input, output })
}

#[test]
fn a_person_opens_the_link_and_looks_writes_and_releases() {
    let broker = Broker::start();
    let mut codex = broker.place.session("codex-mcp-client", "shop");
    let me = codex.tool("mesh_peers", json!({ "scope": "machine" }))["you"].clone();
    codex.tool("mesh_summary", json!({ "summary": EVIL }));
    codex.tool("mesh_send", json!({ "to": "human", "message": EVIL }));
    codex.tool("mesh_state", json!({ "action": "set", "key": "<i>key</i>", "value": EVIL }));
    for (namespace, key) in [("a b", "c"), ("a", "b c")] {
        let entry = json!({ "action": "set", "namespace": namespace, "key": key, "value": "v" });
        codex.tool("mesh_state", entry);
    }
    let odd = json!({ "action": "emit", "type": "odd.event", "payload": { "key": { "toString": 1 } } });
    codex.tool("mesh_events", odd);
    let url = format!("http://127.0.0.1:{}{}", broker.port, link(&broker));
    let Some(mut person) = start("a_person_opens_the_link_and_looks_writes_and_releases", &url) else { return };

    let seen = person.sees();
    assert_eq!(seen["url"], json!(format!("http://127.0.0.1:{}/", broker.port)), "no token stays in the address");
    let agents = word(&seen["agents"]);
    assert!(
        agents.contains(&word(&me["name"])) && agents.contains("shop") && agents.contains("<img src=x"),
        "{agents}"
    );
    person.goes_on();

    let seen = person.sees();
    let plain = EVIL.replace('\u{202e}', "⟨RLO⟩").replace('\u{202c}', "⟨PDF⟩").replace('\u{1b}', "⟨ESC⟩");
    assert_eq!((word(&seen["text"]), &seen["images"]), (plain, &json!(0)));
    assert!(word(&seen["words"]).contains("<i>key</i>"), "{seen}");
    assert_eq!(seen["entries"], json!(3), "entries whose namespaces and keys look alike stay apart");
    assert_eq!(seen["odd"], json!(1), "the filter finds an event in spite of its odd payload");
    until("it counts as read", || {
        codex.tool("mesh_inbox", json!({ "filter": "sent" }))["messages"][0]["receipt"] == json!("read")
    });
    let file = broker.place.root.join("shop/live.rs");
    codex.tool("mesh_lock", json!({ "action": "lock", "filePath": file, "reason": "in <u>sight</u>" }));
    person.goes_on();

    let asked = word(&person.sees()["asked"]);
    assert!(asked.contains(&word(&me["name"])) && asked.contains("<u>sight</u>"), "{asked}");
    let told = codex.tool("mesh_inbox", json!({}));
    assert!(word(&told["messages"][0]["payload"]).contains("took your lock"), "{told}");
    person.goes_on();

    let seen = person.sees();
    assert!(word(&seen["said"]).starts_with("Sent to codex"), "{seen}");
    assert!(word(&seen["receipt"]).contains("from the page"), "{seen}");
    let got = codex.tool("mesh_inbox", json!({}));
    assert_eq!(got["messages"][0]["payload"], json!("from the page"));
    reads_the_conversation(&broker, &mut person, &mut codex, &got["messages"][0]["id"], &me["name"]);

    let seen = person.sees();
    let outside = word(&seen["outside"]);
    assert!(outside.contains("slm-mesh web") && !outside.contains(&word(&me["name"])), "{outside}");
    assert_eq!(seen["used"], json!(format!("http://127.0.0.1:{}/", broker.port)));
    person.goes_on();

    let seen = person.sees();
    assert_eq!((&seen["trouble"], &seen["foreign"], &seen["faults"]), (&json!([]), &json!([]), &json!([])));
    assert_eq!(seen["blank"], json!(0), "the page ends with its last section");
    assert_eq!(seen["wide"], json!(360), "a phone shows all of its width");
    person.goes_on();
    assert!(person.child.wait().unwrap().success());
}

/// The person finds the reply below the message, and again with a search. Neither step marks a message of the agent as
/// read.
fn reads_the_conversation(broker: &Broker, person: &mut Person, codex: &mut Session, answered: &Value, name: &Value) {
    let long = json!({ "to": "human", "message": format!("A {}end", "long ".repeat(5_000)) });
    codex.tool("mesh_send", long);
    let answer = json!({ "to": "human", "message": "I read the page from you", "replyTo": answered });
    codex.tool("mesh_send", answer);
    let to_agent = json!({ "to": name, "message": "another <b>one</b>", "as": "human" });
    broker.place.socket().call("send", to_agent);
    person.goes_on();
    let seen = person.sees();
    assert!(word(&seen["folded"]).contains("Read it"), "{seen}");
    assert!(
        word(&seen["whole"]).starts_with(char::is_numeric) && word(&seen["whole"]).contains("from the page"),
        "{seen}"
    );
    assert!(
        word(&seen["mailbox"]).contains("1 unread") && word(&seen["mailbox"]).contains("another <b>one</b>"),
        "{seen}"
    );
    assert!(word(&seen["long"]).trim_end().ends_with("long end"), "a long message can be read to its end");
    let got = codex.tool("mesh_inbox", json!({}));
    assert_eq!(got["messages"][0]["payload"], json!("another <b>one</b>"));
    assert!(got["messages"][0].get("again").is_none(), "the look has not offered it: {got}");
    for n in 1..=40 {
        broker.place.socket().call("send", json!({ "to": name, "message": format!("row {n}"), "as": "human" }));
    }
    person.goes_on();
}
