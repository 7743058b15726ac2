//! Starts brokers while the clock of the machine is wrong. Unread mail must survive this, and doctor must report it.

mod support;

use serde_json::{Value, json};
use support::{Place, faketime};

/// Runs a verb while the machine's clock shows `time`, and starts a broker if none is running.
fn ok_at(place: &Place, time: &[(String, String)], args: &[&str]) {
    let out = place.command(args).envs(time.iter().cloned()).output().unwrap();
    assert!(out.status.success(), "{args:?}: {out:?}\n{}", place.log());
}

/// Lets a broker with the right clock run its housekeeping, and returns the human's unread mail, and the events.
fn kept(place: &Place) -> (Vec<Value>, String) {
    place.ok(&["state", "set", "a", "later"]);
    let events = place.ok(&["events", "--after", "0", "--json"]);
    let inbox = place.json(&["inbox", "--as", "human"]);
    (inbox["messages"].as_array().unwrap().iter().map(|message| message["payload"].clone()).collect(), events)
}

/// What doctor says about the clock, if there is a fault.
fn clock_fault(place: &Place) -> Option<String> {
    let out = place.run(&["doctor", "--json"]);
    let report: Value = serde_json::from_slice(&out.stdout).unwrap();
    let check = report["checks"].as_array().unwrap().iter().find(|check| check["about"] == "clock")?;
    Some(check["found"].as_str().unwrap().to_owned())
}

#[test]
fn a_clock_that_was_years_ahead_for_a_moment_deletes_no_unread_mail() {
    let Some(future) = faketime("@2038-01-02 00:00:00") else { return };
    let place = Place::new();
    place.ok(&["send", "human", "before"]);
    place.ok(&["events", "emit", "deploy.done", "{}"]);
    assert_eq!(clock_fault(&place), None);
    place.ok(&["stop"]);
    // The battery of the machine's clock is empty, and the broker starts before the clock is set. Each call runs the
    // housekeeping.
    for n in ["1", "2"] {
        ok_at(&place, &future, &["state", "set", "a", n]);
    }
    ok_at(&place, &future, &["send", "human", "meanwhile"]);
    let fault = clock_fault(&place).expect("doctor sees the wrong clock");
    assert!(fault.contains("ahead of this machine's clock"), "{fault}");
    place.ok(&["stop"]);
    let (mail, events) = kept(&place);
    assert_eq!(mail, [json!("before"), json!("meanwhile")]);
    assert!(events.contains("deploy.done"), "{events}");
}

#[test]
fn mail_of_a_broker_that_started_with_a_clock_in_the_past_is_kept() {
    let Some(past) = faketime("@2001-01-02 00:00:00") else { return };
    let place = Place::new();
    ok_at(&place, &past, &["send", "human", "before"]);
    ok_at(&place, &past, &["events", "emit", "deploy.done", "{}"]);
    let fault = clock_fault(&place).expect("doctor sees the wrong clock");
    assert!(fault.contains("behind this machine's clock"), "{fault}");
    place.ok(&["stop"]);
    let (mail, events) = kept(&place);
    assert_eq!(mail, [json!("before")]);
    assert!(events.contains("deploy.done"), "{events}");
    let fault = clock_fault(&place).expect("doctor sees the jump");
    assert!(fault.contains("between the end of one broker"), "{fault}");
}
