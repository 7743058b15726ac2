//! Makes files read-only for this process and for the processes that it will start, but for no others.
//!
//! `command_sandbox/linux.rs` (a mount namespace) and `command_sandbox/macos.rs` (a sandbox profile) offer the same
//! function.
//!
//! **Invariant:** no file is created or changed, and the protection ends with these processes.

#[cfg(target_os = "linux")]
#[path = "command_sandbox/linux.rs"]
mod platform;
#[cfg(target_os = "macos")]
#[path = "command_sandbox/macos.rs"]
mod platform;

#[cfg(any(target_os = "linux", target_os = "macos"))]
pub use platform::protect;

/// On other systems, only an administrator could do this.
#[cfg(not(any(target_os = "linux", target_os = "macos")))]
pub fn protect(_files: &[std::path::PathBuf]) -> std::io::Result<Vec<std::ffi::OsString>> {
    Err(std::io::ErrorKind::Unsupported.into())
}
