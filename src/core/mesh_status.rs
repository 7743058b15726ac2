//! The status of the mesh. This module does not count messages and events, because the store keeps counters of them.

use super::{Args, Auth, CallContext, Mesh, Op, Outcome};
use crate::base::error::Error;
use crate::base::id_types::PeerId;
use crate::core::op_behavior::OpBehavior;
use crate::core::op_definition::Runner;
use serde_json::{Value, json};
use std::collections::HashSet;

/// How long the status mentions a damaged database, in ms. This is a week, because some people rarely look at the
/// status.
const SHOWN_MS: i64 = 7 * 86_400_000;
/// After a damaged database is set aside, new sessions get a report about it for this long, in ms.
const TOLD_MS: i64 = 86_400_000;

/// Shows the status of the mesh.
pub static STATUS: Op = Op {
    name: "status",
    summary: "Show the state of the mesh: broker, peers, mail, locks, events, database",
    args: &[],
    actor: Auth::Optional,
    verb: Some("status"),
    tool: Some(("status", None)),
    repeatable: true,
    // A status that starts a broker would always say that a broker is running.
    behavior: OpBehavior { starts_broker: false, ..OpBehavior::USUAL },
    run: Runner::Rule(status),
};

fn status(mesh: &mut Mesh, ctx: &CallContext, _: &Args) -> Result<Outcome, Error> {
    let mut value = mesh.status(ctx.now)?;
    if let Some(peer) = mesh.peers.caller(ctx) {
        value["you"] = json!({ "id": peer.row.id.as_str(), "name": peer.row.name });
    }
    Ok(Outcome::Ready(value))
}

/// Reports a damaged database that was set aside, so that people and sessions learn why data is missing.
#[derive(Default)]
pub(super) struct Damage {
    /// Describes the last damaged database and the lost data. Returns `None` if the database was set aside before the
    /// given time.
    pub(super) describe: Option<Box<dyn Fn(i64) -> Option<String> + Send>>,
    /// The sessions that have received the report.
    told: HashSet<PeerId>,
}

impl Damage {
    fn since(&self, at: i64) -> Option<String> {
        self.describe.as_ref().and_then(|describe| describe(at))
    }

    /// Returns the report for a session that begins, if the session has not received the report yet.
    pub(super) fn tell(&mut self, session: &PeerId, now: i64) -> Option<String> {
        let report = self.since(now - TOLD_MS)?;
        self.told.insert(session.clone()).then_some(report)
    }
}

impl Mesh {
    /// Returns the status of all hubs that share this mesh; `None` if this broker is the only hub.
    pub fn hub_status(&self, now: i64) -> Option<Value> {
        self.hub_status.as_ref().map(|describe| describe(now))
    }

    /// Returns the status. The JSON keys of the old HTTP API come first.
    ///
    /// # Errors
    /// When the database can't be read.
    pub fn status(&self, now: i64) -> Result<Value, Error> {
        let settings = &self.settings;
        let states: Vec<&str> = self.peers.all().iter().map(|peer| peer.status(settings, now)).collect();
        let count = |word: &str| states.iter().filter(|state| **state == word).count();
        let (active, stale) = (count("active"), count("stale"));
        let counters = self.turn.store.counters();
        let (size, wal_size) = self.turn.store.size()?;
        let mut value = json!({
            "status": "ok", "version": settings.version, "uptime": (now - self.started) / 1000,
            "pid": settings.pid, "port": settings.port,
            "peers": { "active": active, "stale": stale, "total": active + stale, "away": count("away") },
            "messages": { "total": counters.messages, "undelivered": counters.unread },
            "locks": { "active": self.locks.all().len() },
            "events": { "total": counters.events, "last": counters.event_last.0 },
            "db": { "sizeBytes": size, "walSizeBytes": wal_size },
            "waiting": self.waiting.len(), "connections": self.peers.connection_count(),
            "host": settings.host, "rate": { "messagesPer10s": settings.rate_max },
        });
        if let Some(damage) = self.damage.since(now - SHOWN_MS) {
            value["damage"] = json!(damage);
        }
        if let Some(serves) = &settings.serves {
            value["serves"] = json!(serves);
        }
        if let Some(warning) = &settings.moved_port {
            value["movedPort"] = json!(warning);
        }
        if let Some(hubs) = self.hub_status(now) {
            value["hubs"] = hubs;
        }
        if !self.federation.links().is_empty() {
            value["links"] = self.federation.view(&self.turn.store, &self.peers, &self.mail, now)?;
        }
        Ok(value)
    }
}
