//! The thread of a hub on standby. It applies the log to the hub's own database, until the hub leads or the thread is
//! stopped.

use super::database_belongs_to_log::diverged;
use super::snapshot_fetch;
use super::{DatabaseLogMatch, HubConfig, Leader, Standby, StandbyError, TakeOver};
use crate::base::error::Error;
use crate::base::id_types::LogId;
use crate::broker::log;
use crate::replication::etcd::EtcdLog;
use crate::replication::{LogError, Position, ReplicatedLog};
use crate::store::{LogPosition, LogTerms, Store};
use crate::sys::data_dir::DataDir;
use crate::sys::{self, Clock};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Maximum time of one wait for new entries.
const WAIT_MAX: Duration = Duration::from_millis(500);
/// The pause after the first failed attempt to get a snapshot (a copy of the leader's database). The pause doubles
/// after each further failure.
const SNAPSHOT_RETRY_MIN: Duration = Duration::from_millis(500);
const SNAPSHOT_RETRY_MAX: Duration = Duration::from_secs(30);
/// The pause after an error.
const RETRY_AFTER: Duration = Duration::from_millis(200);
/// Minimum time between two reports of this hub's position to the leader.
const REPORT_EVERY: Duration = Duration::from_secs(1);

/// What a hub on standby knows about the log and about other hubs.
#[derive(Debug, Clone, Default)]
pub struct StandbyReport {
    /// The address of the hub that leads; `None` if no hub is known to lead.
    pub leader: Option<String>,
    /// The log to which the database of this hub belongs; `None` if it is not known yet.
    pub log: Option<LogId>,
    /// The number of the last entry in the database of this hub.
    pub position: u64,
    /// The last time at which this hub had applied the whole log, in ms since boot.
    pub level_at: Option<i64>,
    /// Why this hub can't follow or lead; `None` if it can.
    pub trouble: Option<String>,
}

/// The database of a hub. While the hub is on standby, the standby thread owns the database.
pub struct HubDatabase {
    /// The data directory.
    pub places: DataDir,
    /// The open database.
    pub store: Store,
    /// The clock of the mesh.
    pub clock: Clock,
    /// Opens the database again after a snapshot has replaced it.
    pub reopen: Box<dyn Fn() -> Result<Store, Error> + Send>,
}

/// What the standby thread passes to the event loop when this hub becomes the leader.
pub struct TakenLead {
    /// The connection to the log, with the right to lead.
    pub leader: Leader<EtcdLog>,
    /// The database, which contains the whole log.
    pub store: Store,
    /// The clock, which continues from the last entry of the log.
    pub clock: Clock,
}

/// The event loop's handle to the standby thread.
pub struct StandbyThread {
    report: Arc<Mutex<StandbyReport>>,
    taken: Receiver<TakenLead>,
    stopping: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl StandbyThread {
    /// Starts to follow the log. `wake` is called when this hub begins to lead.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start(
        config: HubConfig,
        log: EtcdLog,
        database: HubDatabase,
        wake: Box<dyn Fn() + Send + Sync>,
    ) -> std::io::Result<StandbyThread> {
        let report = Arc::new(Mutex::new(StandbyReport::default()));
        let stopping = Arc::new(AtomicBool::new(false));
        let (taken_to, taken) = channel();
        let follower = Follower {
            config,
            database,
            report: Arc::clone(&report),
            stopping: Arc::clone(&stopping),
            follows_log: false,
            is_level: false,
            knows_time: false,
            reported: None,
            snapshot_retry: None,
            namesake_since: None,
        };
        let run = move || follower.run(Standby::new(log), &taken_to, &wake);
        let thread = std::thread::Builder::new().name("standby".into()).spawn(run)?;
        Ok(StandbyThread { report, taken, stopping, thread: Some(thread) })
    }

    /// Returns what the thread knows about the log and about other hubs.
    pub fn report(&self) -> StandbyReport {
        self.report.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// If this hub has just become the leader, returns its connection to the log, its database and its clock.
    pub fn take_lead(&self) -> Option<TakenLead> {
        self.taken.try_recv().ok()
    }

    /// Waits until this hub leads or follows a leader, or until there is a reason why it can't. Waits no longer than
    /// `at_most`. Returns a value only if this hub leads.
    pub fn wait_for_role(&self, at_most: Duration) -> Option<TakenLead> {
        let until = Instant::now() + at_most;
        while Instant::now() < until {
            match self.taken.recv_timeout(Duration::from_millis(20)) {
                Ok(taken) => return Some(taken),
                Err(RecvTimeoutError::Disconnected) => return None,
                Err(RecvTimeoutError::Timeout) => {}
            }
            let report = self.report();
            if report.trouble.is_some() || report.leader.is_some() && report.level_at.is_some() {
                return None;
            }
        }
        None
    }
}

impl Drop for StandbyThread {
    /// Waits until the thread has ended, so that no other broker can lock the data directory while this thread still
    /// writes to it.
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            // A thread that has panicked writes nothing more, so the result does not matter.
            let _ = thread.join();
        }
    }
}

/// The state of the standby thread.
struct Follower {
    config: HubConfig,
    /// The database and its clock. After this hub has applied the whole log, new entries set the clock.
    database: HubDatabase,
    report: Arc<Mutex<StandbyReport>>,
    stopping: Arc<AtomicBool>,
    /// Whether the database is known to belong to the log. Each error sets the flag back to false, because etcd may
    /// have been restored from a backup.
    follows_log: bool,
    /// Whether this hub has applied the whole log at least once while another hub led. The entries that arrive after
    /// that are new: the leader has just stored them. So the time in such an entry is the current time of the mesh.
    is_level: bool,
    /// Whether the clock shows the mesh's time instead of this machine's time.
    knows_time: bool,
    /// The position that this hub last reported to the leader, and the time of this report.
    reported: Option<(u64, Instant)>,
    /// Set after a failed attempt to get a snapshot: the reason, the length of the pause, and the end of the pause.
    snapshot_retry: Option<(String, Duration, Instant)>,
    /// When this hub, while on standby, first saw its own address in etcd as the address of the leader. `None` if etcd
    /// lists no leader, or a leader with a different address.
    namesake_since: Option<Instant>,
}

impl Follower {
    fn run(mut self, mut standby: Standby<EtcdLog>, taken_to: &Sender<TakenLead>, wake: &dyn Fn()) {
        while !self.stopping.load(Ordering::Acquire) {
            match self.step(&mut standby) {
                Ok(true) => match standby.take_over(&mut self.database.store, &self.config.address, new_log) {
                    Ok(TakeOver::Leads(leader)) => {
                        let HubDatabase { store, clock, .. } = self.database;
                        let clock = not_before_log(clock, &store);
                        // If the event loop is gone, `leader` is dropped, which revokes its lease.
                        let _ = taken_to.send(TakenLead { leader, store, clock });
                        return wake();
                    }
                    Ok(TakeOver::StandsBy(again, leader)) => {
                        self.update(|report| report.leader = Some(leader));
                        standby = again;
                    }
                    Err((again, error)) => {
                        self.note_error(&error);
                        standby = again;
                    }
                },
                Ok(false) => standby.log.wait_for_news(WAIT_MAX),
                Err(error) => self.note_error(&error),
            }
        }
    }

    /// Applies all new entries of the log. Returns whether this hub may try to become the leader.
    fn step(&mut self, standby: &mut Standby<EtcdLog>) -> Result<bool, StandbyError> {
        let leader = standby.log.leader()?;
        self.update(|report| report.leader.clone_from(&leader));
        self.refuse_namesake(leader.as_deref())?;
        if !self.follows_log {
            match standby.match_database(&self.database.store)? {
                // If no hub leads, this hub may begin the log. If another hub leads, that hub will soon begin the log.
                DatabaseLogMatch::NoLog => return Ok(leader.is_none()),
                DatabaseLogMatch::SameLog => self.follows_log = true,
                DatabaseLogMatch::NeedsSnapshot => self.fetch_snapshot(standby, leader.as_deref())?,
                DatabaseLogMatch::Refused(why) => return Err(LogError::Refused(why).into()),
            }
        }
        loop {
            match standby.follow(&mut self.database.store) {
                Ok(None) => break,
                Ok(Some((_, now))) => self.note_time(now),
                Err(StandbyError::Log(LogError::Trimmed(_))) => self.fetch_snapshot(standby, leader.as_deref())?,
                Err(error) => return Err(error),
            }
        }
        let own = self.database.store.log_position()?;
        let position = own.map_or(0, |own| own.index);
        self.is_level |= leader.is_some();
        self.update(|report| {
            (report.log, report.position) = (own.map(|own| own.log), position);
            report.level_at = Some(sys::boot_ms());
        });
        // While no hub leads, the report keeps the reason why this hub could not lead.
        if leader.is_some() {
            self.report_position(standby, position)?;
            self.update(|report| report.trouble = None);
        }
        Ok(leader.is_none())
    }

    /// Sets the clock to `now`, the time at which the leader stored an entry.
    fn note_time(&mut self, now: i64) {
        // A delayed entry shows a time in the past. So after the first entry, the clock is never set back.
        if self.is_level && (!self.knows_time || now > self.database.clock.now()) {
            (self.database.clock, self.knows_time) = (Clock::at(now), true);
        }
    }

    /// Refuses to follow a leader that has this hub's own address, because guests could not tell the two hubs apart.
    /// After a crash of this hub, etcd still lists the address until the old lease ends. So this function refuses only
    /// after two lease times.
    fn refuse_namesake(&mut self, leader: Option<&str>) -> Result<(), LogError> {
        let address = &self.config.address;
        if leader != Some(address) {
            self.namesake_since = None;
            return Ok(());
        }
        let since = *self.namesake_since.get_or_insert_with(Instant::now);
        if since.elapsed().as_millis() as i64 <= 2 * self.config.lease_ms() {
            return Ok(());
        }
        Err(LogError::Refused(format!(
            "the leader is another hub, but it has the same address as this hub, {address}; on each hub, set \
             SLM_MESH_HOST to the address of that hub's machine"
        )))
    }

    /// Replaces the database with a copy of the leader's database. After each failure, the pause before the next
    /// attempt grows, because each attempt makes the leader copy its whole database.
    fn fetch_snapshot(&mut self, standby: &mut Standby<EtcdLog>, leader: Option<&str>) -> Result<(), StandbyError> {
        if let Some((why, _, until)) = &self.snapshot_retry
            && Instant::now() < *until
        {
            return Err(LogError::Refused(why.clone()).into());
        }
        let replaced = self.replace_database(standby, leader);
        self.snapshot_retry = replaced.as_ref().err().filter(|_| leader.is_some()).map(|error| {
            let last = self.snapshot_retry.as_ref().map_or(SNAPSHOT_RETRY_MIN, |(_, last, _)| *last * 2);
            let wait = last.min(SNAPSHOT_RETRY_MAX);
            (error.to_string(), wait, Instant::now() + wait)
        });
        replaced
    }

    fn replace_database(&mut self, standby: &mut Standby<EtcdLog>, leader: Option<&str>) -> Result<(), StandbyError> {
        let failed = |why: String| {
            StandbyError::Log(LogError::Refused(format!(
                "this hub needs a snapshot (a copy of the leading hub's database), but could not get one: {why}"
            )))
        };
        let leader =
            leader.ok_or_else(|| failed("no hub is the leader; start a hub that has the data of this mesh".into()))?;
        let ticket = format!("{:032x}", sys::random_u128());
        standby.log.put_ticket(&self.config.address, &ticket)?;
        let stopping = Arc::clone(&self.stopping);
        let is_stopping = move || stopping.load(Ordering::Acquire);
        let HubDatabase { places, store, reopen, .. } = &mut self.database;
        let fetched = snapshot_fetch::fetch(places, &self.config, leader, &ticket, is_stopping).map_err(failed)?;
        if let Some(own) = store.log_position()? {
            check_past(own, &Store::log_terms_of(&fetched)?)?;
        }
        // An empty database replaces the open one, so that the file is closed and can be overwritten.
        drop(std::mem::replace(store, Store::memory()?));
        let installed = snapshot_fetch::install(places, &fetched).map_err(|error| failed(error.to_string()));
        *store = reopen().map_err(|error| failed(error.text))?;
        installed?;
        log(&format!("this hub got a snapshot from {leader}"));
        Ok(())
    }

    /// Reports this hub's position to the leader, so that the leader can trim the log.
    fn report_position(&mut self, standby: &mut Standby<EtcdLog>, position: u64) -> Result<(), StandbyError> {
        let is_soon = |(last, at): (u64, Instant)| last == position || at.elapsed() < REPORT_EVERY;
        if standby.log.is_present() && self.reported.is_some_and(is_soon) {
            return Ok(());
        }
        standby.log.report_position(&self.config.address, Position(position))?;
        self.reported = Some((position, Instant::now()));
        Ok(())
    }

    fn note_error(&mut self, error: &StandbyError) {
        self.follows_log = false;
        let text = error.to_string();
        let is_silent = matches!(error, StandbyError::Log(LogError::NoAnswer(_)));
        let is_new = self.update(|report| {
            if is_silent {
                report.leader = None;
            }
            report.trouble.replace(text.clone()) != Some(text.clone())
        });
        if is_new {
            log(&format!("this hub can't follow the log: {text}"));
        }
        std::thread::sleep(RETRY_AFTER);
    }

    fn update<T>(&self, change: impl FnOnce(&mut StandbyReport) -> T) -> T {
        change(&mut self.report.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Returns the clock, set forward to the time of the last log entry if necessary. The mesh's time must never go back.
fn not_before_log(clock: Clock, store: &Store) -> Clock {
    match store.log_position() {
        Ok(Some(position)) if position.stamp.now > clock.now() => Clock::at(position.stamp.now),
        _ => clock,
    }
}

/// Checks that the snapshot contains the last entry of the database that the snapshot will replace. If etcd was
/// restored from a backup, the log may contain a different entry at the same position. If the log no longer contains
/// that position, only the snapshot shows the difference.
fn check_past(own: LogPosition, snapshot: &LogTerms) -> Result<(), LogError> {
    match snapshot.term_at(own.index) {
        Some(term) if term == own.stamp.term => Ok(()),
        _ => Err(LogError::Refused(diverged(own.index))),
    }
}

fn new_log() -> LogId {
    LogId(sys::random_u128())
}
