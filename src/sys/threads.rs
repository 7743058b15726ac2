//! Starts threads. Unlike `std::thread::spawn`, these functions do not panic if the system refuses to start another
//! thread, for example under `ulimit -u` or in a container with a limit on processes.

use crate::base::error::{Error, ErrorKind};
use std::io;
use std::thread::{Builder, JoinHandle};

/// Starts a thread. `purpose` completes the sentence "no thread can be started to …".
///
/// # Errors
/// If the system refuses to start another thread.
pub fn spawn<T: Send + 'static>(
    purpose: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<T>, Error> {
    Builder::new().spawn(work).map_err(|error| refused(purpose, &error))
}

/// The error if the system refuses to start another thread.
pub fn refused(purpose: &str, error: &io::Error) -> Error {
    let text = format!(
        "no thread can be started to {purpose} ({error}); end some programs, or raise the limit on processes (ulimit \
         -u)"
    );
    Error::new(ErrorKind::Gone, text)
}

/// Calls a function for all items at the same time, and returns its results in the order of the items. A result is
/// `None` if the function panicked. If no thread can be started for an item, the item is handled on the caller's
/// thread.
pub fn map_in_parallel<I: Sync, T: Send>(items: &[I], call: impl Fn(&I) -> T + Sync) -> Vec<Option<T>> {
    let call = &call;
    std::thread::scope(|scope| {
        let begun: Vec<_> = items.iter().map(|item| Builder::new().spawn_scoped(scope, move || call(item))).collect();
        let finish = |(item, thread): (&I, io::Result<std::thread::ScopedJoinHandle<'_, T>>)| match thread {
            Ok(thread) => thread.join().ok(),
            Err(_) => Some(call(item)),
        };
        items.iter().zip(begun).map(finish).collect()
    })
}
