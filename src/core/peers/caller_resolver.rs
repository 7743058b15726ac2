//! Identifies callers: sessions, hooks, tool calls, verbs (the subcommands of `slm-mesh`) and the guard (the git hook
//! of `slm-mesh`). The result is one peer, no peer, or an error that lists the candidates.
//!
//! The following table lists the evidence that a caller can present. The strongest evidence comes first. The first row
//! that applies to the caller decides.
//!
//! | evidence | a session that attaches | a hook | a tool call | a verb, the guard |
//! | --- | --- | --- | --- | --- |
//! | an id or a name from the mesh | the id of an earlier connection | | | the peer that the caller names, or the session of its shell (below) |
//! | the agent's own key | the session with that key | the session with that key | its connection attached with this key | |
//! | a call that a hook announced | | | that hook's session | |
//! | the connection | its session that has no key yet | | its only peer | |
//! | the agent process | its only session that is not connected | its only session (below) | | the only session of the nearest process that has one |
//! | the former name | the only session of that name that is gone | the only session of that name that is gone | | |
//! | nothing | a new peer | a new peer | refused | the person at the machine (the human) |
//!
//! Some clients give the key of their session only in tool calls. The MCP server of such a client first attaches
//! without a key and becomes a peer. A hook may already have registered another peer with the key. When the server
//! sends the key, the server moves to that peer. If the server's own first peer is unused, it is removed.
//!
//! If a hook has no key, or if no session has the hook's key, the sessions of the hook's agent process decide:
//!
//! | the hook's key | the sessions of the process | the hook's session |
//! | --- | --- | --- |
//! | none | one | that one |
//! | new | one, without a key | that one, which gets the key |
//! | new, and the agent says that its session continues | one | that one, which gets a further key |
//! | new | any other | none, because a second key means a second session |
//!
//! The environment of an agent's shell may contain the id of a session (`SLM_MESH_SESSION`). The ancestor processes of
//! a verb in this shell decide whether the verb acts as this session:
//!
//! | the session | the verb's ancestor processes | the verb acts as |
//! | --- | --- | --- |
//! | does not exist, or has ended | any | refused |
//! | has not ended | the nearest agent process is the session's own | that session |
//! | has not ended | a nearer agent, started inside the session, has inherited the variable | the nearer agent's session |
//! | has not ended | the nearest agent process belongs to another agent, or no agent process is found although the session's process is known | refused |
//! | has not ended | the processes can't be seen, or the session's process is unknown | that session |
//!
//! A session that gives back the name of an earlier session becomes a new peer. The session's shells and its MCP server
//! may still use the id of the session's former peer. In their calls, this id means the session.
//!
//! The environment of a verb may also contain the name of its agent (`AI_AGENT`). This name counts only if no ancestor
//! process is known to be an agent. In this case, the ancestor processes are searched for a session of the named agent,
//! and the verb acts as the nearest such session. If no ancestor process has such a session, the call is refused. The
//! verb then begins a session and repeats the call.
//!
//! After a restart of the broker, a session belongs to its agent process at once, even before its MCP server has
//! reconnected.
//!
//! If several sessions match, a caller that would write is refused. A caller that only reads acts as no peer.

use super::{Peer, Peers};
use crate::base::error::{Error, ErrorKind};
use crate::base::id_types::PeerId;
use crate::base::process_identity::Process;
use crate::core::op_behavior::ConnectionChange;
use crate::core::{Auth, Call, ConnId, Op};
use crate::store::PeerRow;
use serde_json::json;

/// Maximum number of candidates that an error message lists.
const NAMED_MAX: usize = 8;

/// The evidence that a session has when it attaches, or when its first hook makes a call.
#[derive(Debug, Clone, Copy)]
pub(super) struct SessionEvidence<'a> {
    /// The connection of the session; `None` for a hook, because its connection acts for no peer.
    pub conn: Option<ConnId>,
    /// The agent process that runs the session, if it is known.
    pub process: Option<Process>,
    /// The session's description of itself, which includes its key.
    pub row: &'a PeerRow,
    /// The session's peer id on an earlier connection, if there was one.
    pub id: Option<&'a str>,
    /// The name that the session wants.
    pub name: &'a str,
    /// Whether a user chose the name.
    pub is_name_chosen: bool,
}

/// The result of the search for a session's former peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum FormerPeer {
    /// The evidence proves that this peer is the session's former peer.
    Proven(PeerId),
    /// Only the name is the same, so the peer may have belonged to another session.
    SameName(PeerId),
    /// The session has no former peer.
    Nobody,
}

/// The evidence by which a hook identifies its session.
#[derive(Debug, Clone, Copy)]
pub(in crate::core) struct HookEvidence<'a> {
    /// The agent whose hook format the hook uses.
    pub agent: &'a str,
    /// Whether hooks of other agents use the same hook format.
    pub is_shared_dialect: bool,
    /// The key that the agent gave to the session, if it gave one.
    pub key: Option<&'a str>,
    /// Whether the agent says that its session continues under this key.
    pub continues: bool,
    /// The hook's ancestor processes, nearest first.
    pub ancestors: &'a [Process],
}

impl Peer {
    /// Whether the row and this peer have different keys, and so belong to different sessions. Returns false if the row
    /// or the peer has no key.
    pub(super) fn has_other_key(&self, row: &PeerRow) -> bool {
        row.session_key().is_some_and(|key| self.row.session_key().is_some() && !self.has_key(key))
    }
}

impl Peers {
    /// Finds the former peer of this session.
    pub(super) fn former_peer(&self, evidence: &SessionEvidence) -> FormerPeer {
        let SessionEvidence { conn, process, row, id, .. } = *evidence;
        let sessions = || self.peers.iter().filter(|peer| peer.row.is_session());
        let own = conn.and_then(|conn| self.attachments.get(conn));
        let by_id = id.and_then(|id| self.with_id(id)).filter(|peer| peer.row.is_session());
        let by_key = || {
            let of_agent = sessions().filter(|peer| peer.row.agent == row.agent);
            self.with_key(of_agent, row.session_key()?, process.as_ref(), row.pid)
        };
        let by_connection = || {
            let mut attached = own?.peers().iter().filter_map(|id| self.get(id));
            attached.find(|peer| peer.row.is_session() && peer.row.session_key().is_none())
        };
        let by_process = || {
            let process = own.and(process)?;
            // All peers are searched here. So the fast comparison of process ids comes before the slower comparison of
            // strings.
            let detached = sessions().filter(|peer| peer.connections == 0 && peer.is_run_by(&process));
            // If several sessions of the process match, it is unknown which of them is attaching.
            only(detached.filter(|peer| is_alike(&peer.row, row)))
        };
        match by_id.or_else(by_key).or_else(by_connection).or_else(by_process) {
            Some(peer) => FormerPeer::Proven(peer.row.id.clone()),
            None => self.by_former_name(evidence).map_or(FormerPeer::Nobody, FormerPeer::SameName),
        }
    }

    /// Finds an ended session of the same agent in the same directory on the same machine. The new session takes over
    /// the name and the mail of the ended session.
    fn by_former_name(&self, evidence: &SessionEvidence) -> Option<PeerId> {
        let SessionEvidence { row, name, is_name_chosen, .. } = *evidence;
        let is_same =
            |peer: &&Peer| peer.row.is_session() && is_numbered(&peer.row.name, name) && is_alike(&peer.row, row);
        // A session that only hooks have registered may still be running if no hook has reported its end. A new session
        // with a different key must not take over the name of such a session.
        let may_return = |peer: &Peer| peer.has_left || peer.row.process.is_none() && !peer.has_other_key(row);
        let is_free = |peer: &&Peer| may_return(peer) && !self.may_be_alive(peer, row.pid);
        // The name is compared first, because the check whether a session is alive may need a system call.
        let free = || self.peers.iter().filter(is_same).filter(is_free);
        // Two ended sessions with the default name are ambiguous, so the new session takes over neither. But a chosen
        // name belongs to one peer. If no ended session has exactly this name, a peer called `NAME-2` may be the former
        // session. But a user may have chosen the name `NAME-2` for another session. So the peer `NAME-2` counts only
        // if it has not left, and if neither this peer nor the new session has a key.
        let is_nameless = |peer: &&Peer| !peer.has_left && peer.row.session_key().or(row.session_key()).is_none();
        let found = if is_name_chosen {
            free().find(|peer| peer.row.name == name).or_else(|| only(free().filter(is_nameless)))
        } else {
            only(free())
        };
        found.map(|peer| peer.row.id.clone())
    }

    /// Returns the ended sessions with the same agent, the same directory, and this default name (with or without a
    /// number). A session in its grace period does not count as ended.
    pub(super) fn ended_alike(&self, row: &PeerRow, name: &str) -> Vec<PeerId> {
        let has_ended = |peer: &Peer| peer.has_left && peer.offline_since.is_none();
        let is_same = |peer: &Peer| is_numbered(&peer.row.name, name) && is_alike(&peer.row, row);
        let is_it = |peer: &&Peer| peer.row.is_session() && has_ended(peer) && is_same(peer);
        let ended = self.peers.iter().filter(is_it).filter(|peer| !self.may_be_alive(peer, row.pid));
        ended.map(|peer| peer.row.id.clone()).collect()
    }

    /// Whether a session may still be alive. A session is alive if it has a connection, even a silent one, or if its
    /// agent process is running. A session may also be alive if its MCP server, which was connected to an earlier
    /// broker, is still running. But the process `pid`, which is connecting now, does not count as that server.
    fn may_be_alive(&self, peer: &Peer, pid: Option<i64>) -> bool {
        let is_attached = !self.attachments.connections_of(&peer.row.id).is_empty();
        let is_other = peer.row.host == self.settings.host && peer.row.pid != pid;
        is_attached
            || peer.is_watched
            || peer.unconfirmed && is_other && peer.row.pid.is_some_and(|pid| (self.is_process_alive)(pid))
    }

    /// Returns the session to which a hook belongs; `None` if the mesh does not know the session.
    pub(in crate::core) fn session_of_hook(&self, evidence: &HookEvidence) -> Option<PeerId> {
        let HookEvidence { agent, is_shared_dialect, key, continues, ancestors } = *evidence;
        self.by_key(evidence).or_else(|| {
            let process = nearest(ancestors)?;
            let speaks = |peer: &&Peer| peer.row.agent == agent || is_shared_dialect || !peer.is_known_agent;
            let sessions: Vec<&Peer> = self.sessions_of_process(process).into_iter().filter(speaks).collect();
            // If slm-mesh does not know the agent, the agent's hooks and its MCP server report different agent types.
            // So only the key is compared.
            let keyed = key.and_then(|key| sessions.iter().find(|one| one.has_key(key)).copied());
            let found = keyed.or_else(|| match sessions[..] {
                [one] if key.is_none() || continues => Some(one),
                _ => only(sessions.into_iter().filter(|one| one.row.session_key().is_none())),
            });
            found.map(|peer| peer.row.id.clone())
        })
    }

    /// Finds the session with this key. If several agents share a hook format, any of them may have run the hook. In
    /// this case, sessions of other agents match, too.
    fn by_key(&self, evidence: &HookEvidence) -> Option<PeerId> {
        let HookEvidence { agent, is_shared_dialect, key, ancestors, .. } = *evidence;
        let key = key?;
        let process = nearest(ancestors);
        let own = self.with_key(self.peers.iter().filter(|peer| peer.row.agent == agent), key, process, None);
        let other = || self.with_key(self.peers.iter().filter(|_| is_shared_dialect), key, process, None);
        own.or_else(other).map(|peer| peer.row.id.clone())
    }

    /// Finds the session that has this key. If there is none, finds a session that had the key earlier and has another
    /// key now, for example after `/clear`. `process` is the caller's agent process, and `pid` is the process that is
    /// connecting. A session that had the key earlier does not count if it is still running in a process other than
    /// `process`. In this case, the user has resumed that session in `process`, as a second session.
    fn with_key<'a>(
        &'a self,
        peers: impl Iterator<Item = &'a Peer> + Clone,
        key: &str,
        process: Option<&Process>,
        pid: Option<i64>,
    ) -> Option<&'a Peer> {
        let runs_elsewhere = |peer: &Peer| {
            let is_of = |process| {
                peer.is_run_by(process) || peer.ran_server(process) || self.is_attached_from(&peer.row.id, process)
            };
            process.is_some_and(|process| !is_of(process)) && self.may_be_alive(peer, pid)
        };
        let now = latest(peers.clone().filter(|peer| peer.row.session_key() == Some(key)));
        now.or_else(|| latest(peers.filter(|peer| peer.has_key(key) && !runs_elsewhere(peer))))
    }

    /// Returns the acting peer of a tool call, a verb or the guard; `None` if the caller needs no identity. A tool call
    /// that a hook announced acts as the announced session, and does not need this function.
    ///
    /// # Errors
    /// When the caller must not act as the requested peer, or when several sessions may have made the call.
    pub(in crate::core) fn acting_peer(&self, call: &Call) -> Result<Option<PeerId>, Error> {
        let own = self.attached_to(call.conn);
        match (&call.acting, own) {
            (None, [only]) => Ok(Some(only.clone())),
            (Some(name), [_, ..]) => {
                let id = self.resolve(call.conn, name)?;
                let is_now = |one: &&PeerId| {
                    *name == id.as_str() && self.get(one).is_some_and(|peer| peer.has_been(id.as_str()))
                };
                if let Some(now) = own.iter().find(is_now).filter(|_| !own.contains(&id)) {
                    return Ok(Some(now.clone()));
                }
                let text = "a session can act only as the peers that it has attached";
                let is_own = own.contains(&id) || self.has_announced_over(call.conn, &id);
                is_own.then_some(Some(id)).ok_or_else(|| Error::new(ErrorKind::Refused, text))
            }
            // These two operations need no acting peer: `attach` adds another peer to the connection, and `detach`
            // removes all peers.
            (None, [_, _, ..]) if is_about_connection(call.op) => Ok(None),
            (None, [_, _, ..]) => {
                Err(Error::usage("as", "this connection acts for several peers; use `as` to say which one"))
            }
            (Some(name), []) => self.require_local(self.resolve(call.conn, name)?).map(Some),
            (None, []) if call.op.actor == Auth::Hook => Ok(None),
            (None, []) if call.op.actor == Auth::Optional && call.ancestors.is_empty() => Ok(None),
            // Any caller may run this operation. If the caller's session is unclear, the caller acts as no peer.
            (None, []) if call.op.actor == Auth::Optional => Ok(self.session_of_shell(call).ok().flatten()),
            (None, []) => {
                let session = self.session_of_shell(call)?;
                let session = session.map_or_else(|| self.session_of_named_agent(call), |id| Ok(Some(id)))?;
                Ok(Some(session.unwrap_or_else(|| self.human_at(call.conn))))
            }
        }
    }

    /// Returns the session in whose shell the caller is running, according to the shell's environment. If the
    /// environment contains no session, the caller's ancestor processes decide.
    fn session_of_shell(&self, call: &Call) -> Result<Option<PeerId>, Error> {
        let Some(named) = &call.shell_session else { return self.session_around(&call.ancestors) };
        let refused = |why: String| {
            let text = format!(
                "SLM_MESH_SESSION is {named}, {why}; unset the variable, or use --as to say which peer you act as"
            );
            Error::new(ErrorKind::Refused, text)
        };
        let session = self.session_that_was(named, &call.ancestors).or_else(|| self.with_id(named));
        let Some(peer) = session.filter(|peer| peer.row.is_session()) else {
            return Err(refused("but no session has that id".into()));
        };
        let id = &peer.row.id;
        if peer.is_over() {
            return Err(refused(format!("but {} has ended", peer.row.name)));
        }
        let is_own = |above: &Process| self.sessions_of_process(above).iter().any(|one| one.row.id == *id);
        let is_agent = |above: &Process| above.agent.is_some() || !self.sessions_inside(above).is_empty();
        let nearest = call.ancestors.iter().find(|above| is_own(above) || is_agent(above));
        let outside = || Err(refused(format!("but this process does not run in the session {}", peer.row.name)));
        match nearest {
            Some(above) if is_own(above) => Ok(Some(id.clone())),
            Some(_) if call.ancestors.iter().any(is_own) => self.session_around(&call.ancestors),
            Some(_) => outside(),
            None if !call.ancestors.is_empty() && self.has_known_process(peer) => outside(),
            None => Ok(Some(id.clone())),
        }
    }

    /// Finds the sessions that first acted as the peer `former`, and then gave back the name of this peer. If the
    /// caller is running in one of these sessions, returns that session. Otherwise, returns a session only if exactly
    /// one is found. In addition, the peer `former` must no longer exist, or its session must have ended.
    fn session_that_was(&self, former: &str, ancestors: &[Process]) -> Option<&Peer> {
        let now = || self.peers.iter().filter(|peer| peer.has_been(former));
        let runs = |peer: &&Peer| {
            ancestors.iter().any(|above| self.sessions_of_process(above).iter().any(|one| one.row.id == peer.row.id))
        };
        let has_ended = || self.with_id(former).is_none_or(Peer::is_over);
        now().find(runs).or_else(|| only(now()).filter(|_| has_ended()))
    }

    /// Finds the caller's session by the agent name in the environment of the caller's shell. Returns `None` if the
    /// environment contains no agent name.
    ///
    /// # Errors
    /// When this agent has no session yet, or when the caller may belong to several sessions. Without this error, the
    /// caller would act as the person at the machine.
    fn session_of_named_agent(&self, call: &Call) -> Result<Option<PeerId>, Error> {
        let Some(agent) = &call.shell_agent else { return Ok(None) };
        for above in &call.ancestors {
            let sessions = self.sessions_of_process(above).into_iter().filter(|peer| peer.row.agent == *agent);
            match &sessions.map(|peer| &peer.row.id).collect::<Vec<_>>()[..] {
                [] => {}
                [id] => return Ok(Some((*id).clone())),
                ids => return Err(self.several_sessions(ids)),
            }
        }
        Err(unknown_session(agent, agent))
    }

    /// Whether the mesh knows the agent process of a session.
    fn has_known_process(&self, peer: &Peer) -> bool {
        peer.row.process.is_some() || self.attachments.of_peer(&peer.row.id).any(|one| one.agent.is_some())
    }

    /// Whether a caller with these ancestor processes runs inside this session.
    pub(in crate::core) fn is_inside(&self, ancestors: &[Process], id: &PeerId) -> bool {
        ancestors.iter().any(|above| self.sessions_inside(above).contains(&id))
    }

    /// Returns the session of the nearest agent process among a caller's ancestors; `None` if no ancestor is an agent
    /// process.
    ///
    /// # Errors
    /// When the nearest agent process has several sessions, or has no session yet.
    fn session_around(&self, ancestors: &[Process]) -> Result<Option<PeerId>, Error> {
        for above in ancestors {
            let ids = self.sessions_inside(above);
            match (&ids[..], above.agent) {
                ([], Some(agent)) => return Err(unknown_session(agent.kind, agent.short_name)),
                ([], None) => continue,
                ([id], _) => return Ok(Some((*id).clone())),
                _ => return Err(self.several_sessions(&ids)),
            }
        }
        Ok(None)
    }

    /// Makes the error for a shell whose session is unclear. `ids` are the possible sessions.
    fn several_sessions(&self, ids: &[&PeerId]) -> Error {
        let text = format!(
            "this shell may belong to any of several sessions: {}; use --as to say which one",
            self.names_of(ids)
        );
        candidates_error(text, ids)
    }

    /// Makes the error for a call that several sessions of one client announced at the same time.
    pub(super) fn several_callers(&self, ids: &[PeerId]) -> Error {
        let ids: Vec<&PeerId> = ids.iter().collect();
        let names = self.names_of(&ids);
        candidates_error(format!("several sessions made this call at the same time: {names}; repeat the call"), &ids)
    }

    /// Returns the names of the first candidates, for an error message.
    pub(super) fn names_of(&self, ids: &[&PeerId]) -> String {
        let names: Vec<_> = ids.iter().take(NAMED_MAX).map(|id| self.name_of(id)).collect();
        let more = if ids.len() > names.len() { " and others" } else { "" };
        names.join(", ") + more
    }

    /// Whether a peer has a connection from the agent process of the caller. If it does, a lock that was requested over
    /// this connection may belong to any session of the process.
    pub(in crate::core) fn is_attached_beside(&self, ancestors: &[Process], id: &PeerId) -> bool {
        nearest(ancestors).is_some_and(|process| self.is_attached_from(id, process))
    }

    /// Whether another process of the same agent is connected as the same session, for example because the user has
    /// resumed the session in a second terminal. Such a session continues when the caller's process ends.
    pub(in crate::core) fn runs_elsewhere(&self, id: &PeerId, ancestors: &[Process]) -> bool {
        let Some(own) = nearest(ancestors).and_then(|process| process.agent) else { return false };
        let is_other =
            |other: &Process| other.agent == Some(own) && !ancestors.iter().any(|above| above.is_same(other));
        let answering = self.attachments.of_peer(id).filter(|one| !one.unresponsive);
        answering.filter_map(|one| one.agent.as_ref()).any(is_other)
    }

    /// Returns the sessions to which a descendant of this process may belong. The process counts as an agent only if
    /// slm-mesh knows its program, or if it has run an MCP server. A process that has only run hooks does not count,
    /// because even a person's script may run hooks.
    fn sessions_inside(&self, above: &Process) -> Vec<&PeerId> {
        let sessions = self.sessions_of_process(above);
        let runs_server = |peer: &&Peer| self.is_attached_from(&peer.row.id, above) || peer.ran_server(above);
        let is_agent = above.agent.is_some() || sessions.iter().any(runs_server);
        let mut ids: Vec<&PeerId> = sessions.into_iter().filter(|_| is_agent).map(|peer| &peer.row.id).collect();
        ids.sort();
        ids
    }
}

/// Returns the caller's nearest ancestor process that is not a wrapper. A wrapper is, for example, a shell that runs a
/// single command. The returned ancestor counts as the caller's agent process.
pub(in crate::core) fn nearest(ancestors: &[Process]) -> Option<&Process> {
    ancestors.iter().find(|process| !process.wrapper)
}

/// Whether an operation concerns the connection itself, and not one of the peers for which the connection acts.
fn is_about_connection(op: &Op) -> bool {
    op.behavior.connection != ConnectionChange::Unchanged
}

/// Makes the error for a caller inside an agent that has no session on the mesh yet. Without this error, the caller
/// would act as the person at the machine, and could read that person's mail.
fn unknown_session(kind: &str, short_name: &str) -> Error {
    let text = format!(
        "this process runs inside {short_name}, which has no session on the mesh yet; call the method session.begin, \
         or use --as to say which peer you act as"
    );
    Error::new(ErrorKind::Ambiguous, text).with(json!({ "agent": kind, "shortName": short_name }))
}

fn candidates_error(text: String, ids: &[&PeerId]) -> Error {
    let ids: Vec<&str> = ids.iter().map(|id| id.as_str()).collect();
    Error::new(ErrorKind::Ambiguous, text).with(json!({ "candidates": ids }))
}

/// Whether two sessions belong to the same agent in the same directory on the same machine.
fn is_alike(a: &PeerRow, b: &PeerRow) -> bool {
    (&a.agent, &a.project, &a.host) == (&b.agent, &b.project, &b.host)
}

/// Whether `name` is `base` or `base-N`.
fn is_numbered(name: &str, base: &str) -> bool {
    let rest = name.strip_prefix(base);
    rest.is_some_and(|rest| rest.is_empty() || rest.strip_prefix('-').is_some_and(|n| n.parse::<u32>().is_ok()))
}

/// Returns the peer that continues the session, out of the peers that have the same key. Two peers can get the same key
/// in the following way. First, session B takes over the name of session A. Then the user resumes A, which becomes a
/// new peer. Finally, B gives the name back. Session A stays the new peer until the session ends. When the user then
/// resumes session A, the session is the old peer again, with the old name and mail.
fn latest<'a>(with_key: impl Iterator<Item = &'a Peer>) -> Option<&'a Peer> {
    let mut found: Option<&Peer> = None;
    for peer in with_key {
        if peer.is_online() {
            return Some(peer);
        }
        if found.is_none_or(|first| first.has_left && !peer.has_left) {
            found = Some(peer);
        }
    }
    found
}

/// Returns the only item of an iterator; `None` if there is no item or more than one.
pub(in crate::core) fn only<T>(mut items: impl Iterator<Item = T>) -> Option<T> {
    let first = items.next();
    first.filter(|_| items.next().is_none())
}
