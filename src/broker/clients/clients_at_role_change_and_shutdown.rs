//! Handles all clients at once when this hub begins to lead, when it stops leading, and when the broker ends.

use super::Clients;
use super::client_machine_and_ancestors::Origin;
use crate::base::id_types::ConnId;
use crate::broker::decide_when_to_shut_down::ShutdownReason;
use crate::broker::event_loop::LoopContext;
use crate::broker::log;
use crate::wire::rpc;
use serde_json::json;

impl Clients {
    /// Tells the mesh about all open connections when this hub begins to lead.
    pub fn join(&mut self, context: &mut LoopContext) {
        for (token, connection) in &mut self.connections {
            context.mesh.on_connected(ConnId::Client(*token));
            if let Origin::Remote(remote) = &connection.origin
                && !remote.user.is_empty()
                && let Err(error) = context.mesh.set_origin(
                    ConnId::Client(*token),
                    &remote.host,
                    &remote.user,
                    remote.boot_id.as_deref(),
                    context.now,
                )
            {
                log(&format!("a connection from {} was dropped: {}", remote.host, error.text));
                connection.close();
                self.busy.insert(*token);
                self.touched.push(*token);
            }
        }
    }

    /// Closes all connections without a response, because the mesh to which they belong is gone.
    pub fn drop_all(&mut self, context: &LoopContext) {
        for (_, mut connection) in self.connections.drain() {
            connection.deregister(context.poll.registry());
        }
        self.busy.clear();
        self.touched.clear();
        self.checks.clear();
        self.guests.clear();
    }

    /// Tells every client that the broker is ending, and why.
    pub fn announce_shutdown(&mut self, reason: ShutdownReason) {
        let is_followed = matches!(reason, ShutdownReason::Replaced | ShutdownReason::Displaced);
        let word = if is_followed { "making_room" } else { "stopping" };
        let notice = rpc::notification("shutdown", &json!({ "reason": word }));
        for connection in self.connections.values_mut() {
            connection.write(&notice);
            connection.flush();
        }
    }
}
