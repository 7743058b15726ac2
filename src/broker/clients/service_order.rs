//! The order in which one turn serves the clients.
//!
//! **Invariant:** clients on this machine and guests do not queue behind each other. If both have sent something, each of
//! the two groups gets half of the turn. Otherwise, a call on this machine would have to wait while thousands of guests
//! reconnect. The groups take turns in being first, because the work for the first group can end the turn.

use super::connection::ClientConnection;

/// A client with input is overdue if it has not been served for more than this many turns. Of the overdue clients, the
/// one that has waited longest is served before the clients in the queue.
const OVERDUE_TURNS: u64 = 64;

/// The client's position in the order of service. Clients with a lower rank are served first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ServiceRank {
    /// The client has hung up. It is served first, because its session may reconnect immediately, and would then have
    /// to wait for the end of the old connection.
    HungUp,
    /// The client has waited too long, and longer than all others. It is served before the clients in the queue, so
    /// that no client waits forever.
    Overdue,
    /// The client waits in the fair queue. The number is the virtual time at which its work is expected to end.
    Queued(u64),
}

/// Clients with input, each with its rank.
#[derive(Debug, Default)]
pub struct RankedClients {
    clients: Vec<(ServiceRank, u64)>,
    /// The overdue client that has waited longest: the turn in which it was last served, its token, and its position in
    /// `clients`.
    overdue: Option<(u64, u64, usize)>,
}

impl RankedClients {
    fn add(&mut self, token: u64, connection: &ClientConnection, rank: ServiceRank, turn: u64) {
        if connection.last_turn() + OVERDUE_TURNS < turn {
            let candidate = (connection.last_turn(), token, self.clients.len());
            self.overdue = Some(self.overdue.map_or(candidate, |other| other.min(candidate)));
        }
        self.clients.push((rank, token));
    }

    fn into_sorted(mut self) -> Vec<(ServiceRank, u64)> {
        if let Some((_, _, n)) = self.overdue {
            self.clients[n].0 = ServiceRank::Overdue;
        }
        self.clients.sort_unstable();
        self.clients
    }
}

/// The clients with input.
#[derive(Debug, Default)]
pub struct ServiceOrder {
    /// The clients that have hung up.
    pub hung_up: Vec<u64>,
    local: RankedClients,
    guests: RankedClients,
}

impl ServiceOrder {
    /// Adds a client that has input. `time` is the time of the fair queue.
    pub fn add(&mut self, token: u64, connection: &ClientConnection, time: u64, turn: u64) {
        match connection.rank(time) {
            ServiceRank::HungUp => self.hung_up.push(token),
            rank if connection.is_guest() => self.guests.add(token, connection, rank, turn),
            rank => self.local.add(token, connection, rank, turn),
        }
    }

    /// Returns the two groups of clients that have not hung up, each in the order of service. The first group is served
    /// first in this turn.
    pub fn into_groups(self, turn: u64) -> [Vec<(ServiceRank, u64)>; 2] {
        let (local, guests) = (self.local.into_sorted(), self.guests.into_sorted());
        if turn.is_multiple_of(2) { [local, guests] } else { [guests, local] }
    }

    /// Whether no client has input.
    pub fn is_empty(&self) -> bool {
        self.hung_up.is_empty() && self.local.clients.is_empty() && self.guests.clients.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::super::client_machine_and_ancestors::Origin;
    use super::super::local_or_guest_socket::ClientSocket;
    use super::*;
    use crate::remote::encrypted_stream_to_guest::tests::pair;
    use mio::net::UnixStream;
    use std::time::Duration;

    #[test]
    fn local_clients_and_guests_do_not_queue_behind_each_other() {
        let order = || {
            let mut order = ServiceOrder::default();
            for token in 0..10 {
                let socket = ClientSocket::Guest(Box::new(pair().0));
                let origin = Origin::remote(std::net::Ipv4Addr::LOCALHOST.into());
                let mut guest = ClientConnection::new(socket, origin, 0, 0);
                guest.note_served(Duration::from_micros(10), 1, 0);
                order.add(token, &guest, 0, 1);
            }
            let (stream, _other) = UnixStream::pair().unwrap();
            let origin = Origin::Local { pid: 1, ancestors: None };
            let local = ClientConnection::new(ClientSocket::Local(stream), origin, 0, 0);
            order.add(10, &local, 0, 1);
            order
        };
        let firsts = [1, 2].map(|turn| order().into_groups(turn).map(|group| group.len()));
        assert_eq!(firsts, [[10, 1], [1, 10]], "the two groups take turns in being first");
    }
}
