//! How an agent's session attaches over its connection, and how it returns to its former peer.

use super::caller_resolver::{FormerPeer, SessionEvidence, nearest, only};
use super::detach_connection::end_waits;
use super::name_lookup::is_reserved;
use super::undo_mistaken_takeover::set_takeover;
use super::{Peer, Peers};
use crate::base::domain_enums::{LeaveReason, PeerKind};
use crate::base::error::{Error, ErrorKind};
use crate::base::id_types::{FencingToken, PeerId};
use crate::base::process_identity::Process;
use crate::base::{limits, time_format, untrusted_text};
use crate::core::arguments_that_identify_session::NAMING;
use crate::core::event_journal::{Change, Journal};
use crate::core::locks::Locks;
use crate::core::mail::Mail;
use crate::core::op_behavior::{ConnectionChange, OpBehavior};
use crate::core::op_definition::{ArgKind, Runner};
use crate::core::peers::mesh_parts_changed_by_sessions::SessionParts;
use crate::core::peers::retention::take_from_gone;
use crate::core::transaction_and_pending_effects::Turn;
use crate::core::{Arg, Args, Auth, CallContext, CliPlace, Mesh, Op, Outcome};
use crate::store::{PeerRow, TakeoverRow};
use serde_json::json;
use std::collections::HashSet;

const WORD: ArgKind = ArgKind::Text { min: 0, max: limits::WORD_MAX };
const PATH: ArgKind = ArgKind::Text { min: 0, max: limits::PATH_MAX };

/// Attaches a session.
pub static ATTACH: Op = Op {
    name: "attach",
    summary: "Attach this connection to the mesh as a peer, and return the peer's id and name",
    args: &[
        Arg::new("name", WORD, "Preferred name; <agent>-<folder> by default").at(CliPlace::Hidden),
        Arg::new("agent", WORD, "Agent type").required().at(CliPlace::Hidden),
        Arg::new("project", PATH, "Absolute path of the working directory").required().at(CliPlace::Hidden),
        Arg::new("gitRoot", PATH, "Root of the git work tree").at(CliPlace::Hidden),
        Arg::new("gitBranch", PATH, "Git branch").at(CliPlace::Hidden),
        Arg::new("repo", PATH, "Repository id").at(CliPlace::Hidden),
        Arg::new("session", WORD, "The agent's own id for this session").at(CliPlace::Hidden),
        Arg::new("id", WORD, "Peer id from an earlier connection, to continue as that peer").at(CliPlace::Hidden),
        Arg::new("pid", ArgKind::Int { min: 0, max: i64::MAX }, "Process id").required().at(CliPlace::Hidden),
        Arg::new(
            "shortName",
            WORD,
            "What people call the agent; the default name of its session begins with this word",
        )
        .at(CliPlace::Hidden),
        Arg::new("knownAgent", ArgKind::Flag, "False if slm-mesh does not know this agent").at(CliPlace::Hidden),
        Arg::new("script", ArgKind::Flag, "The caller acts as a peer of its own, and not as the agent that started it")
            .at(CliPlace::Hidden),
    ],
    actor: Auth::Optional,
    verb: None,
    tool: None,
    repeatable: true,
    behavior: OpBehavior { connection: ConnectionChange::Attach, ..OpBehavior::USUAL },
    run: Runner::Rule(attach),
};

/// Registers a peer for the session in which a caller runs, unless an MCP server or a hook has already registered one.
/// So an agent without MCP becomes a peer when it runs its first subcommand.
pub static BEGIN: Op = Op {
    name: "session.begin",
    summary: "Register the caller's agent as a peer, unless it is a peer already",
    args: &NAMING,
    actor: Auth::Hook,
    verb: None,
    tool: None,
    repeatable: true,
    behavior: OpBehavior::USUAL,
    run: Runner::Rule(begin),
};

fn begin(mesh: &mut Mesh, ctx: &CallContext, args: &Args) -> Result<Outcome, Error> {
    let is_it = |process: &&Process| process.agent.is_some_and(|agent| agent.kind == args.word("agent"));
    // If no ancestor is known to be this agent, the nearest ancestor process counts as the agent, unless it belongs to
    // another known agent.
    let nearest_unknown = || nearest(&ctx.ancestors).filter(|process| process.agent.is_none());
    let Some(process) = ctx.ancestors.iter().find(is_it).or_else(nearest_unknown) else {
        let text =
            format!("this process does not run inside {}; use --as to say which peer you act as", args.word("agent"));
        return Err(Error::new(ErrorKind::Refused, text));
    };
    // A process (for example a shell) may have started several agents, so only the sessions of this agent are
    // considered.
    let of_agent = |peer: &&Peer| peer.row.agent == args.word("agent");
    let sessions = mesh.peers.sessions_of_process(process).into_iter().filter(of_agent);
    let id = match only(sessions).map(|peer| peer.row.id.clone()) {
        Some(id) => id,
        None => {
            let row = session_row(args, mesh.peers.host_of(ctx.conn), ctx.now);
            add_detached(&mut mesh.session_parts(), &row, args, Some(*process))?
        }
    };
    let Mesh { turn, peers, journal, .. } = mesh;
    // The caller runs inside an agent: slm-mesh knows the program of the process, or the environment contains the name
    // of the agent. So the process is certainly the agent, and the session is online until the process ends.
    peers.set_process(turn, journal, &id, process, true, ctx)?;
    Ok(Outcome::Ready(json!({ "ok": true, "you": { "id": id.as_str(), "name": peers.name_of(&id) } })))
}

fn attach(mesh: &mut Mesh, ctx: &CallContext, args: &Args) -> Result<Outcome, Error> {
    let peers = &mesh.peers;
    if !peers.is_connected(ctx.conn) {
        return Err(Error::new(ErrorKind::Refused, "attach: HTTP requests cannot attach a session; use the socket"));
    }
    if peers.attached_to(ctx.conn).len() >= limits::PEERS_PER_CONNECTION_MAX {
        let text = format!("one connection can act for at most {} peers", limits::PEERS_PER_CONNECTION_MAX);
        return Err(Error::new(ErrorKind::Full, text));
    }
    let mut row = session_row(args, peers.host_of(ctx.conn), ctx.now);
    row.pid = args.int("pid").filter(|pid| *pid != 0);
    let is_keyed = row.session_key().is_some();
    let name = args.text("name").filter(|name| !name.is_empty());
    name.map_or(Ok(()), untrusted_text::check_name).map_err(|want| Error::usage("name", want))?;
    let wanted = name.map_or_else(|| default_name(&row, args.text("shortName")), str::to_owned);
    let id = args.text("id").filter(|id| !id.is_empty());
    let returns = id.is_some();
    let process = peers.attachments.get(ctx.conn).and_then(|own| own.agent);
    let evidence =
        SessionEvidence { conn: Some(ctx.conn), process, row: &row, id, name: &wanted, is_name_chosen: name.is_some() };
    let mut parts = mesh.session_parts();
    let former = find_former_peer(&mut parts, &evidence, ctx.now)?;
    let SessionParts { turn, peers, mail, locks, journal, .. } = &mut parts;
    let is_takeover = matches!(former, FormerPeer::SameName(_));
    row = peers.take_identity(turn, mail, locks, &evidence, former)?;
    let you = json!({ "id": row.id.as_str(), "name": row.name });
    let id = row.id.clone();
    let mut peer = peers.get(&id).cloned().unwrap_or_else(|| Peer::new(row.clone(), ctx.now));
    row.online = peer.row.online;
    if row.name != peer.row.name {
        peers.rename(turn, journal, &row, ctx.now)?;
    }
    match (peer.row.session_key().map(str::to_owned), row.session_key()) {
        // A session that takes over only a name does not take over the keys of the earlier session.
        _ if is_takeover => {}
        // In two cases, the session keeps the key that a hook has reported. In the first case, this connection has no
        // key. In the second case, a server connects again. The server's key is that of the session for which the agent
        // started the server, but the agent may have switched to another session since then.
        (Some(_), new) if new.is_none() || returns => row.kind = peer.row.kind.clone(),
        (Some(old), Some(new)) if old != new => push_older_key(&mut row.older_keys, old),
        _ => {}
    }
    if is_takeover {
        let takeover = name
            .is_none()
            .then(|| mail.unread(&turn.store, &id).map(|n| takeover_of(locks.last_token(turn), &peer, n, ctx.now)));
        set_takeover(turn, &mut peer, takeover.transpose()?)?;
    }
    peer.row = row;
    (peer.has_left, peer.has_ended) = (false, false);
    peer.is_known_agent = args.flag("knownAgent").unwrap_or(true);
    peers.peers.put(peer);
    attach_connection(turn, peers, journal, ctx, args, &id)?;
    let retired = if is_keyed { retire_placeholder(&mut parts, ctx, &id)? } else { None };
    let SessionParts { turn, mail, journal, .. } = parts;
    let unread = mail.unread(&turn.store, &id)?;
    let mut value = json!({ "ok": true, "you": you, "unread": unread, "seq": journal.last_event(turn).0 });
    if let Some(retired) = retired {
        value["retired"] = json!(retired.as_str());
    }
    Ok(Outcome::Ready(value))
}

/// Attaches a peer to the connection of a call. From then on, the connection acts for this peer.
fn attach_connection(
    turn: &mut Turn,
    peers: &mut Peers,
    journal: &Journal,
    ctx: &CallContext,
    args: &Args,
    id: &PeerId,
) -> Result<(), Error> {
    let is_new = peers.attachments.attach(ctx.conn, id);
    let Some(one) = peers.attachments.get_mut(ctx.conn).filter(|_| is_new) else { return Ok(()) };
    one.is_keyed = args.text("session").is_some_and(|key| !key.is_empty());
    // On this machine, a process of an unknown program is not recorded, because its end must not end the session. On
    // other machines, nobody reports the end of a process, so recording it does no harm.
    let is_far_server = one.remote.is_some() && args.flag("script") != Some(true);
    let agent = one.agent.filter(|process| process.agent.is_some() || is_far_server);
    peers.add_connection(turn, journal, id, ctx.now)?;
    peers.note_process(turn, journal, id, agent.as_ref(), ctx)
}

/// Removes the unused peer of a connection. The connection has just attached as a different peer, which a hook
/// registered with the session's key. The unused peer would look like a second session of the agent, and nobody would
/// read its mail. Returns the removed peer, so that the client can forget this peer.
fn retire_placeholder(parts: &mut SessionParts, ctx: &CallContext, keyed: &PeerId) -> Result<Option<PeerId>, Error> {
    let SessionParts { turn, peers, mail, locks, journal, waiting, .. } = parts;
    let is_unused = |peer: &&Peer| {
        let row = &peer.row;
        row.id != *keyed && row.session_key().is_none() && row.summary.is_empty() && peer.connections == 1
    };
    let mut own = peers.attached_to(ctx.conn).iter().filter_map(|id| peers.get(id));
    let Some(id) = own.find(is_unused).map(|peer| peer.row.id.clone()) else { return Ok(None) };
    if locks.has_any(&id) || mail.unread(&turn.store, &id)? > 0 {
        return Ok(None);
    }
    end_waits(turn, waiting, |call| call.ctx.conn == ctx.conn && call.ctx.is_by(&id));
    peers.attachments.detach(ctx.conn, &id);
    peers.forget_process(turn, &id)?;
    peers.remove_connection(turn, journal, &id, LeaveReason::Replaced, ctx.now)?;
    peers.forget(turn, mail, &id)?;
    Ok(Some(id))
}

/// Adds a key to the older keys of a session. If there are too many keys, the oldest key is forgotten.
fn push_older_key(older: &mut Vec<String>, key: String) {
    older.retain(|known| *known != key);
    older.push(key);
    if older.len() > limits::KEYS_PER_SESSION_MAX {
        older.remove(0);
    }
}

/// Makes the row of a session from the arguments that describe it.
pub(in crate::core) fn session_row(args: &Args, host: String, now: i64) -> PeerRow {
    let text = |name| args.text(name).filter(|text| !text.is_empty()).map(str::to_owned);
    PeerRow {
        kind: PeerKind::Session { key: text("session") },
        agent: args.word("agent").to_owned(),
        project: args.word("project").to_owned(),
        git_root: text("gitRoot"),
        git_branch: text("gitBranch"),
        repo: text("repo"),
        host,
        first_seen: now,
        last_seen: now,
        ..PeerRow::default()
    }
}

/// Registers a session when its hook or subcommand makes a call, and no connection has attached as the session yet.
/// Returns the session's former peer, or a new peer.
pub(in crate::core) fn add_detached(
    parts: &mut SessionParts,
    row: &PeerRow,
    args: &Args,
    process: Option<Process>,
) -> Result<PeerId, Error> {
    // An invalid name is ignored here, because hooks must not fail. When the MCP server attaches, the user sees the
    // error.
    let chosen = args.text("name").filter(|name| !name.is_empty() && untrusted_text::check_name(name).is_ok());
    let wanted = chosen.map_or_else(|| default_name(row, args.text("shortName")), str::to_owned);
    let (is_name_chosen, now) = (chosen.is_some(), row.first_seen);
    let evidence = SessionEvidence { conn: None, process, row, id: None, name: &wanted, is_name_chosen };
    let former = find_former_peer(parts, &evidence, now)?;
    let SessionParts { turn, peers, mail, locks, .. } = parts;
    let takeover = match &former {
        FormerPeer::Proven(id) | FormerPeer::SameName(id) => {
            let unread = mail.unread(&turn.store, id)?;
            // If a session has neither a key nor a process, each of its hooks finds the session by name. Such a hook
            // does not take over another session's name.
            let is_other = |peer: &Peer| peer.has_left || peer.row.session_key().is_some();
            peers.get(id).and_then(|peer| match former {
                FormerPeer::SameName(_) if is_name_chosen => None,
                FormerPeer::SameName(_) if is_other(peer) => {
                    Some(takeover_of(locks.last_token(turn), peer, unread, now))
                }
                _ => peer.takeover.clone(),
            })
        }
        FormerPeer::Nobody => None,
    };
    let row = peers.take_identity(turn, mail, locks, &evidence, former)?;
    turn.store.put_peer(&row)?;
    let id = row.id.clone();
    let (known, gave_back) = peers.get(&id).map(|peer| (peer.takeover.clone(), peer.gave_back.clone())).unzip();
    let (known, gave_back) = (known.flatten(), gave_back.flatten());
    let mut peer = Peer { takeover: known, gave_back, ..Peer::new(PeerRow { process: None, ..row }, now) };
    set_takeover(turn, &mut peer, takeover)?;
    peers.peers.put(peer);
    Ok(id)
}

/// Finds the former peer of a session. If none is found, the reason may be that several ended sessions match. So the
/// function forgets those that were never used, and tries again. If the former peer has left and has a different key,
/// its grace period ends at once. Without this, the new session would inherit the locks of the former peer.
fn find_former_peer(parts: &mut SessionParts, evidence: &SessionEvidence, now: i64) -> Result<FormerPeer, Error> {
    let SessionParts { turn, peers, mail, locks, .. } = parts;
    let mut former = peers.former_peer(evidence);
    if former == FormerPeer::Nobody && !evidence.is_name_chosen {
        peers.forget_unused(turn, mail, locks, evidence.row, evidence.name)?;
        former = peers.former_peer(evidence);
    }
    if let FormerPeer::SameName(id) = &former
        && peers.get(id).is_some_and(|peer| peer.has_left && peer.has_other_key(evidence.row))
    {
        take_from_gone(parts, id, now)?;
    }
    Ok(former)
}

/// The default name of a session: `claude-api` for Claude Code in …/api. `short_name` is the common name of the agent.
fn default_name(row: &PeerRow, short_name: Option<&str>) -> String {
    let agent = match short_name.filter(|name| !name.is_empty()).unwrap_or(row.agent.as_str()) {
        "unknown" | "" => "agent",
        agent => agent,
    };
    let folder = row.project.trim_end_matches('/').rsplit('/').next().unwrap_or("");
    let plain = |c: char| if c.is_alphanumeric() || "._-".contains(c) { c } else { '-' };
    let folder: String = folder.chars().map(plain).take(40).collect();
    untrusted_text::plain_name(&if folder.is_empty() { agent.to_owned() } else { format!("{agent}-{folder}") })
}

/// Makes the row with which a session can later give back the name that it is taking over now. The row contains a
/// notice about the earlier session, because that session may have worked on another task.
fn takeover_of(token: FencingToken, former: &Peer, unread: i64, now: i64) -> TakeoverRow {
    let ago = time_format::span((now - former.row.last_seen).max(0));
    let worked = match former.row.summary.as_str() {
        "" => String::new(),
        summary => format!(" that worked on {}", untrusted_text::quoted(summary, SUMMARY_SHOWN)),
    };
    let mail = match unread {
        0 => "",
        1 => "; its unread message is yours now",
        _ => "; its unread messages are yours now",
    };
    let cure = "If you are not continuing that session, give the name back: mesh_inbox with action `decline` (slm-mesh \
                decline)";
    let notice = format!("the name {} was last used {ago} ago by a session{worked}{mail}. {cure}", former.row.name);
    TakeoverRow {
        key: former.row.session_key().map(str::to_owned),
        older_keys: former.row.older_keys.clone(),
        summary: former.row.summary.clone(),
        token,
        notice: Some(notice),
    }
}

/// A notice shows at most this many characters of an earlier session's summary.
const SUMMARY_SHOWN: usize = 200;

impl Peers {
    /// Gives a session the id, name and mailbox of its former peer. If the session has no former peer, it gets a new
    /// id, name and mailbox.
    fn take_identity(
        &mut self,
        turn: &mut Turn,
        mail: &mut Mail,
        locks: &Locks,
        evidence: &SessionEvidence,
        former: FormerPeer,
    ) -> Result<PeerRow, Error> {
        let SessionEvidence { row, name: wanted, .. } = *evidence;
        let is_proven = matches!(former, FormerPeer::Proven(_));
        if let FormerPeer::Proven(id) | FormerPeer::SameName(id) = former
            && let Some(old) = self.get(&id)
        {
            let name = self.name_of_return(old, evidence);
            let old = old.row.clone();
            return Ok(PeerRow {
                id: old.id,
                name,
                summary: old.summary,
                transcript: old.transcript,
                older_keys: if is_proven { old.older_keys } else { Vec::new() },
                first_seen: old.first_seen,
                process: old.process,
                ..row.clone()
            });
        }
        self.make_room(turn, mail, locks, row.first_seen)?;
        Ok(PeerRow { id: self.new_id(), name: self.free_name(wanted), ..row.clone() })
    }

    /// Returns the name for a session that returns to its former peer. Normally, this is the name of the peer. But when
    /// an MCP server attaches for the first time, the session gets the name that the user has chosen, if this name is
    /// free. Before that, only hooks and subcommands made calls, and they do not always know the chosen name.
    fn name_of_return(&self, old: &Peer, evidence: &SessionEvidence) -> String {
        let is_first_server = evidence.conn.is_some() && old.row.pid.is_none();
        let is_free = || self.free_name(evidence.name) == evidence.name;
        let takes_chosen = is_first_server && evidence.is_name_chosen && is_free();
        if takes_chosen { evidence.name.to_owned() } else { old.row.name.clone() }
    }

    /// Gives a peer the name in this row, and notifies the other peers.
    fn rename(&mut self, turn: &mut Turn, journal: &Journal, row: &PeerRow, now: i64) -> Result<(), Error> {
        let Some(peer) = self.get_mut(&row.id) else { return Ok(()) };
        peer.row.name.clone_from(&row.name);
        let renamed = peer.row.clone();
        turn.store.put_peer(&renamed)?;
        self.record(turn, journal, &Change::PeerUpdated(&renamed), &row.id, now)
    }

    /// Returns `wanted` if no peer has this name. Otherwise, returns the first free name among `wanted-2`, `wanted-3`
    /// and so on.
    pub(super) fn free_name(&self, wanted: &str) -> String {
        // The names that begin with `wanted` are collected in advance. A new search for each number would be slow if
        // many sessions want the same name.
        let similar = self.peers.iter().map(|peer| peer.row.name.as_str()).filter(|name| name.starts_with(wanted));
        let taken: HashSet<&str> = similar.collect();
        let is_free = |name: &String| !taken.contains(name.as_str()) && !is_reserved(name);
        let numbered = (2..).map(|n| format!("{wanted}-{n}"));
        std::iter::once(wanted.to_owned()).chain(numbered).find(is_free).unwrap_or_else(|| wanted.to_owned())
    }

    /// Records the key that a session has now. For example, after the command /clear, the agent uses a new key, but the
    /// MCP server still uses the old key.
    pub(in crate::core) fn add_key(&mut self, turn: &mut Turn, id: &PeerId, key: &str) -> Result<(), Error> {
        let is_current = |peer: &Peer| peer.row.session_key() == Some(key);
        let Some(peer) = self.get_mut(id).filter(|peer| !is_current(peer)) else { return Ok(()) };
        peer.row.older_keys.retain(|known| known != key);
        if let Some(old) = peer.row.session_key().map(str::to_owned) {
            push_older_key(&mut peer.row.older_keys, old);
        }
        peer.row.kind = PeerKind::Session { key: Some(key.to_owned()) };
        Ok(turn.store.put_peer(&peer.row)?)
    }

    /// Whether a peer has a connection from a descendant of this agent process.
    pub(in crate::core) fn is_attached_from(&self, id: &PeerId, process: &Process) -> bool {
        self.attachments.of_peer(id).any(|one| one.is_below(process))
    }

    /// Returns the sessions of one agent process. A session belongs to the process in three cases. In the first, a
    /// descendant of the process holds a connection of the session. In the second, the session has no connection, and
    /// hooks or subcommands of the process have registered it. In the third, the session's MCP server was a descendant
    /// of the process and may reconnect.
    pub(in crate::core) fn sessions_of_process(&self, process: &Process) -> Vec<&Peer> {
        let below = self.attachments.iter().filter(|(_, one)| one.is_below(process));
        let attached: Vec<&PeerId> = below.flat_map(|(_, one)| one.peers()).collect();
        let is_detached = |peer: &Peer| peer.connections == 0 && peer.is_run_by(process);
        let belongs = |peer: &&Peer| attached.contains(&&peer.row.id) || is_detached(peer) || peer.ran_server(process);
        self.peers.iter().filter(belongs).collect()
    }
}
