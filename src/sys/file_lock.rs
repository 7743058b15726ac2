//! Waits for a file lock with a time limit, and finds the process that holds a lock.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

/// A wait for a lock. A separate thread waits.
#[derive(Debug)]
pub struct LockWait {
    receiver: Receiver<io::Result<File>>,
}

impl LockWait {
    /// Begins to wait. The lock is held once [`LockWait::for_time`] has returned the file.
    pub fn begin(file: File) -> LockWait {
        let (sender, receiver) = channel();
        std::thread::spawn(move || {
            let locked = file.lock().map(|()| file);
            // If the `LockWait` is gone, dropping the file releases the lock.
            let _ = sender.send(locked);
        });
        LockWait { receiver }
    }

    /// Waits for the lock, at most for this time. Returns `None` if another process still holds the lock after that.
    ///
    /// # Errors
    /// If the file system does not support locks.
    pub fn for_time(&self, time: Duration) -> io::Result<Option<File>> {
        match self.receiver.recv_timeout(time) {
            Ok(locked) => locked.map(Some),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => {
                Err(io::Error::other("the thread that was waiting for a lock has ended"))
            }
        }
    }
}

/// The process that holds a lock on this file, as the kernel reports it; `None` if no process holds a lock, if the
/// holder is in another PID namespace, or if the kernel does not report locks.
pub fn holder(file: &File) -> Option<i64> {
    let meta = file.metadata().ok()?;
    let device = device_numbers(meta.dev());
    let wanted = format!("{:02x}:{:02x}:{}", device.0, device.1, meta.ino());
    let locks = std::fs::read_to_string("/proc/locks").ok()?;
    // A line looks like `1: FLOCK ADVISORY WRITE 4711 08:01:1234 0 EOF`. If the process is waiting for the lock, an
    // arrow precedes `FLOCK` (proc_locks(5)).
    let row = locks.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let mut held = row.filter(|words| words.get(1) == Some(&"FLOCK") && words.get(5) == Some(&wanted.as_str()));
    held.find_map(|words| words.get(4)?.parse::<i64>().ok().filter(|pid| *pid > 0))
}

/// The major and minor number of a device.
fn device_numbers(device: u64) -> (u32, u32) {
    // The width of dev_t differs between systems.
    #[allow(clippy::useless_conversion)]
    let device = rustix::fs::Dev::try_from(device).unwrap_or_default();
    (rustix::fs::major(device), rustix::fs::minor(device))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_holder_of_a_lock_is_named_and_waited_for() {
        let path = std::env::temp_dir().join(format!("slm-mesh-lock-{}", std::process::id()));
        let (ours, other) = (File::create(&path).unwrap(), File::create(&path).unwrap());
        ours.lock().unwrap();
        if cfg!(target_os = "linux") {
            assert_eq!(holder(&other), Some(i64::from(std::process::id())));
        }
        let wait = LockWait::begin(other);
        assert!(wait.for_time(Duration::from_millis(1)).unwrap().is_none());
        ours.unlock().unwrap();
        let locked = wait.for_time(Duration::from_secs(20)).unwrap().expect("the lock was released");
        // Closing the file is not enough: a process that another test is starting holds a copy of the descriptor until
        // its exec.
        locked.unlock().unwrap();
        assert_eq!(holder(&File::open(&path).unwrap()), None);
        std::fs::remove_file(&path).unwrap();
    }
}
