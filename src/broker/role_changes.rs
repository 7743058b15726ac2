//! Turns this broker from a hub on standby into the leader, and back. The listening sockets stay open. When a standby
//! becomes the leader, its clients stay connected. When a leader goes on standby, its clients are disconnected.

use super::checkpoint_thread::CheckpointThread;
use super::decide_when_to_shut_down::ShutdownReason;
use super::event_loop::EventLoop;
use super::leadership::{BrokerRole, TakenLead, TurnEnd};
use super::log;
use super::process_exits::ProcessExits;
use crate::base::error::Error;
use crate::core::Mesh;
use std::time::Duration;

/// Maximum time for which a starting broker waits to learn whether it leads.
const FIRST_ROLE_MAX: Duration = Duration::from_secs(4);

impl EventLoop {
    /// Waits until this broker, which has just started, knows whether it leads. If it leads, takes over the mesh.
    /// Without the wait, a user who has just started a hub could find that it serves no clients yet.
    pub fn settle_role(&mut self) {
        let BrokerRole::StandsBy(thread) = &self.context.role else {
            self.notifications.begin(&self.context.mesh, self.context.now);
            return;
        };
        if let Some(taken) = thread.wait_for_role(FIRST_ROLE_MAX) {
            self.begin_leading(taken);
        }
    }

    /// Begins to lead if the standby thread has won the lead since the last turn.
    pub(super) fn note_taken_lead(&mut self) {
        let BrokerRole::StandsBy(thread) = &self.context.role else { return };
        if let Some(taken) = thread.take_lead() {
            self.begin_leading(taken);
        }
    }

    fn begin_leading(&mut self, taken: TakenLead) {
        let TakenLead { mut leader, store, clock } = taken;
        let now = clock.now();
        let opened = self.opener.open(store, &clock).map(|mut mesh| {
            // Opening a mesh may change it. For example, a peer for the user of this machine may be added, and ended
            // sessions leave their channels.
            let end = leader.commit_turn(&mut mesh, now);
            (mesh, end)
        });
        match opened {
            Ok((mut mesh, TurnEnd::Committed)) => {
                self.opener.save_host();
                log(&format!("this hub leads, beginning with entry {} of the log", leader.position().0));
                self.clock = clock;
                self.context.now = now;
                let role = match self.opener.lead(leader, &mut mesh, now) {
                    Ok(role) => role,
                    Err(error) => return self.give_up(&error),
                };
                self.runtime_files.adopt_database();
                self.replace_mesh(mesh);
                self.notifications.begin(&self.context.mesh, now);
                self.context.role = role;
                self.clients.join(&mut self.context);
            }
            Ok((mesh, end)) => {
                drop(mesh);
                self.stand_by(&match end {
                    TurnEnd::Deposed(why) => why,
                    _ => "the log did not accept this hub's first entry".into(),
                });
            }
            Err(error) => self.give_up(&error),
        }
    }

    /// Goes on standby. Nothing from the current turn is sent, because another hub may have changed the data on which
    /// the turn is based.
    pub(super) fn stand_by(&mut self, why: &str) {
        log(&format!("this hub goes on standby: {why}"));
        self.runtime_files.leave_database();
        let role = self.opener.open_empty(&self.clock).and_then(|empty| {
            // The standby thread opens the database again, so the database must be closed here.
            self.replace_mesh(empty);
            self.opener.stand_by()
        });
        match role {
            Ok(role) => self.context.role = role,
            Err(error) => return self.give_up(&error),
        }
        // The sessions of the connected clients belong to the old mesh. The clients will reconnect to the hub that
        // leads.
        self.clients.drop_all(&self.context);
        self.pushes.drop_all();
        self.processes = ProcessExits::default();
    }

    /// Replaces the mesh of the event loop. Everything that belongs to the old mesh is dropped, except connections.
    fn replace_mesh(&mut self, mesh: Mesh) {
        std::mem::replace(&mut self.checkpoints, CheckpointThread::start(&mesh)).stop();
        self.links = self.opener.links(&mesh);
        self.context.mesh = mesh;
        self.http.refuse_pending();
        self.context.mesh.set_observed(!self.context.pages.is_empty());
        self.context.pages.mark_dirty();
    }

    /// Ends this broker because of an error on this machine. A client or systemd will start a new broker.
    fn give_up(&mut self, error: &Error) {
        log(&error.text);
        self.context.shutdown.request(ShutdownReason::Failed);
    }
}
