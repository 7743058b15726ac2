//! The thread of a hub that stands by. It follows the log with its own database, until the hub leads or the thread is
//! stopped.

use super::snapshot_fetch;
use super::{DatabaseLogMatch, HubConfig, Leader, Standby, StandbyError, TakeOver};
use crate::base::error::Error;
use crate::base::ids::LogId;
use crate::broker::log;
use crate::replication::etcd::EtcdLog;
use crate::replication::{LogError, Position, ReplicatedLog};
use crate::store::Store;
use crate::sys::data_dir::DataDir;
use crate::sys::{self, Clock};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long the thread waits for news of the log. News ends the wait.
const WAIT_MAX: Duration = Duration::from_millis(500);
/// The pause after an error.
const RETRY_AFTER: Duration = Duration::from_millis(200);
/// Minimum time between two reports of this hub's position.
const REPORT_EVERY: Duration = Duration::from_secs(1);

/// What a standby knows about the log and the other hubs.
#[derive(Debug, Clone, Default)]
pub struct StandbyReport {
    /// The address of the hub that leads, if one does.
    pub leader: Option<String>,
    /// The number of the last entry in this hub's database.
    pub position: u64,
    /// When this hub last had the whole log, ms since boot.
    pub level_at: Option<i64>,
    /// Why this hub can't follow or lead.
    pub trouble: Option<String>,
}

/// The database of a hub, which the thread owns while this hub stands by.
pub struct HubDatabase {
    /// The data directory.
    pub places: DataDir,
    /// The open database.
    pub store: Store,
    /// The mesh's clock.
    pub clock: Clock,
    /// Opens the database again, after it was replaced.
    pub reopen: Box<dyn Fn() -> Result<Store, Error> + Send>,
}

/// The lead that a standby took over.
pub struct TakenLead {
    /// The access to the log.
    pub leader: Leader<EtcdLog>,
    /// The database, which has the whole log.
    pub store: Store,
    /// The clock, which continues from the log.
    pub clock: Clock,
}

/// The thread, as the event loop sees it.
pub struct StandbyThread {
    report: Arc<Mutex<StandbyReport>>,
    taken: Receiver<TakenLead>,
    stopping: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl StandbyThread {
    /// Starts to follow. `wake` is called when this hub leads.
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
            reported: None,
        };
        let run = move || follower.run(Standby::new(log), &taken_to, &wake);
        let thread = std::thread::Builder::new().name("standby".into()).spawn(run)?;
        Ok(StandbyThread { report, taken, stopping, thread: Some(thread) })
    }

    /// Returns what the thread knows now.
    pub fn report(&self) -> StandbyReport {
        self.report.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes the lead, once this hub has it.
    pub fn take_lead(&self) -> Option<TakenLead> {
        self.taken.try_recv().ok()
    }

    /// Waits until this hub leads or knows why it does not, at most for this long.
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
    /// Waits for the end of the thread, because the lock of this data directory must outlive its last write.
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            // After a panic, the thread has written nothing more.
            let _ = thread.join();
        }
    }
}

/// The state of the thread.
struct Follower {
    config: HubConfig,
    /// The database. Its clock continues from the newest entry that arrived while this hub watched.
    database: HubDatabase,
    report: Arc<Mutex<StandbyReport>>,
    stopping: Arc<AtomicBool>,
    /// Whether the database is known to belong to the log.
    follows_log: bool,
    /// Whether this hub has had the whole log. Later entries are new, and their time is the mesh's time.
    is_level: bool,
    /// The position that this hub reported last, and the time of the report.
    reported: Option<(u64, Instant)>,
}

impl Follower {
    fn run(mut self, mut standby: Standby<EtcdLog>, taken_to: &Sender<TakenLead>, wake: &dyn Fn()) {
        while !self.stopping.load(Ordering::Acquire) {
            match self.step(&mut standby) {
                Ok(true) => match standby.take_over(&mut self.database.store, &self.config.address, new_log) {
                    Ok(TakeOver::Leads(leader)) => {
                        let HubDatabase { store, clock, .. } = self.database;
                        // If the loop is gone, the lead ends with its lease.
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

    /// Follows once; returns whether this hub may take over.
    fn step(&mut self, standby: &mut Standby<EtcdLog>) -> Result<bool, StandbyError> {
        let leader = standby.log.leader()?;
        self.update(|report| report.leader.clone_from(&leader));
        if !self.follows_log {
            match standby.match_database(&self.database.store)? {
                // Without a leader this hub may begin the log. Otherwise the leader is about to.
                DatabaseLogMatch::NoLog => return Ok(leader.is_none()),
                DatabaseLogMatch::SameLog => self.follows_log = true,
                DatabaseLogMatch::NeedsSnapshot => self.fetch_snapshot(standby, leader.as_deref())?,
                DatabaseLogMatch::Refused(why) => return Err(LogError::Refused(why).into()),
            }
        }
        loop {
            match standby.follow(&mut self.database.store) {
                Ok(None) => break,
                Ok(Some((_, now))) if self.is_level => self.database.clock = Clock::at(now),
                Ok(Some(_)) => {}
                Err(StandbyError::Log(LogError::Trimmed(_))) => self.fetch_snapshot(standby, leader.as_deref())?,
                Err(error) => return Err(error),
            }
        }
        let position = self.database.store.log_position()?.map_or(0, |position| position.index);
        self.is_level |= leader.is_some();
        self.update(|report| {
            report.position = position;
            report.level_at = Some(sys::boot_ms());
            report.trouble = None;
        });
        if leader.is_some() {
            self.report_position(standby, position)?;
        }
        Ok(leader.is_none())
    }

    /// Replaces the database by a copy of the leader's.
    fn fetch_snapshot(&mut self, standby: &mut Standby<EtcdLog>, leader: Option<&str>) -> Result<(), StandbyError> {
        let failed = |why: String| StandbyError::Log(LogError::Refused(format!("this hub needs a snapshot: {why}")));
        let leader = leader.ok_or_else(|| failed("no hub leads, so none can send a snapshot".into()))?;
        let ticket = format!("{:032x}", sys::random_u128());
        standby.log.put_ticket(&self.config.address, &ticket)?;
        let stopping = Arc::clone(&self.stopping);
        let is_stopping = move || stopping.load(Ordering::Acquire);
        let HubDatabase { places, store, reopen, .. } = &mut self.database;
        let fetched = snapshot_fetch::fetch(places, &self.config, leader, &ticket, is_stopping).map_err(failed)?;
        // An empty database replaces the open one, so that the file can be replaced.
        drop(std::mem::replace(store, Store::memory()?));
        let installed = snapshot_fetch::install(places, &fetched).map_err(|error| failed(error.to_string()));
        *store = reopen().map_err(|error| failed(error.text))?;
        installed?;
        log(&format!("this hub has a snapshot of {leader}"));
        Ok(())
    }

    /// Tells the leader how much of the log this hub has, so that the log may be trimmed.
    fn report_position(&mut self, standby: &mut Standby<EtcdLog>, position: u64) -> Result<(), StandbyError> {
        if self.reported.is_some_and(|(last, at)| last == position || at.elapsed() < REPORT_EVERY) {
            return Ok(());
        }
        standby.log.report_position(&self.config.address, Position(position))?;
        self.reported = Some((position, Instant::now()));
        Ok(())
    }

    fn note_error(&mut self, error: &StandbyError) {
        let text = error.to_string();
        let is_silent = matches!(error, StandbyError::Log(LogError::NoAnswer(_)));
        let is_new = self.update(|report| {
            if is_silent {
                report.leader = None;
            }
            report.trouble.replace(text.clone()) != Some(text.clone())
        });
        if is_new {
            log(&format!("this hub can't follow: {text}"));
        }
        std::thread::sleep(RETRY_AFTER);
    }

    fn update<T>(&self, change: impl FnOnce(&mut StandbyReport) -> T) -> T {
        change(&mut self.report.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn new_log() -> LogId {
    LogId(sys::random_u128())
}
