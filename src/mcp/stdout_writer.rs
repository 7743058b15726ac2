//! Writes the server's messages to standard output, one complete line at a time.

use std::io::{self, Write};
use std::sync::{Mutex, PoisonError};

/// Writes one complete line at a time. In tests, keeps the lines instead of writing them.
#[derive(Debug, Default)]
pub struct StdoutWriter {
    kept: Mutex<Option<Vec<u8>>>,
}

impl StdoutWriter {
    /// A writer for tests, which keeps all lines in memory instead of writing them.
    pub fn keeping() -> StdoutWriter {
        StdoutWriter { kept: Mutex::new(Some(Vec::new())) }
    }

    /// Returns the lines that were kept in memory, and stops keeping lines.
    pub fn take_kept(&self) -> Vec<u8> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).take().unwrap_or_default()
    }

    /// Writes a line. Returns whether the whole line was written. A caller may ignore a failure, because it means that
    /// the client is gone. Standard input then ends, and so does the session.
    pub fn write_line(&self, line: &str) -> bool {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kept) = kept.as_mut() {
            kept.extend_from_slice(line.as_bytes());
            return true;
        }
        let mut out = io::stdout().lock();
        out.write_all(line.as_bytes()).and_then(|()| out.flush()).is_ok()
    }
}
