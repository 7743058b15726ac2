//! Kills a process if it certainly runs slm-mesh as this user.

use super::platform;
use crate::base::error::{Error, ErrorKind};

/// Kills a process with SIGKILL, which also works for a stopped process.
///
/// # Errors
/// If it is not certain that the process runs this program as this user, or if the system refuses. In both cases, the
/// process is not killed.
pub fn end_own(pid: i64) -> Result<(), Error> {
    let refused = |why: String| {
        let text = format!("process {pid} was not killed, because {why}; check it with ps -p {pid}");
        Error::new(ErrorKind::Refused, text)
    };
    let target = platform::open_exit_event(pid).map_err(|error| refused(format!("it can't be opened ({error})")))?;
    let target = target.ok_or_else(|| refused("there is no such process".into()))?;
    // The descriptor was opened before the checks. On Linux, the signal can therefore reach only the process that was
    // checked.
    let program = platform::program(pid)
        .ok_or_else(|| refused("the system does not say which program the process is running".into()))?;
    if !program.is_own {
        return Err(refused(format!("it is running {}, not this user's slm-mesh", program.shown)));
    }
    platform::kill(pid, &target).map_err(|error| refused(format!("the system refused ({error})")))
}
