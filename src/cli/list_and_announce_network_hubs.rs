//! `hubs`: lists the hubs that answer on the local network. The hidden verb `announce` announces a hub there.

use super::{load_environment, print_line, render};
use crate::base::error::{Error, ErrorKind};
use crate::client::discovered_hub::{self, LeavePolicy};
use crate::discovery::announce_hub_by_mdns::{self, Announcement};
use crate::discovery::{DiscoveredService, ServiceKind, addresses, browse};
use crate::sys::print_error;
use crate::sys::settings::Settings;
use crate::sys::threads;
use serde_json::{Value, json};
use std::time::Duration;

/// Lists the hubs that answer within this many seconds, and joins one of them if the settings allow that. Only the IP
/// address of a hub and its proof of the secret are certain. Everything else is only what the hub claims.
pub fn list_hubs(seconds: u64, json: bool) -> Result<u8, Error> {
    let (places, settings) = load_environment()?;
    if !settings.discovers() {
        return Err(Error::new(
            ErrorKind::Refused,
            "SLM_MESH_DISCOVERY is off, so this machine does not search the local network; to search it, \
             set SLM_MESH_DISCOVERY=on",
        ));
    }
    let answered = browse(Duration::from_secs(seconds));
    // The machines are checked in parallel, so that a slow machine does not delay the results of the others.
    let asked = threads::map_in_parallel(&answered, |hub| prove(hub, &settings));
    let proven: Vec<(&DiscoveredService, Option<bool>)> =
        answered.iter().zip(asked.into_iter().map(Option::flatten)).collect();
    let is_open = discovered_hub::is_enabled(&settings);
    let joined = if is_open {
        discovered_hub::join_best(&places, &settings, answered.clone(), LeavePolicy::Immediately)?
    } else {
        None
    };
    if json {
        let hubs: Vec<Value> = proven.iter().map(|(hub, proven)| to_value(hub, *proven)).collect();
        return print_line(&render::json_line(&json!({ "hubs": hubs, "joined": joined.map(|hub| hub.name) })));
    }
    let list = if answered.is_empty() {
        no_answer_text().to_owned()
    } else {
        let rows = proven.iter().map(|(hub, proven)| row(hub, *proven)).collect();
        render::table(&["NAME", "WHAT", "ADDRESS", "VERSION", "SECRET", "ALSO AT"], rows)
    };
    print_line(&match joined {
        // The address is printed too, because several hubs may have the same name.
        Some(hub) => {
            if let Some(warning) = discovered_hub::own_broker_warning(&places) {
                print_error(&format!("slm-mesh: {warning}"));
            }
            format!("{list}\nThis machine has joined {} at {}.", render::plain(&hub.name), hub.address)
        }
        None if is_open => format!("{list}\nThis machine has joined no hub."),
        None => list,
    })
}

/// Whether a hub proves that it knows the shared secret; `None` if the hub does not answer or no secret is set.
fn prove(hub: &DiscoveredService, settings: &Settings) -> Option<bool> {
    let is_hub = matches!(hub.kind, ServiceKind::Hub) && hub.ws_port > 0;
    is_hub.then(|| discovered_hub::proves_secret(settings, &hub.address.ip().to_string(), hub.ws_port)).flatten()
}

/// Returns advice for the user if no hub answered.
fn no_answer_text() -> &'static str {
    if addresses::local_addresses().is_empty() {
        return "No hub answered: this machine is not connected to a network.";
    }
    "No hub answered: check that a hub is running on this network with SLM_MESH_DISCOVERY on, and that the network and \
     the firewalls allow multicast DNS (UDP port 5353)."
}

fn service_name(hub: &DiscoveredService) -> &'static str {
    match hub.kind {
        ServiceKind::Hub => "hub",
        ServiceKind::SuperLocalMemory => "superlocalmemory",
    }
}

fn to_value(hub: &DiscoveredService, proven: Option<bool>) -> Value {
    json!({
        "name": hub.name,
        "what": service_name(hub),
        "address": hub.address.to_string(),
        "addresses": hub.addresses.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "httpPort": hub.http_port,
        "wsPort": hub.ws_port,
        "version": hub.version,
        "proven": proven,
    })
}

fn row(hub: &DiscoveredService, proven: Option<bool>) -> Vec<String> {
    let secret = match proven {
        Some(true) => "proven",
        Some(false) => "wrong",
        None => "not proven",
    };
    let others: Vec<String> = hub.addresses.iter().skip(1).map(ToString::to_string).collect();
    let version = if hub.version.is_empty() { "-" } else { &hub.version };
    vec![
        render::plain(&hub.name),
        service_name(hub).into(),
        hub.address.to_string(),
        render::plain(version),
        secret.into(),
        if others.is_empty() { "-".into() } else { others.join(", ") },
    ]
}

/// Announces the hub that the arguments describe, until standard input ends.
pub fn announce(words: &[String]) -> Result<u8, Error> {
    let orders =
        Announcement::from_args(words).map_err(|why| Error::new(ErrorKind::Usage, format!("announce: {why}")))?;
    announce_hub_by_mdns::announce(&orders).map_err(|why| Error::new(ErrorKind::Gone, format!("announce: {why}")))?;
    Ok(0)
}
