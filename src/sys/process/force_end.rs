//! Ends a process by force, after proving that it is a slm-mesh of this user.

use super::platform;
use crate::base::error::{Error, ErrorKind};

/// Ends a process with SIGKILL, which works for a stopped process, too.
///
/// # Errors
/// When the process is not proven to be this program, run by this user, or when the system refuses. Then nothing was
/// ended.
pub fn end_own(pid: i64) -> Result<(), Error> {
    let refused = |why: String| {
        let text = format!("PID {pid} was not ended, because {why}; see what it is with ps -p {pid}");
        Error::new(ErrorKind::Refused, text)
    };
    let target = platform::open_exit_event(pid).map_err(|error| refused(format!("it can't be opened ({error})")))?;
    let target = target.ok_or_else(|| refused("there is no such process".into()))?;
    // The checks follow the opening of the descriptor, because only then are they about the process that gets the
    // signal.
    let program = platform::program(pid).ok_or_else(|| refused("the system does not say what it runs".into()))?;
    if !program.is_own {
        return Err(refused(format!("it runs {}, not slm-mesh of this user", program.shown)));
    }
    platform::kill(pid, &target).map_err(|error| refused(format!("the system refuses ({error})")))
}
