//! Copies the write-ahead log into the database on a separate thread, so that the event loop does not have to wait for
//! the disk.

use crate::core::Mesh;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;

/// The time from a write to the log until the log is copied.
const DELAY_MS: i64 = 200;
/// After this many commits, the log is copied without waiting for the delay. Otherwise, the log of a busy mesh would
/// become so long that SQLite would copy it during a commit. A small commit adds four to eight pages to the log.
const COMMITS_MAX: u32 = 256;

/// The thread, and when it will work next.
pub struct CheckpointThread {
    /// The thread; `None` if no thread could be started. In this case, SQLite copies the log during a commit, once the
    /// log is long enough.
    running: Option<(SyncSender<()>, JoinHandle<()>)>,
    /// When the log will be copied, in ms; `None` if nothing has been written since the last copy.
    due: Option<i64>,
    /// The commits since the log was last copied.
    n_commits: u32,
    /// Whether the thread has just copied most of a long log, and the loop should copy the rest.
    is_rest_due: Arc<AtomicBool>,
}

impl CheckpointThread {
    /// Starts the thread.
    pub fn start(mesh: &Mesh) -> CheckpointThread {
        let is_rest_due = Arc::default();
        CheckpointThread { running: spawn(mesh, Arc::clone(&is_rest_due)), due: None, n_commits: 0, is_rest_due }
    }

    /// Records that there was a commit, so that the log will be copied.
    pub fn note_commit(&mut self, now: i64) {
        self.n_commits += 1;
        let delay = if self.n_commits < COMMITS_MAX { DELAY_MS } else { 0 };
        self.due = Some(self.due.map_or(now + delay, |due| due.min(now + delay)));
    }

    /// When the log will be copied, in ms.
    pub fn deadline(&self) -> Option<i64> {
        self.due
    }

    /// If the copy is due, tells the thread to copy the log. If the thread has copied most of a long log, copies the
    /// rest on the calling thread. By then, the replies of the turn have been sent, so only later calls have to wait.
    pub fn run_due(&mut self, mesh: &mut Mesh, now: i64) {
        if self.is_rest_due.swap(false, Ordering::Relaxed) {
            mesh.copy_rest_of_log();
        }
        if self.due.is_some_and(|at| at <= now) {
            (self.due, self.n_commits) = (None, 0);
            // If the channel is full, the thread is already working. Its current run or the next one copies these
            // changes, too.
            let _ = self.running.as_ref().map(|(work, _)| work.try_send(()));
        }
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

fn spawn(mesh: &Mesh, is_rest_due: Arc<AtomicBool>) -> Option<(SyncSender<()>, JoinHandle<()>)> {
    let checkpointer = mesh.checkpointer().ok()?;
    let (work, inbox) = sync_channel(1);
    let copy_on_request = move || {
        while inbox.recv().is_ok() {
            // If the disk fails here, the next commit will fail as well and report the error.
            let is_long = checkpointer.run().unwrap_or(false);
            is_rest_due.store(is_long, Ordering::Relaxed);
        }
    };
    let thread = std::thread::Builder::new().name("checkpoint".into()).spawn(copy_on_request).ok()?;
    Some((work, thread))
}
