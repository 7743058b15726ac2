//! Tests locks over HTTP: a file has only one holder, even if its path is written in different ways; a holder can renew
//! its lock; and locks expire. Also tests the two formats of time that `since` accepts.

use super::client::*;
use super::support::until;
use serde_json::{Value, json};

fn take(file: &str, peer: &str) -> Value {
    json!({ "action": "lock", "filePath": file, "peerId": peer })
}

fn locks(http: &mut Http) -> Vec<Value> {
    http.ok("/lock", json!({ "action": "query" }))["locks"].as_array().unwrap().clone()
}

#[test]
fn a_file_has_one_holder() {
    let broker = Broker::start();
    let mut http = broker.http();
    let (a, b) = (http.peer("/p"), http.peer("/p"));
    let name = format!("peer-{}", &a[..6]);
    http.ok("/lock", take("/p/x", &a));
    http.refused("/lock", take("/p/x", &b), &format!("File locked by {name}. Expires in 10 minutes."));
    http.ok("/lock", json!({ "action": "lock", "filePath": "/p/y", "peerId": a, "reason": "sums", "ttlMinutes": 2.5 }));
    http.refused("/lock", take("/p/y", &b), &format!("File locked by {name}, reason: sums. Expires in 3 minutes."));
    http.refused(
        "/lock",
        json!({ "action": "unlock", "filePath": "/p/x", "peerId": b }),
        "Lock not found or not owned by you",
    );
    http.ok("/lock", json!({ "action": "unlock", "filePath": "/p/x", "peerId": a }));
    http.ok("/lock", take("/p/x", &b));
    // If the holder is not a registered peer, the error contains the `peerId` that the holder sent.
    http.ok("/lock", take("/p/z", "the build"));
    http.refused("/lock", take("/p/z", &b), "File locked by the build. Expires in 10 minutes.");
}

#[test]
fn ways_to_write_a_path_are_one_file() {
    let broker = Broker::start();
    let mut http = broker.http();
    let (a, b) = (http.peer("/p"), http.peer("/p"));
    let body = http.ok("/lock", take("/p/src/../x//y.rs", &a));
    assert_eq!(body["lock"]["filePath"], json!("/p/src/../x//y.rs"), "the path comes back as it was sent");
    for file in ["/p/x/y.rs", "/p/./x/y.rs", "x/y.rs", "./x/../x/y.rs", "/../p/x/y.rs"] {
        let reply = http.post("/lock", &take(file, &b));
        assert!(reply.text.contains("File locked by"), "{file}: {}", reply.text);
        let found = http.ok("/lock", json!({ "action": "query", "filePath": file }));
        assert_eq!(found["locks"].as_array().unwrap().len(), 1, "{file}");
    }
    http.ok("/lock", take("/q/x/y.rs", &b));
    http.ok("/lock", json!({ "action": "unlock", "filePath": "x/y.rs", "peerId": a }));
    http.ok("/lock", take("/p/x/y.rs", &b));
}

#[test]
fn an_owner_renews_its_lock() {
    let broker = Broker::start();
    let mut http = broker.http();
    let a = http.peer("/p");
    let first =
        http.ok("/lock", json!({ "action": "lock", "filePath": "/p/x", "peerId": a, "reason": "r", "ttlMinutes": 1 }));
    let again = http.ok("/lock", json!({ "action": "lock", "filePath": "/p/./x", "peerId": a, "ttlMinutes": 30 }));
    assert!(word(&again["lock"]["expiresAt"]) > word(&first["lock"]["expiresAt"]));
    assert_eq!(again["lock"]["lockedAt"], first["lock"]["lockedAt"], "it is the same grant");
    let found = locks(&mut http);
    assert_eq!(found.len(), 1);
    assert_eq!(json!([found[0]["expiresAt"], found[0]["reason"]]), json!([again["lock"]["expiresAt"], "r"]));
    assert_eq!(http.events("file_locked").len(), 1);
}

#[test]
fn an_expired_lock_is_gone() {
    let broker = Broker::start();
    let mut http = broker.http();
    let (a, b) = (http.peer("/p"), http.peer("/p"));
    http.ok("/lock", json!({ "action": "lock", "filePath": "/p/x", "peerId": a, "ttlMinutes": 0 }));
    until("it is gone from the list", || locks(&mut http).is_empty());
    assert_eq!(http.get("/status").body["locks"]["active"], json!(0));
    assert_eq!(http.events("file_unlocked").len(), 1);
    http.refused(
        "/lock",
        json!({ "action": "unlock", "filePath": "/p/x", "peerId": a }),
        "Lock not found or not owned by you",
    );
    http.ok("/lock", take("/p/x", &b));
}

#[test]
fn the_locks_of_a_peer_fall_when_it_leaves() {
    let broker = Broker::start();
    let mut http = broker.http();
    let (a, b) = (http.peer("/p"), http.peer("/p"));
    for file in ["/p/1", "/p/2"] {
        http.ok("/lock", take(file, &a));
    }
    http.ok("/lock", take("/p/3", &b));
    http.ok("/unregister", json!({ "peerId": a }));
    let found = locks(&mut http);
    assert_eq!(json!([found.len(), found[0]["lockedBy"]]), json!([1, b]));
}

#[test]
fn the_default_length_is_a_setting() {
    let broker = Broker::with(&[("SLM_MESH_LOCK_TTL_MIN", "3")]);
    let mut http = broker.http();
    http.ok("/lock", take("/x", "a"));
    http.refused("/lock", take("/x", "b"), "File locked by a. Expires in 3 minutes.");
}

#[test]
fn since_works_in_either_form() {
    let broker = Broker::start();
    let mut http = broker.http();
    let a = http.peer("/p");
    let mut set = |key: &str| {
        http.ok("/state", json!({ "action": "set", "key": key, "value": "", "peerId": a }));
        word(&http.ok("/lock", take("/x", "clock"))["lock"]["expiresAt"])
    };
    let first = set("first");
    until("the clock goes on", || set("second") > first);
    set("third");
    // The test has set three entries, and has locked the path after each of them. `lockedAt` is the time of the first
    // lock call, because the later calls only renewed the lock.
    let taken = word(&locks(&mut http)[0]["lockedAt"]);
    let seconds = taken[..19].replace('T', " ");
    let mut count = |since: &str| {
        let body =
            http.ok("/events", json!({ "types": ["state_changed", "file_locked"], "since": since, "limit": -1 }));
        let events = body["events"].as_array().unwrap().clone();
        (events.len(), events.last().map(|event| word(&event["createdAt"])))
    };
    let (n_all, _) = count("1970-01-01 00:00:00");
    assert!(n_all >= 3);
    assert_eq!(count("1970-01-01T00:00:00.000Z").0, n_all);
    assert_eq!(count("9999-01-01T00:00:00.000Z").0, 0);
    assert_eq!(count("9999-01-01 00:00:00").0, 0);
    let (n_after, _) = count(&taken);
    assert!(n_after >= 1 && n_after < n_all, "what came after, and not what came before: {n_after} of {n_all}");
    assert_eq!(count(&seconds).0, count(&format!("{}.000Z", &taken[..19])).0, "both forms are the same moment");
    assert!(count(&seconds).0 >= n_after);
    // Python's `isoformat` writes times in this form.
    let offset = format!("{}+00:00", taken.trim_end_matches('Z'));
    assert_eq!(count(&offset).0, n_after);
    // A time that can't be parsed is an error.
    for since in ["yesterday", &format!("{}+02:00", taken.trim_end_matches('Z')), "2026-13-01 00:00:00"] {
        let reply = http.post("/events", &json!({ "since": since }));
        assert_eq!((reply.status, &reply.body["ok"]), (200, &json!(false)), "{since}");
        assert!(reply.text.contains("since"), "{}", reply.text);
    }
}

#[test]
fn a_relative_path_is_one_of_the_project_of_its_peer() {
    let broker = Broker::start();
    let mut http = broker.http();
    let (a, b) = (http.peer("/a"), http.peer("/b"));
    http.ok("/lock", take("src/x", &a));
    let mut query = |peer: &str, file: &str| {
        let found = http.ok("/lock", json!({ "action": "query", "peerId": peer, "filePath": file }));
        found["locks"].as_array().unwrap().iter().map(|lock| word(&lock["filePath"])).collect::<Vec<_>>()
    };
    assert_eq!(query(&a, "src/x"), ["/a/src/x"]);
    assert_eq!(query(&a, "./src/y/../x"), ["/a/src/x"]);
    assert!(query(&b, "src/x").is_empty(), "the file of another project");
    assert_eq!(query(&b, "../a/src/x"), ["/a/src/x"]);
    assert_eq!(query(&b, "/a/src/x"), ["/a/src/x"]);
    // The caller is not a registered peer, so the broker does not know the caller's project. It compares the relative
    // path with the locks in all projects.
    assert_eq!(query("nobody", "src/x"), ["/a/src/x"]);
}

#[test]
fn a_query_finds_the_lock_on_the_path_itself() {
    let broker = Broker::start();
    let mut http = broker.http();
    let a = http.peer("/p");
    for file in ["/p/src/", "/p/b.rs", "/p/docs/*.md"] {
        http.ok("/lock", take(file, &a));
    }
    for (file, n) in [("/p/src/a.rs", 0), ("/p/src/", 1), ("/", 0), ("/p/b.rs", 1), ("b.rs", 1), ("/p/docs/x.md", 0)] {
        let found = http.ok("/lock", json!({ "action": "query", "filePath": file }));
        assert_eq!(found["locks"].as_array().unwrap().len(), n, "{file}");
    }
}
