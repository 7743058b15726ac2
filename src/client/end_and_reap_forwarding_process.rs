//! The process that forwards a connection's lines to another machine. For example, this process can be ssh.

use crate::sys::process;
use std::process::Child;

/// The process that forwards the lines of a connection. It ends when the connection is closed. The process is always
/// reaped, because the owner of a connection can run for a long time, and an unreaped process stays a zombie.
#[derive(Debug)]
pub struct Carrier(Option<Child>);

impl Carrier {
    /// Creates a carrier that owns this child process.
    pub(super) fn of(child: Child) -> Carrier {
        Carrier(Some(child))
    }

    /// Ends the process, unless it has ended already.
    pub(super) fn kill(mut self) {
        if let Some(mut child) = self.0.take() {
            // If the process has already ended, the kill fails, but the wait is still needed.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Whether the process is still running.
    pub fn is_running(&mut self) -> bool {
        self.0.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }
}

impl Drop for Carrier {
    fn drop(&mut self) {
        // The process may still have to send the last lines, so it is not killed.
        if let Some(child) = self.0.take() {
            process::reap_at_end(child);
        }
    }
}
