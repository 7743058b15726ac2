//! The broker: one poll loop that carries bytes to the mesh and back.
//!
//! **Invariant:** a turn is wait, tick, serve, commit, flush; nothing leaves but in flush, and
//! nothing is flushed that is not committed.

pub mod startup;
mod clients;
mod connection;
mod ws_subscribers;
pub mod http;
#[doc(hidden)]
pub mod legacy_http;
mod mesh_links;
mod push_connection;
mod peer_sockets;
mod superlocalmemory;
pub mod web;

use crate::core::{Effect, Mesh};
use crate::discovery::mdns_supervisor::Announcer;
use crate::remote::hub::Arrival;
use crate::sys::Clock;
use crate::sys::data_dir::Places;
use crate::sys::settings::Settings;
use crate::wire::rpc;
use connection::Connection;
use mio::net::{UnixListener, UnixStream};
use mio::{Events, Interest, Poll, Token, Waker};
use serde_json::json;
use std::collections::HashMap;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

const LISTENER: Token = Token(0);
const WAKER: Token = Token(1);
const SIGNALS: Token = Token(2);
/// Tokens of connections start here and are never used twice.
const FIRST_CONN: u64 = 16;
/// Clients on the Unix socket at once, guests from other machines among them.
const CLIENTS_MAX: usize = 2000;
/// What is written goes from the log into the database this much later.
const MOVE_MS: i64 = 200;
/// HTTP requests served in one turn, so that sessions get theirs.
const JOBS_MAX: usize = 64;

/// Questions that wait for news at once; further ones are answered as they are.
const HELD_MAX: usize = 64;

/// Why the loop ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// Asked to, by a signal or a caller.
    Stopped,
    /// Nobody needed it for a while.
    Idle,
    /// A newer client asked it to make room.
    MadeRoom,
    /// The database is damaged: the next broker must look at it.
    Damaged,
}

/// A running broker.
struct Broker {
    poll: Poll,
    clock: Clock,
    mesh: Mesh,
    listener: UnixListener,
    conns: HashMap<u64, Connection>,
    next_conn: u64,
    accept_again: bool,
    /// When to try again after the machine had no room for another client, ms.
    accept_at: Option<i64>,
    server: Option<http::Server>,
    jobs: Receiver<http::Job>,
    guests: Receiver<Arrival>,
    links: mesh_links::Links,
    /// Questions that wait for news: until when, ms.
    held: Vec<(http::Job, i64)>,
    announcer: Option<Announcer>,
    /// When it wants to be looked at, ms.
    announce_at: Option<i64>,
    answers: Vec<(http::Ticket, http::Answer)>,
    pushes: peer_sockets::Pushes,
    /// The pages in browsers, who may open one, and how the HTTP thread wakes us.
    pages: web::stream::Pages,
    keys: Arc<web::auth::Keys>,
    waker: Arc<Waker>,
    signals: UnixStream,
    settings: Settings,
    last_call: i64,
    heartbeat_ms: i64,
    dead_ms: i64,
    idle_ms: i64,
    mover: Option<(SyncSender<()>, JoinHandle<()>)>,
    /// When the log is to be moved into the database, ms; none while there is nothing in it.
    move_at: Option<i64>,
    /// Into which every client is read; cleared once, not for every line.
    buffer: Vec<u8>,
    end: Option<End>,
}

/// What the broker is made of, as [`birth`] hands it over.
pub struct Parts {
    /// The poll in which waker and listener are registered.
    pub poll: Poll,
    /// The mesh over its store.
    pub mesh: Mesh,
    /// Its clock.
    pub clock: Clock,
    /// The bound Unix socket.
    pub listener: UnixListener,
    /// What wakes the poll from other threads.
    pub waker: Arc<Waker>,
    /// Who may open the page in a browser.
    pub keys: Arc<web::auth::Keys>,
    /// The HTTP thread, and where its requests arrive.
    pub server: Option<http::Server>,
    /// Requests from the HTTP thread.
    pub jobs: Receiver<http::Job>,
    /// Sessions on other machines that have proven the secret.
    pub guests: Receiver<Arrival>,
    /// The meshes that it looks at.
    pub links: mesh_links::Links,
    /// The process that tells the local network of a hub.
    pub announcer: Option<Announcer>,
    /// The readable end of the signals' pipe.
    pub signals: UnixStream,
    /// Settings in force.
    pub settings: Settings,
}

/// Serves until somebody or something ends it.
///
/// # Errors
/// When the poll itself fails.
pub fn serve(parts: Parts, places: &Places) -> io::Result<End> {
    let Parts {
        poll,
        mesh,
        clock,
        mut listener,
        waker,
        keys,
        server,
        jobs,
        guests,
        links,
        announcer,
        mut signals,
        settings,
    } = parts;
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    poll.registry().register(&mut signals, SIGNALS, Interest::READABLE)?;
    let now = clock.now();
    let mover = start_checkpointer(&mesh);
    let mut broker = Broker {
        poll,
        clock,
        mesh,
        listener,
        conns: HashMap::new(),
        next_conn: FIRST_CONN,
        accept_again: true,
        accept_at: None,
        server,
        jobs,
        guests,
        links,
        held: Vec::new(),
        announce_at: announcer.is_some().then_some(now),
        announcer,
        answers: Vec::new(),
        pushes: peer_sockets::Pushes::new(),
        pages: web::stream::Pages::default(),
        keys,
        waker,
        signals,
        last_call: now,
        heartbeat_ms: settings.int("SLM_MESH_HEARTBEAT_MS"),
        dead_ms: settings.int("SLM_MESH_DEAD_MS"),
        idle_ms: settings.int("SLM_MESH_IDLE_TIMEOUT"),
        settings,
        mover,
        move_at: None,
        buffer: vec![0; connection::READ_MAX],
        end: None,
    };
    let mut events = Events::with_capacity(256);
    let end = loop {
        broker.turn(&mut events)?;
        if let Some(end) = broker.end.take() {
            break end;
        }
    };
    broker.close(&end, places);
    Ok(end)
}

/// Starts the thread that moves the log; without one the writer does it.
fn start_checkpointer(mesh: &Mesh) -> Option<(SyncSender<()>, JoinHandle<()>)> {
    let mover = mesh.checkpointer().ok()?;
    let (ask, asked) = sync_channel(1);
    let run = move || {
        while asked.recv().is_ok() {
            // A disk that fails here fails the next commit, too, which tells.
            let _ = mover.run();
        }
    };
    let thread = std::thread::Builder::new().name("mover".into()).spawn(run).ok()?;
    Some((ask, thread))
}

/// Where the broker waits for HTTP requests: a waker for the HTTP thread.
///
/// # Errors
/// When the poll can't be made.
pub fn poll() -> io::Result<(Poll, Arc<Waker>)> {
    let poll = Poll::new()?;
    let waker = Arc::new(Waker::new(poll.registry(), WAKER)?);
    Ok((poll, waker))
}

impl Broker {
    fn turn(&mut self, events: &mut Events) -> io::Result<()> {
        let timeout = self.timeout();
        match self.poll.poll(events, timeout) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
            result => result?,
        }
        let now = self.clock.now();
        self.mesh.tick(now);
        if let (Some(announcer), true) = (&mut self.announcer, self.announce_at.is_some_and(|at| at <= now)) {
            self.announce_at = announcer.tend(now);
        }
        if self.accept_at.is_some_and(|at| at <= now) {
            (self.accept_again, self.accept_at) = (true, None);
        }
        for event in events.iter() {
            match event.token() {
                LISTENER => self.accept_again = true,
                SIGNALS => {
                    // Emptied, so that a second signal is an event of its own.
                    let _ = io::Read::read(&mut self.signals, &mut [0; 16]);
                    self.end = Some(End::Stopped);
                }
                WAKER => {}
                Token(_) => self.note_ready(event, now),
            }
        }
        self.serve_clients(now);
        // Newcomers are heard in the next turn: by then the poll has told of all who left before.
        self.accept(now);
        self.receive_guests(now);
        self.serve_jobs(now);
        self.accept_again |= self.links.hear(&mut self.mesh, now);
        self.serve_held(now);
        self.watch_quiet(now);
        let wrote = self.mesh.has_written();
        let committed = self.mesh.commit();
        self.flush(committed, wrote, now);
        if committed {
            self.links.post(&mut self.mesh, now);
        }
        if self.move_at.is_some_and(|at| at <= now) {
            self.move_at = None;
            // One that is still at it moves this, too, or the next one does.
            let _ = self.mover.as_ref().map(|(ask, _)| ask.try_send(()));
        }
        self.check_idle(now);
        Ok(())
    }

    /// How long the poll may sleep: until the nearest deadline, or for ever.
    fn timeout(&mut self) -> Option<Duration> {
        if self.accept_again && self.conns.len() < CLIENTS_MAX || self.conns.values().any(Connection::wants_turn) {
            return Some(Duration::ZERO);
        }
        let now = self.clock.now();
        let quiet = self.conns.values().filter_map(|conn| conn.deadline(self.heartbeat_ms, self.dead_ms)).min();
        let idle = self.may_idle().then(|| self.last_call + self.idle_ms);
        let held = self.held.iter().map(|(_, until)| *until).min();
        let due = [self.mesh.deadline(), quiet, idle, self.move_at, self.pushes.deadline(), self.accept_at];
        let others = [self.announce_at, self.links.deadline(), held, self.pages.deadline()];
        let next = due.into_iter().chain(others).flatten().min()?;
        Some(Duration::from_millis((next - now).max(0) as u64))
    }

    fn note_ready(&mut self, event: &mio::event::Event, now: i64) {
        let token = event.token().0 as u64;
        if let Some(conn) = self.conns.get_mut(&token) {
            conn.readable |= event.is_readable();
            conn.writable |= event.is_writable();
            conn.ends |= event.is_read_closed();
        } else {
            self.pushes.note_ready(token, now);
        }
    }

    /// Serves requests that the HTTP thread found well-formed and authorised.
    fn serve_jobs(&mut self, now: i64) {
        for _ in 0..JOBS_MAX {
            let Ok(job) = self.jobs.try_recv() else { return };
            let target = job.request.head.target.as_str();
            if target != "/health" && !superlocalmemory::is_look(target) {
                self.last_call = now;
            }
            if let Some(ms) = superlocalmemory::waits(&job.request, self.mesh.peers().roster_version())
                .filter(|_| self.held.len() < HELD_MAX)
            {
                self.held.push((job, now + ms));
                continue;
            }
            self.answer(&job, now);
        }
        // More may be waiting: come back without sleeping.
        self.accept_again = true;
    }

    /// Answers questions that waited for news, once there are any or their time is up.
    fn serve_held(&mut self, now: i64) {
        let mark = self.mesh.peers().roster_version();
        let is_due =
            |(job, until): &(http::Job, i64)| *until <= now || superlocalmemory::waits(&job.request, mark).is_none();
        let (due, held): (Vec<_>, Vec<_>) = std::mem::take(&mut self.held).into_iter().partition(is_due);
        self.held = held;
        for (job, _) in due {
            self.answer(&job, now);
        }
    }

    fn answer(&mut self, job: &http::Job, now: i64) {
        let answered = catch_unwind(AssertUnwindSafe(|| match job.request.head.target.as_str() {
            web::STREAM => self.pages.come(&mut self.mesh, job.ticket),
            path if path.starts_with("/web/") => Some(web::call(&mut self.mesh, &job.request, now)),
            _ => Some(legacy_http::answer(&mut self.mesh, &job.request, now)),
        }));
        let answer = answered.unwrap_or_else(|_| {
            log("a bug: one request was answered with 500 after a panic");
            Some(legacy_http::internal())
        });
        self.answers.extend(answer.map(|answer| (job.ticket, answer)));
        self.pages.stir();
        // Whoever waits is served before the next request, which came later.
        self.mesh.resume_waiting(now);
    }

    /// The only place from which anything leaves.
    fn flush(&mut self, committed: bool, wrote: bool, now: i64) {
        // Who has just registered is dialled now, so that it gets the first push.
        self.pushes.dial(&self.mesh, self.poll.registry(), &mut self.next_conn, now);
        let out = self.mesh.take_effects();
        if wrote {
            self.move_at = self.move_at.or(Some(now + MOVE_MS));
        }
        for out in out {
            match out {
                Effect::Reply { conn, id, result } => {
                    if let Some(conn) = self.conns.get_mut(&conn).filter(|_| !id.is_null()) {
                        conn.write(
                            &result.map_or_else(|error| rpc::error(&id, &error), |value| rpc::answer(&id, &value)),
                        );
                    }
                }
                Effect::Log(error) => self.note_trouble(&error),
                Effect::Notification { conn, method, params } => {
                    if let Some(conn) = self.conns.get_mut(&conn) {
                        conn.write(&rpc::notice(method, &params));
                    }
                }
                Effect::PeerPush { peer, seq, from, body } => {
                    self.pushes.mail(&self.mesh, &peer, seq, &from, &body, now)
                }
                Effect::Event(event) => {
                    self.pushes.event(&self.mesh, &event, now);
                    self.pages.event(&self.mesh, &event);
                }
                Effect::Message(message) => self.pages.message(&self.mesh, &message),
            }
        }
        for (ticket, answer) in self.answers.drain(..) {
            if let Some(server) = &self.server {
                server.answer(ticket, if committed { answer } else { legacy_http::not_stored() });
            }
        }
        for (token, conn) in &mut self.conns {
            conn.flush();
            conn.watch(self.poll.registry(), *token);
        }
        if let Some(server) = &self.server
            && self.pages.flush(&mut self.mesh, server, &self.waker, now)
        {
            self.last_call = now;
        }
        self.drop_left();
        let pushed = self.pushes.flush(now);
        for seq in &pushed {
            self.mesh.on_pushed(*seq, now);
        }
        if !pushed.is_empty() && !self.mesh.commit() {
            log("a push could not be noted; its message counts as not pushed");
        }
    }

    fn note_trouble(&mut self, error: &crate::base::error::Error) {
        log(&error.text);
        if error.kind == crate::base::error::ErrorKind::Damaged {
            self.end = Some(End::Damaged);
        }
    }

    fn may_idle(&self) -> bool {
        self.idle_ms > 0 && self.conns.is_empty() && self.pages.is_empty() && self.mesh.is_idle()
    }

    fn check_idle(&mut self, now: i64) {
        if self.end.is_none() && self.may_idle() && now - self.last_call >= self.idle_ms {
            self.end = Some(End::Idle);
        }
    }

    /// Ends in order: the socket goes first, so that who comes now finds no broker and starts one.
    fn close(mut self, end: &End, places: &Places) {
        startup::remove_files(places, end);
        let now = self.clock.now();
        self.mesh.commit();
        let why = json!({ "reason": if *end == End::MadeRoom { "making_room" } else { "stopping" } });
        for conn in self.conns.values_mut() {
            conn.write(&rpc::notice("shutdown", &why));
            conn.flush();
        }
        if let Some(server) = self.server.take() {
            server.stop();
        }
        // It says good-bye by itself once we are gone.
        drop(self.announcer.take());
        self.pushes.shutdown(&self.mesh, now);
        if let Some((ask, thread)) = self.mover.take() {
            drop(ask);
            // It ends with its work; after a panic there it has ended.
            let _ = thread.join();
        }
        self.mesh.checkpoint();
    }
}

/// Compares versions of the form `1.2.3`.
fn is_newer(a: &str, b: &str) -> bool {
    let parts = |text: &str| {
        text.split(['.', '-', '+']).take(3).map(|part| part.parse::<u64>().unwrap_or(0)).collect::<Vec<_>>()
    };
    parts(a) > parts(b)
}

/// One line for the operator, on standard error: the detached broker's log.
pub fn log(text: &str) {
    crate::sys::complain(&format!("{} {text}", crate::base::time::iso(crate::sys::wall_ms())));
}
