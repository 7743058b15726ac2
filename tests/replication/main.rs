//! Tests the log that several hubs share, in a real etcd with three members. The tests kill and stop members.

mod certificates;
mod cluster;
mod hubs;
mod changes_of_log;
mod fake_members;
mod mishaps;
#[path = "../support/mod.rs"]
mod support;
mod tls;

use cluster::{Cluster, LEASE, is_installed};
use slm_mesh::base::id_types::{EntryStamp, LogId, Term};
use slm_mesh::replication::etcd::EtcdLog;
use slm_mesh::replication::{Append, Election, LogEntry, LogError, Position, ReplicatedLog};
use slm_mesh::store::{Changeset, LogPosition, Message, MessageFilter, Store};
use std::time::{Duration, Instant};

/// The id of the log that these tests write.
const LOG: LogId = LogId(11);

fn won(log: &mut EtcdLog, address: &str) -> Term {
    match log.lead(address) {
        Ok(Election::Won(term)) => term,
        other => panic!("{address}: {other:?}"),
    }
}

/// Becomes the leader. Tries again until the lease of the last leader has ended.
fn take_over(log: &mut EtcdLog, address: &str) -> Term {
    let until = Instant::now() + Duration::from_secs(4 * LEASE);
    loop {
        match log.lead(address) {
            Ok(Election::Won(term)) => return term,
            other => assert!(Instant::now() < until, "{other:?}"),
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn entry(term: Term, text: &str) -> LogEntry {
    let (log, schema, previous) = (LOG, Store::schema(), EntryStamp::default());
    LogEntry { log, schema, term, now: 7, previous, changes: text.as_bytes().to_vec() }
}

fn texts(log: &mut EtcdLog, from: u64) -> Vec<String> {
    let entries = log.follow(Position(from)).unwrap();
    entries.into_iter().map(|(_, entry)| String::from_utf8(entry.changes).unwrap()).collect()
}

#[test]
fn one_hub_leads_and_a_deposed_one_stores_nothing() {
    if !is_installed() {
        return;
    }
    let cluster = Cluster::start();
    let (mut first, mut second) = (cluster.log("slm", None), cluster.log("slm", None));
    let term = won(&mut first, "hub1:7900");
    assert!(first.still_leads() && !second.still_leads());
    assert_eq!(second.lead("hub2:7900"), Ok(Election::Lost("hub1:7900".into())));
    assert_eq!(second.append(Position(1), &entry(term, "not leading")), Append::Deposed);
    assert_eq!(first.append(Position(1), &entry(term, "one")), Append::Stored);
    // If a hub gets no answer to an append, it appends the same entry again. The second append must succeed.
    assert_eq!(first.append(Position(1), &entry(term, "one")), Append::Stored);
    assert_eq!(first.append(Position(2), &entry(term, "two")), Append::Stored);
    assert_eq!(texts(&mut second, 1), ["one", "two"]);
    assert_eq!(texts(&mut second, 3), [""; 0]);
    // A mesh with a different name has different keys in the same etcd, so it sees none of these entries.
    let mut other_mesh = cluster.log("slm2", None);
    won(&mut other_mesh, "elsewhere:7900");
    assert_eq!(texts(&mut other_mesh, 1), [""; 0]);
    // The log keeps renewing its lease, so the hub must still lead after this time.
    std::thread::sleep(Duration::from_secs(LEASE + 1));
    assert!(first.still_leads());
    // The lease ends, as if the hub had hung and had not renewed it.
    cluster.revoke_lease_of("slm/leader");
    let later = won(&mut second, "hub2:7900");
    assert!(later > term, "{later:?} {term:?}");
    assert_eq!(first.append(Position(3), &entry(term, "deposed")), Append::Deposed);
    assert!(!first.still_leads());
    assert!(first.upkeep().trim(Position(2)).is_err());
    assert_eq!(second.append(Position(3), &entry(later, "three")), Append::Stored);
    // A different entry is already stored at this position, so this entry must be refused.
    assert_eq!(second.append(Position(3), &entry(later, "another")), Append::Deposed);
    assert_eq!(texts(&mut first, 2), ["two", "three"]);
}

#[test]
fn a_hub_that_gives_up_is_replaced_before_its_lease_ends() {
    if !is_installed() {
        return;
    }
    let cluster = Cluster::start();
    let mut first = cluster.log_with_long_lease("slm");
    let term = won(&mut first, "hub1:7900");
    drop(first);
    assert!(take_over(&mut cluster.log("slm", None), "hub2:7900") > term);
}

#[test]
fn a_hub_learns_at_once_that_etcd_has_removed_its_lead() {
    if !is_installed() {
        return;
    }
    let cluster = Cluster::start();
    let mut hub = cluster.log_with_long_lease("slm");
    won(&mut hub, "hub1:7900");
    let until = Instant::now() + Duration::from_secs(4 * LEASE);
    cluster.revoke_lease_of("slm/leader");
    while hub.still_leads() {
        assert!(Instant::now() < until, "a lease of a minute is trusted until its next renewal");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn positions_are_reported_and_the_log_is_trimmed() {
    if !is_installed() {
        return;
    }
    let cluster = Cluster::start();
    let (mut hub, mut standby) = (cluster.log("slm", None), cluster.log("slm", None));
    let term = won(&mut hub, "hub1:7900");
    for n in 1..=300 {
        assert_eq!(hub.append(Position(n), &entry(term, &n.to_string())), Append::Stored);
    }
    let mut found = Vec::new();
    loop {
        let page = texts(&mut standby, found.len() as u64 + 1);
        if page.is_empty() {
            break;
        }
        found.extend(page);
    }
    assert_eq!(found, (1..=300).map(|n| n.to_string()).collect::<Vec<_>>());
    hub.report_position("hub1", Position(300)).unwrap();
    standby.report_position("hub2", Position(290)).unwrap();
    let positions = hub.upkeep().positions().unwrap().into_iter().map(|one| (one.hub, one.at));
    assert!(positions.eq([("hub1".into(), Position(300)), ("hub2".into(), Position(290))]));
    hub.upkeep().trim(Position(290)).unwrap();
    let sizes = hub.upkeep().entry_sizes(Position(0)).unwrap();
    let expected = (291..=300).map(|n| (Position(n), entry(term, &n.to_string()).to_bytes().len() as u64));
    assert!(sizes.iter().copied().eq(expected), "{sizes:?}");
    assert_eq!(hub.upkeep().entry_sizes(Position(300)).unwrap(), []);
    assert_eq!(texts(&mut standby, 291).len(), 10);
    assert_eq!(standby.follow(Position(290)), Err(LogError::Trimmed(Position(291))));
    // A standby waits for news. A new entry must end this wait.
    standby.wait_for_news(Duration::from_secs(60));
    let waiting = std::thread::spawn(move || {
        while texts(&mut standby, 301).is_empty() {
            standby.wait_for_news(Duration::from_secs(5));
        }
        Instant::now()
    });
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(hub.append(Position(301), &entry(term, "news")), Append::Stored);
    let stored = Instant::now();
    let lag = waiting.join().unwrap().saturating_duration_since(stored);
    assert!(lag < Duration::from_secs(30), "news must end the wait: {lag:?}");
    // Some time after a hub has gone, its position must disappear from etcd.
    let until = Instant::now() + Duration::from_secs(4 * LEASE);
    while hub.upkeep().positions().unwrap().len() > 1 {
        assert!(Instant::now() < until);
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Stores one message as a hub does: first appends the change to the log, then commits it to the database.
fn send(store: &mut Store, log: &mut EtcdLog, term: Term, at: Position, text: &str) -> Append {
    let body = text.into();
    let mut m = Message { sender: "ada".into(), recipient: "bob".into(), body, created: 5, ..Message::default() };
    store.add_message(&mut m).unwrap();
    let stamp = EntryStamp { term, now: 5 };
    let changes = store.seal(LogPosition { log: LOG, index: at.0, stamp }).unwrap().unwrap().as_bytes().to_vec();
    let outcome = log.append(at, &LogEntry { now: 5, changes, ..entry(term, "") });
    if outcome == Append::Stored {
        store.commit().unwrap();
    } else {
        store.rollback();
    }
    outcome
}

/// Applies all log entries from this position on. Returns the position after the last one.
fn catch_up(store: &mut Store, log: &mut EtcdLog, mut from: Position) -> Position {
    loop {
        let entries = log.follow(from).unwrap();
        let Some((last, _)) = entries.last() else { return from };
        from = last.next();
        let changes: Vec<Changeset> =
            entries.into_iter().map(|(_, entry)| Changeset::from_bytes(entry.changes)).collect();
        store.apply(&changes).unwrap();
    }
}

fn bodies(store: &Store) -> Vec<String> {
    let found = store.messages(&MessageFilter { limit: 10_000, ..MessageFilter::default() }).unwrap();
    found.into_iter().map(|message| message.body).collect()
}

#[test]
fn nothing_acknowledged_is_lost_when_hubs_and_members_die() {
    if !is_installed() {
        return;
    }
    let mut cluster = Cluster::start();
    let (mut hub, mut standby) = (cluster.log("slm", None), cluster.log("slm", None));
    let (mut hub_store, mut standby_store) = (Store::memory().unwrap(), Store::memory().unwrap());
    hub_store.start_recording();
    let mut term = won(&mut hub, "hub1:7900");
    let (mut sent, mut at) = (Vec::new(), Position(1));
    // If a hub does not know whether an entry was stored, it becomes the leader again, and reads the log to find out.
    let mut send_for_a_while = |store: &mut Store, log: &mut EtcdLog, mut term: Term| {
        for _ in 0..30 {
            let text = format!("message {} of {term:?}", at.0);
            let began = Instant::now();
            loop {
                let outcome = send(store, log, term, at, &text);
                // While the members elect a leader, the hub may get no answer, or its lease may end.
                match outcome {
                    Append::Stored => break,
                    Append::Refused(why) => panic!("{why}"),
                    Append::Unknown(_) | Append::Deposed => term = take_over(log, "it again"),
                }
                if catch_up(store, log, at) > at {
                    assert_ne!(outcome, Append::Deposed, "an entry that was not stored is in the log");
                    break;
                }
                assert!(began.elapsed() < Duration::from_secs(30), "etcd stores nothing");
            }
            sent.push(text);
            at = at.next();
        }
    };
    send_for_a_while(&mut hub_store, &mut hub, term);
    let etcd_leader = cluster.etcd_leader();
    cluster.kill(etcd_leader);
    send_for_a_while(&mut hub_store, &mut hub, term);
    cluster.start_member(etcd_leader);
    cluster.wait_until_healthy();
    let frozen = cluster.etcd_leader();
    cluster.freeze(frozen, true);
    send_for_a_while(&mut hub_store, &mut hub, term);
    cluster.freeze(frozen, false);
    cluster.wait_until_healthy();
    // The first hub stops, and the other hub becomes the leader.
    drop((hub, hub_store));
    term = take_over(&mut standby, "hub2:7900");
    assert_eq!(catch_up(&mut standby_store, &mut standby, Position(1)), Position(91));
    standby_store.start_recording();
    send_for_a_while(&mut standby_store, &mut standby, term);
    assert_eq!(bodies(&standby_store), sent);
    // With only one member left, nobody can know whether an entry was stored, so no client is told of a success.
    cluster.kill(0);
    cluster.kill(1);
    let outcome = send(&mut standby_store, &mut standby, term, Position(121), "unknown");
    assert!(matches!(outcome, Append::Unknown(_)), "{outcome:?}");
    assert!(!standby.still_leads() && matches!(standby.lead("hub2:7900"), Err(LogError::NoAnswer(_))));
    cluster.start_member(0);
    cluster.start_member(1);
    cluster.wait_until_healthy();
    // A third hub must find all acknowledged messages. It may also find the message whose append got no answer.
    let (mut third, mut third_store) = (cluster.log("slm", None), Store::memory().unwrap());
    take_over(&mut third, "hub3:7900");
    catch_up(&mut third_store, &mut third, Position(1));
    catch_up(&mut standby_store, &mut third, Position(121));
    assert_eq!(bodies(&third_store)[..sent.len()], sent);
    assert_eq!(bodies(&third_store), bodies(&standby_store));
}

#[test]
fn a_user_of_etcd_is_needed_where_its_authentication_is_on() {
    if !is_installed() {
        return;
    }
    let cluster = Cluster::start();
    for words in [
        &["user", "add", "root:secret"][..],
        &["user", "grant-role", "root", "root"],
        &["user", "add", "mesh:good"],
        &["role", "add", "mesh"],
        &["role", "grant-permission", "mesh", "readwrite", "slm/", "slm0"],
        &["user", "grant-role", "mesh", "mesh"],
        &["auth", "enable"],
    ] {
        cluster.control(words).unwrap();
    }
    let mut log = cluster.log("slm", Some(("mesh", "good")));
    let term = won(&mut log, "hub1:7900");
    assert_eq!(log.append(Position(1), &entry(term, "one")), Append::Stored);
    assert_eq!(texts(&mut log, 1), ["one"]);
    // A hub must log in before it watches the log, even if it never leads. If the hub watched without logging in, etcd
    // would cancel each watch at once, and the hub would treat each cancellation as news.
    let mut follows = cluster.log("slm", Some(("mesh", "good")));
    let until = Instant::now() + Duration::from_secs(2);
    let mut n_news = 0;
    while Instant::now() < until {
        follows.wait_for_news(until.saturating_duration_since(Instant::now()));
        n_news += 1;
    }
    assert!(n_news <= 4, "{n_news} reports of news where nothing happened");
    for (name, user) in [("slm", None), ("slm", Some(("mesh", "wrong"))), ("other", Some(("mesh", "good")))] {
        let refused = cluster.log(name, user).lead("hub2:7900").unwrap_err();
        assert!(
            matches!(&refused, LogError::Refused(why) if why.starts_with("etcd refused the request: ")),
            "{refused:?}"
        );
    }
}
