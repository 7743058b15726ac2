//! The broker's beginning and end, as a user asks for them.

use super::{no_broker, print, say, surroundings};
use crate::broker::birth;
use crate::client::{self, Client};
use crate::mesh::{Fault, Kind};
use crate::world::places::Places;
use crate::world::settings::Settings;
use serde_json::{Value, json};
use std::time::Duration;

/// How long an orderly end may take.
const STOPS_WITHIN: Duration = Duration::from_secs(10);

/// Runs the broker here, or behind. One that lives with other settings gives way.
pub fn start(detach: bool, as_daemon: bool, json: bool) -> Result<u8, Fault> {
    if as_daemon {
        birth::detach();
    }
    let (places, settings) = surroundings()?;
    if !as_daemon {
        birth::own_address(&settings)?;
        give_way(&places, &settings)?;
    }
    if detach {
        let mut client = Client::connect_or_start(&places)?;
        let info = client.call("broker.info", &json!({}))?;
        let line = json!({ "ok": true, "data": { "pid": info["pid"], "port": info["port"] } });
        return if json {
            say(&line.to_string())
        } else {
            say(&format!("Broker running (PID {}, HTTP port {}).", info["pid"], info["port"]))
        };
    }
    birth::run(&places, settings, |port, note| {
        if json {
            birth::say_ready(port, note, as_daemon);
        } else {
            crate::world::complain(&format!(
                "Broker running (PID {}, HTTP port {port}, data in {}). Ctrl-C ends it.",
                std::process::id(),
                places.dir.display()
            ));
        }
    })?;
    Ok(0)
}

/// Ends a live broker whose settings differ from ours.
fn give_way(places: &Places, settings: &Settings) -> Result<(), Fault> {
    let Ok(mut client) = Client::connect(places) else { return Ok(()) };
    let info = client.call("broker.info", &json!({}))?;
    if info["settings"] == json!(settings.fingerprint()) {
        return Ok(());
    }
    end(places, &mut client).map(|_| ())
}

/// Ends the broker in order.
pub fn stop(json: bool) -> Result<u8, Fault> {
    let places = Places::find()?;
    let mut client = Client::connect(&places).map_err(|error| {
        if client::is_absent(&error) { no_broker() } else { Fault::new(Kind::Gone, error.to_string()) }
    })?;
    let pid = end(&places, &mut client)?;
    let line = json!({ "ok": true, "data": { "pid": pid, "stopped": true } });
    if json { say(&line.to_string()) } else { say(&format!("Broker (PID {pid}) stopped.")) }
}

/// Asks the broker to end and waits until its lock is free.
fn end(places: &Places, client: &mut Client) -> Result<Value, Fault> {
    let pid = client.call("broker.stop", &json!({}))?["pid"].clone();
    let hangs =
        |_| Fault::new(Kind::TimedOut, format!("the broker (PID {pid}) did not end in {} s", STOPS_WITHIN.as_secs()));
    client.wait_at_most(Some(STOPS_WITHIN)).map_err(hangs)?;
    while client.receive().is_ok() {}
    let lock = places.open_lock(&places.broker_lock())?;
    lock.lock().map_err(|error| places.fault("can't be locked", &error))?;
    Ok(pid)
}

/// What a person sees who types the bare name: the broker runs, and what to do next.
pub fn greet(json: bool) -> Result<u8, Fault> {
    let (places, _) = surroundings()?;
    let mut client = Client::connect_or_start(&places)?;
    let status = client.call("status", &json!({}))?;
    if json {
        return say(&status.to_string());
    }
    say(&print::status(&status))?;
    say(
        "\nNext:  slm-mesh peers          who is here\n       slm-mesh help           all verbs\n       slm-mesh help agents    how to connect an agent",
    )
}
