//! Interprets the errors of connections to a broker.

use crate::base::error::{Error, ErrorKind};
use crate::sys::data_dir::DataDir;
use crate::sys::file_lock_with_timeout;
use std::fs::File;
use std::io;

/// Whether the error means that no broker is running. After any other error, there may be a broker that is running but
/// can't be reached.
pub fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused | io::ErrorKind::NotADirectory)
}

/// Whether a new connection may help, because the old one broke or leads to a standby.
pub fn is_connection_lost(error: &Error) -> bool {
    matches!(error.kind, ErrorKind::Gone | ErrorKind::Standby)
}

/// Whether an error means that a read or write of a socket reached its time limit.
pub(super) fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

/// The error for a broker that is running but does not answer.
pub(super) fn stuck(pid: Option<i64>) -> Error {
    let text = match pid {
        Some(pid) => format!(
            "the broker (PID {pid}) does not answer, because it is suspended or stuck; resume it with kill -CONT \
             {pid}, or end it with slm-mesh stop --force; it may still run this call, so before you repeat the call, \
             check whether it took effect"
        ),
        None => "the broker does not answer, because it is suspended or stuck; it runs in another PID namespace (a \
                 container), so resume it or end it there; it may still run this call, so before you repeat the call, \
                 check whether it took effect"
            .into(),
    };
    Error::new(ErrorKind::TimedOut, text)
}

pub(super) fn unreachable(places: &DataDir, error: &io::Error) -> Error {
    if is_timeout(error) {
        return stuck(broker_lock_holder(places));
    }
    let text = format!("the broker at {} can't be reached ({error})", places.socket().display());
    Error::new(ErrorKind::Gone, text)
}

/// Returns the id of the process that holds the broker's lock file in this data directory.
pub fn broker_lock_holder(places: &DataDir) -> Option<i64> {
    let file = File::open(places.broker_lock()).ok()?;
    file_lock_with_timeout::holder(&file)
}
