//! Turns: what an agent's own hooks tell and ask. They know the session by the agent's key for it,
//! its MCP server by another or none; here both become one peer.

use crate::base::error::Error;
use crate::base::limits;
use crate::core::op::ArgKind;
use crate::core::peers::Peer;
use crate::core::{Arg, Args, Auth, CallContext, CliPlace, Mesh, Op, Outcome, locks::request};
use crate::store::{Message, MessageFilter, PeerRow};
use serde_json::{Value, json};

const WORD: ArgKind = ArgKind::Text { min: 0, max: limits::WORD_MAX };
const PATH: ArgKind = ArgKind::Text { min: 0, max: limits::PATH_MAX };
pub(crate) const AGENT: Arg = Arg::new("agent", WORD, "Agent type").required().at(CliPlace::Hidden);
pub(crate) const SESSION: Arg =
    Arg::new("session", WORD, "The agent's own key of this session").required().at(CliPlace::Hidden);
pub(crate) const PROJECT: Arg =
    Arg::new("project", PATH, "Working directory, absolute").required().at(CliPlace::Hidden);
pub(crate) const GIT_ROOT: Arg = Arg::new("gitRoot", PATH, "Root of the work tree").at(CliPlace::Hidden);
pub(crate) const GIT_BRANCH: Arg = Arg::new("gitBranch", PATH, "Branch").at(CliPlace::Hidden);
pub(crate) const REPO: Arg = Arg::new("repo", PATH, "Repository identity").at(CliPlace::Hidden);
/// A lock that an edit took by itself holds this long unless the next edit renews it.
const EDIT_MS: i64 = 2 * 60_000;
/// Another hook of the same event does not get mail that one got a moment ago.
const TAKEN_MS: i64 = 2_000;
/// Messages that one hook shows; the rest is counted.
const SHOWN_MAX: i64 = 10;

/// Locks the files of an edit for the session whose hook asks.
pub static EDIT: Op = Op {
    name: "turn.edit",
    summary: "Take or renew the locks on the files that a session is about to edit, for two minutes",
    args: &[
        AGENT,
        SESSION,
        PROJECT,
        GIT_ROOT,
        GIT_BRANCH,
        REPO,
        Arg::new("files", ArgKind::Texts { items: limits::EDIT_FILES_MAX, max: limits::PATH_MAX }, "Absolute paths")
            .required()
            .at(CliPlace::Hidden),
    ],
    actor: Auth::Hook,
    verb: None,
    tool: None,
    repeatable: true,
    run: edit,
};

/// Hands out mail that a hook can show.
pub static MAIL: Op = Op {
    name: "turn.mail",
    summary: "Hand out unread mail for a hook to show, once; with around also who and what is there",
    args: &[
        AGENT,
        SESSION,
        PROJECT,
        GIT_ROOT,
        GIT_BRANCH,
        REPO,
        Arg::new("direct", ArgKind::Flag, "Only what was sent to this session alone").at(CliPlace::Hidden),
        Arg::new("peek", ArgKind::Flag, "Hand nothing out: another hook will").at(CliPlace::Hidden),
        Arg::new("around", ArgKind::Flag, "Also the peers and locks of the repository").at(CliPlace::Hidden),
        Arg::new("spoken", ArgKind::Flag, "The person at this session wrote to it").at(CliPlace::Hidden),
    ],
    actor: Auth::Hook,
    verb: None,
    tool: None,
    repeatable: true,
    run: mail,
};

/// Ends a turn.
pub static END: Op = Op {
    name: "turn.end",
    summary: "End a session's turn: locks that its edits took fall; with leave all of them",
    args: &[
        AGENT,
        SESSION,
        PROJECT,
        GIT_ROOT,
        GIT_BRANCH,
        REPO,
        Arg::new("leave", ArgKind::Flag, "The session itself ends").at(CliPlace::Hidden),
    ],
    actor: Auth::Hook,
    verb: None,
    tool: None,
    repeatable: true,
    run: end,
};

fn edit(mesh: &mut Mesh, ctx: &CallContext, args: &Args) -> Result<Outcome, Error> {
    let id = mesh.session_of_hook(ctx, args)?;
    let row = mesh.peer(&id).map(|peer| peer.row.clone()).unwrap_or_default();
    mesh.turn_runs(&id, Some(ctx.now));
    let mut paths: Vec<String> = args.texts("files").into_iter().map(crate::base::paths::normal).collect();
    paths.sort();
    paths.dedup();
    let text = |name| args.text(name).map(str::to_owned);
    let want = request::LockRequest {
        paths,
        holder: id.clone(),
        bound: request::TURN.into(),
        reason: "editing".into(),
        ttl_ms: EDIT_MS,
        repo: text("repo").or(row.repo).zip(text("gitRoot").or(row.git_root)),
        host: row.host.clone(),
        everywhere: false,
        renew: true,
    };
    if let Some(lock) = mesh.obstacles(&want).next() {
        return Err(mesh.held(lock, &want, ctx.now));
    }
    mesh.grant(&want, ctx.now)?;
    Ok(Outcome::Ready(json!({ "ok": true, "you": { "id": id, "name": row.name } })))
}

fn mail(mesh: &mut Mesh, ctx: &CallContext, args: &Args) -> Result<Outcome, Error> {
    let id = mesh.session_of_hook(ctx, args)?;
    let direct = args.flag("direct").unwrap_or(false);
    let pick = MessageFilter { to: Some(&id), unread: true, direct, limit: SHOWN_MAX * 2, ..MessageFilter::default() };
    mesh.taken.retain(|_, (at, _)| ctx.now - *at < TAKEN_MS);
    let free = |m: &Message, mesh: &Mesh| m.expires.is_none_or(|at| at > ctx.now) && !mesh.taken.contains_key(&m.seq);
    let mut found = mesh.store.messages(&pick)?;
    found.retain(|message| free(message, mesh));
    found.truncate(SHOWN_MAX as usize);
    let mut rows = Vec::new();
    for message in &found {
        rows.push(mesh.inbox_value(message, "unread"));
        if args.flag("peek") == Some(true) {
            continue;
        }
        mesh.taken.insert(message.seq, (ctx.now, ctx.conn));
        mesh.offer(message, "hook", ctx.now)?;
    }
    if args.flag("spoken") == Some(true) {
        mesh.person_spoke(&id);
    }
    if !direct || !rows.is_empty() {
        // One that asks as it stops goes on if there is something to go on with.
        mesh.turn_runs(&id, Some(ctx.now));
    }
    let unread = mesh.unread(&id)? - rows.len() as i64;
    let mut value =
        json!({ "ok": true, "you": { "id": id, "name": mesh.name_of(&id) }, "messages": rows, "remaining": unread });
    if args.flag("around") == Some(true) {
        (value["peers"], value["locks"]) = mesh.around_session(&id, ctx.now);
    }
    Ok(Outcome::Ready(value))
}

fn end(mesh: &mut Mesh, ctx: &CallContext, args: &Args) -> Result<Outcome, Error> {
    let Some(id) = mesh.known_session(ctx, args) else { return Ok(Outcome::Ready(json!({ "ok": true }))) };
    let leaves = args.flag("leave").unwrap_or(false);
    mesh.turn_runs(&id, None);
    if leaves {
        mesh.end_wakes(&id, None);
    }
    let falls = |bound: &str| bound == request::TURN || leaves && request::is_soft(bound);
    let reason = if leaves { "clean_exit" } else { "the turn ended" };
    mesh.free_locks(|lock| lock.holder == id && falls(&lock.bound), reason, ctx.now)?;
    if let Some(peer) = mesh.peer_mut(&id).filter(|_| leaves) {
        // Its name and its mailbox are free for the next session here.
        peer.process = None;
    }
    Ok(Outcome::Ready(json!({ "ok": true })))
}

impl Mesh {
    /// Notes that a session's turn runs, as of now, or that it has ended.
    fn turn_runs(&mut self, id: &str, now: Option<i64>) {
        if let Some(peer) = self.peer_mut(id) {
            peer.turn = now;
        }
        if now.is_none() {
            // Whoever would wake it may look again.
            self.stirred.mail.insert(id.to_owned());
        }
    }

    /// The session whose hook asks, if it is known: by the agent's key, else by the agent process
    /// that stands above both the hook and the session's MCP server.
    fn known_session(&mut self, ctx: &CallContext, args: &Args) -> Option<String> {
        let (agent, key) = (args.word("agent"), args.word("session"));
        let has_key = |peer: &Peer| peer.row.session == key || peer.keys.iter().any(|known| known == key);
        let by_key = self.peers.iter().find(|peer| !key.is_empty() && peer.row.agent == agent && has_key(peer));
        if let Some(peer) = by_key {
            return Some(peer.row.id.clone());
        }
        let id = self.session_above(ctx, agent, key)?;
        if let Some(peer) = self.peer_mut(&id) {
            // After /clear an agent has a new key, and its MCP server still the old one.
            peer.keys.push(key.to_owned());
            if peer.keys.len() > 8 {
                peer.keys.remove(0);
            }
        }
        Some(id)
    }

    /// The one session of the agent process above a hook: that one process alone, since an agent
    /// may have been started by another. Where it carries many threads, each with its key, only one
    /// that told no key yet can be meant.
    fn session_above(&self, ctx: &CallContext, agent: &str, key: &str) -> Option<String> {
        let above = ctx.chain.iter().find(|process| !process.wrapper)?;
        let is_above = |process: Option<crate::base::process::Process>| {
            process.is_some_and(|process| (process.pid, process.start) == (above.pid, above.start))
        };
        let seated = self.seats.values().filter(|seat| is_above(seat.agent)).flat_map(|seat| seat.peers.clone());
        let unseated = self.peers.iter().filter(|peer| peer.seats == 0 && is_above(peer.process));
        let mut ids: Vec<String> = seated.chain(unseated.map(|peer| peer.row.id.clone())).collect();
        ids.sort();
        ids.dedup();
        let fits = |row: &PeerRow| {
            // Several agents run Claude's hooks as well as their own.
            let speaks = row.agent == agent || agent == "claude-code";
            let other_thread = row.agent == "codex" && !row.session.is_empty() && row.session != key;
            speaks && !other_thread
        };
        ids.retain(|id| self.peer(id).is_some_and(|peer| fits(&peer.row)));
        match &ids[..] {
            [id] => Some(id.clone()),
            _ => None,
        }
    }

    /// The session whose hook asks; one that is not known becomes a peer, to be taken up by the MCP
    /// server of the same session when that comes.
    pub(crate) fn session_of_hook(&mut self, ctx: &CallContext, args: &Args) -> Result<String, Error> {
        if let Some(id) = self.known_session(ctx, args) {
            if let Some(peer) = self.peer_mut(&id) {
                peer.active = ctx.now;
            }
            return Ok(id);
        }
        let text = |name| args.text(name).filter(|text| !text.is_empty()).map(str::to_owned);
        let row = PeerRow {
            kind: "session".into(),
            agent: args.word("agent").to_owned(),
            project: args.word("project").to_owned(),
            git_root: text("gitRoot"),
            git_branch: text("gitBranch"),
            repo: text("repo"),
            host: self.host_of(ctx.conn),
            session: args.word("session").to_owned(),
            started: ctx.now,
            seen: ctx.now,
            ..PeerRow::default()
        };
        let process = ctx.chain.iter().find(|process| !process.wrapper).copied();
        self.add_unseated(row, process, ctx.now)
    }

    /// Who else works in a session's repository, and what is locked there, in a few lines' worth.
    fn around_session(&self, id: &str, now: i64) -> (Value, Value) {
        let repo = self.peer(id).map(|peer| (peer.row.repo.clone(), peer.row.project.clone())).unwrap_or_default();
        let near = |peer: &&Peer| {
            peer.row.id != id
                && peer.is_here()
                && (repo.0.is_some() && peer.row.repo == repo.0 || peer.row.project == repo.1)
        };
        let peers = self.peers.iter().filter(near).take(8);
        let peers: Vec<Value> = peers
            .map(|p| json!({ "name": p.row.name, "branch": p.row.git_branch, "summary": p.row.summary }))
            .collect();
        let root = self.peer(id).and_then(|peer| peer.row.git_root.clone()).unwrap_or(repo.1);
        let here = |lock: &&crate::store::LockRow| lock.holder != id && lock.path.starts_with(&root);
        let locks: Vec<Value> = self.locks.iter().filter(here).take(8).map(|lock| self.lock_value(lock, now)).collect();
        (json!(peers), json!(locks))
    }
}
