//! A thread of the hub that leads. It trims the log, and checks the other hubs and the members of etcd.

use crate::broker::log;
use crate::replication::Position;
use crate::replication::etcd::{EtcdUpkeep, HubPosition, MemberHealth};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How often the thread checks the other hubs.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Minimum time for which entries are kept, unless the log exceeds `KEEP_BYTES`. So a hub that was briefly offline can
/// catch up from the log alone.
const KEEP_FOR: Duration = Duration::from_secs(600);
/// Maximum size of the kept entries, in bytes. A hub that needs older entries gets a copy of the database instead.
const KEEP_BYTES: u64 = 64 << 20;
/// Maximum time that each check spends on reading the sizes of entries from earlier leaders.
const MEASURE_FOR: Duration = Duration::from_millis(200);
/// The number of hubs that must have stored an entry before the entry is trimmed, unless the log exceeds `KEEP_BYTES`.
const COPIES_MIN: usize = 2;

/// What the thread found in its last check.
#[derive(Debug, Clone, Default)]
pub struct ClusterReport {
    /// The address of each hub on standby, and the number of the last entry on its disk.
    pub standbys: Vec<(String, u64)>,
    /// The members of etcd.
    pub members: Vec<MemberHealth>,
    /// Why the last check or the last trimming failed; `None` if both succeeded.
    pub trouble: Option<String>,
}

/// The state that the event loop and the trim thread share.
#[derive(Debug, Default)]
pub struct LogProgress {
    position: AtomicU64,
    bytes: AtomicU64,
    is_time_wanted: AtomicBool,
}

impl LogProgress {
    /// The number of the last entry that was stored.
    pub fn position(&self) -> u64 {
        self.position.load(Ordering::Acquire)
    }

    /// Records that an entry of this size was stored.
    pub fn note(&self, position: Position, n_bytes: usize) {
        self.bytes.fetch_add(n_bytes as u64, Ordering::Relaxed);
        self.position.store(position.0, Ordering::Release);
    }

    /// Whether a hub has joined, and the leader has not stored an entry with the mesh's time since. Until then, the new
    /// hub knows only the time of its own machine.
    pub fn is_time_wanted(&self) -> bool {
        self.is_time_wanted.load(Ordering::Acquire)
    }

    /// Records that the leader stores an entry with the mesh's time.
    pub fn note_time(&self) {
        self.is_time_wanted.store(false, Ordering::Release);
    }
}

/// The event loop's handle to the trim thread. Dropping the handle stops the thread, but does not wait for its end.
pub struct LogTrimThread {
    report: Arc<Mutex<ClusterReport>>,
    _stop: Sender<()>,
}

impl LogTrimThread {
    /// Starts the trim thread of the hub at `address`. The thread calls `wake` when another hub has joined, because
    /// that hub does not know the mesh's time yet. If the thread can't be started, the broker logs an error, and the
    /// log in etcd is not trimmed.
    pub fn start(
        upkeep: EtcdUpkeep,
        address: String,
        progress: Arc<LogProgress>,
        wake: Box<dyn Fn() + Send + Sync>,
    ) -> LogTrimThread {
        let report = Arc::new(Mutex::new(ClusterReport::default()));
        let (stop, stopped) = channel();
        let older = OlderEntries::before(progress.position());
        let (samples, standbys) = (VecDeque::new(), Vec::new());
        let report_of_keeper = Arc::clone(&report);
        let mut keeper =
            Keeper { upkeep, address, progress, wake, report: report_of_keeper, standbys, samples, older: Some(older) };
        let run = move || {
            keeper.look();
            while stopped.recv_timeout(LOOK_EVERY) == Err(RecvTimeoutError::Timeout) {
                keeper.look();
            }
        };
        if let Err(error) = std::thread::Builder::new().name("upkeep".into()).spawn(run) {
            log(&format!("the log in etcd will not be trimmed, because no thread can be started: {error}"));
        }
        LogTrimThread { report, _stop: stop }
    }

    /// Returns a function that reports the results of the thread's last check.
    pub fn reporter(&self) -> impl Fn() -> ClusterReport + Send + 'static {
        let report = Arc::clone(&self.report);
        move || report.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The last entry and the total size of the log at one point in time.
#[derive(Debug, Clone, Copy)]
struct Sample {
    at: Instant,
    position: u64,
    bytes: u64,
}

struct Keeper {
    upkeep: EtcdUpkeep,
    address: String,
    progress: Arc<LogProgress>,
    wake: Box<dyn Fn() + Send + Sync>,
    report: Arc<Mutex<ClusterReport>>,
    /// The hubs on standby that the last check found.
    standbys: Vec<HubPosition>,
    /// The samples of the log's size, oldest first. A sample is removed when its entries have been trimmed.
    samples: VecDeque<Sample>,
    /// The entries from earlier leaders; `None` when all of their sizes are known.
    older: Option<OlderEntries>,
}

/// Entries from earlier leaders. Their sizes count towards `KEEP_BYTES`, too, so the sizes must be read from etcd.
struct OlderEntries {
    /// The number of the last entry from an earlier leader.
    last: u64,
    /// The number of the last entry whose size is known. `bytes` is the total size up to this entry.
    position: u64,
    bytes: u64,
    samples: VecDeque<Sample>,
}

impl OlderEntries {
    fn before(last: u64) -> OlderEntries {
        OlderEntries { last, position: 0, bytes: 0, samples: VecDeque::new() }
    }

    /// Adds the sizes of the next entries. Returns whether all sizes are known now.
    fn note(&mut self, sizes: &[(Position, u64)], now: Instant) -> bool {
        let mut older = sizes.iter().take_while(|(at, _)| at.0 <= self.last).peekable();
        if older.peek().is_none() {
            return true;
        }
        for (at, size) in older {
            self.position = at.0;
            self.bytes += size;
        }
        // The age of these entries is unknown, so they count as new.
        self.samples.push_back(Sample { at: now, position: self.position, bytes: self.bytes });
        self.position >= self.last
    }
}

impl Keeper {
    /// Spends up to `MEASURE_FOR` on reading the sizes of entries that earlier leaders stored. When all sizes are
    /// known, puts the samples of the earlier leaders before the samples of this leader.
    fn measure_older(&mut self) -> Result<(), String> {
        let began = Instant::now();
        while let Some(older) = self.older.as_mut().filter(|_| began.elapsed() < MEASURE_FOR) {
            let sizes = self.upkeep.entry_sizes(Position(older.position)).map_err(|error| error.to_string())?;
            if older.note(&sizes, Instant::now()) {
                self.progress.bytes.fetch_add(older.bytes, Ordering::Relaxed);
                self.samples.iter_mut().for_each(|sample| sample.bytes += older.bytes);
                let samples = std::mem::take(&mut older.samples);
                self.samples = samples.into_iter().chain(self.samples.drain(..)).collect();
                self.older = None;
            }
        }
        Ok(())
    }

    fn look(&mut self) {
        let measured = self.measure_older();
        let position = self.progress.position.load(Ordering::Acquire);
        let bytes = self.progress.bytes.load(Ordering::Relaxed);
        let now = Instant::now();
        self.samples.push_back(Sample { at: now, position, bytes });
        let mut report = ClusterReport { members: self.upkeep.members(), ..ClusterReport::default() };
        match self.upkeep.positions() {
            Ok(mut standbys) => {
                standbys.retain(|standby| standby.hub != self.address);
                report.standbys = standbys.iter().map(|standby| (standby.hub.clone(), standby.at.0)).collect();
                self.note_standbys(standbys);
                report.trouble = measured.and(self.trim(&report.standbys, now, bytes)).err();
            }
            Err(error) => report.trouble = Some(error.to_string()),
        }
        *self.report.lock().unwrap_or_else(PoisonError::into_inner) = report;
    }

    /// If a hub has joined, asks the event loop to store an entry with the mesh's time. Without this entry, the new hub
    /// could take over an idle mesh and use the time of its own machine.
    fn note_standbys(&mut self, standbys: Vec<HubPosition>) {
        let is_known = |standby: &HubPosition| self.standbys.iter().any(|known| known.lease == standby.lease);
        if !standbys.iter().all(is_known) {
            self.progress.is_time_wanted.store(true, Ordering::Release);
        }
        // The turn that the last call of `wake` began may not have written the time, because it only answered reads.
        if self.progress.is_time_wanted() {
            (self.wake)();
        }
        self.standbys = standbys;
    }

    fn trim(&mut self, standbys: &[(String, u64)], now: Instant, bytes: u64) -> Result<(), String> {
        let (upto, n_samples) = trim_target(&self.samples, standbys, now, bytes);
        if n_samples > 0 {
            // The last entry is never trimmed, because it identifies the mesh to which the log belongs.
            let upto = upto.min(self.progress.position.load(Ordering::Acquire).saturating_sub(1));
            self.upkeep.trim(Position(upto)).map_err(|error| error.to_string())?;
            self.samples.drain(..n_samples);
        }
        Ok(())
    }
}

/// Returns the last entry that can be trimmed, and the number of samples up to this entry.
fn trim_target(samples: &VecDeque<Sample>, standbys: &[(String, u64)], now: Instant, bytes: u64) -> (u64, usize) {
    // The leader has every entry on its disk, so the leader counts as one copy of every entry.
    let mut held: Vec<u64> = standbys.iter().map(|(_, at)| *at).chain([u64::MAX]).collect();
    held.sort_unstable_by(|a, b| b.cmp(a));
    let copied = held.get(COPIES_MIN - 1).copied().unwrap_or(0);
    let may_go = |sample: &&Sample| {
        let is_old = now.duration_since(sample.at) >= KEEP_FOR && sample.position <= copied;
        is_old || bytes - sample.bytes > KEEP_BYTES
    };
    let n = samples.iter().take_while(may_go).count();
    (n.checked_sub(1).and_then(|last| samples.get(last)).map_or(0, |sample| sample.position), n)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_leader_counts_the_entries_of_earlier_leaders() {
        let now = Instant::now();
        let mut older = OlderEntries::before(40);
        let page = |positions: [u64; 3]| positions.map(|n| (Position(n), 10 << 20));
        assert!(!older.note(&page([10, 11, 12]), now));
        assert!(older.note(&page([39, 40, 41]), now), "41 is of this term");
        assert_eq!((older.position, older.bytes), (40, 50 << 20));
        let upto = |bytes| trim_target(&older.samples, &[], now, bytes).0;
        assert_eq!((upto(94 << 20), upto(95 << 20), upto(115 << 20)), (0, 12, 40));
        assert!(OlderEntries::before(40).note(&[], now), "the log is empty");
    }

    #[test]
    fn the_log_keeps_what_is_young_or_on_one_disk_only_until_it_is_too_large() {
        let start = Instant::now();
        let sample =
            |seconds: u64, position, bytes| Sample { at: start + Duration::from_secs(seconds), position, bytes };
        let samples: VecDeque<Sample> =
            [sample(0, 10, 1 << 20), sample(60, 20, 2 << 20), sample(120, 30, 3 << 20)].into();
        let trimmed = |seconds: u64, standbys: &[(&str, u64)], bytes: u64| {
            let standbys: Vec<_> = standbys.iter().map(|(hub, at)| ((*hub).to_owned(), *at)).collect();
            trim_target(&samples, &standbys, start + Duration::from_secs(seconds), bytes).0
        };
        let level = [("b", 99), ("c", 99)];
        assert_eq!(trimmed(599, &level, 3 << 20), 0, "all entries are young");
        assert_eq!(trimmed(660, &level, 3 << 20), 20);
        assert_eq!(trimmed(900, &[("b", 99), ("c", 15)], 3 << 20), 30, "two hubs have it");
        assert_eq!(trimmed(900, &[("b", 15)], 3 << 20), 10, "the other entries are on only one disk");
        assert_eq!(trimmed(900, &[], 3 << 20), 0);
        assert_eq!(trimmed(130, &[], 67 << 20), 20, "the log is too large");
    }
}
