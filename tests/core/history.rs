//! Tests `log` and the search in `inbox`: who sees which messages, and how threads are shown. Also tests that reading
//! the log does not mark messages as read.

use crate::failures::Disk;
use crate::script::check;
use serde_json::{Value, json};
use slm_mesh::base::domain_enums::MessageState;
use slm_mesh::base::time_format;
use slm_mesh::core::ConnId::Client;
use slm_mesh::core::mail::{self, show_all_messages::LOG};
use slm_mesh::core::{mcp_tools, peers::sessions};
use slm_mesh::store::{Message, Store};

fn texts(answer: &Value) -> Vec<&str> {
    answer["messages"].as_array().unwrap().iter().map(|row| row["payload"].as_str().unwrap()).collect()
}

#[test]
fn a_person_sees_every_message_and_takes_none() {
    check(
        "
        a joins
        b joins
        person connects
        a send to=b message='the schema changed' -> ok
        b send to=a message=thanks -> ok
        person log -> ok messages.0.payload='the schema changed' messages.0.fromName=a messages.0.toName=b more=false
        person log -> ok messages.0.receipt=accepted messages.1.payload=thanks
        person log limit=1 -> ok messages.0.payload=thanks more=true before=2
        person log limit=1 before=2 -> ok messages.0.payload='the schema changed'
        person log with=b since=1h -> ok messages.1.payload=thanks
        +2m
        person log since=1m -> ok messages=[]
        person log since='99999999999999 days' -> usage since
        person log since=yesterday -> usage 2h
        person log with=nobody -> not_found
        person log thread=nonsense -> not_found nonsense
        b inbox -> ok messages.0.payload='the schema changed' ~again
        a inbox filter=sent -> ok messages.0.receipt=offered
        person log search='CHANGED schema' -> ok messages.0.receipt=offered
    ",
    );
}

#[test]
fn an_agent_sees_its_own_messages_alone() {
    check(
        "
        a joins
        b joins
        c joins
        a send to=b message='secret plan' -> ok messageId=$m
        a send to=c message=lunch -> ok
        c log -> ok messages.0.payload=lunch ~secret
        c log with=a -> ok messages.0.payload=lunch ~secret
        c log with=b -> ok messages=[]
        c log search=secret -> ok messages=[]
        c log thread=$m -> not_found
        c inbox search=plan -> ok messages=[]
        b log thread=$m -> ok messages.0.payload='secret plan'
        b inbox search=plan -> ok messages.0.payload='secret plan' messages.0.toName=b ~upto more=false
        a inbox search='PLAN' -> ok messages.0.receipt=accepted
        a inbox search=plan filter=unread -> ok messages=[]
        a inbox search=plan filter=sent from=b -> ok messages.0.toName=b
        a inbox search=plan filter=sent from=c -> ok messages=[]
        b inbox search=plan from=a -> ok messages.0.fromName=a
        b inbox search=plan from=c -> ok messages=[]
        b inbox search='' -> ok messages.0.payload='secret plan' remaining=0
    ",
    );
}

#[test]
fn a_call_cannot_wait_for_mail_that_is_not_new() {
    check(
        "
        a joins
        a inbox filter=sent waitSeconds=5 -> usage waitSeconds 'sent`; leave out'
        a inbox search=plan waitSeconds=5 -> usage waitSeconds search
        a inbox filter=all from=#api waitSeconds=5 -> usage waitSeconds channel
        a inbox search=plan waitSeconds=0 -> ok messages=[]
        b joins
        c joins
        a inbox search=' ' waitSeconds=5 -> waits
        b inbox from=#api waitSeconds=5 -> waits
        c inbox filter=all waitSeconds=5 -> waits
    ",
    );
}

#[test]
fn a_thread_is_a_message_and_the_replies_to_it_and_to_those() {
    check(
        "
        a joins
        b joins
        c joins
        person connects
        a send to=b message=root -> ok messageId=$root
        c send to=b message=noise -> ok
        b send to=a message=first replyTo=$root -> ok messageId=$first
        b send to=a message=second replyTo=$root -> ok messageId=$second
        a send to=b message=below replyTo=$first -> ok
        crash
        person connects
        person log thread=$root -> ok messages.0.payload=root messages.1.payload=first messages.2.payload=second messages.3.payload=below ~noise
        person log thread=$first -> ok messages.0.payload=first messages.1.payload=below ~second ~root
        person log thread=$second -> ok messages.0.payload=second ~below ~root
        person log thread=$root after=0 limit=2 -> ok messages.1.payload=first more=true next=3
        person log thread=$root after=3 -> ok messages.0.payload=second messages.1.payload=below more=false
    ",
    );
}

#[test]
fn a_message_to_a_group_stands_once_and_its_replies_are_one_conversation() {
    check(
        "
        a joins
        b joins
        c joins
        person connects
        a send to=all message=standup -> ok messageIds.0=$first messageIds.1=$second
        b inbox -> ok messages.0.payload=standup
        b send to=a message='coming' replyTo=$second -> ok messageId=$reply
        c send to=all message=standup -> ok
        person log -> ok messages.0.copies=3 messages.0.group=all messages.1.payload=coming messages.2.copies=3
        person log limit=1 -> ok messages.0.copies=3 messages.0.fromName=c more=true
        person log with=b search=standup -> ok messages.0.toName=b ~copies
        person log thread=$first -> ok messages.0.copies=3 messages.1.payload=coming
        person log thread=$second -> ok messages.0.copies=3 messages.1.payload=coming
        person log thread=$reply -> ok messages.0.payload=coming ~standup
    ",
    );
}

#[test]
fn the_log_of_a_project_has_the_messages_of_its_peers() {
    let mut disk = Disk::new("project-log");
    for (conn, project, repo) in [(1, "/api", Some("r")), (2, "/web", None), (3, "/lib", None)] {
        disk.mesh.on_connected(Client(conn));
        let who = json!({ "agent": "test", "name": format!("s{conn}"), "project": project, "repo": repo, "pid": 5 });
        disk.call(conn, &sessions::ATTACH, who).unwrap();
    }
    for (from, to) in [(1, "s2"), (2, "s3"), (3, "s1")] {
        disk.call(from, &mail::SEND, json!({ "to": to, "message": format!("{from} to {to}") })).unwrap();
    }
    disk.mesh.on_connected(Client(9));
    let mut log = |here: Value| disk.call(9, &LOG, here).unwrap();
    let here = log(json!({ "sameProject": true, "project": "/elsewhere", "repo": "r" }));
    assert_eq!(texts(&here), ["1 to s2", "3 to s1"]);
    let here = log(json!({ "sameProject": true, "project": "/web" }));
    assert_eq!(texts(&here), ["1 to s2", "2 to s3"]);
    assert_eq!(texts(&log(json!({ "sameProject": true, "project": "/nowhere" }))), [""; 0]);
}

#[test]
fn the_person_at_a_guest_sees_the_traffic_of_that_machine() {
    let mut disk = Disk::new("guest-log");
    for (conn, host) in [(1, None), (2, None), (3, Some("laptop")), (4, Some("laptop")), (5, None)] {
        disk.mesh.on_connected(Client(conn));
        if let Some(host) = host {
            disk.mesh.set_origin(Client(conn), host, "ada", None, disk.now).unwrap();
        }
        if conn <= 3 {
            let who = json!({ "agent": "test", "name": format!("s{conn}"), "project": "/p", "pid": 5 });
            disk.call(conn, &sessions::ATTACH, who).unwrap();
        }
    }
    for (from, to) in [(1, "s2"), (2, "s3"), (3, "s1")] {
        let sent = disk.call(from, &mail::SEND, json!({ "to": to, "message": format!("{from} to {to}") })).unwrap();
        if from == 1 {
            let hidden = disk.call(4, &LOG, json!({ "thread": sent["messageId"] })).unwrap_err();
            assert!(hidden.text.contains("no message has the id"), "{hidden}");
        }
    }
    assert_eq!(texts(&disk.call(4, &LOG, json!({})).unwrap()), ["2 to s3", "3 to s1"]);
    assert_eq!(texts(&disk.call(4, &LOG, json!({ "with": "s2" })).unwrap()), ["2 to s3"]);
    assert_eq!(texts(&disk.call(5, &LOG, json!({})).unwrap()), ["1 to s2", "2 to s3", "3 to s1"]);
}

#[test]
fn reading_a_message_again_keeps_the_time_at_which_a_message_was_read() {
    let mut disk = Disk::new("old-fetch");
    disk.mesh.on_connected(Client(1));
    disk.call(1, &sessions::ATTACH, json!({ "agent": "test", "name": "a", "project": "/p", "pid": 5 })).unwrap();
    disk.call(1, &mail::SEND, json!({ "to": "a", "message": "late", "expiresMinutes": 1 })).unwrap();
    disk.pass(61_000);
    disk.call(1, &mail::SEND, json!({ "to": "a", "message": "read" })).unwrap();
    let read_at = |disk: &mut Disk| {
        disk.pass(5_000);
        let rows = disk.call(1, &mail::INBOX, json!({ "filter": "all", "markRead": true })).unwrap();
        rows["messages"].as_array().unwrap().iter().map(|row| row["readAt"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(read_at(&mut disk), [Value::Null, Value::Null], "as it was before this reading");
    let first = time_format::iso(disk.now);
    for _ in 0..2 {
        assert_eq!(read_at(&mut disk), [Value::Null, json!(first)], "nobody has read the expired message");
    }
}

/// Search texts with characters or words that have a special meaning in some query languages.
const HOSTILE: [&str; 14] = [
    "\"",
    "\"unclosed",
    "a AND",
    "NOT",
    "NEAR(a b, 2)",
    "col:",
    "^",
    "*",
    "a*",
    "-x",
    "(((",
    "%_",
    "'; DROP TABLE message; --",
    "\u{0}\u{202e}\\",
];

#[test]
fn hostile_searches_are_plain_words() {
    let mut disk = Disk::new("hostile");
    disk.mesh.on_connected(Client(1));
    disk.mesh.on_connected(Client(2));
    disk.call(1, &sessions::ATTACH, json!({ "agent": "test", "name": "a", "project": "/p", "pid": 5 })).unwrap();
    disk.call(1, &mail::SEND, json!({ "to": "human", "message": "plain 7" })).unwrap();
    for text in HOSTILE {
        let found = |disk: &mut Disk| {
            let by_words = disk.call(2, &LOG, json!({ "search": text })).unwrap();
            let by_text = disk.call(2, &LOG, json!({ "grep": text })).unwrap();
            let own = disk.call(1, &mail::INBOX, json!({ "search": text })).unwrap();
            [by_words, by_text, own].map(|answer| answer["messages"].as_array().unwrap().len())
        };
        let before = found(&mut disk);
        disk.call(1, &mail::SEND, json!({ "to": "human", "message": format!("it has {text} inside") })).unwrap();
        assert_eq!(found(&mut disk), before.map(|n| n + 1), "{text:?}");
        assert_eq!(before, [0, 0, 0], "{text:?}");
    }
}

#[test]
fn a_search_shows_the_part_of_a_long_message_that_has_the_words() {
    let mut disk = Disk::new("long");
    disk.mesh.on_connected(Client(1));
    disk.call(1, &sessions::ATTACH, json!({ "agent": "test", "name": "a", "project": "/p", "pid": 5 })).unwrap();
    let body = format!("{} NEEDLE {}", "x".repeat(40_000), "y".repeat(20_000));
    disk.call(1, &mail::SEND, json!({ "to": "a", "message": body })).unwrap();
    let found = disk.call(1, &mail::INBOX, json!({ "search": "needle" })).unwrap();
    let row = &found["messages"][0];
    assert!(row["payload"].as_str().unwrap().contains("NEEDLE"), "{row}");
    assert_eq!((&row["part"], &row["parts"]), (&json!(3), &json!(4)));
    // The second connection acts for a person. The log shows the whole message to a person.
    disk.mesh.on_connected(Client(2));
    assert_eq!(texts(&disk.call(2, &LOG, json!({ "grep": "NEEDLE" })).unwrap()), [body]);
}

#[test]
fn one_call_looks_at_a_bounded_number_of_messages_and_says_where_to_go_on() {
    let path = std::env::temp_dir().join(format!("slm-mesh-bounded-{}.db", std::process::id()));
    let mut store = Store::open(&path, false).unwrap();
    for n in 0..5_000 {
        let body = if n % 1_000 == 0 { format!("rare {n}") } else { "common".to_owned() };
        let (sender, recipient) = ("x".into(), if n % 2 == 0 { "y" } else { "z" }.into());
        store.add_message(&mut Message { sender, recipient, body, created: n, ..Message::default() }).unwrap();
    }
    store.commit().unwrap();
    drop(store);
    let mut disk = Disk::new("bounded");
    disk.mesh.on_connected(Client(1));
    let (mut found, mut before, mut n_calls) = (Vec::new(), json!(null), 0);
    loop {
        let page = disk.call(1, &LOG, json!({ "search": "RARE", "before": before })).unwrap();
        found.extend(texts(&page).into_iter().rev().map(str::to_owned));
        (before, n_calls) = (page["before"].clone(), n_calls + 1);
        if page["more"] == json!(false) {
            break;
        }
    }
    assert_eq!(found, ["rare 4000", "rare 3000", "rare 2000", "rare 1000", "rare 0"]);
    assert_eq!(n_calls, 5);
}

#[test]
fn a_message_to_many_peers_is_one_row_on_any_page() {
    for (n_copies, length) in [(70, 20_000), (2_500, 10)] {
        let path = std::env::temp_dir().join(format!("slm-mesh-copies-{length}-{}.db", std::process::id()));
        let mut store = Store::open(&path, false).unwrap();
        for (group, n) in [(None, 1), (Some("all"), n_copies), (Some("repo"), n_copies), (None, 1)] {
            for _ in 0..n {
                let (sender, recipient, group) = ("x".into(), "y".into(), group.map(str::to_owned));
                let body = "z".repeat(length);
                store.add_message(&mut Message { sender, recipient, group, body, ..Message::default() }).unwrap();
            }
        }
        store.commit().unwrap();
        drop(store);
        let mut disk = Disk::new(&format!("copies-{length}"));
        disk.mesh.on_connected(Client(1));
        let want = [json!(null), json!(n_copies), json!(n_copies), json!(null)];
        for (from, next) in [("after", "next"), ("before", "before")] {
            let (mut at, mut copies) = (json!(if from == "after" { 0 } else { 1_000_000 }), Vec::new());
            loop {
                let page = disk.call(1, &LOG, json!({ from: at })).unwrap();
                let rows: Vec<_> =
                    page["messages"].as_array().unwrap().iter().map(|row| row["copies"].clone()).collect();
                copies = if from == "after" { [copies, rows].concat() } else { [rows, copies].concat() };
                at = page[next].clone();
                if page["more"] == json!(false) {
                    break;
                }
            }
            assert_eq!(copies, want, "{from}, {length} bytes");
        }
    }
}

#[test]
fn old_mail_goes_within_seconds_however_much_of_it_was_read() {
    let path = std::env::temp_dir().join(format!("slm-mesh-old-mail-{}.db", std::process::id()));
    let mut store = Store::open(&path, false).unwrap();
    for created in 0..1_800 {
        let (sender, recipient, state) = ("x".into(), "y".into(), MessageState::Read);
        store.add_message(&mut Message { sender, recipient, state, created, ..Message::default() }).unwrap();
    }
    store.commit().unwrap();
    drop(store);
    let mut disk = Disk::new("old-mail");
    disk.mesh.on_connected(Client(1));
    (0..4).for_each(|_| disk.pass(1_000));
    assert_eq!(texts(&disk.call(1, &LOG, json!({})).unwrap()), [""; 0]);
}

#[test]
fn following_the_log_waits_for_messages_between_others() {
    check(
        "
        a joins
        b joins
        person connects
        a send to=b message=old -> ok
        person log waitSeconds=60 search=needle -> waits
        a send to=b message=hay -> ok
        ! person -> '[]'
        a send to=b message='a needle' -> ok
        ! person -> '\"payload\":\"a needle\"' '\"next\":3' ~hay
        person log after=3 waitSeconds=5 -> waits
        +6s
        ! person -> '\"messages\":[]'
        person log after=999999 -> ok messages=[] next=3
        person log after=0 -> ok messages.0.payload=old
    ",
    );
}

#[test]
fn messages_to_a_group_in_one_millisecond_are_not_taken_for_one() {
    // An agent may make several tool calls at the same time. So all calls of this script happen in the same millisecond.
    check(
        "
        a joins
        b joins
        c joins
        person connects
        a send to=all message=same -> ok
        a send to=all message=same -> ok messageIds.0=$second
        a send to=b message=direct -> ok
        a send to=b message=answer replyTo=$second -> ok
        person log -> ok messages.0.copies=3 messages.1.copies=3 messages.2.payload=direct
        person log -> ok messages.0.createdAt=BEGIN.000Z messages.1.createdAt=BEGIN.001Z messages.2.createdAt=BEGIN.001Z
        person log thread=$second -> ok messages.0.copies=3 messages.0.createdAt=BEGIN.001Z messages.1.payload=answer
        a events.read after=0 types='[\"message_received\"]' -> ok events.0.createdAt=BEGIN.000Z events.1.createdAt=BEGIN.001Z
        +1s
        a send to=all message=same -> ok
        person log limit=1 -> ok messages.0.copies=3 messages.0.createdAt=SECOND.000Z
    "
        .replace("BEGIN", "2026-11-18T11:06:40")
        .replace("SECOND", "2026-11-18T11:06:41")
        .as_str(),
    );
}

#[test]
fn the_search_is_an_argument_of_the_inbox_and_the_log_is_no_tool() {
    assert_eq!(mcp_tools::TOOLS.len(), 8);
    let takes = |name: &str, arguments: Value| mcp_tools::call(name, arguments.as_object().unwrap());
    assert!(takes("mesh_inbox", json!({ "search": "words", "before": 9 })).unwrap().is_ok());
    assert!(takes("mesh_log", json!({})).is_none());
}
