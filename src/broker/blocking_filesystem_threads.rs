//! Inspects directories, and connects to sockets. Clients choose the paths. Each lookup runs on a separate thread,
//! because access to a dead network file system may hang forever, and the event loop must not wait.

use super::push_connection;
use crate::sys::read_git_files;
use mio::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError, channel};

/// Maximum number of lookups at the same time. A lookup that hangs keeps its slot. While no slot is free, no lookup
/// can begin.
const LOOKUPS_MAX: usize = 16;

/// The lookups that are running.
pub struct DirectoryLookups {
    wake: Arc<dyn Fn() + Send + Sync>,
    /// Each running lookup holds a clone, so the reference count shows how many lookups are running.
    running: Arc<()>,
}

/// A lookup that may still be running.
pub struct DirectoryLookup<T>(Receiver<Option<T>>);

impl DirectoryLookups {
    /// Prepares lookups. At the end of each lookup, `wake` is called to wake the event loop.
    pub fn new(wake: Arc<dyn Fn() + Send + Sync>) -> DirectoryLookups {
        DirectoryLookups { wake, running: Arc::new(()) }
    }

    /// Begins to search for the repository of a directory. Returns `None` if too many lookups are running.
    pub fn find_repository(&self, directory: PathBuf) -> Option<DirectoryLookup<String>> {
        self.start(move || read_git_files::facts(&directory).repo)
    }

    /// Begins to connect to a peer's socket. Returns `None` if too many lookups are running.
    pub fn dial(&self, socket: PathBuf) -> Option<DirectoryLookup<UnixStream>> {
        self.start(move || push_connection::dial_own(&socket))
    }

    fn start<T: Send + 'static>(
        &self,
        look: impl FnOnce() -> Option<T> + Send + 'static,
    ) -> Option<DirectoryLookup<T>> {
        if Arc::strong_count(&self.running) > LOOKUPS_MAX {
            return None;
        }
        let (sender, receiver) = channel();
        let (running, wake) = (Arc::clone(&self.running), Arc::clone(&self.wake));
        let run = move || {
            let found = look();
            drop(running);
            // Sending fails if the event loop no longer waits for the lookup.
            let _ = sender.send(found);
            wake();
        };
        std::thread::Builder::new().name("directory".into()).spawn(run).ok()?;
        Some(DirectoryLookup(receiver))
    }
}

impl<T> DirectoryLookup<T> {
    /// The result of the lookup; `None` while it is running.
    pub fn result(&self) -> Option<Option<T>> {
        match self.0.try_recv() {
            Ok(found) => Some(found),
            Err(TryRecvError::Empty) => None,
            // The thread panicked.
            Err(TryRecvError::Disconnected) => Some(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::Sender;

    #[test]
    fn lookups_that_hang_keep_nobody_else_waiting() {
        let (woken, wakes) = channel();
        let lookups = DirectoryLookups::new(Arc::new(move || woken.send(()).unwrap()));
        let mut hanging: Vec<(Sender<()>, DirectoryLookup<String>)> = (0..LOOKUPS_MAX)
            .map(|_| {
                let (release, wait) = channel::<()>();
                (release, lookups.start(move || wait.recv().ok().map(|()| "late".into())).unwrap())
            })
            .collect();
        assert!(hanging.iter().all(|(_, lookup)| lookup.result().is_none()));
        assert!(lookups.find_repository("/".into()).is_none(), "too many lookups hang, so no further lookup starts");
        let (release, late) = hanging.pop().unwrap();
        release.send(()).unwrap();
        wakes.recv().unwrap();
        assert_eq!(late.result(), Some(Some("late".into())));
        let root = lookups.find_repository("/".into()).unwrap();
        wakes.recv().unwrap();
        assert_eq!(root.result(), Some(None), "no repository");
    }
}
