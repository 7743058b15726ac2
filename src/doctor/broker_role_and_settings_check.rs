//! Checks facts that this machine's own broker knows and the leading hub does not. These are the broker's settings, the
//! address at which the broker serves other machines, and the reason why a hub on standby can't take over.

use super::{ANSWERS_WITHIN, Check, check_http};
use crate::base::error::{Error, ErrorKind, problem_and_cure};
use crate::base::untrusted_text::line;
use crate::client::Client;
use crate::client::route_to_broker::session_port;
use crate::sys::data_dir::DataDir;
use crate::sys::local_or_hub_endpoint::Endpoint;
use crate::sys::parse_hub_addresses::HubAddress;
use crate::sys::settings::{STORE, Settings};
use serde_json::{Value, json};

/// Checks this machine's broker after the attempt to reach a leading hub has failed with `error`. If the broker
/// answers, it is a hub on standby. Nothing else can be checked while the leading hub can't be reached.
pub fn check_without_leader(error: &Error, places: &DataDir, settings: &Settings) -> Vec<Check> {
    let about = "broker";
    if error.kind == ErrorKind::TimedOut {
        // The broker is stuck, so it would not answer the next question either. The first clause of the error is the
        // problem, and the second clause is the cure. The other clauses are about the call, so they are left out.
        let (found, cure) = problem_and_cure(&error.text);
        let cure = cure.map(|cure| problem_and_cure(cure).0);
        return vec![Check::error(about, found, cure.unwrap_or("run slm-mesh stop --force"))];
    }
    let Some(own) = OwnBroker::ask(places) else {
        let is_unreachable = error.kind == ErrorKind::Gone;
        let cure = if is_unreachable { "check who owns the data directory" } else { "follow this advice" };
        return vec![Check::error(about, error.text.clone(), cure)];
    };
    let mut checks = vec![own.check_standby()];
    checks.extend(own.check_settings(settings, places));
    checks.push(own.check_guests(settings));
    checks.extend(own.check_hub());
    if own.hub["leader"].is_string() {
        checks.push(Check::error("leader", error.text.clone(), "follow this advice; until then, every command fails"));
    }
    checks.push(check_http(places, own.http_port()));
    checks
}

/// What this machine's own broker says about itself.
pub struct OwnBroker {
    /// The id of the broker's process, as the kernel reports it.
    pid: Option<i64>,
    /// The result of the broker's method `broker.info`.
    info: Value,
    /// The result of the broker's method `hub.status`.
    hub: Value,
}

impl OwnBroker {
    /// Asks this machine's broker about itself. Returns `None` if the broker does not answer.
    pub fn ask(places: &DataDir) -> Option<OwnBroker> {
        let mut client = Client::connect_to_own(places).ok()?;
        client.set_receive_timeout(Some(ANSWERS_WITHIN)).ok()?;
        let info = client.call("broker.info", &json!({})).ok()?;
        let hub = client.call("hub.status", &json!({})).unwrap_or_default();
        Some(OwnBroker { pid: client.broker_pid(), info, hub })
    }

    /// The HTTP port; 0 if the broker serves no HTTP.
    pub fn http_port(&self) -> u16 {
        self.info["port"].as_u64().unwrap_or(0) as u16
    }

    /// Describes this hub, which is on standby. This description is needed if the leading hub can't be asked.
    pub fn check_standby(&self) -> Check {
        let version = line(self.info["version"].as_str().unwrap_or("?"));
        let leader = match self.hub["leader"].as_str() {
            Some(leader) => format!("{} is the leader", line(leader)),
            None => "no hub is the leader".into(),
        };
        let process = self.pid.map(|pid| format!(" (PID {pid})")).unwrap_or_default();
        Check::well("broker", format!("version {version}{process}, a hub on standby; {leader}"))
    }

    /// Reports that this hub is on standby and can't take over, or that no hub leads. Returns `None` in all other
    /// cases. If this hub leads, the status of the mesh shows the hub's faults.
    pub fn check_hub(&self) -> Option<Check> {
        let (leader, trouble) = (self.hub["leader"].as_str(), self.hub["trouble"].as_str());
        let (prefix, why) = match (leader, trouble) {
            _ if self.hub["role"] != "standby" => return None,
            (Some(_), None) => return None,
            (Some(_), Some(why)) => ("it can't take over: ", why),
            (None, Some(why)) => ("no hub is the leader: ", why),
            (None, None) => {
                ("", "no hub is the leader at the moment; try again soon, and if there is still none, read broker.log")
            }
        };
        let (found, cure) = problem_and_cure(why);
        let cure = cure.unwrap_or("read etcd's own log, and see slm-mesh help machines");
        Some(Check::error("this hub", format!("{prefix}{}", line(found)), line(cure)))
    }

    /// Says whether the broker serves other machines, and at which address. It is a fault if the broker does not use
    /// the port in its settings, because guests with the same settings do not find the broker.
    pub fn check_guests(&self, settings: &Settings) -> Check {
        let about = "other machines";
        let Some(at) = self.info["serves"].as_str().map(line) else {
            return Check::well(about, "the broker serves only this machine");
        };
        let found = format!("the broker serves them at {at}");
        let usual = session_port(&HubAddress::Network { host: String::new(), port: None }, settings);
        let port = at.rsplit(':').next().unwrap_or_default();
        // If the settings have changed since the broker started, `check_settings` reports that, so this check reports
        // no fault.
        if self.info["settings"] != settings.fingerprint() || port == usual.to_string() {
            return Check::well(about, found);
        }
        let cure = format!(
            "end the program that uses the HTTP port {}, and restart the hub; or set SLM_MESH_WS_PORT={port} on each \
             guest",
            settings.int("SLM_MESH_PORT")
        );
        Check::error(about, format!("{found}, but its guests expect it on port {usual}"), cure)
    }

    /// Reports settings that have different values in the running broker and in this program.
    pub fn check_settings(&self, settings: &Settings, places: &DataDir) -> Option<Check> {
        let theirs = self.info["settings"].as_str().filter(|theirs| *theirs != settings.fingerprint())?;
        let names = settings.different_from(theirs);
        let what = if names.is_empty() { "settings".into() } else { format!("values for {}", names.join(", ")) };
        let found = format!("the running broker and this program have different {what}");
        let config = places.config().display().to_string();
        let serves = self.info["serves"].as_str().map(line);
        let would_serve = matches!(Endpoint::find(settings), Ok(Endpoint::Local { hub: true, .. }));
        let leaves_hubs = names.contains(&STORE) && settings.text(STORE).is_empty();
        let loss = match serves {
            Some(at) if !would_serve => format!("stop serving other machines (until now, it has served them at {at})"),
            _ if leaves_hubs => "leave the hubs with which it shares its mesh".to_owned(),
            _ => {
                let cure = format!(
                    "if this program's values are right, run slm-mesh start --detach to restart the broker with them; \
                     to use them in every shell, put them into {config}"
                );
                return Some(Check::error("settings", found, cure));
            }
        };
        let cure = format!(
            "put the broker's values into {config}, where every program finds them; if the broker were restarted with \
             the values of this shell, it would {loss}"
        );
        Some(Check::error("settings", found, cure))
    }
}
