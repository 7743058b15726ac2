//! Tests hubs that leave their mesh, start a new mesh, or join again. The data of two meshes must never be mixed, and
//! no hub may start an empty mesh by accident.

use crate::cluster::{Cluster, is_installed};
use crate::hubs::{alone, await_equal, await_level, hub_status, kill, position, start, start_both};
use crate::support::{Place, lives, until};

/// Waits until the status of a hub shows a problem whose text contains these words.
fn await_trouble(hub: &Place, words: &str) {
    let has_words = || hub_status(hub)["trouble"].as_str().is_some_and(|why| why.contains(words));
    until(&format!("the hub says \"{words}\""), has_words);
}

/// Runs a verb (subcommand) that must fail, and returns its error.
fn refusal(hub: &Place, args: &[&str]) -> String {
    let out = hub.run(args);
    assert!(!out.status.success(), "{args:?}");
    String::from_utf8(out.stderr).unwrap()
}

#[test]
fn a_hub_that_was_a_mesh_of_its_own_returns_only_on_request() {
    if !is_installed() {
        return;
    }
    let cluster = Cluster::start();
    let (first, second) = start_both(cluster.hub("slm"), cluster.hub("slm"));
    let stop_both = |first: &Place, second: &Place| [second, first].iter().for_each(|hub| drop(hub.ok(&["stop"])));
    let run_alone = |first: Place, key: &str| {
        let mut first = alone(first);
        first.ok(&["state", "set", key, "yes"]);
        first.ok(&["stop"]);
        first.env.push(("SLM_MESH_STORE".into(), cluster.setting("slm")));
        first
    };
    first.ok(&["state", "set", "shared", "yes"]);
    stop_both(&first, &second);
    // This hub is started without the settings for several hubs, so it runs alone.
    let first = run_alone(first, "private");
    assert!(first.log().contains("this hub stopped following the log of its mesh"), "{}", first.log());
    let why = "this hub has run without SLM_MESH_STORE";
    let started = first.run(&["start", "--detach"]);
    assert!(started.status.success() && String::from_utf8(started.stderr).unwrap().contains(why));
    await_trouble(&first, why);
    start(&second);
    until("the other hub leads", || hub_status(&second)["role"] == "leads");
    assert!(second.ok(&["state", "list"]).contains("shared"));
    // This hub must not take part in the mesh. Another hub answers its commands, but `status` and `doctor` must show
    // the problem.
    for verb in ["status", "doctor"] {
        let said = String::from_utf8(first.run(&[verb]).stdout).unwrap();
        assert!(said.contains(why) && said.contains("start --rejoin"), "{verb}: {said}");
        assert!(!said.contains("SLM_MESH_STORE on another"), "another hub is not what is missing: {said}");
    }
    refusal(&second, &["state", "get", "private"]);
    first.ok(&["start", "--detach", "--rejoin"]);
    await_level(&first);
    // This shell does not have the setting that makes the broker one of several hubs. The broker is on standby, as it
    // should be, and doctor must not say that the broker hangs.
    let first = alone(first);
    let said = String::from_utf8(first.run(&["doctor"]).stdout).unwrap();
    assert!(said.contains("a hub on standby") && said.contains("different values for SLM_MESH_STORE"), "{said}");
    assert!(!said.contains("--force") && !said.contains("did not answer"), "{said}");
    let mut first = first;
    first.env.push(("SLM_MESH_STORE".into(), cluster.setting("slm")));

    // Goes back to a single hub, and then to two hubs again, as the help describes.
    stop_both(&first, &second);
    let first = run_alone(first, "solo");
    cluster.control(&["del", "--prefix", "slm/"]).unwrap();
    start(&first);
    until("the hub leads", || hub_status(&first)["role"] == "leads");
    start(&second);
    await_trouble(&second, "but to another log");
    second.ok(&["start", "--detach", "--rejoin"]);
    await_level(&second);
    first.ok(&["stop"]);
    for key in ["shared", "solo"] {
        assert_eq!(second.ok(&["state", "get", key]).trim(), "yes", "{key}");
    }
    second.ok(&["stop"]);
}

#[test]
fn a_hub_that_rejoins_waits_for_the_hub_with_the_data_and_a_log_begins_once() {
    if !is_installed() {
        return;
    }
    let cluster = Cluster::start();
    let (first, second) = start_both(cluster.hub("slm"), cluster.hub("slm"));
    first.ok(&["state", "set", "k", "v"]);
    second.ok(&["stop"]);
    first.ok(&["stop"]);
    cluster.control(&["del", "--prefix", "slm/"]).unwrap();
    // The hubs are started in the wrong order: the hub that has the data should come first.
    second.ok(&["start", "--detach", "--rejoin"]);
    await_trouble(&second, "Run slm-mesh start --new-log on the hub that has the data");
    first.ok(&["start", "--detach", "--new-log"]);
    await_level(&second);
    let leader = first.broker_pid();
    let said = refusal(&first, &["start", "--detach", "--new-log"]);
    assert!(said.contains("etcd already has a log under the name") && said.contains("del --prefix slm/"), "{said}");
    assert_eq!((first.broker_pid(), &hub_status(&first)["role"]), (leader, &"leads".into()), "nothing was changed");
    first.ok(&["stop"]);
    assert_eq!(second.ok(&["state", "get", "k"]).trim(), "v");
    second.ok(&["stop"]);
}

#[test]
fn a_hub_with_entries_that_a_restored_etcd_lacks_neither_follows_nor_leads() {
    if !is_installed() {
        return;
    }
    let cluster = Cluster::start();
    let (first, second) = start_both(cluster.hub("slm"), cluster.hub("slm"));
    await_equal(&first, &second);
    second.ok(&["stop"]);
    let backup = position(&first).unwrap();
    first.ok(&["state", "set", "lost", "yes"]);
    first.ok(&["stop"]);
    // The log is now as if etcd had been restored from a backup that lacks the last entry.
    cluster.control(&["del", &format!("slm/log/{:016x}", backup + 1), "slm/log0"]).unwrap();
    start(&second);
    for n in 0..5 {
        second.ok(&["state", "set", "n", &n.to_string()]);
    }
    start(&first);
    await_trouble(&first, "differs from the entry with this number");
    // The test deletes old log entries. A hub that had only been offline could continue with a copy of the leader's
    // database. But the first hub must refuse the copy, because the log has lost an entry of this hub.
    let last = position(&second).unwrap();
    let n_copies = || second.log().matches("gets a snapshot of the database").count();
    let n_before = n_copies();
    cluster.control(&["del", "slm/log/", &format!("slm/log/{last:016x}")]).unwrap();
    until("the hub has looked at a copy", || n_copies() > n_before + 1);
    await_trouble(&first, "differs from the entry with this number");
    assert!(!first.log().contains("got a snapshot"), "its acknowledged writes are kept: {}", first.log());
    assert!(refusal(&second, &["start", "--detach", "--rejoin"]).contains("this hub is itself the leader"));
    second.ok(&["stop"]);
    until("no hub leads", || hub_status(&first)["leader"].is_null());
    let said = refusal(&first, &["state", "get", "lost"]);
    assert!(
        said.contains("needs a snapshot") && said.contains("run slm-mesh doctor on the hub that reports a problem"),
        "{said}"
    );
    let found = String::from_utf8(first.run(&["doctor"]).stdout).unwrap();
    assert!(found.contains("start a hub that has the data"), "{found}");
    assert!(refusal(&first, &["start", "--detach", "--rejoin"]).contains("no other hub leads the mesh in etcd"));
    start(&second);
    first.ok(&["start", "--detach", "--rejoin"]);
    await_level(&first);

    // All data in etcd is deleted while both hubs run.
    cluster.control(&["del", "--prefix", "slm/"]).unwrap();
    for hub in [&first, &second] {
        // The former leader closes its connections, so its status can't be read. Its log file shows the problem
        // instead.
        until("the hub says why it can't lead", || hub.log().contains("etcd has no log under the name"));
    }
    second.ok(&["start", "--detach", "--new-log"]);
    first.ok(&["start", "--detach", "--rejoin"]);
    await_level(&first);
    // A different hub may have granted locks with tokens that this hub does not know. New tokens start at the current
    // time in ms, so that they are greater than all earlier tokens.
    let token = second.json(&["lock", "/work/a.rs"])["token"].as_i64().unwrap();
    assert!(token > 1_700_000_000_000, "{token} may have been given out before");
    await_equal(&second, &first);
    second.ok(&["stop"]);
    assert_eq!(first.ok(&["state", "get", "n"]).trim(), "4");
    // The killed hub's lease is still valid, so etcd lists this hub as the leader. After its restart, the hub must not
    // believe that a different hub leads and has the data.
    let broker = first.broker_pid().unwrap();
    kill(&first);
    until("the hub is dead", || !lives(broker));
    let said = refusal(&first, &["start", "--detach", "--rejoin"]);
    assert!(said.contains("no other hub leads the mesh in etcd"), "{said}");
    assert_eq!(first.ok(&["state", "get", "n"]).trim(), "4");
    first.ok(&["stop"]);
}
