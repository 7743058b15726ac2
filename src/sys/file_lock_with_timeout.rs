//! Waits for a file lock up to a time limit. Finds the process that holds a file lock.

use std::fs::{File, Metadata, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// The pause between two attempts to get the lock. It is used if no waiting thread could be started.
const TRY_EVERY: Duration = Duration::from_millis(5);

/// A wait for a lock.
#[derive(Debug)]
pub enum LockWait {
    /// A separate thread waits for the lock.
    Thread(Receiver<io::Result<File>>),
    /// No thread could be started, so [`LockWait::for_time`] tries repeatedly to get the lock. The value is `None`
    /// after [`LockWait::for_time`] has got the lock and returned the file.
    Tries(Option<File>),
}

impl LockWait {
    /// Begins to wait. The lock is held after [`LockWait::for_time`] has returned the file.
    pub fn begin(file: File) -> LockWait {
        let (sender, receiver) = channel();
        let (file_sender, file_receiver) = channel::<File>();
        let wait = move || {
            let Ok(file) = file_receiver.recv() else { return };
            let locked = file.lock().map(|()| file);
            // This call fails if the `LockWait` was dropped. The file is then dropped, too, so the lock is released.
            let _ = sender.send(locked);
        };
        if std::thread::Builder::new().spawn(wait).is_err() {
            return LockWait::Tries(Some(file));
        }
        match file_sender.send(file) {
            Ok(()) => LockWait::Thread(receiver),
            Err(unsent) => LockWait::Tries(Some(unsent.0)),
        }
    }

    /// Waits for the lock, at most for `time`. Returns `None` if another process holds the lock until then.
    ///
    /// # Errors
    /// If the file system does not support locks.
    pub fn for_time(&mut self, time: Duration) -> io::Result<Option<File>> {
        match self {
            LockWait::Thread(receiver) => match receiver.recv_timeout(time) {
                Ok(locked) => locked.map(Some),
                Err(RecvTimeoutError::Timeout) => Ok(None),
                Err(RecvTimeoutError::Disconnected) => {
                    Err(io::Error::other("the thread that was waiting for a lock has ended"))
                }
            },
            LockWait::Tries(file) => try_for_time(file, time),
        }
    }
}

/// Tries to get the lock until the time is up.
fn try_for_time(file: &mut Option<File>, time: Duration) -> io::Result<Option<File>> {
    let until = Instant::now() + time;
    loop {
        match file.as_ref().map(File::try_lock) {
            Some(Err(TryLockError::Error(error))) => return Err(error),
            Some(Ok(())) => return Ok(file.take()),
            Some(Err(TryLockError::WouldBlock)) | None => {}
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(None);
        }
        std::thread::sleep(left.min(TRY_EVERY));
    }
}

/// Whether `path` still leads to this open file. If another process removed the file before this process locked it, the
/// lock protects nothing.
pub fn is_at(file: &File, path: &Path) -> bool {
    let id = |meta: Metadata| (meta.dev(), meta.ino());
    file.metadata().ok().map(id) == std::fs::metadata(path).ok().map(id)
}

/// The id of the process that holds a lock on this file. `None` if no process holds a lock, if the process is in
/// another PID namespace, or if the kernel does not report locks.
pub fn holder(file: &File) -> Option<i64> {
    let meta = file.metadata().ok()?;
    let device = device_numbers(meta.dev());
    let wanted = format!("{:02x}:{:02x}:{}", device.0, device.1, meta.ino());
    let locks = std::fs::read_to_string("/proc/locks").ok()?;
    // A line looks like `1: FLOCK ADVISORY WRITE 4711 08:01:1234 0 EOF`. If the process is waiting for the lock, there
    // is an arrow before `FLOCK` (proc_locks(5)).
    let row = locks.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let mut held = row.filter(|words| words.get(1) == Some(&"FLOCK") && words.get(5) == Some(&wanted.as_str()));
    held.find_map(|words| words.get(4)?.parse::<i64>().ok().filter(|pid| *pid > 0))
}

/// The major and minor number of a device.
fn device_numbers(device: u64) -> (u32, u32) {
    // On some systems, `dev_t` has a different width, so the number must be converted.
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
        let mut wait = LockWait::begin(other);
        assert!(wait.for_time(Duration::from_millis(1)).unwrap().is_none());
        let mut tries = LockWait::Tries(Some(File::open(&path).unwrap()));
        assert!(tries.for_time(Duration::from_millis(1)).unwrap().is_none());
        ours.unlock().unwrap();
        let locked = wait.for_time(Duration::from_secs(20)).unwrap().expect("the lock was released");
        // Closing the file does not always release the lock. Another test may be starting a process, and the new
        // process has a copy of the descriptor until it calls exec.
        locked.unlock().unwrap();
        assert_eq!(holder(&File::open(&path).unwrap()), None);
        std::fs::remove_file(&path).unwrap();
    }
}
