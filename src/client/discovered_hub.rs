//! A hub that was found rather than configured: with a secret and no `SLM_MESH_HOST`, a session looks
//! on the local network and joins the hub that proves the secret. What it joined is written down, so
//! that verbs and hooks, which have no second to look, go the same way.
//!
//! **Invariant:** nothing that was heard is believed but an address to try; only what has proven the
//! secret is written down, and what a session has joined it does not leave for a mesh of its own.

use crate::base::error::{Error, ErrorKind};
use crate::discovery::{Found, What, browse};
use crate::remote::guest;
use crate::sys::data_dir::DataDir;
use crate::sys::endpoint::{Endpoint, SECRET_MIN};
use crate::sys::settings::{SECRET, Settings};
use crate::sys::{self, print_error};
use serde_json::{Value, json};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

/// How long answers are gathered.
const LOOK: Duration = Duration::from_secs(1);
/// And how long hubs may take to prove themselves. All are asked at once: one that is slow, or a
/// stranger's, keeps none from being heard.
const PROVE: Duration = Duration::from_secs(2);

/// A hub that proved the secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hub {
    /// Its name on the network.
    pub name: String,
    /// Where it was.
    pub address: String,
    /// Its port for sessions.
    pub port: u16,
}

/// Whether the settings leave it to the network where the mesh is.
pub fn is_left_open(settings: &Settings) -> bool {
    !settings.is_set("SLM_MESH_HOST")
        && settings.text(SECRET).len() >= SECRET_MIN
        && settings.discovers()
        && settings.text("SLM_MESH_ROLE") != "broker"
}

/// The way to the hub that was joined, if one was.
pub fn joined(places: &DataDir) -> Option<Hub> {
    let value = noted(places)?;
    let text = |name: &str| value[name].as_str().map(str::to_owned);
    let hub = Hub { name: text("name")?, address: text("address")?, port: value["port"].as_u64()?.try_into().ok()? };
    value["joined"].as_bool()?.then_some(hub)
}

/// What a session does before its first connection, and after one that failed, since the hub may be
/// elsewhere by then. One that `has_joined` stays with its hub.
pub fn session_looks(has_joined: bool) {
    let Ok(places) = DataDir::find() else { return };
    // Settings that are wrong are told of by who connects.
    let Some(settings) = Settings::load(&places).ok().filter(is_left_open) else { return };
    let was = joined(&places);
    let leave = if has_joined { Leave::Never } else { Leave::Later };
    match look(&places, &settings, browse(LOOK), leave) {
        Ok(Some(hub)) if was.as_ref() != Some(&hub) || !has_joined => {
            print_error(&format!("slm-mesh: joined the hub {} at {}, found on this network", hub.name, hub.address));
        }
        Ok(_) => {}
        Err(error) => print_error(&format!("slm-mesh: {}", error.text)),
    }
}

/// When to leave a hub that was joined, and is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leave {
    /// Not while a session of this very process speaks through it.
    Never,
    /// With the second look in a row that does not find it: it may be starting anew, and others here may
    /// speak through it.
    Later,
    /// At once.
    Now,
}

/// Looks for a hub among those that answered and writes down what came of it: the one that was known,
/// else the first by name among those that prove the secret.
///
/// # Errors
/// When the data directory can't be written.
pub fn look(places: &DataDir, settings: &Settings, answered: Vec<Found>, leave: Leave) -> Result<Option<Hub>, Error> {
    let known = known(places);
    let hubs = answered.into_iter().filter(|hub| matches!(hub.what, What::Hub) && hub.ws_port > 0);
    let found = proven(hubs.collect(), settings);
    let best = found.into_iter().min_by_key(|hub| (Some(&hub.name) != known.as_ref(), hub.name.clone()));
    match &best {
        Some(hub) => note(places, hub, &json!({ "joined": true }))?,
        None if leave == Leave::Never => {}
        None => miss(places, leave)?,
    }
    Ok(best)
}

/// What is written down.
fn noted(places: &DataDir) -> Option<Value> {
    serde_json::from_str(&std::fs::read_to_string(places.hub()).ok()?).ok()
}

/// The name of the hub that was joined last.
fn known(places: &DataDir) -> Option<String> {
    noted(places)?["name"].as_str().map(str::to_owned)
}

/// Goes back to the mesh of this machine, if it is time for that; the name is kept, since who knew a hub
/// prefers it.
fn miss(places: &DataDir, leave: Leave) -> Result<(), Error> {
    let Some(hub) = joined(places) else { return Ok(()) };
    let was_missed = noted(places).is_some_and(|value| value["missed"] == json!(true));
    let stays = leave == Leave::Later && !was_missed;
    note(places, &hub, &json!({ "joined": stays, "missed": stays }))
}

fn note(places: &DataDir, hub: &Hub, how: &Value) -> Result<(), Error> {
    places.prepare()?;
    let value = json!({
        "name": hub.name, "address": hub.address, "port": hub.port, "joined": how["joined"], "missed": how["missed"],
    });
    places.write(&places.hub(), &value.to_string())
}

/// Those that prove the secret in time.
fn proven(hubs: Vec<Found>, settings: &Settings) -> Vec<Hub> {
    let (sender, receiver) = channel();
    let mut n_asked = 0;
    for hub in hubs {
        let (settings, sender) = (settings.clone(), sender.clone());
        let ask = move || {
            let hub = Hub { name: hub.name, address: hub.address.ip().to_string(), port: hub.ws_port };
            let proves = proves(&settings, &hub.address, hub.port) == Some(true);
            // Nobody waits any more for one that was slow.
            let _ = sender.send(proves.then_some(hub));
        };
        n_asked += usize::from(std::thread::Builder::new().stack_size(256 * 1024).spawn(ask).is_ok());
    }
    let end = Instant::now() + PROVE;
    let mut found = Vec::new();
    for _ in 0..n_asked {
        match receiver.recv_timeout(end.saturating_duration_since(Instant::now())) {
            Ok(hub) => found.extend(hub),
            Err(_) => break,
        }
    }
    found
}

/// Whether a hub that was found proves that it knows our secret; nothing where it could not be asked.
pub fn proves(settings: &Settings, address: &str, port: u16) -> Option<bool> {
    let secret = settings.text(SECRET);
    if secret.is_empty() {
        return None;
    }
    match guest::connect(address, port, secret, sys::random_u128()) {
        Ok(_) => Some(true),
        Err(error) if error.kind == ErrorKind::Refused => Some(false),
        Err(_) => None,
    }
}

impl Hub {
    /// The way to it.
    pub fn road(self) -> Endpoint {
        Endpoint::DiscoveredHub { name: self.name, address: self.address, port: self.port }
    }
}

/// What to do where the hub that was joined can't be reached.
pub fn unreachable(name: &str, error: &Error) -> Error {
    let text = format!(
        "{}; it was found on the local network as {name}, and every session looks for it again: slm-mesh hubs does, too, \
         and leaves it if it is not there",
        error.text
    );
    Error::new(ErrorKind::Gone, text)
}
