//! The session's link to the broker: jobs go out, answers come back, a lost broker is found again.
//!
//! **Invariant:** a message counts as shown only after the result that carried it was written out
//! whole; a cancelled call consumes nothing.

mod wakeups;

use super::agent_notifier::Bell;
use super::pending_call::{Job, PROGRESS_EVERY, finish, shown_items};
use super::{Output, attach_params};
use crate::base::error::{Error, ErrorKind};
use crate::client::{Client, discovered_hub};
use crate::sys::data_dir::Places;
use crate::sys::settings::Settings;
use crate::wire::rpc::{self, Message};
use serde_json::{Value, json};
use std::collections::{HashMap, VecDeque};
use std::io::{self, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::process::Child;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A client that only looks at its servers is gone by then; who stays longer is a peer.
const APPEARS_AFTER: Duration = Duration::from_secs(2);
/// Calls in flight at once; further ones are refused.
const JOBS_MAX: usize = 64;
/// The longest pause between attempts to find a broker.
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// How long calls in flight may take once the client closed its end; clients kill after 2 s.
const CLOSES_AFTER: Duration = Duration::from_millis(1500);
/// Attempts to reach a broker before calls are told that there is none: a third of a second.
const MISSES_MAX: u32 = 5;
/// An attempt that took longer met a network that is cut, not a broker that was dying: calls are told at once.
const MISS_MAX: Duration = Duration::from_millis(500);
/// How often a session looks whether a broker that was stopped has been started again.
const LOOKS_EVERY: Duration = Duration::from_secs(5);

/// What both threads share.
#[derive(Debug, Default)]
struct Shared {
    queue: VecDeque<u64>,
    jobs: HashMap<u64, Job>,
    last_job: u64,
    writer: Option<UnixStream>,
    /// Attached session keys, and the peer id of each.
    peers: HashMap<String, String>,
    /// Session keys on their way to a seat, by the request that asks for it.
    attaching: HashMap<u64, String>,
    client: Option<String>,
    spoke: Option<Instant>,
    closing: bool,
    /// Seats are being taken on a new connection: who leaves now must give them back.
    seating: bool,
    /// An answer is on its way out: the process must not end before it is whole.
    answering: bool,
    /// Waits for a reason to wake the client, by request: of which session key, and how.
    bells: HashMap<u64, (String, Bell)>,
}

/// The link, seen from the thread that reads requests.
#[derive(Debug)]
pub struct Link {
    shared: Arc<(Mutex<Shared>, Condvar)>,
    thread: Option<JoinHandle<()>>,
    /// Jobs wait for ever: nobody looks for a broker.
    alone: bool,
    out: Arc<Output>,
}

impl Link {
    /// Not connected, and no thread yet: a server that is only looked at costs nothing.
    pub fn new(out: Arc<Output>) -> Link {
        Link { shared: Arc::default(), thread: None, alone: false, out }
    }

    /// The same, and it never looks for a broker.
    pub fn to_nobody(out: Arc<Output>) -> Link {
        Link { alone: true, ..Link::new(out) }
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        lock(&self.shared)
    }

    /// The client said something: from now on the session counts its age.
    pub fn client_spoke(&mut self) {
        if self.thread.is_some() || self.alone {
            return;
        }
        self.lock().spoke = Some(Instant::now());
        let (shared, out) = (Arc::clone(&self.shared), Arc::clone(&self.out));
        let spawned = std::thread::Builder::new().stack_size(256 * 1024).spawn(move || Runner::new(shared, out).run());
        self.thread = spawned.ok();
    }

    /// The client told its name.
    pub fn client_is(&self, name: Option<String>) {
        let mut shared = self.lock();
        if shared.client.is_none() {
            shared.client = name;
        }
    }

    /// Sends a call to the broker, now or as soon as there is one.
    pub fn submit(&self, job: Job) {
        let mut shared = self.lock();
        if shared.jobs.len() >= JOBS_MAX {
            drop(shared);
            let error =
                Error::new(ErrorKind::Limited, format!("{JOBS_MAX} calls are in flight already; wait for one to end"));
            finish(&self.out, &job.answer, Err(error));
            return;
        }
        shared.last_job += 1;
        let n = shared.last_job;
        let wants_progress = job.progress.is_some() && job.waits();
        shared.jobs.insert(n, job);
        if !shared.write(n) {
            shared.queue.push_back(n);
            shared.seat_for(n);
        }
        if wants_progress {
            // The other thread sleeps on the socket without a limit; this answer wakes it, so that it
            // learns when to tell of progress.
            shared.send(&rpc::request(&json!(0), "ping", &json!({})));
        }
        drop(shared);
        self.shared.1.notify_all();
    }

    /// The client no longer wants an answer.
    pub fn cancel(&self, id: &Value) {
        let mut shared = self.lock();
        // The oldest, where a client has used an id twice.
        let named = shared.jobs.iter().filter(|(_, job)| job.answer.id == *id).map(|(n, _)| *n);
        let Some(n) = named.min() else { return };
        if let Some(batch) = shared.jobs.remove(&n).and_then(|job| job.answer.batch) {
            batch.skip();
        }
        shared.queue.retain(|queued| *queued != n);
        shared.send(&rpc::notice("cancel", &json!({ "id": n })));
    }

    /// Ends the session: calls that only wait are dropped, the others get a moment to be answered,
    /// then it leaves in order.
    pub fn close(&mut self) {
        let mut shared = self.lock();
        shared.jobs.retain(|_, job| !job.waits());
        let until = Instant::now() + CLOSES_AFTER;
        while (!shared.jobs.is_empty() || shared.answering || shared.seating) && Instant::now() < until {
            let waited = self.shared.1.wait_timeout(shared, until.saturating_duration_since(Instant::now()));
            shared = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        shared.closing = true;
        shared.send(&rpc::notice("detach", &json!({})));
        // The broker ends the connection once it has read that. Before then it may still be on its way
        // to another machine, carried by a thread of ours.
        let told = shared.writer.as_ref().is_some_and(|writer| writer.shutdown(Shutdown::Write).is_ok());
        self.shared.1.notify_all();
        while told && shared.writer.is_some() && Instant::now() < until {
            let waited = self.shared.1.wait_timeout(shared, until.saturating_duration_since(Instant::now()));
            shared = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

fn lock(shared: &(Mutex<Shared>, Condvar)) -> MutexGuard<'_, Shared> {
    shared.0.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    fn send(&mut self, line: &str) -> bool {
        self.writer.as_mut().is_some_and(|writer| writer.write_all(line.as_bytes()).is_ok())
    }

    /// Sends a job if its session is attached; false leaves it to the thread.
    fn write(&mut self, n: u64) -> bool {
        let Some(job) = self.jobs.get(&n) else { return true };
        let key = job.session.clone().unwrap_or_default();
        let Some(peer) = self.peers.get(&key) else { return false };
        let mut params = job.arguments.clone();
        params.insert("as".into(), json!(peer));
        // A wait that a lost broker cut short goes on for what is left of it.
        if let Some(seconds) = params.get("waitSeconds").and_then(Value::as_u64).filter(|_| job.sent) {
            params.insert("waitSeconds".into(), json!(seconds.saturating_sub(job.began.elapsed().as_secs())));
        }
        let line = rpc::request(&json!(n), job.op.name, &Value::Object(params));
        let sent = self.send(&line);
        if let Some(job) = self.jobs.get_mut(&n) {
            job.sent |= sent;
        }
        sent
    }

    /// Asks for a seat for a session key that was not seen before on this connection.
    fn seat_for(&mut self, n: u64) {
        let key = self.jobs.get(&n).and_then(|job| job.session.clone()).unwrap_or_default();
        if self.writer.is_none() || self.attaching.values().any(|asked| *asked == key) {
            return;
        }
        self.last_job += 1;
        let id = self.last_job;
        let params = attach_params(&key, None, self.client.as_deref());
        if self.send(&rpc::request(&json!(id), "attach", &params)) {
            self.attaching.insert(id, key);
        }
    }

    /// Sends what waited for its seat.
    fn send_queued(&mut self) {
        for n in std::mem::take(&mut self.queue) {
            if !self.write(n) {
                self.queue.push_back(n);
            }
        }
    }
}

/// The thread that waits for the broker.
struct Runner {
    shared: Arc<(Mutex<Shared>, Condvar)>,
    out: Arc<Output>,
    /// Ids held before, by session key: they are taken up again.
    held: HashMap<String, String>,
    child: Option<Child>,
    pause: Duration,
    /// The broker was stopped on purpose: only a call starts it again.
    dormant: bool,
    /// Attempts in a row that met no living broker.
    misses: u32,
}

impl Runner {
    fn new(shared: Arc<(Mutex<Shared>, Condvar)>, out: Arc<Output>) -> Runner {
        Runner { shared, out, held: HashMap::new(), child: None, pause: Duration::ZERO, dormant: false, misses: 0 }
    }

    fn run(mut self) {
        discovered_hub::session_looks(false);
        while self.wait_for_need() {
            let began = Instant::now();
            match self.connect() {
                Ok(client) => {
                    let whose = client.whose.clone();
                    self.serve(client);
                    self.lost(&whose);
                }
                // A broker that was dying as we came: the next one is a moment away.
                Err(error)
                    if error.kind == ErrorKind::Gone && self.misses < MISSES_MAX && began.elapsed() < MISS_MAX =>
                {
                    self.misses += 1;
                    std::thread::sleep(Duration::from_millis(5 << self.misses));
                }
                Err(error) => {
                    self.misses = 0;
                    self.answer_all(&error);
                    discovered_hub::session_looks(!self.held.is_empty());
                    self.pause = (self.pause * 2).clamp(Duration::from_millis(250), PAUSE_MAX);
                }
            }
        }
    }

    /// Sleeps until a call waits, or the session is old enough to show itself; false to end.
    fn wait_for_need(&mut self) -> bool {
        let mut shared = lock(&self.shared);
        let since = Instant::now();
        loop {
            if shared.closing {
                return false;
            }
            let appears = shared.spoke.unwrap_or(since) + APPEARS_AFTER;
            let until = appears.max(since + self.pause);
            let now = Instant::now();
            // A call goes at once, a pause or not: somebody waits for it.
            if !shared.queue.is_empty() || now >= until {
                return true;
            }
            let waited = self.shared.1.wait_timeout(shared, until - now);
            shared = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Connects, starting a broker if need be, and takes the seats again that were held.
    fn connect(&mut self) -> Result<Client, Error> {
        if let Some(child) = &mut self.child {
            // A broker of ours that is gone would stay behind as a zombie.
            let _ = child.try_wait();
        }
        let places = Places::find()?;
        Settings::load(&places)?;
        let is_wanted = !lock(&self.shared).queue.is_empty();
        let mut client = if self.dormant && !is_wanted {
            Client::connect(&places).map_err(|_| Error::new(ErrorKind::Gone, "the broker was stopped"))?
        } else {
            Client::connect_or_start(&places)?
        };
        self.child = client.child.take().or(self.child.take());
        let seated = self.take_seats(&mut client);
        lock(&self.shared).seating = false;
        self.shared.1.notify_all();
        seated?;
        (self.pause, self.dormant, self.misses) = (Duration::ZERO, false, 0);
        Ok(client)
    }

    /// Takes the seats that were held, and those that calls wait for, unless the session ends.
    fn take_seats(&mut self, client: &mut Client) -> Result<(), Error> {
        let mut shared = lock(&self.shared);
        if shared.closing {
            return Err(Error::new(ErrorKind::Gone, "the session ends"));
        }
        shared.seating = true;
        let name = shared.client.clone();
        let queued =
            shared.queue.iter().filter_map(|n| shared.jobs.get(n)).map(|job| job.session.clone().unwrap_or_default());
        let mut keys: Vec<String> = self.held.keys().cloned().chain(queued).collect();
        drop(shared);
        if keys.is_empty() {
            keys.push(String::new());
        }
        keys.sort();
        keys.dedup();
        for key in keys {
            let value = client.call("attach", &attach_params(&key, self.held.get(&key), name.as_deref()))?;
            self.held.insert(key, value["you"]["id"].as_str().unwrap_or("").to_owned());
        }
        let mut shared = lock(&self.shared);
        shared.peers = self.held.clone();
        shared.writer = client.writer().ok();
        for key in self.held.keys() {
            shared.listen_for(key);
        }
        shared.send_queued();
        // A thread of the agent that came meanwhile needs its own seat.
        if let Some(n) = shared.queue.front().copied() {
            shared.seat_for(n);
        }
        Ok(())
    }

    /// Brings answers back until the connection ends.
    fn serve(&mut self, mut client: Client) {
        loop {
            let quiet = self.progress();
            if client.wait_at_most(quiet).is_err() {
                return;
            }
            match client.receive() {
                Ok(Message::Response { id, result }) => self.answered(id.as_u64().unwrap_or(0), result),
                Ok(Message::Notice { method, params }) if method == "shutdown" => {
                    // A newer client is about to start the newer broker: let it. Who stopped the
                    // broker on purpose wants it stopped.
                    self.dormant = params["reason"] != json!("making_room");
                    self.pause = if self.dormant { LOOKS_EVERY } else { Duration::from_millis(500) };
                    return;
                }
                Ok(_) => {}
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
                Err(_) => return,
            }
        }
    }

    /// A seat that was asked for in the middle of the connection.
    fn seated(&mut self, key: String, result: Result<Value, Value>) {
        let mut shared = lock(&self.shared);
        match result {
            Ok(value) => {
                let id = value["you"]["id"].as_str().unwrap_or("").to_owned();
                self.held.insert(key.clone(), id.clone());
                shared.peers.insert(key.clone(), id);
                shared.listen_for(&key);
                shared.send_queued();
                if let Some(n) = shared.queue.front().copied() {
                    shared.seat_for(n);
                }
            }
            Err(error) => {
                drop(shared);
                self.answer_all(&rpc::read_error(&error));
            }
        }
    }

    fn answered(&mut self, n: u64, result: Result<Value, Value>) {
        let key = lock(&self.shared).attaching.remove(&n);
        if let Some(key) = key {
            return self.seated(key, result);
        }
        let mut shared = lock(&self.shared);
        if let Some((key, bell)) = shared.bells.remove(&n) {
            drop(shared);
            return self.ring(key, bell, result.unwrap_or_default());
        }
        let Some(job) = shared.jobs.remove(&n) else { return };
        shared.answering = true;
        drop(shared);
        let result = result.map_err(|error| rpc::read_error(&error));
        let shown =
            if job.op.name == "inbox" { result.as_ref().map(shown_items).unwrap_or_default() } else { Vec::new() };
        // Mail is written out and reported under one lock: the client's next call, which may come at
        // once, must find it read.
        let held = (!shown.is_empty()).then(|| lock(&self.shared));
        let whole = finish(&self.out, &job.answer, result);
        let mut shared = held.unwrap_or_else(|| lock(&self.shared));
        if whole && !shown.is_empty() {
            let peer = shared.peers.get(&job.session.unwrap_or_default()).cloned();
            // If the broker is gone, the messages are offered again: the honest outcome.
            shared.send(&rpc::notice("shown", &json!({ "as": peer, "items": shown })));
        }
        shared.answering = false;
        drop(shared);
        self.shared.1.notify_all();
    }

    /// Tells the clients that asked that their calls still wait; answers when to do so next.
    fn progress(&self) -> Option<Duration> {
        let now = Instant::now();
        let mut shared = lock(&self.shared);
        for job in shared.jobs.values_mut() {
            let Some((token, at, n)) = &mut job.progress else { continue };
            if *at <= now {
                (*at, *n) = (now + PROGRESS_EVERY, *n + 1);
                let seconds = job.began.elapsed().as_secs().max(*n);
                self.out.line(&rpc::notice(
                    "notifications/progress",
                    &json!({ "progressToken": token, "progress": seconds, "message": "waiting" }),
                ));
            }
        }
        let told = shared.jobs.values().filter_map(|job| job.progress.as_ref());
        told.map(|(_, at, _)| at.saturating_duration_since(now)).min()
    }

    /// The broker is gone: what may be repeated waits for the next one, the rest is told.
    fn lost(&mut self, whose: &str) {
        let mut shared = lock(&self.shared);
        shared.writer = None;
        shared.peers.clear();
        shared.attaching.clear();
        shared.bells.clear();
        let mut in_flight: Vec<u64> = shared.jobs.keys().copied().filter(|n| !shared.queue.contains(n)).collect();
        in_flight.sort_unstable();
        let mut failed = Vec::new();
        for n in in_flight.into_iter().rev() {
            let Some(job) = shared.jobs.get_mut(&n) else { continue };
            if job.may_repeat() {
                job.tries += 1;
                shared.queue.push_front(n);
            } else {
                failed.extend(shared.jobs.remove(&n));
            }
        }
        drop(shared);
        // Who closes waits for the end of the connection.
        self.shared.1.notify_all();
        for job in failed {
            let text = format!("{whose} went away during this call; look whether it took effect before you try again");
            finish(&self.out, &job.answer, Err(Error::new(ErrorKind::Gone, text)));
        }
    }

    /// No broker can be had: every call that waits is told why.
    fn answer_all(&self, error: &Error) {
        let mut shared = lock(&self.shared);
        let queue = std::mem::take(&mut shared.queue);
        let jobs: Vec<Job> = queue.into_iter().filter_map(|n| shared.jobs.remove(&n)).collect();
        drop(shared);
        for job in jobs {
            finish(&self.out, &job.answer, Err(error.clone()));
        }
    }
}
