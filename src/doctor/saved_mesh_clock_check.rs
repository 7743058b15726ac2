//! Checks for `doctor` whether the clock of the mesh agrees with the clock of this machine.

use super::Check;
use crate::base::broker_downtimes::Downtimes;
use crate::base::limits::DAY_MS;
use crate::base::time_format;
use crate::sys::data_dir::DataDir;
use crate::sys::{self, Clock};

/// If the two clocks differ by more than this, in ms, a broker was started with a wrong clock, or the clock was set
/// afterwards. Clocks that are only inaccurate differ less.
const DIFFERENCE_MAX_MS: i64 = 3_600_000;

/// If the time without a broker was longer than this, in ms, the machine's clock may have jumped ahead.
const ABSENCE_MAX_MS: i64 = 30 * DAY_MS;

/// Returns a fault if the clock of the mesh is wrong, or if this machine's clock may have been wrong when the last
/// broker started.
pub fn check_clock(places: &DataDir) -> Option<Check> {
    let about = "clock";
    let saved = places.read(&places.clock())?;
    let now = sys::wall_ms();
    // After a reboot, the next broker starts a new clock, unless the database contains a later time.
    let ahead = Clock::resume(&saved, 0).map_or(0, |clock| clock.now() - now);
    if ahead > DIFFERENCE_MAX_MS {
        let found = format!(
            "the clock of the mesh is {} ahead of this machine's clock, because a broker was started when this \
             machine's clock was wrong; new messages and events get times in the future, but nothing is deleted early",
            time_format::span(ahead)
        );
        let cure = "check this machine's clock (date), release all locks, and run slm-mesh stop; if the mesh is \
                    still ahead after that, its database contains a time in the future; to get rid of this time, \
                    restore a backup that was made before the clock was wrong";
        return Some(Check::error(about, found, cure));
    }
    if -ahead > DIFFERENCE_MAX_MS {
        let found = format!(
            "the clock of the mesh is {} behind this machine's clock, which was set after the broker was started",
            time_format::span(-ahead)
        );
        let cure = "check this machine's clock (date); if it is right, release all locks, and run slm-mesh stop: the \
                    next broker uses this machine's clock";
        return Some(Check::error(about, found, cure));
    }
    let jump = Downtimes::parse(&saved).last().filter(|jump| jump.until - jump.from > ABSENCE_MAX_MS)?;
    (now - jump.until < DAY_MS).then(|| {
        let found = format!(
            "this machine's clock moved forward by {} between the end of one broker and the start of the next one",
            time_format::span(jump.until - jump.from)
        );
        let cure = "if this machine really had no broker for that long, nothing is wrong, and this message disappears \
                    within a day; otherwise set the clock (date), and run slm-mesh stop; unread mail is kept in either \
                    case";
        Check::error(about, found, cure)
    })
}
