//! A sandbox that the system's `sandbox-exec` sets up, with one rule per file.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

const SANDBOX: &str = "/usr/bin/sandbox-exec";

/// Returns the words to put before a command that must not write to these files and folders.
///
/// # Errors
/// If the system has no sandbox.
pub fn protect(files: &[PathBuf]) -> io::Result<Vec<OsString>> {
    if !Path::new(SANDBOX).exists() {
        return Err(io::ErrorKind::Unsupported.into());
    }
    let rules: String = files.iter().map(|path| rule(path)).collect();
    let profile = format!("(version 1)\n(allow default)\n{rules}");
    Ok([SANDBOX, "-p", &profile].map(OsString::from).into())
}

/// The rule that denies writing to a file, removing it, and renaming another file over it. The sandbox needs a path
/// without symlinks.
fn rule(path: &Path) -> String {
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let reach = if path.is_dir() { "subpath" } else { "literal" };
    let quoted = path.to_string_lossy().replace('\\', "\\\\").replace('"', "\\\"");
    format!("(deny file-write* ({reach} \"{quoted}\"))\n")
}
