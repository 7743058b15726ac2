//! Turns this broker from a standby into the hub that leads, and back. Its listening sockets stay open. The clients of a
//! standby stay connected when it leads; the clients of a leader are dropped when it stands by.

use super::checkpoint_thread::CheckpointThread;
use super::event_loop::EventLoop;
use super::leadership::{BrokerRole, TakenLead, TurnEnd};
use super::lifecycle::ShutdownReason;
use super::log;
use super::process_exits::ProcessExits;
use crate::base::error::Error;
use crate::core::Mesh;
use std::time::Duration;

/// How long a broker that starts waits to learn whether it leads.
const FIRST_ROLE_MAX: Duration = Duration::from_secs(4);

impl EventLoop {
    /// Waits until a broker that has just started knows its role, so that its starter finds a hub that serves clients
    /// if there is one.
    pub fn settle_role(&mut self) {
        let BrokerRole::StandsBy(thread) = &self.context.role else { return };
        if let Some(taken) = thread.wait_for_role(FIRST_ROLE_MAX) {
            self.begin_leading(taken);
        }
    }

    /// Begins to lead, if the standby's thread has taken over the lead since the last turn.
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
            // Opening a mesh writes: it stores the human at this machine, and what ended in the meantime.
            let end = leader.commit_turn(&mut mesh, now);
            (mesh, end)
        });
        match opened {
            Ok((mut mesh, TurnEnd::Committed)) => {
                log(&format!("this hub leads from entry {} on", leader.position().0));
                self.clock = clock;
                self.context.now = now;
                let role = self.opener.lead(leader, &mut mesh, now);
                self.own_files.adopt_database();
                self.replace_mesh(mesh);
                self.context.role = role;
                self.clients.join(&mut self.context);
            }
            Ok((mesh, end)) => {
                drop(mesh);
                self.stand_by(&match end {
                    TurnEnd::Deposed(why) => why,
                    _ => "the log refused its first entry".into(),
                });
            }
            Err(error) => self.give_up(&error),
        }
    }

    /// Stands by from now on. Nothing of the running turn leaves, because another hub may have changed its facts.
    pub(super) fn stand_by(&mut self, why: &str) {
        log(&format!("this hub stands by: {why}"));
        self.own_files.leave_database();
        let role = self.opener.open_empty(&self.clock).and_then(|empty| {
            // The thread of the standby opens the database again, so nothing here may hold it open.
            self.replace_mesh(empty);
            self.opener.stand_by()
        });
        match role {
            Ok(role) => self.context.role = role,
            Err(error) => return self.give_up(&error),
        }
        // Their sessions belong to the mesh that is gone. The clients find the hub that leads.
        self.clients.drop_all(&self.context);
        self.pushes.drop_all();
        self.processes = ProcessExits::default();
    }

    /// Lends the loop another mesh, and drops everything that belongs to the old one except connections.
    fn replace_mesh(&mut self, mesh: Mesh) {
        std::mem::replace(&mut self.checkpoints, CheckpointThread::start(&mesh)).stop();
        self.links = self.opener.links(&mesh);
        self.context.mesh = mesh;
        self.http.refuse_pending();
        self.context.mesh.set_observed(!self.context.pages.is_empty());
        self.context.pages.mark_dirty();
    }

    /// Ends this broker after an error of its own machine. The next client starts a new broker.
    fn give_up(&mut self, error: &Error) {
        log(&error.text);
        self.context.lifecycle.request_shutdown(ShutdownReason::Stopped);
    }
}
