//! `start`, `stop`, and the greeting on a terminal.

use super::{connect_to_running, load_environment, print_line, render};
use crate::base::error::{Error, ErrorKind};
use crate::broker::startup::{self, AfterReady};
use crate::client::Client;
use crate::sys::data_dir::DataDir;
use crate::sys::settings::Settings;
use serde_json::{Value, json};
use std::time::Duration;

/// How long a clean shutdown may take.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// Runs the broker in the foreground or the background. It replaces a broker that runs with other settings.
pub fn start(detach: bool, as_daemon: bool, json: bool) -> Result<u8, Error> {
    if as_daemon {
        startup::detach();
    }
    let (places, settings) = load_environment()?;
    if !as_daemon {
        startup::own_address(&settings)?;
        stop_if_settings_differ(&places, &settings)?;
    }
    if detach {
        let mut client = Client::connect_or_start(&places)?;
        let info = client.call("broker.info", &json!({}))?;
        let line = json!({ "ok": true, "data": { "pid": info["pid"], "port": info["port"] } });
        return if json {
            print_line(&line.to_string())
        } else {
            print_line(&format!("Broker running (PID {}, HTTP port {}).", info["pid"], info["port"]))
        };
    }
    startup::run(&places, settings, |port, note| {
        if json {
            let after = if as_daemon { AfterReady::CloseOutput } else { AfterReady::KeepOutput };
            startup::say_ready(port, note, after);
        } else {
            crate::sys::print_error(&format!(
                "Broker running (PID {}, HTTP port {port}, data in {}). Press Ctrl-C to stop it.",
                std::process::id(),
                places.dir.display()
            ));
        }
    })?;
    Ok(0)
}

/// Stops a running broker whose settings differ from the current ones.
fn stop_if_settings_differ(places: &DataDir, settings: &Settings) -> Result<(), Error> {
    let Ok(mut client) = Client::connect(places) else { return Ok(()) };
    let info = client.call("broker.info", &json!({}))?;
    if info["settings"] == json!(settings.fingerprint()) {
        return Ok(());
    }
    stop_and_wait(places, &mut client).map(|_| ())
}

/// Stops the broker.
pub fn stop(json: bool) -> Result<u8, Error> {
    let places = DataDir::find()?;
    let mut client = connect_to_running(&places)?;
    let pid = stop_and_wait(&places, &mut client)?;
    let line = json!({ "ok": true, "data": { "pid": pid, "stopped": true } });
    if json { print_line(&line.to_string()) } else { print_line(&format!("Broker (PID {pid}) stopped.")) }
}

/// Asks the broker to stop, waits until it has released its lock, and returns its process id.
fn stop_and_wait(places: &DataDir, client: &mut Client) -> Result<Value, Error> {
    let pid = client.call("broker.stop", &json!({}))?["pid"].clone();
    let timed_out = |_| {
        Error::new(ErrorKind::TimedOut, format!("the broker (PID {pid}) did not stop in {} s", STOP_TIMEOUT.as_secs()))
    };
    client.set_receive_timeout(Some(STOP_TIMEOUT)).map_err(timed_out)?;
    while client.receive().is_ok() {}
    let lock = places.open_lock(&places.broker_lock())?;
    lock.lock().map_err(|error| places.error("cannot be locked", &error))?;
    Ok(pid)
}

/// Greets a person who types `slm-mesh` alone: starts the broker, shows its status and what to do next.
pub fn greet(json: bool) -> Result<u8, Error> {
    let (places, _) = load_environment()?;
    let mut client = Client::connect_or_start(&places)?;
    let status = client.call("status", &json!({}))?;
    if json {
        return print_line(&status.to_string());
    }
    print_line(&render::status_text(&status))?;
    print_line(
        "\nNext:  slm-mesh peers          list the agents\n       slm-mesh help           list all verbs\n\
        \x20      slm-mesh help agents    read how to connect an agent",
    )
}
