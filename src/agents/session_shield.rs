//! Runs the shell commands of a session in a shield while other peers hold files in the session's work tree.
//!
//! Before each command, the agent's shell runs a line that slm-mesh provides. If the session's hook has turned the
//! shield on by creating a file, this line starts the shell again inside a shield, with the same arguments. So the
//! agent's permission rules see the command as the model wrote it, and functions, aliases and the working directory
//! stay the same. A hook that rewrote the command would lose these advantages: Claude Code applies its rules to the new
//! text, and then `Bash(touch:*)` neither allows nor denies `touch`.

use super::config_entries::shell_quoted;
use super::held_files::hashed;
use crate::sys::data_dir::DataDir;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The shield of one session.
#[derive(Debug)]
pub struct SessionShield {
    /// A file that exists while the session's commands need a shield. The file names the session's peer.
    mark: PathBuf,
}

impl SessionShield {
    /// The shield of the session that has this key.
    pub fn new(places: &DataDir, session: &str) -> SessionShield {
        SessionShield { mark: places.shields().join(hashed(session)) }
    }

    /// Adds our line to the file of lines that the agent's shell runs before each command.
    pub fn prepare_shell(&self, file: &Path, program: &str) {
        let line = self.line(program);
        let is_there = fs::read_to_string(file).is_ok_and(|text| text.lines().any(|known| known == line));
        if !is_there && let Ok(mut file) = OpenOptions::new().append(true).create(true).open(file) {
            // If this fails, commands run without a shield, and the hooks after the commands report their changes.
            let _ = writeln!(file, "{line}");
        }
    }

    /// The line, which works in bash and zsh. Its variable is not exported, so a child shell that belongs to another
    /// session starts its own shield.
    fn line(&self, program: &str) -> String {
        let (program, mark) = (shell_quoted(program), shell_quoted(&self.mark.to_string_lossy()));
        format!(
            "[ -n \"$slm_mesh_shielded\" ] || [ ! -x {program} ] || ! {{ read -r slm_mesh_peer < {mark}; }} 2>/dev/null || \
             exec {program} shield --if-possible --as \"$slm_mesh_peer\" -- \"${{BASH:-zsh}}\" -c \
             \"slm_mesh_shielded=1; ${{BASH_EXECUTION_STRING:-$ZSH_EXECUTION_STRING}}\" \"$0\" \"$@\""
        )
    }

    /// Turns the shield on. The shield protects the locks of all peers except this one.
    pub fn raise(&self, peer: &str) {
        let line = format!("{peer}\n");
        if fs::read_to_string(&self.mark).is_ok_and(|known| known == line) {
            return;
        }
        let folder = self.mark.parent().unwrap_or(&self.mark);
        // If the file can't be written, the command runs without a shield.
        let _ = DirBuilder::new().recursive(true).mode(0o700).create(folder);
        let opened = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&self.mark);
        let _ = opened.and_then(|mut file| file.write_all(line.as_bytes()));
    }

    /// Turns the shield off.
    pub fn lower(&self) {
        // Usually the file does not exist.
        let _ = fs::remove_file(&self.mark);
    }

    /// Turns off the shields of all sessions.
    pub fn lower_all(places: &DataDir) {
        // Usually no session has such a file.
        let _ = fs::remove_dir_all(places.shields());
    }
}
