//! Writes the write-ahead log to the disk, and copies the log into the database. Uses a separate thread, so that the
//! event loop does not have to wait for the disk.
//!
//! After a copy, SQLite begins the log anew, and the first commit waits for the disk. If the log were copied after each
//! commit, each command of a quiet mesh would wait. So the thread writes the log to the disk soon after a commit, but
//! copies it only later.

use crate::core::Mesh;
use crate::sys::regular_file;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;

/// The time, in ms, from a commit until the log is written to the disk.
const SYNC_DELAY_MS: i64 = 200;
/// The time, in ms, from the last commit until the log is copied into the database file. After that, the database file
/// alone contains everything, so programs can copy the file without its log.
const QUIET_MS: i64 = 20_000;
/// After this many commits, the log is copied without waiting for a quiet time. Otherwise, the log of a busy mesh would
/// become so long that SQLite would copy it during a commit. A small commit adds four to eight pages to the log.
const COMMITS_MAX: u32 = 256;

/// Work for the thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Work {
    /// Write the log to the disk.
    Sync,
    /// Copy the log into the database.
    Copy,
}

/// The thread, and the times at which it will work next.
pub struct CheckpointThread {
    /// The thread; `None` if no thread could be started. In this case, SQLite itself copies the log during a commit if
    /// the log is long.
    running: Option<(SyncSender<Work>, JoinHandle<()>)>,
    /// The time, in ms, at which the log will be written to the disk; `None` if the whole log is on the disk.
    sync_due: Option<i64>,
    /// The time, in ms, at which the log will be copied; `None` if nothing has been written since the last copy.
    copy_due: Option<i64>,
    /// The number of commits since the log was last copied.
    n_commits: u32,
    /// True after the thread has copied most of a long log. The loop should then copy the rest.
    is_rest_due: Arc<AtomicBool>,
}

impl CheckpointThread {
    /// Starts the thread.
    pub fn start(mesh: &Mesh) -> CheckpointThread {
        let is_rest_due = Arc::default();
        let running = spawn(mesh, Arc::clone(&is_rest_due));
        CheckpointThread { running, sync_due: None, copy_due: None, n_commits: 0, is_rest_due }
    }

    /// Records that there was a commit, so that the log will be written to the disk and copied.
    pub fn note_commit(&mut self, now: i64) {
        self.n_commits += 1;
        self.sync_due.get_or_insert(now + SYNC_DELAY_MS);
        self.copy_due = Some(if self.n_commits < COMMITS_MAX { now + QUIET_MS } else { now });
    }

    /// The time, in ms, at which the log will be written to the disk or copied.
    pub fn deadline(&self) -> Option<i64> {
        self.sync_due.into_iter().chain(self.copy_due).min()
    }

    /// Gives the thread the work that is due. If the thread has copied most of a long log, copies the rest on the
    /// calling thread. The replies of the turn have already been sent, so only later calls have to wait.
    pub fn run_due(&mut self, mesh: &mut Mesh, now: i64) {
        if self.is_rest_due.swap(false, Ordering::Relaxed) {
            mesh.copy_rest_of_log();
        }
        if let (Some(work), Some((sender, _))) = (self.take_due(now), &self.running) {
            // If the channel is full, the thread is already working, and the work that waits in the channel will write
            // the latest changes to the disk. Perhaps that work does not include a copy. So if a copy does not fit into
            // the channel, it is tried again soon.
            if matches!(sender.try_send(work), Err(TrySendError::Full(Work::Copy))) {
                self.copy_due = Some(now + SYNC_DELAY_MS);
            }
        }
    }

    /// Returns the work that is due, and plans the next work.
    fn take_due(&mut self, now: i64) -> Option<Work> {
        let is_due = |at: Option<i64>| at.is_some_and(|at| at <= now);
        let work = if is_due(self.copy_due) {
            (self.copy_due, self.n_commits) = (None, 0);
            Work::Copy
        } else if is_due(self.sync_due) {
            Work::Sync
        } else {
            return None;
        };
        // Copying the log into the database also writes the log to the disk, so no separate write is needed.
        self.sync_due = None;
        Some(work)
    }

    /// Waits until the thread has finished its work and ended.
    pub fn stop(self) {
        if let Some((work, thread)) = self.running {
            drop(work);
            // The thread ends after its current work. After a panic, it has already ended.
            let _ = thread.join();
        }
    }
}

fn spawn(mesh: &Mesh, is_rest_due: Arc<AtomicBool>) -> Option<(SyncSender<Work>, JoinHandle<()>)> {
    let checkpointer = mesh.checkpointer().ok()?;
    let (sender, inbox) = sync_channel(1);
    let work = move || {
        while let Ok(work) = inbox.recv() {
            // If the disk fails here, a later commit will fail as well and report the error.
            match (work, checkpointer.unsynced_log()) {
                (Work::Copy, _) => is_rest_due.store(checkpointer.run().unwrap_or(false), Ordering::Relaxed),
                (Work::Sync, Some(log)) => regular_file::sync_data(log).unwrap_or_default(),
                (Work::Sync, None) => {}
            }
        }
    };
    let thread = std::thread::Builder::new().name("checkpoint".into()).spawn(work).ok()?;
    Some((sender, thread))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_of_a_quiet_mesh_is_synced_soon_and_copied_late() {
        let is_rest_due = Arc::default();
        let mut thread = CheckpointThread { running: None, sync_due: None, copy_due: None, n_commits: 0, is_rest_due };
        thread.note_commit(0);
        thread.note_commit(100);
        assert_eq!((thread.take_due(199), thread.deadline()), (None, Some(200)), "200 ms after the first commit");
        assert_eq!(thread.take_due(200), Some(Work::Sync));
        thread.note_commit(5_000);
        assert_eq!(thread.take_due(5_200), Some(Work::Sync));
        assert_eq!((thread.take_due(24_999), thread.deadline()), (None, Some(25_000)), "20 s after the last commit");
        assert_eq!((thread.take_due(25_000), thread.deadline()), (Some(Work::Copy), None));
        (0..COMMITS_MAX).for_each(|_| thread.note_commit(40_000));
        assert_eq!((thread.take_due(40_000), thread.deadline()), (Some(Work::Copy), None), "the log must stay short");
        thread.note_commit(40_001);
        assert_eq!(thread.take_due(40_001), None);
    }
}
