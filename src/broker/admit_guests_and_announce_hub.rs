//! Admits sessions from other machines, and keeps announcing this hub on the local network.

use super::clients::Clients;
use super::event_loop::LoopContext;
use super::push_to_http_registered_peers::PushTargets;
use crate::discovery::hub_announcer_supervisor::MdnsSupervisor;
use crate::remote::hub_listener::{AcceptedPeer, ListenerHandle};
use std::sync::mpsc::Receiver;

/// The listener for other machines. If the broker is not a hub, all fields are empty.
#[derive(Default)]
pub struct RemoteListener {
    /// The thread that checks the secrets of other machines, and the channel that delivers the accepted connections.
    admission: Option<(ListenerHandle, Receiver<AcceptedPeer>)>,
    announcer: Option<MdnsSupervisor>,
    /// The time, in ms, at which to check whether the announcing process is still running.
    announce_at: Option<i64>,
}

impl RemoteListener {
    /// Takes over a running listener. Also takes over the process that announces this hub on the local network, if such
    /// a process is running.
    pub fn new(
        door: ListenerHandle,
        arrivals: Receiver<AcceptedPeer>,
        announcer: Option<MdnsSupervisor>,
    ) -> RemoteListener {
        let announce_at = announcer.is_some().then_some(0);
        RemoteListener { admission: Some((door, arrivals)), announcer, announce_at }
    }

    /// The port for sessions on other machines; 0 if this broker is not a hub.
    pub fn port(&self) -> u16 {
        self.admission.as_ref().map_or(0, |(door, _)| door.port())
    }

    /// Admits each client that knows the secret and has proven this since the last turn.
    pub fn admit_arrivals(&mut self, clients: &mut Clients, pushes: &mut PushTargets, context: &mut LoopContext) {
        let Some((_, arrivals)) = &self.admission else { return };
        while let Ok(arrival) = arrivals.try_recv() {
            match arrival {
                AcceptedPeer::Guest(stream, address) => clients.add_guest(context, stream, address),
                AcceptedPeer::PushClient(stream) => pushes.add_subscriber(context, stream),
            }
        }
    }

    /// Restarts the announcing process if it has died.
    pub fn tend_announcer(&mut self, now: i64) {
        if let (Some(announcer), true) = (&mut self.announcer, self.announce_at.is_some_and(|at| at <= now)) {
            self.announce_at = announcer.supervise(now);
        }
    }

    /// The time, in ms, at which to check whether the announcing process is still running.
    pub fn deadline(&self) -> Option<i64> {
        self.announce_at
    }
}
