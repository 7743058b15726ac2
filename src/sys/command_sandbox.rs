//! Makes files read-only for this process and for what it will start, and for nobody else.
//!
//! What differs between Linux and macOS is in `command_sandbox/linux.rs` (a mount namespace) and `command_sandbox/macos.rs` (a
//! sandbox profile), which offer the same function.
//!
//! **Invariant:** no file is created or changed, and nothing outlives the processes that it protects from.

#[cfg(target_os = "linux")]
#[path = "command_sandbox/linux.rs"]
mod platform;
#[cfg(target_os = "macos")]
#[path = "command_sandbox/macos.rs"]
mod platform;

#[cfg(any(target_os = "linux", target_os = "macos"))]
pub use platform::protect;

/// Other systems have no way that needs no administrator.
#[cfg(not(any(target_os = "linux", target_os = "macos")))]
pub fn protect(_files: &[std::path::PathBuf]) -> std::io::Result<Vec<std::ffi::OsString>> {
    Err(std::io::ErrorKind::Unsupported.into())
}
