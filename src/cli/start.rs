//! The broker's beginning and end, as a user asks for them.

use super::{no_broker, render, say, surroundings};
use crate::base::error::{Error, ErrorKind};
use crate::broker::startup;
use crate::client::{self, Client};
use crate::sys::data_dir::Places;
use crate::sys::settings::Settings;
use serde_json::{Value, json};
use std::time::Duration;

/// How long an orderly end may take.
const STOPS_WITHIN: Duration = Duration::from_secs(10);

/// Runs the broker here, or behind. One that lives with other settings gives way.
pub fn start(detach: bool, as_daemon: bool, json: bool) -> Result<u8, Error> {
    if as_daemon {
        startup::detach();
    }
    let (places, settings) = surroundings()?;
    if !as_daemon {
        startup::own_address(&settings)?;
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
    startup::run(&places, settings, |port, note| {
        if json {
            startup::say_ready(port, note, as_daemon);
        } else {
            crate::sys::complain(&format!(
                "Broker running (PID {}, HTTP port {port}, data in {}). Ctrl-C ends it.",
                std::process::id(),
                places.dir.display()
            ));
        }
    })?;
    Ok(0)
}

/// Ends a live broker whose settings differ from ours.
fn give_way(places: &Places, settings: &Settings) -> Result<(), Error> {
    let Ok(mut client) = Client::connect(places) else { return Ok(()) };
    let info = client.call("broker.info", &json!({}))?;
    if info["settings"] == json!(settings.fingerprint()) {
        return Ok(());
    }
    end(places, &mut client).map(|_| ())
}

/// Ends the broker in order.
pub fn stop(json: bool) -> Result<u8, Error> {
    let places = Places::find()?;
    let mut client = Client::connect(&places).map_err(|error| {
        if client::is_absent(&error) { no_broker() } else { Error::new(ErrorKind::Gone, error.to_string()) }
    })?;
    let pid = end(&places, &mut client)?;
    let line = json!({ "ok": true, "data": { "pid": pid, "stopped": true } });
    if json { say(&line.to_string()) } else { say(&format!("Broker (PID {pid}) stopped.")) }
}

/// Asks the broker to end and waits until its lock is free.
fn end(places: &Places, client: &mut Client) -> Result<Value, Error> {
    let pid = client.call("broker.stop", &json!({}))?["pid"].clone();
    let hangs = |_| {
        Error::new(ErrorKind::TimedOut, format!("the broker (PID {pid}) did not end in {} s", STOPS_WITHIN.as_secs()))
    };
    client.wait_at_most(Some(STOPS_WITHIN)).map_err(hangs)?;
    while client.receive().is_ok() {}
    let lock = places.open_lock(&places.broker_lock())?;
    lock.lock().map_err(|error| places.error("can't be locked", &error))?;
    Ok(pid)
}

/// What a person sees who types the bare name: the broker runs, and what to do next.
pub fn greet(json: bool) -> Result<u8, Error> {
    let (places, _) = surroundings()?;
    let mut client = Client::connect_or_start(&places)?;
    let status = client.call("status", &json!({}))?;
    if json {
        return say(&status.to_string());
    }
    say(&render::status(&status))?;
    say(
        "\nNext:  slm-mesh peers          who is here\n       slm-mesh help           all verbs\n       slm-mesh help agents    how to connect an agent",
    )
}
