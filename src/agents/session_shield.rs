//! Lets the shell commands of a session run in a shield while others hold files in its work tree.
//!
//! The agent's shell runs a line of slm-mesh before each command. If the hook before the command has left a mark, the
//! line starts the shell again in a shield, with the same arguments. So the agent's permission rules see the command
//! as the model wrote it, and functions, aliases and the working directory stay the same. If a hook rewrote the
//! command instead, these advantages would be lost: Claude Code applies its rules to the new text, and then
//! `Bash(touch:*)` neither allows nor denies `touch`.

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
    /// The mark: a file that names the session's peer while its commands need a shield.
    mark: PathBuf,
}

impl SessionShield {
    /// The shield of the session with this key.
    pub fn new(places: &DataDir, session: &str) -> SessionShield {
        SessionShield { mark: places.shields().join(hashed(session)) }
    }

    /// Adds our line to the lines that the agent's shell runs before each command.
    pub fn prepare_shell(&self, file: &Path, program: &str) {
        let line = self.line(program);
        let is_there = fs::read_to_string(file).is_ok_and(|text| text.lines().any(|known| known == line));
        if !is_there && let Ok(mut file) = OpenOptions::new().append(true).create(true).open(file) {
            // If this fails, commands run without a shield, and the hooks after them report their changes.
            let _ = writeln!(file, "{line}");
        }
    }

    /// The line, for bash and zsh. Its variable is not exported, so a child shell of another session has its own
    /// shield.
    fn line(&self, program: &str) -> String {
        let (program, mark) = (shell_quoted(program), shell_quoted(&self.mark.to_string_lossy()));
        format!(
            "[ -n \"$slm_mesh_shielded\" ] || [ ! -x {program} ] || ! {{ read -r slm_mesh_peer < {mark}; }} 2>/dev/null || \
             exec {program} shield --if-possible --as \"$slm_mesh_peer\" -- \"${{BASH:-zsh}}\" -c \
             \"slm_mesh_shielded=1; ${{BASH_EXECUTION_STRING:-$ZSH_EXECUTION_STRING}}\" \"$0\" \"$@\""
        )
    }

    /// Makes commands run in a shield from now on. The shield protects the locks of all peers except this one.
    pub fn raise(&self, peer: &str) {
        let line = format!("{peer}\n");
        if fs::read_to_string(&self.mark).is_ok_and(|known| known == line) {
            return;
        }
        let folder = self.mark.parent().unwrap_or(&self.mark);
        // If the mark can't be written, the command runs without a shield.
        let _ = DirBuilder::new().recursive(true).mode(0o700).create(folder);
        let opened = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&self.mark);
        let _ = opened.and_then(|mut file| file.write_all(line.as_bytes()));
    }

    /// Makes commands run without a shield.
    pub fn lower(&self) {
        // Usually the mark does not exist.
        let _ = fs::remove_file(&self.mark);
    }

    /// Removes the marks of all sessions.
    pub fn lower_all(places: &DataDir) {
        // Usually no marks exist.
        let _ = fs::remove_dir_all(places.shields());
    }
}
