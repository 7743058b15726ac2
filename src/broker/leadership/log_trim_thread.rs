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
/// Minimum time for which entries are kept, unless the log exceeds `KEEP_BYTES`. A hub that was away for a moment
/// therefore needs no snapshot.
const KEEP_FOR: Duration = Duration::from_secs(600);
/// Maximum number of bytes of entries that are kept. A hub that needs older entries gets a snapshot.
const KEEP_BYTES: u64 = 64 << 20;
/// Maximum time that each check spends on measuring entries that earlier leaders have stored.
const MEASURE_FOR: Duration = Duration::from_millis(200);
/// How many hubs must have an entry on their disks before it is trimmed, unless the log exceeds `KEEP_BYTES`.
const COPIES_MIN: usize = 2;

/// What the thread found in its last check.
#[derive(Debug, Clone, Default)]
pub struct ClusterReport {
    /// The hubs on standby, each with the last entry on its disk.
    pub standbys: Vec<(String, u64)>,
    /// The members of etcd.
    pub members: Vec<MemberHealth>,
    /// Why the last check or the last trimming failed; `None` if both succeeded.
    pub trouble: Option<String>,
}

/// What the loop and the thread tell each other: how far the leader has got, and whether a new hub must be told the
/// time of the mesh.
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

    /// Notes that an entry was stored.
    pub fn note(&self, position: Position, n_bytes: usize) {
        self.bytes.fetch_add(n_bytes as u64, Ordering::Relaxed);
        self.position.store(position.0, Ordering::Release);
    }

    /// Whether a hub has joined since the last call. If so, the leader must store an entry with the time of the mesh,
    /// because a new hub knows only the time of its own machine until it finds a new entry.
    pub fn take_wish_for_time(&self) -> bool {
        self.is_time_wanted.swap(false, Ordering::AcqRel)
    }
}

/// The event loop's handle to the thread. Dropping the handle ends the thread, but does not wait for its end.
pub struct LogTrimThread {
    report: Arc<Mutex<ClusterReport>>,
    _stop: Sender<()>,
}

impl LogTrimThread {
    /// Starts the thread of the hub at this address. `wake` is called when the loop should look at
    /// [`LogProgress::take_wish_for_time`]. If the thread can't be started, the broker's log says so, and the log in
    /// etcd is not trimmed.
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

    /// Returns a function that returns what the thread found in its last check.
    pub fn reporter(&self) -> impl Fn() -> ClusterReport + Send + 'static {
        let report = Arc::clone(&self.report);
        move || report.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// How far the leader had got at some time.
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
    /// The hubs on standby in the last check.
    standbys: Vec<HubPosition>,
    /// The samples, oldest first. A sample is removed when the entries up to it have been trimmed.
    samples: VecDeque<Sample>,
    /// The entries that earlier leaders have stored, until all of them have been measured.
    older: Option<OlderEntries>,
}

/// The entries that earlier leaders have stored. This leader measures them, because `KEEP_BYTES` counts them too.
struct OlderEntries {
    /// The last of these entries.
    last: u64,
    /// The last entry that has been measured. `bytes` is the size of all entries up to this one.
    position: u64,
    bytes: u64,
    samples: VecDeque<Sample>,
}

impl OlderEntries {
    fn before(last: u64) -> OlderEntries {
        OlderEntries { last, position: 0, bytes: 0, samples: VecDeque::new() }
    }

    /// Measures the next entries. Returns whether all have been measured.
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
    /// Measures entries that earlier leaders have stored, for a limited time, and puts their samples before those of
    /// this leader.
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

    /// Asks for an entry with the time if a hub has joined. Without this entry, that hub could take over an idle mesh
    /// with the time of its own machine.
    fn note_standbys(&mut self, standbys: Vec<HubPosition>) {
        let is_known = |standby: &HubPosition| self.standbys.iter().any(|known| known.lease == standby.lease);
        if !standbys.iter().all(is_known) {
            self.progress.is_time_wanted.store(true, Ordering::Release);
            (self.wake)();
        }
        self.standbys = standbys;
    }

    fn trim(&mut self, standbys: &[(String, u64)], now: Instant, bytes: u64) -> Result<(), String> {
        let (upto, n_samples) = trim_target(&self.samples, standbys, now, bytes);
        if n_samples > 0 {
            // The last entry is kept, because it says to which mesh the log belongs.
            let upto = upto.min(self.progress.position.load(Ordering::Acquire).saturating_sub(1));
            self.upkeep.trim(Position(upto)).map_err(|error| error.to_string())?;
            self.samples.drain(..n_samples);
        }
        Ok(())
    }
}

/// The entry up to which the log may be trimmed, and the number of samples that show this entry or an earlier one.
fn trim_target(samples: &VecDeque<Sample>, standbys: &[(String, u64)], now: Instant, bytes: u64) -> (u64, usize) {
    // The leader itself has all entries on its disk.
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
        assert_eq!(trimmed(900, &[("b", 15)], 3 << 20), 10, "the rest is on one disk only");
        assert_eq!(trimmed(900, &[], 3 << 20), 0);
        assert_eq!(trimmed(130, &[], 67 << 20), 20, "the log is too large");
    }
}
