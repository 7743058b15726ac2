//! `start` and `stop`, and the greeting that slm-mesh shows on a terminal.

use super::{connect_to_running, explain_absence, load_environment, print_line, render};
use crate::base::error::{Error, ErrorKind};
use crate::base::process_identity::Process;
use crate::broker::startup::{self, AfterReady, LogChange};
use crate::client::{self, Client, discovered_hub, route_to_broker};
use crate::sys::data_dir::DataDir;
use crate::sys::drop_inherited_state;
use crate::sys::file_lock_with_timeout::LockWait;
use crate::sys::process;
use crate::sys::settings::{STORE, Settings};
use serde_json::{Value, json};
use std::fmt::Display;
use std::time::{Duration, Instant};

/// How long a clean shutdown may take.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);
/// How often to check whether a broker that is shutting down has ended.
const POLL: Duration = Duration::from_millis(20);

/// Runs the broker in the foreground or the background. If a broker with other settings is running, stops it first.
/// With a `log_change`, stops any running broker, and then begins a new log, or sets the database aside so that the hub
/// gets a copy of the leader's database.
///
/// # Errors
/// If the settings are wrong, or the broker can't be started or replaced.
pub fn start(detach: bool, as_daemon: bool, log_change: Option<LogChange>, json: bool) -> Result<u8, Error> {
    if !detach {
        drop_inherited_state::leave_starter();
    }
    if as_daemon {
        drop_inherited_state::leave_session();
    }
    let (places, settings) = load_environment()?;
    if let Some(change) = log_change {
        if settings.text(STORE).is_empty() {
            return Err(Error::new(
                ErrorKind::Usage,
                format!("start: --new-log and --rejoin need {STORE}, which is not set; set it, or omit the flag"),
            ));
        }
        if change == LogChange::Rejoin {
            refuse_if_leading(&places)?;
        }
        startup::check_log_change(&settings, change)?;
    }
    if !as_daemon {
        startup::own_address(&settings)?;
        refuse_beside_hub(&places, &settings, "start")?;
        stop_if_settings_differ(&places, &settings)?;
    }
    if let Some(change) = log_change {
        stop_if_running(&places)?;
        startup::change_log(&places, &settings, change)?;
    }
    if detach {
        let mut client = Client::connect_to_own_or_start(&places, None)?;
        let info = client.call("broker.info", &json!({}))?;
        let hub = client.call("hub.status", &json!({})).unwrap_or_default();
        if let Some(trouble) = hub["trouble"].as_str() {
            let trouble = render::plain(trouble);
            crate::sys::print_error(&format!("slm-mesh: this hub takes no part in the mesh: {trouble}"));
        }
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

/// Returns an error if this hub leads. A hub gets its copy of the database from the leader, so the leader can't get
/// one.
fn refuse_if_leading(places: &DataDir) -> Result<(), Error> {
    let Ok(mut client) = Client::connect_to_own(places) else { return Ok(()) };
    if client.call_once("hub.status", &json!({}))?["role"] != "leads" {
        return Ok(());
    }
    let text = "start --rejoin: this hub is itself the leader of its mesh, so it can't get a copy from the leader; \
                nothing was changed";
    Err(Error::new(ErrorKind::Refused, text))
}

/// Returns an error if this machine has joined a hub. In this case, all verbs and new sessions use the hub, so they
/// would not use a broker that was started here.
pub(super) fn refuse_beside_hub(places: &DataDir, settings: &Settings, verb: &str) -> Result<(), Error> {
    let joined = if discovered_hub::is_enabled(settings) { discovered_hub::joined_hub(places) } else { None };
    let Some(hub) = joined else { return Ok(()) };
    let text = format!(
        "{verb}: this machine needs no broker of its own, because it has joined the hub {} at {} on the local network; \
         to run a broker here, set SLM_MESH_DISCOVERY=off",
        render::plain(&hub.name),
        hub.address
    );
    Err(Error::new(ErrorKind::Usage, text))
}

/// Stops the broker of this machine if one is running.
pub(super) fn stop_if_running(places: &DataDir) -> Result<(), Error> {
    match Client::connect_to_own(places) {
        Ok(mut client) => stop_and_wait(places, &mut client).map(|_| ()),
        Err(_) => Ok(()),
    }
}

/// Stops the running broker if its settings differ from the current settings.
fn stop_if_settings_differ(places: &DataDir, settings: &Settings) -> Result<(), Error> {
    let mut client = match Client::connect_to_own(places) {
        // The broker did not answer in time. A second attempt would take just as long, and would probably fail too.
        Err(error) if error.kind == ErrorKind::TimedOut => return Err(error),
        Err(_) => return Ok(()),
        Ok(client) => client,
    };
    let info = client.call("broker.info", &json!({}))?;
    if info["settings"] == json!(settings.fingerprint()) {
        return Ok(());
    }
    stop_and_wait(places, &mut client).map(|_| ())
}

/// Stops the broker. With `force`, ends a broker that does not stop by itself.
pub fn stop(force: bool, json: bool) -> Result<u8, Error> {
    let places = DataDir::find()?;
    let stopped = connect_to_stop(&places).and_then(|mut client| stop_and_wait(&places, &mut client));
    if stopped.is_ok() || client::broker_lock_holder(&places).is_none() {
        note_incomplete_database(&places);
    }
    let (pid, how) = match stopped {
        Ok(pid) => (pid, "stopped"),
        Err(error) if force => (json!(end_by_force(&places, error)?), "ended by force"),
        Err(error) => return Err(error),
    };
    let line = json!({ "ok": true, "data": { "pid": pid, "stopped": true } });
    if json { print_line(&line.to_string()) } else { print_line(&format!("Broker (PID {pid}) {how}.")) }
}

/// Warns the user if changes are missing from the database file, because a copy of this file would then be incomplete.
/// Changes are missing if another program reads the database, if the disk is full, or if an agent has started the
/// broker again.
fn note_incomplete_database(places: &DataDir) {
    if !startup::complete_database_file(places) {
        crate::sys::print_error(
            "slm-mesh: broker.db-wal still contains changes that are not in broker.db, because the disk is full, or \
             because a program is using the database; a backup needs both files (see slm-mesh help broker)",
        );
    }
}

/// Connects to the broker that must stop: this machine's own broker, even if another hub leads or the machine has
/// become a guest. A guest without a broker asks the hub, which refuses and explains why.
fn connect_to_stop(places: &DataDir) -> Result<Client, Error> {
    match Client::connect_to_own(places) {
        Err(error) if error.kind == ErrorKind::NotFound && route_to_broker::is_remote(places)? => {
            connect_to_running(places)
        }
        own => own.map_err(|error| explain_absence(places, error)),
    }
}

/// Ends the broker's process by force, and returns its process id. The lock or the socket of the data directory shows
/// which process this is. If neither shows a process, returns `why`, the error of the earlier attempt to stop the
/// broker.
fn end_by_force(places: &DataDir, why: Error) -> Result<i64, Error> {
    let Some(pid) = client::broker_lock_holder(places).or_else(|| Client::listener_pid(places)) else {
        return Err(why);
    };
    let broker = process::identify(pid);
    process::end_own(pid)?;
    await_end(places, broker.as_ref(), pid)?;
    Ok(pid)
}

/// Asks the broker to stop, waits until the broker has stopped, and returns the id of its process.
fn stop_and_wait(places: &DataDir, client: &mut Client) -> Result<Value, Error> {
    let broker = client.broker_pid().and_then(process::identify);
    let pid = match client.call("broker.stop", &json!({})) {
        Ok(answer) => answer["pid"].clone(),
        // The broker was killed, or ended by itself, after it had accepted the connection.
        Err(error) if error.kind == ErrorKind::Gone && client.broker_pid().is_some() => json!(client.broker_pid()),
        Err(error) => return Err(error),
    };
    client.set_receive_timeout(Some(STOP_TIMEOUT)).map_err(|_| not_stopped(&pid))?;
    while client.receive().is_ok() {}
    await_end(places, broker.as_ref(), &pid)?;
    Ok(pid)
}

/// Waits until a broker that is shutting down has released its lock, or until its process is gone. It is not enough to
/// wait for the lock, because the next broker may already hold the lock.
fn await_end(places: &DataDir, broker: Option<&Process>, pid: impl Display) -> Result<(), Error> {
    let mut wait = LockWait::begin(places.open_lock(&places.broker_lock())?);
    let until = Instant::now() + STOP_TIMEOUT;
    loop {
        let locked = wait.for_time(POLL).map_err(|error| places.error("can't be locked", &error))?;
        if locked.is_some() || broker.is_some_and(|broker| !process::is_alive(broker.pid, broker.start)) {
            return Ok(());
        }
        if Instant::now() >= until {
            return Err(not_stopped(pid));
        }
    }
}

fn not_stopped(pid: impl Display) -> Error {
    let text = format!(
        "the broker (PID {pid}) did not stop within {} s; end it with slm-mesh stop --force",
        STOP_TIMEOUT.as_secs_f32()
    );
    Error::new(ErrorKind::TimedOut, text)
}

/// Greets a person who types just `slm-mesh`: starts the broker, and shows its status and what to do next.
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
