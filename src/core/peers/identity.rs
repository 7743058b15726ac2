//! Who is meant by a name, and who a caller is.

use super::super::{Auth, Call, ConnId};
use super::{Peer, Peers, no_peer};
use crate::base::error::{Error, ErrorKind};
use crate::base::ids::PeerId;
use crate::base::kinds::PeerKind;
use crate::base::process::{AgentProgram, Process};
use crate::store::PeerRow;
use serde_json::json;

/// Peers that an error names, where a name or a shell fits several.
const NAMED_MAX: usize = 8;

/// The error for a caller below an agent that has shown no session so far. It must not act as the human, whose
/// mail it would read.
fn unknown_session(agent: AgentProgram) -> Error {
    let text = format!(
        "this process runs inside {}, which has no session on the mesh yet; begin one (session.begin), or say who \
         you act as with --as",
        agent.short_name
    );
    Error::new(ErrorKind::Ambiguous, text).with(json!({ "agent": agent.kind, "shortName": agent.short_name }))
}

/// Whether a word means something else where a peer is expected.
pub(super) fn is_reserved(name: &str) -> bool {
    ["all", "repo", "directory", "human", "cli"].contains(&name) || name.contains(':') || name.contains('/')
}

impl Peers {
    /// Finds a peer by id, name or unambiguous prefix.
    ///
    /// # Errors
    /// When no peer fits, or several do; the error lists those.
    pub fn resolve(&self, name: &str) -> Result<PeerId, Error> {
        if ["human", "cli"].contains(&name) {
            return Ok(self.human.clone());
        }
        // What another mesh calls an id may be the name of a peer of this one.
        let is_own = |row: &PeerRow| !row.is_linked();
        let rules: [&dyn Fn(&PeerRow) -> bool; 4] =
            [&|row| row.id == name && is_own(row), &|row| row.name == name, &|row| row.id == name, &|row| {
                name.len() >= 2 && (row.name.starts_with(name) || row.id.starts_with(name))
            }];
        for fits in rules {
            let mut found: Vec<&Peer> = self.peers.iter().filter(|peer| fits(&peer.row)).collect();
            if found.len() > 1 && found.iter().filter(|peer| peer.is_online()).count() == 1 {
                found.retain(|peer| peer.is_online());
            }
            match found[..] {
                [] => continue,
                [one] => return Ok(one.row.id.clone()),
                _ => {
                    let names: Vec<_> = found
                        .iter()
                        .take(NAMED_MAX)
                        .map(|peer| format!("{} ({:.8})", peer.row.name, peer.row.id))
                        .collect();
                    let text = format!("{name} fits several peers: {}; say which", names.join(", "));
                    return Err(Error::new(ErrorKind::Ambiguous, text));
                }
            }
        }
        Err(no_peer(name))
    }

    /// Who calls: the peer of the connection, the peer that the call names, the session around the
    /// caller's process, or the human.
    pub(in crate::core) fn resolve_actor(&self, call: &Call) -> Result<Option<PeerId>, Error> {
        let own = self.attached_to(call.conn);
        match (&call.acting, own) {
            (None, [only]) => Ok(Some(only.clone())),
            (Some(name), [_, ..]) => {
                let id = self.resolve(name)?;
                let text = "a session acts only as the peers that it attached";
                own.contains(&id).then_some(Some(id)).ok_or_else(|| Error::new(ErrorKind::Refused, text))
            }
            (None, [_, _, ..]) => Err(Error::usage("as", "this connection speaks for several peers; name one")),
            (Some(name), []) => self.require_local(self.resolve(name)?).map(Some),
            (None, []) if call.op.actor == Auth::Hook => Ok(None),
            (None, []) if call.op.actor == Auth::Optional && call.ancestors.is_empty() => Ok(None),
            // Anybody may read a list, even a caller whose session cannot be told.
            (None, []) if call.op.actor == Auth::Optional => Ok(self.session_around(&call.ancestors).ok().flatten()),
            (None, []) => {
                self.session_around(&call.ancestors).map(|id| Some(id.unwrap_or_else(|| self.human_at(call.conn))))
            }
        }
    }

    /// Refuses the id of a peer of another mesh: only there can anybody act as it.
    pub fn require_local(&self, id: PeerId) -> Result<PeerId, Error> {
        if self.get(&id).is_some_and(|peer| peer.row.is_linked()) {
            let text = format!("{} is on another mesh; only there can anybody act as it", self.name_of(&id));
            return Err(Error::new(ErrorKind::Refused, text));
        }
        Ok(id)
    }

    /// Whether a caller runs inside this session: its agent process is one of these.
    pub(in crate::core) fn is_inside(&self, ancestors: &[Process], id: &str) -> bool {
        ancestors.iter().any(|above| self.sessions_inside(above).iter().any(|inside| *inside == id))
    }

    /// The session whose agent process is the nearest above a caller.
    ///
    /// # Errors
    /// When that process has several sessions, or is an agent's and has none yet.
    fn session_around(&self, ancestors: &[Process]) -> Result<Option<PeerId>, Error> {
        for above in ancestors {
            let ids = self.sessions_inside(above);
            match (&ids[..], above.agent) {
                ([], Some(agent)) => return Err(unknown_session(agent)),
                ([], None) => continue,
                ([id], _) => return Ok(Some((*id).clone())),
                _ => {
                    let names: Vec<_> = ids.iter().take(NAMED_MAX).map(|id| self.name_of(id)).collect();
                    let more = if ids.len() > names.len() { " and others" } else { "" };
                    let text = format!(
                        "this shell belongs to several sessions: {}{more}; say which with --as",
                        names.join(", ")
                    );
                    let ids: Vec<&str> = ids.iter().map(|id| id.as_str()).collect();
                    return Err(Error::new(ErrorKind::Ambiguous, text).with(json!({ "candidates": ids })));
                }
            }
        }
        Ok(None)
    }

    /// The sessions in which a caller below this process may be. A process that has only run hooks may be a
    /// person's script: what else it runs is no session's.
    fn sessions_inside(&self, above: &Process) -> Vec<&PeerId> {
        let is_sure = |peer: &&Peer| above.agent.is_some() || self.is_attached_from(&peer.row.id, above);
        let mut ids: Vec<&PeerId> =
            self.sessions_of_process(above).into_iter().filter(is_sure).map(|peer| &peer.row.id).collect();
        ids.sort();
        ids
    }

    /// The human behind a connection.
    pub(super) fn human_at(&self, conn: ConnId) -> PeerId {
        self.attachments.get(&conn).and_then(|one| one.remote.as_ref()).map_or(&self.human, |at| &at.human).clone()
    }

    /// The human at this machine, whom agents can write to from the first moment, is a peer, too.
    pub(in crate::core) fn settle_human(&mut self, turn: &mut super::Turn, now: i64) -> Result<(), Error> {
        let is_it = |peer: &&Peer| peer.row.kind == PeerKind::Human && peer.row.host == self.settings.host;
        self.human = match self.peers.iter().find(is_it) {
            Some(peer) => peer.row.id.clone(),
            None => {
                let name = self.free_name(&self.settings.user);
                self.add_human(turn, name, self.settings.host.clone(), now)?
            }
        };
        Ok(())
    }

    pub(super) fn add_human(
        &mut self,
        turn: &mut super::Turn,
        name: String,
        host: String,
        now: i64,
    ) -> Result<PeerId, Error> {
        let id = self.new_id();
        let row = PeerRow {
            id: id.clone(),
            name,
            kind: PeerKind::Human,
            agent: "human".into(),
            host,
            first_seen: now,
            last_seen: now,
            ..PeerRow::default()
        };
        self.put(turn, row, now)?;
        Ok(id)
    }
}
