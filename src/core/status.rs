//! The status of the mesh. Messages and events are not counted for it, because the store keeps counters.

use super::{Args, Auth, CallContext, Mesh, Op, Outcome};
use crate::base::error::Error;
use serde_json::{Value, json};

/// Shows the status of the mesh.
pub static STATUS: Op = Op {
    name: "status",
    summary: "Show the state of the mesh: broker, peers, mail, locks, events, database",
    args: &[],
    actor: Auth::Optional,
    verb: Some("status"),
    tool: Some(("status", None)),
    repeatable: true,
    run: status,
};

fn status(mesh: &mut Mesh, ctx: &CallContext, _: &Args) -> Result<Outcome, Error> {
    let mut value = mesh.status(ctx.now)?;
    if let Some(peer) = ctx.actor.as_deref().and_then(|id| mesh.peers.get(id)) {
        value["you"] = json!({ "id": peer.row.id.as_str(), "name": peer.row.name });
    }
    Ok(Outcome::Ready(value))
}

impl Mesh {
    /// Describes the hubs that share this mesh; `None` if this broker is the only one.
    pub fn hub_status(&self, now: i64) -> Option<Value> {
        self.hub_status.as_ref().map(|describe| describe(now))
    }

    /// Returns the status, with the keys of the old HTTP API first.
    ///
    /// # Errors
    /// When the database can't be read.
    pub fn status(&self, now: i64) -> Result<Value, Error> {
        let settings = &self.settings;
        let states: Vec<&str> = self.peers.all().iter().map(|peer| peer.status(settings, now)).collect();
        let count = |word: &str| states.iter().filter(|state| **state == word).count();
        let (active, stale) = (count("active"), count("stale"));
        let counters = self.turn.store.counters;
        let (size, wal_size) = self.turn.store.size()?;
        let mut value = json!({
            "status": "ok", "version": settings.version, "uptime": (now - self.started) / 1000,
            "pid": settings.pid, "port": settings.port,
            "peers": { "active": active, "stale": stale, "total": active + stale, "away": count("away") },
            "messages": { "total": counters.messages, "undelivered": counters.unread },
            "locks": { "active": self.locks.all().len() },
            "events": { "total": counters.events, "last": counters.event_last },
            "db": { "sizeBytes": size, "walSizeBytes": wal_size },
            "waiting": self.waiting.len(), "connections": self.peers.connection_count(),
            "host": settings.host, "rate": { "messagesPer10s": settings.rate_max },
        });
        if let Some(serves) = &settings.serves {
            value["serves"] = json!(serves);
        }
        if let Some(hubs) = self.hub_status(now) {
            value["hubs"] = hubs;
        }
        if !self.federation.links().is_empty() {
            value["links"] = self.links_view(now)?;
        }
        Ok(value)
    }
}
