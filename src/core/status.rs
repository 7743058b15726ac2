//! Status: how the mesh is, from kept counters.

use crate::base::error::Error;
use crate::core::{Args, Auth, CallContext, Mesh, Op, Outcome};
use serde_json::{Value, json};

/// Tells how the mesh is.
pub static STATUS: Op = Op {
    name: "status",
    summary: "Tell how the mesh is: broker, peers, mail, locks, events, store",
    args: &[],
    actor: Auth::Optional,
    verb: Some("status"),
    tool: Some(("status", None)),
    repeatable: true,
    run: status,
};

fn status(mesh: &mut Mesh, ctx: &CallContext, _: &Args) -> Result<Outcome, Error> {
    let mut value = mesh.status(ctx.now)?;
    if let Some(peer) = ctx.actor.as_deref().and_then(|id| mesh.peer(id)) {
        value["you"] = json!({ "id": peer.row.id, "name": peer.row.name });
    }
    Ok(Outcome::Ready(value))
}

impl Mesh {
    /// The status with the keys of the old HTTP API first.
    pub fn status(&self, now: i64) -> Result<Value, Error> {
        let states: Vec<&str> = self.peers.iter().map(|peer| peer.status(&self.settings, now)).collect();
        let count = |word: &str| states.iter().filter(|state| **state == word).count();
        let (active, stale) = (count("active"), count("stale"));
        let counters = self.store.counters;
        let (size, log) = self.store.size()?;
        let mut value = json!({
            "status": "ok", "version": self.settings.version, "uptime": (now - self.started) / 1000,
            "pid": self.settings.pid, "port": self.settings.port,
            "peers": { "active": active, "stale": stale, "total": active + stale, "away": count("away") },
            "messages": { "total": counters.messages, "undelivered": counters.unread },
            "locks": { "active": self.locks.len() },
            "events": { "total": counters.events, "last": counters.event_last },
            "db": { "sizeBytes": size, "walSizeBytes": log },
            "waiting": self.waits.len(), "connections": self.seats.len(),
            "host": self.settings.host, "rate": { "messagesPer10s": self.settings.rate_max },
        });
        if !self.links.is_empty() {
            value["links"] = self.links_value(now)?;
        }
        Ok(value)
    }

    /// What is on disk, for tests that compare it with what was promised.
    #[doc(hidden)]
    pub fn store(&self) -> &crate::store::Store {
        &self.store
    }
}
