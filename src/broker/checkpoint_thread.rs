//! A thread that copies the write-ahead log into the database, so that the event loop does not have to.

use crate::core::Mesh;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;

/// The delay between a write and the copying of the log.
const DELAY_MS: i64 = 200;

/// The thread, and the time of its next work.
pub struct CheckpointThread {
    /// The thread; `None` when no thread could be started. Then the writer copies the log itself.
    running: Option<(SyncSender<()>, JoinHandle<()>)>,
    /// The time at which the log is copied, in ms; `None` while the log is empty.
    due: Option<i64>,
}

impl CheckpointThread {
    /// Starts the thread.
    pub fn start(mesh: &Mesh) -> CheckpointThread {
        CheckpointThread { running: spawn(mesh), due: None }
    }

    /// Notes that the log is no longer empty.
    pub fn note_write(&mut self, now: i64) {
        self.due.get_or_insert(now + DELAY_MS);
    }

    /// The time at which the log is copied, in ms.
    pub fn deadline(&self) -> Option<i64> {
        self.due
    }

    /// Wakes the thread if its time has come.
    pub fn run_due(&mut self, now: i64) {
        if self.due.is_some_and(|at| at <= now) {
            self.due = None;
            // If the channel is full, the thread is already working, and this run or the next one copies these
            // changes, too.
            let _ = self.running.as_ref().map(|(work, _)| work.try_send(()));
        }
    }

    /// Waits until the thread has finished its work.
    pub fn stop(self) {
        if let Some((work, thread)) = self.running {
            drop(work);
            // The thread ends with its work; after a panic it has ended already.
            let _ = thread.join();
        }
    }
}

fn spawn(mesh: &Mesh) -> Option<(SyncSender<()>, JoinHandle<()>)> {
    let checkpointer = mesh.checkpointer().ok()?;
    let (work, inbox) = sync_channel(1);
    let copy_on_request = move || {
        while inbox.recv().is_ok() {
            // If the disk fails here, the next commit fails, too, and reports the error.
            let _ = checkpointer.run();
        }
    };
    let thread = std::thread::Builder::new().name("checkpoint".into()).spawn(copy_on_request).ok()?;
    Some((work, thread))
}
