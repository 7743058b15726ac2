//! Peers: who is here, who is away, what they are called, and who a caller is.
//!
//! A peer is a durable row; a connection that attaches to it takes a seat. A peer that registered
//! over HTTP lives by its heartbeats instead.

pub mod registry;
pub mod sessions;

use crate::base::error::{Error, ErrorKind};
use crate::base::process::Process;
use crate::base::{limits, time};
use crate::core::op::ArgKind;
use crate::core::{Arg, Args, Auth, Call, CallContext, CliPlace, Mesh, Op, Outcome, Settings, pagination};
use crate::store::PeerRow;
use serde_json::{Value, json};

/// A peer, with what only memory knows.
#[derive(Debug, Clone)]
pub struct Peer {
    /// Its durable row.
    pub row: PeerRow,
    /// Connections that attached to it and answer.
    pub seats: usize,
    /// Last heartbeat of an HTTP peer, ms.
    pub heard: i64,
    /// Its last call, ms.
    pub active: i64,
    /// When its last seat was lost, until its grace is over, ms.
    pub left: Option<i64>,
    /// It was here when an earlier broker ended; nobody has seen it leave.
    pub doubtful: bool,
    /// The agent process whose hook made it known before any connection did.
    pub process: Option<Process>,
    /// The last sign of a running turn from its hooks, ms.
    pub turn: Option<i64>,
    /// Further keys that its agent has for it.
    pub keys: Vec<String>,
}

impl Peer {
    /// A peer without a seat.
    pub fn new(row: PeerRow, now: i64) -> Peer {
        Peer {
            row,
            seats: 0,
            heard: now,
            active: now,
            left: None,
            doubtful: false,
            process: None,
            turn: None,
            keys: Vec::new(),
        }
    }

    /// Whether it can be reached now.
    pub fn is_here(&self) -> bool {
        match self.row.kind.as_str() {
            "session" => self.seats > 0,
            "http" | "link" => self.row.here,
            _ => false,
        }
    }

    /// Whether this is a session that nobody is behind any more: its connection is gone or silent,
    /// and no hook of a live agent speaks for it.
    pub fn is_gone(&self) -> bool {
        self.row.kind == "session" && self.seats == 0 && (self.left.is_some() || self.process.is_none())
    }

    /// `active`, `stale` or `away`.
    pub fn status(&self, settings: &Settings, now: i64) -> &'static str {
        match self.row.kind.as_str() {
            "http" if self.row.here && now - self.heard >= settings.stale_ms => "stale",
            _ if self.is_here() => "active",
            _ => "away",
        }
    }

    /// When the passing of time changes something about it, ms.
    pub fn deadline(&self, settings: &Settings) -> Option<i64> {
        if self.row.kind == "http" && self.row.here {
            return Some(self.heard + settings.dead_ms);
        }
        let grace = if self.row.host == settings.host { limits::GRACE_MS } else { limits::FAR_GRACE_MS };
        self.left.map(|left| left + grace)
    }
}

/// More rows fit no page: the keys alone of one have this many bytes.
const PAGE_ROWS: usize = limits::PAGE_MAX / 200;
/// Peers that an error names, where a name or a shell fits several.
const NAMED_MAX: usize = 8;
/// The kind of a peer's row that belongs to another mesh.
pub const LINKED: &str = "link";

const SCOPES: &[&str] = &["machine", "directory", "repo"];
const PATH: ArgKind = ArgKind::Text { min: 0, max: limits::PATH_MAX };

/// Lists peers.
pub static PEERS: Op = Op {
    name: "peers",
    summary: "List the agents on the mesh: id, name, agent, project, branch, what they do, unread mail, locks",
    args: &[
        Arg::new(
            "scope",
            ArgKind::Choice(SCOPES),
            "machine = all; directory = same working directory; repo = same git repository",
        )
        .required(),
        Arg::new("includeAway", ArgKind::Flag, "Also list peers that are away; their mailboxes still take mail")
            .short("all"),
        Arg::new("after", ArgKind::Text { min: 1, max: limits::WORD_MAX }, "Go on here: the next of the last answer")
            .not_in_tool(),
        Arg::new("project", PATH, "Directory that scope compares with, if not the caller's own")
            .at(CliPlace::Hidden)
            .not_in_tool(),
        Arg::new("repo", PATH, "Repository that scope compares with, if not the caller's own")
            .at(CliPlace::Hidden)
            .not_in_tool(),
    ],
    actor: Auth::Optional,
    verb: Some("peers"),
    tool: Some(("peers", None)),
    repeatable: true,
    run: list,
};

/// Tells a caller who it is.
pub static WHOAMI: Op = Op {
    name: "whoami",
    summary: "Tell as whom you act: id, name, and whether you are an agent or the human",
    args: &[],
    actor: Auth::Required,
    verb: Some("whoami"),
    tool: None,
    repeatable: true,
    run: whoami,
};

/// Sets a peer's summary.
pub static SUMMARY: Op = Op {
    name: "summary",
    summary: "Tell the other agents in a line or two what you are working on",
    args: &[Arg::new("summary", ArgKind::Units { max: limits::SUMMARY_MAX }, "What you are working on")
        .required()
        .at(CliPlace::Rest)],
    actor: Auth::Required,
    verb: Some("summary"),
    tool: Some(("summary", None)),
    repeatable: true,
    run: summary,
};

fn list(mesh: &mut Mesh, ctx: &CallContext, args: &Args) -> Result<Outcome, Error> {
    let me = ctx.actor.as_deref().and_then(|id| mesh.peer(id)).map(|peer| peer.row.clone());
    let project = args.text("project").or(me.as_ref().map(|me| me.project.as_str()));
    let repo = args.text("repo").or(me.as_ref().and_then(|me| me.repo.as_deref()));
    let scope = args.word("scope");
    let fits = |peer: &&Peer| match scope {
        "directory" => Some(peer.row.project.as_str()) == project,
        "repo" if repo.is_some() => peer.row.repo.as_deref() == repo,
        // Outside a repository, its directory is all that a peer shares.
        "repo" => Some(peer.row.project.as_str()) == project,
        _ => true,
    };
    let away = args.flag("includeAway").unwrap_or(false);
    let listed = |peer: &&Peer| Some(&peer.row.id) != ctx.actor.as_ref() && (away || peer.is_here());
    // Those that come stand behind those that were here, so that a page goes on where the last one ended,
    // also when peers came and went between them.
    let mut found: Vec<&Peer> = mesh.peers.iter().filter(listed).filter(fits).collect();
    found.sort_by_key(|peer| place(peer));
    if let Some(after) = args.text("after") {
        let after = pagination::read(after)?;
        found.retain(|peer| place(peer) > after);
    }
    let total = found.len();
    let found: Vec<Peer> = found.into_iter().take(PAGE_ROWS).cloned().collect();
    let (mut rows, mut size) = (Vec::new(), 0);
    for peer in &found {
        let row = mesh.peer_value(peer, ctx.now)?;
        size += row.to_string().len();
        if size > limits::PAGE_MAX && !rows.is_empty() {
            break;
        }
        rows.push(row);
    }
    let mut value = json!({ "ok": true });
    if let Some(me) = me {
        value["you"] = json!({ "id": me.id, "name": me.name });
    }
    let n_left = total - rows.len();
    pagination::mark(&mut value, n_left, rows.len().checked_sub(1).map(|last| place(&found[last])));
    value["peers"] = json!(rows);
    Ok(Outcome::Ready(value))
}

/// Where a peer stands in a list.
fn place(peer: &Peer) -> (i64, &str) {
    (peer.row.started, &peer.row.id)
}

fn whoami(mesh: &mut Mesh, ctx: &CallContext, _: &Args) -> Result<Outcome, Error> {
    let peer = mesh.peer(ctx.me()).cloned().ok_or_else(|| no_peer(ctx.me()))?;
    let you = mesh.peer_value(&peer, ctx.now)?;
    Ok(Outcome::Ready(json!({ "ok": true, "kind": peer.row.kind, "you": you })))
}

fn summary(mesh: &mut Mesh, ctx: &CallContext, args: &Args) -> Result<Outcome, Error> {
    mesh.limit(ctx.me(), 1, ctx.now)?;
    mesh.set_summary(ctx.me(), args.word("summary"), ctx.now)?;
    Ok(Outcome::Ready(json!({ "ok": true })))
}

/// The error for a peer that nobody knows.
pub fn no_peer(name: &str) -> Error {
    let name: String = name.chars().take(80).collect();
    Error::not_found(format!("no peer is called {name}; see who is there with mesh_peers (slm-mesh peers --all)"))
}

impl Mesh {
    /// The peer with this id.
    pub fn peer(&self, id: &str) -> Option<&Peer> {
        self.peers.iter().find(|peer| peer.row.id == id)
    }

    pub(crate) fn peer_mut(&mut self, id: &str) -> Option<&mut Peer> {
        self.peers.iter_mut().find(|peer| peer.row.id == id)
    }

    /// The name of a peer id, or the id itself for free text over HTTP.
    pub fn name_of(&self, id: &str) -> String {
        self.peer(id).map_or_else(|| id.to_owned(), |peer| peer.row.name.clone())
    }

    /// A new UUID v4.
    pub fn fresh_uuid(&mut self) -> String {
        let bits = (self.fresh)() & !(0xf << 76) & !(0x3 << 62) | (0x4 << 76) | (0x2 << 62);
        let hex = format!("{bits:032x}");
        format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
    }

    /// Sets what a peer says it does.
    pub fn set_summary(&mut self, id: &str, summary: &str, now: i64) -> Result<(), Error> {
        let peer = self.peer_mut(id).ok_or_else(|| no_peer(id))?;
        peer.row.summary = summary.to_owned();
        let row = peer.row.clone();
        self.store.put_peer(&row)?;
        self.emit("peer_updated", id, json!({ "peerId": id, "name": row.name, "summary": summary }), now)
    }

    /// Finds a peer by id, name or unambiguous prefix.
    pub fn resolve(&self, name: &str) -> Result<String, Error> {
        if ["human", "cli"].contains(&name) {
            return Ok(self.human.clone());
        }
        let named =
            |fits: &dyn Fn(&PeerRow) -> bool| self.peers.iter().filter(|peer| fits(&peer.row)).collect::<Vec<_>>();
        // What another mesh calls an id may be the name of one of ours.
        let is_own = |row: &PeerRow| row.kind != LINKED;
        let rings: [&dyn Fn(&PeerRow) -> bool; 4] =
            [&|row| row.id == name && is_own(row), &|row| row.name == name, &|row| row.id == name, &|row| {
                name.len() >= 2 && (row.name.starts_with(name) || row.id.starts_with(name))
            }];
        for ring in rings {
            let mut found = named(ring);
            if found.len() > 1 && found.iter().filter(|peer| peer.is_here()).count() == 1 {
                found.retain(|peer| peer.is_here());
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

    /// Who calls: the peer of its seat, the one it names, the session around it, or the human.
    pub(crate) fn actor(&self, call: &Call) -> Result<Option<String>, Error> {
        let seat = self.seats.get(&call.conn);
        let own = seat.map(|seat| seat.peers.as_slice()).unwrap_or_default();
        match (&call.acting, own) {
            (None, [only]) => Ok(Some(only.clone())),
            (Some(name), [_, ..]) => {
                let id = self.resolve(name)?;
                let text = "a session acts only as the peers that it attached";
                own.contains(&id).then_some(Some(id)).ok_or_else(|| Error::new(ErrorKind::Refused, text))
            }
            (None, [_, _, ..]) => Err(Error::usage("as", "this connection speaks for several peers; name one")),
            (Some(name), []) => self.own(self.resolve(name)?).map(Some),
            (None, []) if call.op.actor == Auth::Hook => Ok(None),
            (None, []) if call.op.actor == Auth::Optional && call.chain.is_empty() => Ok(None),
            // A list is answered to anybody, also where it can't be told to whom.
            (None, []) if call.op.actor == Auth::Optional => Ok(self.around(&call.chain).ok().flatten()),
            (None, []) => self.around(&call.chain).map(|id| Some(id.unwrap_or_else(|| self.human_of(call.conn)))),
        }
    }

    /// The id of a peer of this mesh: nobody acts as one of another.
    pub fn own(&self, id: String) -> Result<String, Error> {
        if self.peer(&id).is_some_and(|peer| peer.row.kind == LINKED) {
            let text = format!("{} is on another mesh; only there can anybody act as it", self.name_of(&id));
            return Err(Error::new(ErrorKind::Refused, text));
        }
        Ok(id)
    }

    /// The session whose agent process is the nearest above a caller.
    fn around(&self, chain: &[Process]) -> Result<Option<String>, Error> {
        for above in chain {
            let inside = self
                .seats
                .values()
                .filter(|seat| seat.agent.is_some_and(|agent| (agent.pid, agent.start) == (above.pid, above.start)));
            let mut ids: Vec<&String> = inside.flat_map(|seat| &seat.peers).collect();
            ids.sort();
            ids.dedup();
            match ids[..] {
                [] => continue,
                [id] => return Ok(Some(id.clone())),
                _ => {
                    let names: Vec<_> = ids.iter().take(NAMED_MAX).map(|id| self.name_of(id)).collect();
                    let more = if ids.len() > names.len() { " and others" } else { "" };
                    let text = format!(
                        "this shell belongs to several sessions: {}{more}; say which with --as",
                        names.join(", ")
                    );
                    return Err(Error::new(ErrorKind::Ambiguous, text));
                }
            }
        }
        Ok(None)
    }

    /// Whether this id is a human's.
    pub fn is_human(&self, id: &str) -> bool {
        id == self.human || self.peer(id).is_some_and(|peer| peer.row.kind == "human")
    }

    /// A peer as clients see it: the keys of the old HTTP API first, then ours.
    pub fn peer_value(&mut self, peer: &Peer, now: i64) -> Result<Value, Error> {
        let row = &peer.row;
        let seen = match row.kind.as_str() {
            "http" => peer.heard,
            _ if peer.is_here() => now,
            _ => row.seen,
        };
        let mut room = 1000;
        let fits = |path: &&str| {
            room -= path.len() as i64;
            room > 0
        };
        let held = self.locks.iter().filter(|lock| lock.holder == row.id).map(|lock| lock.path.as_str());
        let locks: Vec<&str> = held.take(8).take_while(fits).collect();
        let (status, locks) = (peer.status(&self.settings, now), json!(locks));
        let mut value = json!({
            "id": row.id, "name": row.name, "pid": row.pid, "projectPath": row.project,
            "gitRoot": row.git_root, "gitBranch": row.git_branch, "agentType": row.agent, "summary": row.summary,
            "udsPath": row.uds_path, "startedAt": time::iso(row.started), "lastHeartbeat": time::iso(seen),
            "status": status, "host": row.host, "unread": self.unread(&row.id)?,
            "idleSeconds": (now - peer.active).max(0) / 1000, "locks": locks,
        });
        if row.kind == LINKED {
            value["link"] = json!(row.session);
        }
        Ok(value)
    }
}

/// Names that mean something else where a peer is expected.
pub(crate) fn is_reserved(name: &str) -> bool {
    ["all", "repo", "directory", "human", "cli"].contains(&name) || name.contains(':') || name.contains('/')
}
