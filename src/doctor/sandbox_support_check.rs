//! Checks whether this system can run a command in a shield.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// Runs a command in a shield, and lets the command try to write a protected file.
///
/// # Errors
/// If the write succeeds, or if this system can't create a shield; the error says why.
pub fn try_shield(program: &str) -> Result<(), String> {
    let file = TrialFile::new()?;
    let mut command = Command::new(program);
    command.args(["shield", "--file"]).arg(&file.0).args(["--", "sh", "-c", "echo x > \"$0\""]).arg(&file.0);
    // Without these variables, the command finds no broker, so a stuck broker can't delay the trial.
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("SLM_MESH_")) {
        command.env_remove(name);
    }
    command.env("SLM_MESH_DATA_DIR", file.0.with_extension("no-mesh"));
    let output = command.stdin(Stdio::null()).output().map_err(|error| format!("{program} can't be run ({error})"))?;
    if fs::metadata(&file.0).map_or(0, |meta| meta.len()) > 0 {
        return Err("a command in a shield wrote a protected file".into());
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    match errors.lines().find_map(|line| line.strip_prefix("slm-mesh: ")) {
        Some(why) => Err(why.to_owned()),
        None => Ok(()),
    }
}

/// An empty file that is removed when this value is dropped.
struct TrialFile(PathBuf);

impl TrialFile {
    fn new() -> Result<TrialFile, String> {
        let path = std::env::temp_dir().join(format!("slm-mesh-shield-{:032x}", crate::sys::random_u128()));
        fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&path)
            .map_err(|error| format!("{} can't be created ({error})", path.display()))?;
        Ok(TrialFile(path))
    }
}

impl Drop for TrialFile {
    fn drop(&mut self) {
        // A file that can't be removed does no harm. The file is empty, and it is in the folder for temporary files.
        let _ = fs::remove_file(&self.0);
    }
}
