//! Makes files read-only for this process and for the processes that it starts, but not for any other process. On
//! Linux, this is done by a mount namespace, and on macOS by a sandbox profile.
//!
//! **Invariant:** the protection does not create or change any file. It ends when these processes end.

#[cfg(target_os = "linux")]
#[path = "sandbox_with_read_only_files/linux.rs"]
mod platform;
#[cfg(target_os = "macos")]
#[path = "sandbox_with_read_only_files/macos.rs"]
mod platform;

#[cfg(any(target_os = "linux", target_os = "macos"))]
pub use platform::protect;

/// Always fails. On systems other than Linux and macOS, only an administrator can protect files in this way.
#[cfg(not(any(target_os = "linux", target_os = "macos")))]
pub fn protect(_files: &[std::path::PathBuf]) -> std::io::Result<Vec<std::ffi::OsString>> {
    Err(std::io::ErrorKind::Unsupported.into())
}
