//! Seats: how a session takes a place on the mesh over its connection, comes back to it, and what
//! happens when the connection is lost.

use crate::base::error::{Error, ErrorKind};
use crate::base::limits;
use crate::base::process::Process;
use crate::core::op::ArgKind;
use crate::core::peers::{Peer, is_reserved};
use crate::core::{Arg, Args, Auth, CallContext, CliPlace, ConnId, Mesh, Op, Outcome};
use crate::store::PeerRow;
use serde_json::json;

const WORD: ArgKind = ArgKind::Text { min: 0, max: limits::WORD_MAX };
const PATH: ArgKind = ArgKind::Text { min: 0, max: limits::PATH_MAX };

/// A connection's place in the mesh.
#[derive(Debug, Default)]
pub struct Attachment {
    /// The peers that it speaks for.
    pub peers: Vec<String>,
    /// The agent process above it.
    pub agent: Option<Process>,
    /// It did not answer for too long.
    pub mute: bool,
    /// Another machine, from which it comes, and the human there.
    pub far: Option<(String, String)>,
    /// Event types that it wants pushed.
    pub subscribed: Vec<String>,
    /// The locks that fall with it: whose, and the key of the invocation.
    pub bound: Vec<(String, String)>,
}

/// Takes a seat for a session.
pub static ATTACH: Op = Op {
    name: "attach",
    summary: "Take a place on the mesh over this connection; answers who you are",
    args: &[
        Arg::new("name", WORD, "Name wanted; else <agent>-<folder>").at(CliPlace::Hidden),
        Arg::new("agent", WORD, "Agent type").required().at(CliPlace::Hidden),
        Arg::new("project", PATH, "Working directory, absolute").required().at(CliPlace::Hidden),
        Arg::new("gitRoot", PATH, "Root of the work tree").at(CliPlace::Hidden),
        Arg::new("gitBranch", PATH, "Branch").at(CliPlace::Hidden),
        Arg::new("repo", PATH, "Repository identity").at(CliPlace::Hidden),
        Arg::new("session", WORD, "The agent's own key of this session").at(CliPlace::Hidden),
        Arg::new("id", WORD, "Id held before, to take up again").at(CliPlace::Hidden),
        Arg::new("pid", ArgKind::Int { min: 0, max: i64::MAX }, "Process id").required().at(CliPlace::Hidden),
        Arg::new("script", ArgKind::Flag, "The caller itself is the peer, and no agent above it").at(CliPlace::Hidden),
    ],
    actor: Auth::Optional,
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
    actor: Auth::Optional,
    verb: None,
    tool: None,
    repeatable: true,
    run: detach,
};

fn attach(mesh: &mut Mesh, ctx: &CallContext, args: &Args) -> Result<Outcome, Error> {
    let seat = mesh
        .seats
        .get(&ctx.conn)
        .ok_or_else(|| Error::new(ErrorKind::Refused, "attach: this road carries no sessions"))?;
    if seat.peers.len() >= limits::SEAT_PEERS_MAX {
        return Err(Error::new(
            ErrorKind::Full,
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
        host: mesh.host_of(ctx.conn),
        pid: args.int("pid").unwrap_or(0),
        session: text("session").unwrap_or_default(),
        started: ctx.now,
        ..PeerRow::default()
    };
    let wanted = text("name").map_or_else(|| default_name(&row), |name| sayable(&name));
    let found = mesh.find_returning(ctx.conn, &row, &wanted, text("id").as_deref());
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
    let (unread, last) = (mesh.unread(&id)?, mesh.store.counters.event_last);
    Ok(Outcome::Ready(json!({ "ok": true, "you": { "id": id, "name": name }, "unread": unread, "seq": last })))
}

fn detach(mesh: &mut Mesh, ctx: &CallContext, _: &Args) -> Result<Outcome, Error> {
    mesh.leave(ctx.conn, "clean_exit", ctx.now)?;
    Ok(Outcome::Ready(json!({ "ok": true })))
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
    sayable(&if folder.is_empty() { agent.to_owned() } else { format!("{agent}-{folder}") })
}

/// A name without the signs that mean something else where a peer is expected: no number behind it
/// would make it free.
fn sayable(name: &str) -> String {
    name.replace([':', '/'], "-")
}

/// Whether two sessions are of one agent in one place.
fn is_alike(a: &PeerRow, b: &PeerRow) -> bool {
    (&a.agent, &a.project, &a.host) == (&b.agent, &b.project, &b.host)
}

/// Whether `name` is `base` or `base-N`.
fn is_numbered(name: &str, base: &str) -> bool {
    let rest = name.strip_prefix(base);
    rest.is_some_and(|rest| rest.is_empty() || rest.strip_prefix('-').is_some_and(|n| n.parse::<u32>().is_ok()))
}

impl Mesh {
    /// A connection is open; it speaks for nobody yet.
    pub fn joined(&mut self, conn: ConnId) {
        self.seats.insert(conn, Attachment::default());
    }

    /// Notes the agent process that the transport proved to stand above a connection.
    pub fn prove(&mut self, conn: ConnId, chain: &[Process]) {
        if let Some(seat) = self.seats.get_mut(&conn) {
            seat.agent = chain.iter().find(|process| !process.wrapper).copied();
        }
    }

    /// A connection comes from another machine; the human there is a peer of its own.
    pub fn comes_from(&mut self, conn: ConnId, host: &str, user: &str, now: i64) -> Result<(), Error> {
        if host.is_empty() || user.is_empty() {
            return Err(Error::usage("far", "want host and user"));
        }
        let here = host == self.settings.host && user == self.settings.user;
        let name = if here { user.to_owned() } else { format!("{user}@{host}") };
        let is_it =
            |peer: &&Peer| peer.row.kind == "human" && (peer.row.name == name || here && peer.row.id == self.human);
        let known = self.peers.iter().find(is_it).map(|peer| peer.row.id.clone());
        let human = match known {
            Some(id) => id,
            None => self.scoped(|mesh| {
                mesh.make_room(now)?;
                mesh.add_human(name, host.to_owned(), now)
            })?,
        };
        if let Some(seat) = self.seats.get_mut(&conn) {
            seat.far = Some((host.to_owned(), human));
        }
        Ok(())
    }

    /// The machine from which a connection comes.
    pub(crate) fn host_of(&self, conn: ConnId) -> String {
        let far = self.seats.get(&conn).and_then(|seat| seat.far.as_ref());
        far.map_or(&self.settings.host, |(host, _)| host).clone()
    }

    /// The human behind a connection.
    pub(crate) fn human_of(&self, conn: ConnId) -> String {
        let far = self.seats.get(&conn).and_then(|seat| seat.far.as_ref());
        far.map_or(&self.human, |(_, human)| human).clone()
    }

    /// Whether any session is attached: only then can a caller be inside one.
    pub fn has_sessions(&self) -> bool {
        self.seats.values().any(|seat| !seat.peers.is_empty())
    }

    /// Whether a connection is there for something: it speaks for a peer, waits, or follows events.
    pub fn is_in_use(&self, conn: ConnId) -> bool {
        let seat = self.seats.get(&conn);
        let follows = seat.is_some_and(|seat| !seat.peers.is_empty() || !seat.subscribed.is_empty());
        follows || self.waits.iter().any(|wait| wait.ctx.conn == conn)
    }

    /// Whether a connection speaks for a peer.
    pub fn is_attached(&self, conn: ConnId) -> bool {
        self.seats.get(&conn).is_some_and(|seat| !seat.peers.is_empty())
    }

    /// A connection is gone. Peers learn of it now; its locks wait a short grace.
    pub fn left(&mut self, conn: ConnId, now: i64) {
        self.waits.retain(|wait| wait.ctx.conn != conn);
        // A hook that went without saying that it showed its mail leaves that to the next one.
        self.taken.retain(|_, (_, by)| *by != conn);
        // On a failing disk the row stays as it was; memory is what decides who is here.
        let _ = self.scoped(|mesh| mesh.leave(conn, "disconnected", now));
        self.seats.remove(&conn);
        self.settle(now);
    }

    /// A connection does not answer, or answers again.
    pub fn mute(&mut self, conn: ConnId, mute: bool, now: i64) {
        let Some(seat) = self.seats.get_mut(&conn).filter(|seat| seat.mute != mute) else { return };
        seat.mute = mute;
        for id in seat.peers.clone() {
            let result =
                self.scoped(|mesh| if mute { mesh.rise(&id, "not_answering", now) } else { mesh.sit(&id, now) });
            if let Err(error) = result {
                self.out.push(crate::core::Effect::Notification { conn: 0, method: "log", params: json!(error.text) });
            }
        }
        self.settle(now);
    }

    fn leave(&mut self, conn: ConnId, reason: &str, now: i64) -> Result<(), Error> {
        let Some(seat) = self.seats.get_mut(&conn) else { return Ok(()) };
        let (peers, bound, mute) = (std::mem::take(&mut seat.peers), std::mem::take(&mut seat.bound), seat.mute);
        for id in peers {
            if !mute {
                self.rise(&id, reason, now)?;
            }
            if reason == "clean_exit" {
                self.end_waits(conn, &id);
            }
            if reason == "clean_exit" && self.peer(&id).is_some_and(|peer| peer.seats == 0) {
                self.free_locks(
                    |lock| lock.holder == id && crate::core::locks::request::is_soft(&lock.bound),
                    reason,
                    now,
                )?;
            }
        }
        if !bound.is_empty() {
            let falls =
                |lock: &crate::store::LockRow| bound.iter().any(|(id, key)| *id == lock.holder && *key == lock.bound);
            self.free_locks(falls, reason, now)?;
        }
        Ok(())
    }

    /// Who leaves in order waits for nothing any more.
    fn end_waits(&mut self, conn: ConnId, id: &str) {
        let (ended, kept) =
            std::mem::take(&mut self.waits).into_iter().partition(|w| w.ctx.conn == conn && w.ctx.me() == id);
        self.waits = kept;
        for wait in ended {
            let error =
                Error::new(ErrorKind::Refused, "this session left while the call waited; attach again, then ask again");
            self.out.push(crate::core::Effect::Reply { conn, id: wait.ctx.id, result: Err(error) });
        }
        self.stirred.locks = true;
    }

    /// A seat of a peer is lost; without any it is away.
    fn rise(&mut self, id: &str, reason: &str, now: i64) -> Result<(), Error> {
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
    fn sit(&mut self, id: &str, now: i64) -> Result<(), Error> {
        let Some(peer) = self.peer_mut(id) else { return Ok(()) };
        peer.seats += 1;
        (peer.left, peer.doubtful) = (None, false);
        peer.active = now;
        let joins = !peer.row.here;
        peer.row.here = true;
        peer.row.seen = now;
        let row = peer.row.clone();
        self.store.put_peer(&row)?;
        // A lock that fell while it was away may be its own now.
        self.stirred.locks = true;
        if !joins {
            return Ok(());
        }
        self.emit_joined(&row, now)
    }

    pub(crate) fn emit_joined(&mut self, row: &PeerRow, now: i64) -> Result<(), Error> {
        let payload = json!({ "peerId": row.id, "name": row.name, "agentType": row.agent, "projectPath": row.project });
        self.emit("peer_joined", &row.id, payload, now)
    }

    fn seat_peer(&mut self, conn: ConnId, row: PeerRow, now: i64) -> Result<(), Error> {
        let id = row.id.clone();
        match self.peer_mut(&id) {
            Some(peer) => peer.row = PeerRow { here: peer.row.here, ..row },
            None => self.peers.push(Peer::new(row, now)),
        }
        let seat = self.seats.entry(conn).or_default();
        if seat.peers.contains(&id) {
            return Ok(());
        }
        seat.peers.push(id.clone());
        self.sit(&id, now)
    }

    /// The peer that a session was before: by its id, its agent's key, its place on the same
    /// connection before the key was known, its agent's process, or its name.
    fn find_returning(&self, conn: ConnId, row: &PeerRow, wanted: &str, id: Option<&str>) -> Option<String> {
        let ours = || self.peers.iter().filter(|peer| peer.row.kind == "session");
        let seat = self.seats.get(&conn);
        let key = row.session.as_str();
        let has_key = |peer: &&Peer| {
            peer.row.agent == row.agent && (peer.row.session == key || peer.keys.iter().any(|known| known == key))
        };
        let by_id = ours().find(|peer| Some(peer.row.id.as_str()) == id);
        let by_key = || ours().filter(|_| !key.is_empty()).find(has_key);
        let on_seat = |peer: &&Peer| seat.is_some_and(|seat| seat.peers.contains(&peer.row.id));
        let by_seat = || ours().filter(on_seat).find(|peer| peer.row.session.is_empty());
        let process = seat.and_then(|seat| seat.agent).map(|agent| (agent.pid, agent.start));
        let by_process = || {
            let unseated = ours().filter(|peer| peer.seats == 0 && is_alike(&peer.row, row));
            unseated.filter(|_| process.is_some()).find(|peer| peer.process.map(|p| (p.pid, p.start)) == process)
        };
        let same = |peer: &&Peer| is_alike(&peer.row, row) && is_numbered(&peer.row.name, wanted);
        let by_name =
            || ours().filter(|peer| !self.may_live(peer, row.pid)).filter(same).min_by_key(|peer| peer.row.name.len());
        let found = by_id.or_else(by_key).or_else(by_seat).or_else(by_process).or_else(by_name);
        found.map(|peer| peer.row.id.clone())
    }

    /// Whether somebody may still be behind a session: a connection, even one that is silent for now,
    /// or another process than `pid`, which an earlier broker knew and which is about to come back.
    fn may_live(&self, peer: &Peer, pid: i64) -> bool {
        let has_seat = self.seats.values().any(|seat| seat.peers.contains(&peer.row.id));
        let is_other = peer.row.host == self.settings.host && peer.row.pid != pid;
        has_seat || peer.doubtful && is_other && (self.lives)(peer.row.pid)
    }

    /// Makes a session known before any connection speaks for it: its hook came first.
    pub(crate) fn add_unseated(
        &mut self,
        mut row: PeerRow,
        process: Option<Process>,
        now: i64,
    ) -> Result<String, Error> {
        let wanted = default_name(&row);
        let same = |peer: &&Peer| peer.row.kind == "session" && is_alike(&peer.row, &row);
        // One whose hooks alone are known may be at work; one that lost its seat, or ended, is not.
        let is_away = |peer: &&Peer| peer.seats == 0 && (peer.process.is_none() || peer.left.is_some());
        let away = self.peers.iter().filter(is_away).filter(same);
        let old = away.filter(|peer| is_numbered(&peer.row.name, &wanted)).min_by_key(|peer| peer.row.name.len());
        match old.map(|peer| peer.row.clone()) {
            Some(old) => {
                row = PeerRow { id: old.id, name: old.name, summary: old.summary, started: old.started, ..row }
            }
            None => {
                self.make_room(now)?;
                row.id = self.fresh_uuid();
                row.name = self.free_name(&wanted);
            }
        }
        self.store.put_peer(&row)?;
        let id = row.id.clone();
        self.peers.retain(|peer| peer.row.id != id);
        self.peers.push(Peer { process, ..Peer::new(row, now) });
        Ok(id)
    }

    /// `wanted`, or the first of `wanted-2`, `-3` … that nobody has.
    pub(crate) fn free_name(&self, wanted: &str) -> String {
        let is_free = |name: &str| self.peers.iter().all(|peer| peer.row.name != name) && !is_reserved(name);
        let numbered = (2..).map(|n| format!("{wanted}-{n}"));
        std::iter::once(wanted.to_owned())
            .chain(numbered)
            .find(|name| is_free(name))
            .unwrap_or_else(|| wanted.to_owned())
    }

    pub(crate) fn load_peers(&mut self, now: i64) -> Result<(), Error> {
        let old = std::mem::take(&mut self.peers);
        for row in self.store.peers()? {
            let known = old.iter().find(|peer| peer.row.id == row.id);
            // After a crash a session has its grace to come back before anybody hears that it left.
            let left = known.map_or((row.here && row.kind == "session").then_some(now), |peer| peer.left);
            let (heard, active) = known.map_or((now, row.seen), |peer| (peer.heard, peer.active));
            let (process, keys) = known.map_or((None, Vec::new()), |peer| (peer.process, peer.keys.clone()));
            let turn = known.and_then(|peer| peer.turn);
            let doubtful = known.map_or(left.is_some(), |peer| peer.doubtful);
            self.peers.push(Peer { seats: 0, heard, active, left, doubtful, process, turn, keys, row });
        }
        let ids: Vec<String> = self.peers.iter().map(|peer| peer.row.id.clone()).collect();
        // A grace that ran when the broker died, or whose end was taken back, begins anew.
        for peer in &mut self.peers {
            let lost = peer.row.kind == "session" && peer.left.is_none() && peer.process.is_none();
            if lost
                && self
                    .locks
                    .iter()
                    .any(|lock| lock.holder == peer.row.id && crate::core::locks::request::is_soft(&lock.bound))
            {
                peer.left = Some(now);
            }
        }
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
    pub(crate) fn settle_human(&mut self, now: i64) -> Result<(), Error> {
        if let Some(peer) =
            self.peers.iter().find(|peer| peer.row.kind == "human" && peer.row.host == self.settings.host)
        {
            self.human = peer.row.id.clone();
            return Ok(());
        }
        let name = self.free_name(&self.settings.user.clone());
        self.human = self.add_human(name, self.settings.host.clone(), now)?;
        Ok(())
    }

    fn add_human(&mut self, name: String, host: String, now: i64) -> Result<String, Error> {
        let row = PeerRow {
            id: self.fresh_uuid(),
            name,
            kind: "human".into(),
            agent: "human".into(),
            host,
            started: now,
            seen: now,
            ..PeerRow::default()
        };
        let id = row.id.clone();
        self.store.put_peer(&row)?;
        self.peers.push(Peer::new(row, now));
        Ok(id)
    }
}
