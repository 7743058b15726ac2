//! Peers: who is here, who is away, what they are called, and who a caller is.
//!
//! A peer is a durable row; a connection that attaches to it takes a seat. A peer that registered
//! over HTTP lives by its heartbeats instead.

use super::op::Kind as Is;
use super::{Actor, Arg, Args, Call, Conn, Ctx, Done, Fault, Kind, Mesh, Op, Place, Settings, limits, time};
use crate::store::PeerRow;
use serde_json::{Value, json};

/// A process, as the kernel names it: its number alone is used again after a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Process {
    /// Process id.
    pub pid: i64,
    /// When it started, in the kernel's own unit.
    pub start: u64,
    /// A shell run for one command, `npx` and the like: it stands between an agent and its tool.
    pub wrapper: bool,
}

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
}

impl Peer {
    /// Whether it can be reached now.
    pub fn is_here(&self) -> bool {
        match self.row.kind.as_str() {
            "session" => self.seats > 0,
            "http" => self.row.here,
            _ => false,
        }
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
        self.left.map(|left| left + limits::GRACE_MS)
    }
}

/// A connection's place in the mesh.
#[derive(Debug, Default)]
pub struct Seat {
    /// The peers that it speaks for.
    pub peers: Vec<String>,
    /// The agent process above it.
    pub agent: Option<Process>,
    /// It did not answer for too long.
    pub mute: bool,
    /// Event types that it wants pushed.
    pub subscribed: Vec<String>,
    /// Keys of the locks that fall with it.
    pub bound: Vec<String>,
}

const SCOPES: &[&str] = &["machine", "directory", "repo"];
const WORD: Is = Is::Text { min: 0, max: limits::WORD_MAX };
const PATH: Is = Is::Text { min: 0, max: limits::PATH_MAX };

/// Lists peers.
pub static PEERS: Op = Op {
    name: "peers",
    summary: "List the agents on the mesh: id, name, agent, project, branch, what they do, unread mail, locks",
    args: &[
        Arg::new(
            "scope",
            Is::Choice(SCOPES),
            "machine = all; directory = same working directory; repo = same git repository",
        )
        .required(),
        Arg::new("includeAway", Is::Flag, "Also list peers that are away; their mailboxes still take mail")
            .short("all"),
        Arg::new("project", PATH, "Directory that scope compares with, if not the caller's own")
            .at(Place::Wire)
            .not_in_tool(),
        Arg::new("repo", PATH, "Repository that scope compares with, if not the caller's own")
            .at(Place::Wire)
            .not_in_tool(),
    ],
    actor: Actor::Welcome,
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
    actor: Actor::Needed,
    verb: Some("whoami"),
    tool: None,
    repeatable: true,
    run: whoami,
};

/// Sets a peer's summary.
pub static SUMMARY: Op = Op {
    name: "summary",
    summary: "Tell the other agents in a line or two what you are working on",
    args: &[Arg::new("summary", Is::Units { max: limits::SUMMARY_MAX }, "What you are working on")
        .required()
        .at(Place::Words)],
    actor: Actor::Needed,
    verb: Some("summary"),
    tool: Some(("summary", None)),
    repeatable: true,
    run: summary,
};

/// Takes a seat for a session.
pub static ATTACH: Op = Op {
    name: "attach",
    summary: "Take a place on the mesh over this connection; answers who you are",
    args: &[
        Arg::new("name", WORD, "Name wanted; else <agent>-<folder>").at(Place::Wire),
        Arg::new("agent", WORD, "Agent type").required().at(Place::Wire),
        Arg::new("project", PATH, "Working directory, absolute").required().at(Place::Wire),
        Arg::new("gitRoot", PATH, "Root of the work tree").at(Place::Wire),
        Arg::new("gitBranch", PATH, "Branch").at(Place::Wire),
        Arg::new("repo", PATH, "Repository identity").at(Place::Wire),
        Arg::new("session", WORD, "The agent's own key of this session").at(Place::Wire),
        Arg::new("id", WORD, "Id held before, to take up again").at(Place::Wire),
        Arg::new("pid", Is::Int { min: 0, max: i64::MAX }, "Process id").required().at(Place::Wire),
    ],
    actor: Actor::Welcome,
    verb: None,
    tool: None,
    repeatable: true,
    run: attach,
};

/// Gives a seat up in order.
pub static DETACH: Op = Op {
    name: "detach",
    summary: "Leave in order: locks free at once, mail goes on waiting",
    args: &[],
    actor: Actor::Welcome,
    verb: None,
    tool: None,
    repeatable: true,
    run: detach,
};

fn list(mesh: &mut Mesh, ctx: &Ctx, args: &Args) -> Result<Done, Fault> {
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
    let found: Vec<Peer> = mesh.peers.iter().filter(listed).filter(fits).cloned().collect();
    let mut rows = Vec::new();
    let (mut size, total) = (0, found.len());
    for peer in &found {
        let row = mesh.peer_value(peer, ctx.now)?;
        size += row.to_string().len();
        if size > limits::PAGE_MAX {
            break;
        }
        rows.push(row);
    }
    let mut value = json!({ "ok": true });
    if let Some(me) = me {
        value["you"] = json!({ "id": me.id, "name": me.name });
    }
    let n_left = total - rows.len();
    value["peers"] = json!(rows);
    if n_left > 0 {
        value["remaining"] = json!(n_left);
    }
    Ok(Done::Now(value))
}

fn whoami(mesh: &mut Mesh, ctx: &Ctx, _: &Args) -> Result<Done, Fault> {
    let peer = mesh.peer(ctx.me()).cloned().ok_or_else(|| no_peer(ctx.me()))?;
    let you = mesh.peer_value(&peer, ctx.now)?;
    Ok(Done::Now(json!({ "ok": true, "kind": peer.row.kind, "you": you })))
}

fn summary(mesh: &mut Mesh, ctx: &Ctx, args: &Args) -> Result<Done, Fault> {
    mesh.limit(ctx.me(), 1, ctx.now)?;
    mesh.set_summary(ctx.me(), args.word("summary"), ctx.now)?;
    Ok(Done::Now(json!({ "ok": true })))
}

fn attach(mesh: &mut Mesh, ctx: &Ctx, args: &Args) -> Result<Done, Fault> {
    let seat =
        mesh.seats.get(&ctx.conn).ok_or_else(|| Fault::new(Kind::Refused, "attach: this road carries no sessions"))?;
    if seat.peers.len() >= limits::SEAT_PEERS_MAX {
        return Err(Fault::new(
            Kind::Full,
            format!("one connection speaks for at most {} peers", limits::SEAT_PEERS_MAX),
        ));
    }
    let text = |name| args.text(name).filter(|text| !text.is_empty()).map(str::to_owned);
    let mut row = PeerRow {
        kind: "session".into(),
        agent: args.word("agent").to_owned(),
        project: args.word("project").to_owned(),
        git_root: text("gitRoot"),
        git_branch: text("gitBranch"),
        repo: text("repo"),
        host: mesh.settings.host.clone(),
        pid: args.int("pid").unwrap_or(0),
        session: text("session").unwrap_or_default(),
        started: ctx.now,
        ..PeerRow::default()
    };
    let wanted = text("name").unwrap_or_else(|| default_name(&row));
    let found = mesh.find_returning(&row, &wanted, text("id").as_deref());
    if let Some(old) = found.and_then(|id| mesh.peer(&id)) {
        row = PeerRow {
            id: old.row.id.clone(),
            name: old.row.name.clone(),
            summary: old.row.summary.clone(),
            started: old.row.started,
            ..row
        };
    } else {
        mesh.make_room(ctx.now)?;
        row.id = mesh.fresh_uuid();
        row.name = mesh.free_name(&wanted);
    }
    let id = row.id.clone();
    let name = row.name.clone();
    mesh.seat_peer(ctx.conn, row, ctx.now)?;
    let (unread, last) = (mesh.unread(&id)?, mesh.store.tally.event_last);
    Ok(Done::Now(json!({ "ok": true, "you": { "id": id, "name": name }, "unread": unread, "seq": last })))
}

fn detach(mesh: &mut Mesh, ctx: &Ctx, _: &Args) -> Result<Done, Fault> {
    mesh.leave(ctx.conn, "clean_exit", ctx.now)?;
    Ok(Done::Now(json!({ "ok": true })))
}

/// The fault for a peer that nobody knows.
pub fn no_peer(name: &str) -> Fault {
    let name: String = name.chars().take(80).collect();
    Fault::not_found(format!("no peer is called {name}; see who is there with mesh_peers (slm-mesh peers --all)"))
}

/// `claude-api` for a Claude Code in …/api.
fn default_name(row: &PeerRow) -> String {
    let agent = match row.agent.as_str() {
        "claude-code" => "claude",
        "unknown" | "" => "agent",
        agent => agent,
    };
    let folder = row.project.trim_end_matches('/').rsplit('/').next().unwrap_or("");
    let plain = |c: char| if c.is_alphanumeric() || "._-".contains(c) { c } else { '-' };
    let folder: String = folder.chars().map(plain).take(40).collect();
    if folder.is_empty() { agent.to_owned() } else { format!("{agent}-{folder}") }
}

/// Whether `name` is `base` or `base-N`.
fn is_numbered(name: &str, base: &str) -> bool {
    let rest = name.strip_prefix(base);
    rest.is_some_and(|rest| rest.is_empty() || rest.strip_prefix('-').is_some_and(|n| n.parse::<u32>().is_ok()))
}

impl Mesh {
    /// The peer with this id.
    pub fn peer(&self, id: &str) -> Option<&Peer> {
        self.peers.iter().find(|peer| peer.row.id == id)
    }

    /// All peers, oldest first.
    pub fn roster(&self) -> &[Peer] {
        &self.peers
    }

    /// Ids of the peers that take pushes on a Unix socket of their own.
    pub fn listeners(&self) -> Vec<String> {
        let listens = |peer: &&Peer| peer.row.uds_path.is_some() && peer.row.here;
        self.peers.iter().filter(listens).map(|peer| peer.row.id.clone()).collect()
    }

    pub(super) fn peer_mut(&mut self, id: &str) -> Option<&mut Peer> {
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

    /// A connection is open; it speaks for nobody yet.
    pub fn joined(&mut self, conn: Conn) {
        self.seats.insert(conn, Seat::default());
    }

    /// Notes the agent process that the transport proved to stand above a connection.
    pub fn prove(&mut self, conn: Conn, chain: &[Process]) {
        if let Some(seat) = self.seats.get_mut(&conn) {
            seat.agent = chain.iter().find(|process| !process.wrapper).copied();
        }
    }

    /// Whether any session is attached: only then can a caller be inside one.
    pub fn has_sessions(&self) -> bool {
        self.seats.values().any(|seat| !seat.peers.is_empty())
    }

    /// Whether a connection speaks for a peer.
    pub fn is_attached(&self, conn: Conn) -> bool {
        self.seats.get(&conn).is_some_and(|seat| !seat.peers.is_empty())
    }

    /// A connection is gone. Peers learn of it now; its locks wait a short grace.
    pub fn left(&mut self, conn: Conn, now: i64) {
        self.waits.retain(|wait| wait.ctx.conn != conn);
        // On a failing disk the row stays as it was; memory is what decides who is here.
        let _ = self.scoped(|mesh| mesh.leave(conn, "disconnected", now));
        self.seats.remove(&conn);
        self.settle(now);
    }

    /// A connection does not answer, or answers again.
    pub fn mute(&mut self, conn: Conn, mute: bool, now: i64) {
        let Some(seat) = self.seats.get_mut(&conn).filter(|seat| seat.mute != mute) else { return };
        seat.mute = mute;
        for id in seat.peers.clone() {
            let result =
                self.scoped(|mesh| if mute { mesh.rise(&id, "not_answering", now) } else { mesh.sit(&id, now) });
            if let Err(fault) = result {
                self.out.push(super::Out::Notice { conn: 0, method: "log", params: json!(fault.text) });
            }
        }
        self.settle(now);
    }

    fn leave(&mut self, conn: Conn, reason: &str, now: i64) -> Result<(), Fault> {
        let Some(seat) = self.seats.get_mut(&conn) else { return Ok(()) };
        let (peers, bound, mute) = (std::mem::take(&mut seat.peers), std::mem::take(&mut seat.bound), seat.mute);
        for id in peers {
            if !mute {
                self.rise(&id, reason, now)?;
            }
            if reason == "clean_exit" && self.peer(&id).is_some_and(|peer| peer.seats == 0) {
                self.free_locks(|lock| lock.holder == id && lock.bound.is_empty(), reason, now)?;
            }
        }
        if !bound.is_empty() {
            self.free_locks(|lock| bound.contains(&lock.bound), reason, now)?;
        }
        Ok(())
    }

    /// A seat of a peer is lost; without any it is away.
    fn rise(&mut self, id: &str, reason: &str, now: i64) -> Result<(), Fault> {
        let Some(peer) = self.peer_mut(id) else { return Ok(()) };
        peer.seats = peer.seats.saturating_sub(1);
        if peer.seats > 0 {
            return Ok(());
        }
        peer.left = Some(now);
        peer.row.here = false;
        peer.row.seen = now;
        let row = peer.row.clone();
        self.store.put_peer(&row)?;
        self.emit("peer_left", id, json!({ "peerId": id, "name": row.name, "reason": reason }), now)
    }

    /// A peer gets a seat; its first one makes it join.
    fn sit(&mut self, id: &str, now: i64) -> Result<(), Fault> {
        let Some(peer) = self.peer_mut(id) else { return Ok(()) };
        peer.seats += 1;
        peer.left = None;
        peer.active = now;
        let joins = !peer.row.here;
        peer.row.here = true;
        peer.row.seen = now;
        let row = peer.row.clone();
        self.store.put_peer(&row)?;
        if !joins {
            return Ok(());
        }
        self.emit_joined(&row, now)
    }

    fn emit_joined(&mut self, row: &PeerRow, now: i64) -> Result<(), Fault> {
        let payload = json!({ "peerId": row.id, "name": row.name, "agentType": row.agent, "projectPath": row.project });
        self.emit("peer_joined", &row.id, payload, now)
    }

    fn seat_peer(&mut self, conn: Conn, row: PeerRow, now: i64) -> Result<(), Fault> {
        let id = row.id.clone();
        match self.peer_mut(&id) {
            Some(peer) => peer.row = PeerRow { here: peer.row.here, ..row },
            None => self.peers.push(Peer { row, seats: 0, heard: now, active: now, left: None }),
        }
        let seat = self.seats.entry(conn).or_default();
        if seat.peers.contains(&id) {
            return Ok(());
        }
        seat.peers.push(id.clone());
        self.sit(&id, now)
    }

    /// The peer that a session was before: by its id, its agent's key, or its name.
    fn find_returning(&self, row: &PeerRow, wanted: &str, id: Option<&str>) -> Option<String> {
        let ours = || self.peers.iter().filter(|peer| peer.row.kind == "session");
        let by_id = ours().find(|peer| Some(peer.row.id.as_str()) == id);
        let by_key = || {
            ours()
                .find(|peer| !row.session.is_empty() && peer.row.session == row.session && peer.row.agent == row.agent)
        };
        let same = |peer: &&Peer| {
            peer.row.agent == row.agent && peer.row.project == row.project && is_numbered(&peer.row.name, wanted)
        };
        let by_name = || ours().filter(|peer| peer.seats == 0).filter(same).min_by_key(|peer| peer.row.name.len());
        by_id.or_else(by_key).or_else(by_name).map(|peer| peer.row.id.clone())
    }

    /// `wanted`, or the first of `wanted-2`, `-3` … that nobody has.
    fn free_name(&self, wanted: &str) -> String {
        let is_free = |name: &str| self.peers.iter().all(|peer| peer.row.name != name) && !is_reserved(name);
        let numbered = (2..).map(|n| format!("{wanted}-{n}"));
        std::iter::once(wanted.to_owned())
            .chain(numbered)
            .find(|name| is_free(name))
            .unwrap_or_else(|| wanted.to_owned())
    }

    /// Makes room for one more peer by forgetting one that is away with nothing waiting for it.
    fn make_room(&mut self, now: i64) -> Result<(), Fault> {
        if self.peers.len() < limits::PEERS_MAX {
            return Ok(());
        }
        self.forget_peers(now + limits::AWAY_KEPT_MS)?;
        if self.peers.len() < limits::PEERS_MAX {
            return Ok(());
        }
        Err(Fault::new(
            Kind::Full,
            format!("the mesh knows {} peers already; stop some that are not needed", limits::PEERS_MAX),
        ))
    }

    /// Forgets peers that have been away for long and for whom nothing waits.
    pub(super) fn forget_peers(&mut self, now: i64) -> Result<(), Fault> {
        let long_gone =
            |peer: &&Peer| !peer.is_here() && peer.row.kind != "human" && now - peer.row.seen > limits::AWAY_KEPT_MS;
        let ids: Vec<String> = self.peers.iter().filter(long_gone).map(|peer| peer.row.id.clone()).collect();
        for id in ids {
            if self.unread(&id)? == 0 && self.locks.iter().all(|lock| lock.holder != id) {
                self.store.drop_peer(&id)?;
                self.peers.retain(|peer| peer.row.id != id);
            }
        }
        Ok(())
    }

    /// Sets what a peer says it does.
    pub fn set_summary(&mut self, id: &str, summary: &str, now: i64) -> Result<(), Fault> {
        let peer = self.peer_mut(id).ok_or_else(|| no_peer(id))?;
        peer.row.summary = summary.to_owned();
        let row = peer.row.clone();
        self.store.put_peer(&row)?;
        self.emit("peer_updated", id, json!({ "peerId": id, "name": row.name, "summary": summary }), now)
    }

    /// Finds a peer by id, name or unambiguous prefix.
    pub fn resolve(&self, name: &str) -> Result<String, Fault> {
        if ["human", "cli"].contains(&name) {
            return Ok(self.human.clone());
        }
        let named =
            |fits: &dyn Fn(&PeerRow) -> bool| self.peers.iter().filter(|peer| fits(&peer.row)).collect::<Vec<_>>();
        let rings: [&dyn Fn(&PeerRow) -> bool; 3] = [&|row| row.id == name, &|row| row.name == name, &|row| {
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
                    let names: Vec<_> =
                        found.iter().take(8).map(|peer| format!("{} ({:.8})", peer.row.name, peer.row.id)).collect();
                    let text = format!("{name} fits several peers: {}; say which", names.join(", "));
                    return Err(Fault::new(Kind::Ambiguous, text));
                }
            }
        }
        Err(no_peer(name))
    }

    /// Who calls: the peer of its seat, the one it names, the session around it, or the human.
    pub(super) fn actor(&mut self, call: &Call, _now: i64) -> Result<Option<String>, Fault> {
        let seat = self.seats.get(&call.conn);
        let own = seat.map(|seat| seat.peers.as_slice()).unwrap_or_default();
        match (&call.acting, own) {
            (None, [only]) => Ok(Some(only.clone())),
            (Some(name), [_, ..]) => {
                let id = self.resolve(name)?;
                let text = "a session acts only as the peers that it attached";
                own.contains(&id).then_some(Some(id)).ok_or_else(|| Fault::new(Kind::Refused, text))
            }
            (None, [_, _, ..]) => Err(Fault::usage("as", "this connection speaks for several peers; name one")),
            (Some(name), []) => self.resolve(name).map(Some),
            (None, []) if call.op.actor == Actor::Welcome && call.chain.is_empty() => Ok(None),
            (None, []) => self.around(&call.chain).map(|id| Some(id.unwrap_or_else(|| self.human.clone()))),
        }
    }

    /// The session whose agent process is the nearest above a caller.
    fn around(&self, chain: &[Process]) -> Result<Option<String>, Fault> {
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
                    let names: Vec<_> = ids.iter().map(|id| self.name_of(id)).collect();
                    let text =
                        format!("this shell belongs to several sessions: {}; say which with --as", names.join(", "));
                    return Err(Fault::new(Kind::Ambiguous, text));
                }
            }
        }
        Ok(None)
    }

    pub(super) fn load_peers(&mut self, now: i64) -> Result<(), Fault> {
        let old = std::mem::take(&mut self.peers);
        for row in self.store.peers()? {
            let known = old.iter().find(|peer| peer.row.id == row.id);
            // After a crash a session has its grace to come back before anybody hears that it left.
            let left = known.map_or((row.here && row.kind == "session").then_some(now), |peer| peer.left);
            let (heard, active) = known.map_or((now, row.seen), |peer| (peer.heard, peer.active));
            self.peers.push(Peer { seats: 0, heard, active, left, row });
        }
        let ids: Vec<String> = self.peers.iter().map(|peer| peer.row.id.clone()).collect();
        for seat in self.seats.values_mut() {
            seat.peers.retain(|id| ids.contains(id));
        }
        let seated: Vec<String> =
            self.seats.values().filter(|seat| !seat.mute).flat_map(|seat| seat.peers.clone()).collect();
        for id in seated {
            if let Some(peer) = self.peer_mut(&id) {
                (peer.seats, peer.row.here, peer.left) = (peer.seats + 1, true, None);
            }
        }
        Ok(())
    }

    /// The human at this machine is a peer, too: agents can write to it from the first moment.
    pub(super) fn settle_human(&mut self, now: i64) -> Result<(), Fault> {
        if let Some(peer) = self.peers.iter().find(|peer| peer.row.kind == "human") {
            self.human = peer.row.id.clone();
            return Ok(());
        }
        let row = PeerRow {
            id: self.fresh_uuid(),
            name: self.free_name(&self.settings.user.clone()),
            kind: "human".into(),
            agent: "human".into(),
            host: self.settings.host.clone(),
            started: now,
            seen: now,
            ..PeerRow::default()
        };
        self.human = row.id.clone();
        self.store.put_peer(&row)?;
        self.peers.push(Peer { row, seats: 0, heard: now, active: now, left: None });
        Ok(())
    }

    /// Whether this id is the human's.
    pub fn is_human(&self, id: &str) -> bool {
        id == self.human
    }

    /// A peer as clients see it: the keys of the old HTTP API first, then ours.
    pub fn peer_value(&mut self, peer: &Peer, now: i64) -> Result<Value, Fault> {
        let row = &peer.row;
        let seen = match row.kind.as_str() {
            "http" => peer.heard,
            _ if peer.is_here() => now,
            _ => row.seen,
        };
        let locks: Vec<&str> =
            self.locks.iter().filter(|lock| lock.holder == row.id).map(|lock| lock.path.as_str()).take(8).collect();
        let (status, locks) = (peer.status(&self.settings, now), json!(locks));
        Ok(json!({
            "id": row.id, "name": row.name, "pid": row.pid, "projectPath": row.project,
            "gitRoot": row.git_root, "gitBranch": row.git_branch, "agentType": row.agent, "summary": row.summary,
            "udsPath": row.uds_path, "startedAt": time::iso(row.started), "lastHeartbeat": time::iso(seen),
            "status": status, "host": row.host, "unread": self.unread(&row.id)?,
            "idleSeconds": (now - peer.active).max(0) / 1000, "locks": locks,
        }))
    }

    // The life of peers over HTTP, for the frozen adapter.

    /// Registers an HTTP peer. One with a name takes up the mailbox of the same name, project and
    /// agent that is away; all others are new.
    pub fn register(&mut self, mut row: PeerRow, now: i64) -> Result<PeerRow, Fault> {
        self.limit("registrations", 10, now)?;
        let named = !row.name.is_empty() && row.name != "auto";
        let same = |peer: &&Peer| {
            peer.row.kind == "http"
                && !peer.row.here
                && peer.row.name == row.name
                && peer.row.project == row.project
                && peer.row.agent == row.agent
        };
        let old = named.then(|| self.peers.iter().find(same)).flatten();
        row.id = old.map_or_else(String::new, |peer| peer.row.id.clone());
        let is_new = row.id.is_empty();
        if is_new {
            self.make_room(now)?;
            row.id = self.fresh_uuid();
        }
        if row.name == "auto" {
            row.name = format!("peer-{}", &row.id[..6]);
        }
        row.kind = "http".into();
        row.host = self.settings.host.clone();
        (row.started, row.seen, row.here) = (now, now, true);
        self.peers.retain(|peer| peer.row.id != row.id);
        self.peers.push(Peer { row: row.clone(), seats: 0, heard: now, active: now, left: None });
        self.store.put_peer(&row)?;
        self.emit_joined(&row, now)?;
        Ok(row)
    }

    /// Takes a heartbeat; false when the peer is unknown or gone.
    pub fn heartbeat(&mut self, id: &str, now: i64) -> Result<bool, Fault> {
        let Some(peer) = self.peers.iter_mut().find(|peer| peer.row.id == id && peer.row.kind == "http") else {
            return Ok(self.peer(id).is_some_and(Peer::is_here));
        };
        peer.heard = now;
        if peer.row.here {
            return Ok(true);
        }
        peer.row.here = true;
        let row = peer.row.clone();
        self.store.put_peer(&row)?;
        self.emit_joined(&row, now)?;
        Ok(true)
    }

    /// An HTTP peer leaves in order. One with a name of its own keeps its mailbox.
    pub fn unregister(&mut self, id: &str, reason: &str, now: i64) -> Result<(), Fault> {
        self.legacy_subscriptions.remove(id);
        let Some(peer) = self.peer_mut(id).filter(|peer| peer.row.kind == "http") else { return Ok(()) };
        let was_here = std::mem::replace(&mut peer.row.here, false);
        (peer.row.seen, peer.row.uds_path) = (now, None);
        let row = peer.row.clone();
        self.free_locks(|lock| lock.holder == row.id, reason, now)?;
        if row.name.is_empty() || row.name == format!("peer-{}", row.id.get(..6).unwrap_or("")) {
            self.store.drop_peer(id)?;
            self.peers.retain(|peer| peer.row.id != id);
            self.unread.remove(id);
        } else {
            self.store.put_peer(&row)?;
        }
        if was_here {
            self.emit("peer_left", id, json!({ "peerId": id, "reason": reason }), now)?;
        }
        Ok(())
    }

    /// Peers whose time is up: HTTP peers without heartbeat, sessions whose grace is over.
    pub(super) fn expire_peers(&mut self, now: i64) -> Result<(), Fault> {
        let due = |peer: &&Peer| peer.deadline(&self.settings).is_some_and(|at| at <= now);
        let ids: Vec<(String, String)> =
            self.peers.iter().filter(due).map(|peer| (peer.row.id.clone(), peer.row.kind.clone())).collect();
        for (id, kind) in ids {
            if kind == "http" {
                self.unregister(&id, "dead_timeout", now)?;
                continue;
            }
            let Some(peer) = self.peer_mut(&id) else { continue };
            peer.left = None;
            let unannounced = std::mem::replace(&mut peer.row.here, false);
            let row = peer.row.clone();
            if unannounced {
                self.store.put_peer(&row)?;
                self.emit("peer_left", &id, json!({ "peerId": id, "name": row.name, "reason": "lost" }), now)?;
            }
            self.free_locks(|lock| lock.holder == id && lock.bound.is_empty(), "holder is gone", now)?;
        }
        Ok(())
    }
}

/// Names that mean something else where a peer is expected.
fn is_reserved(name: &str) -> bool {
    ["all", "repo", "directory", "human", "cli"].contains(&name) || name.contains(':') || name.contains('/')
}
