//! Makes files read-only for this process and for the processes that it starts, but not for any other process. On
//! Linux, this is done by a mount namespace, and on macOS by a sandbox profile.
//!
//! **Invariant:** the protection creates and changes no file, and ends together with these processes.

#[cfg(target_os = "linux")]
#[path = "read_only_sandbox/linux.rs"]
mod platform;
#[cfg(target_os = "macos")]
#[path = "read_only_sandbox/macos.rs"]
mod platform;

#[cfg(any(target_os = "linux", target_os = "macos"))]
pub use platform::protect;

/// Always fails, because on systems other than Linux and macOS, only an administrator could protect the files.
#[cfg(not(any(target_os = "linux", target_os = "macos")))]
pub fn protect(_files: &[std::path::PathBuf]) -> std::io::Result<Vec<std::ffi::OsString>> {
    Err(std::io::ErrorKind::Unsupported.into())
}
