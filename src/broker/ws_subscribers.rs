//! Clients of 1.3 on other machines, which register over HTTP and hear pushes on a WebSocket. Each
//! says hello there with the ids for which it listens: as often as it likes, and those up to 1.3.1 only
//! with an id of their own making, which is also the name of the socket that they registered.
//!
//! **Invariant:** what they send but for hellos is ignored, and nothing is answered.

use super::push_connection::Outlet;
use crate::base::limits;
use crate::core::Mesh;
use serde_json::Value;
use std::path::Path;

/// Ids that one connection may listen for; of more the oldest are forgotten.
const IDS_MAX: usize = 16;

/// One connection.
struct Ear {
    outlet: Outlet,
    ids: Vec<String>,
    is_gone: bool,
}

/// All of them.
#[derive(Default)]
pub struct Ears {
    ears: Vec<Ear>,
}

impl Ears {
    /// Takes one in.
    pub fn add(&mut self, outlet: Option<Outlet>) {
        self.ears.extend(outlet.map(|outlet| Ear { outlet, ids: Vec::new(), is_gone: false }));
    }

    /// Reads what came on one of them.
    pub fn hear(&mut self, token: u64) {
        let Some(ear) = self.ears.iter_mut().find(|ear| ear.outlet.token == token) else { return };
        let mut said = Vec::new();
        ear.is_gone |= ear.outlet.read(|line| said.extend(hello(line))).is_err();
        for id in said {
            // Who said hello last with an id is meant by it.
            self.ears.iter_mut().for_each(|ear| ear.ids.retain(|known| *known != id));
            let Some(ear) = self.ears.iter_mut().find(|ear| ear.outlet.token == token) else { return };
            if ear.ids.len() == IDS_MAX {
                ear.ids.remove(0);
            }
            ear.ids.push(id);
        }
        self.ears.retain(|ear| !ear.is_gone);
    }

    /// The connection that listens for a peer.
    pub fn of(&self, mesh: &Mesh, peer: &str) -> Option<usize> {
        if self.ears.is_empty() {
            return None;
        }
        let path = mesh.peers().get(peer).and_then(|peer| peer.row.push_socket());
        let own = path.and_then(|path| Path::new(path).file_stem()?.to_str());
        let listens = |id: &str| self.ears.iter().position(|ear| ear.ids.iter().any(|known| known == id));
        listens(peer).or_else(|| listens(own?))
    }

    /// A line for one of them.
    pub fn put(&mut self, n: usize, text: &str, seq: Option<i64>) {
        if let Some(ear) = self.ears.get_mut(n) {
            // One that does not read loses its connection with the next sending; it comes back by itself.
            ear.is_gone |= !ear.outlet.put(text, seq);
        }
    }

    /// A line for all.
    pub fn put_all(&mut self, text: &str) {
        (0..self.ears.len()).for_each(|n| self.put(n, text, None));
    }

    /// Sends what is taken; the messages that went whole.
    pub fn send(&mut self) -> Vec<i64> {
        let mut taken = Vec::new();
        for ear in &mut self.ears {
            ear.is_gone |= ear.outlet.send().is_err();
            taken.extend(ear.outlet.take_sent());
        }
        self.ears.retain(|ear| !ear.is_gone);
        taken
    }
}

/// The id of a hello.
fn hello(line: &[u8]) -> Option<String> {
    let value: Value = serde_json::from_slice(line).ok()?;
    let id = value["peerId"].as_str().filter(|id| !id.is_empty() && id.len() <= limits::WORD_MAX)?;
    (value["type"] == "hello").then(|| id.to_owned())
}
