//! Runs the shell commands of a session in a shield while other peers hold files in the session's work tree. A command
//! in a shield cannot write these files.
//!
//! Before each command, the agent's shell runs a line that slm-mesh provides. If a hook has turned the shield on by
//! creating a file, this line restarts the shell inside a shield, with the same arguments.
//!
//! The command itself does not change, so functions, aliases and the working directory stay the same. The agent's
//! permission rules see the command that the model wrote. If a hook rewrote the command instead, Claude Code, Gemini
//! CLI, Codex, Copilot CLI and Droid would apply their rules to the new text. A rule about `touch` would then no longer
//! recognise `touch`.

use super::held_files::hashed;
use crate::base::shell_wildcards::shell_quoted;
use crate::sys::data_dir::DataDir;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The name of an environment variable. Before each script, bash runs the file whose path is in this variable.
pub const BASH_ENV: &str = "BASH_ENV";

/// A session's file for bash is removed after this time, because slm-mesh can't tell when the last shell that uses the
/// file has ended. A session that is open for longer loses its shield.
const BASH_ENV_FILE_KEPT: Duration = Duration::from_secs(30 * 24 * 3600);

/// The shield of one session.
#[derive(Debug)]
pub struct SessionShield {
    /// A file that exists while the session's commands need a shield. The file contains the id of the session's peer.
    mark: PathBuf,
    /// The file that bash runs before each command of the session, if the agent has no such file of its own.
    bash_env_file: PathBuf,
}

impl SessionShield {
    /// The shield of the session that has this key.
    pub fn new(places: &DataDir, session: &str) -> SessionShield {
        let name = hashed(session);
        SessionShield { mark: places.shields().join(&name), bash_env_file: places.bash_env_files().join(name) }
    }

    /// Adds our line to a file whose lines the agent's shell runs before each command.
    pub fn add_line(&self, file: &Path, program: &str) {
        let line = self.line(program);
        let is_there = fs::read_to_string(file).is_ok_and(|text| text.lines().any(|known| known == line));
        if !is_there && let Ok(mut file) = OpenOptions::new().append(true).create(true).open(file) {
            // If this fails, commands run without a shield, and the hooks after the commands report what the commands
            // changed.
            let _ = writeln!(file, "{line}");
        }
    }

    /// Writes the file that bash runs before each command of the session. Returns the value of `BASH_ENV`, or `None`
    /// if commands must run without a shield.
    pub fn write_bash_env(&self, program: &str) -> Option<String> {
        let folder = self.bash_env_file.parent()?;
        DirBuilder::new().recursive(true).mode(0o700).create(folder).ok()?;
        remove_old(folder);
        // The first line gives the user's own `BASH_ENV` to the programs that the command starts. The last line runs
        // the user's file, because bash has run our file instead.
        let text = format!(
            "{}\n{}\n[ -z \"$BASH_ENV\" ] || eval \"[ ! -r \\\"$BASH_ENV\\\" ] || . \\\"$BASH_ENV\\\"\"\n",
            users_bash_env(folder),
            self.line(program)
        );
        write_private(&self.bash_env_file, &text).ok()?;
        // Bash expands the value, and each agent removes quotes in its own way, so only harmless characters are allowed
        // in the path.
        let path = self.bash_env_file.to_str()?;
        path.chars().all(|char| char.is_alphanumeric() || "/._-+@, ".contains(char)).then(|| path.to_owned())
    }

    /// The line that the agent's shell runs. The line works in bash and zsh. It exports no variable. A child shell that
    /// belongs to another session therefore starts its own shield.
    fn line(&self, program: &str) -> String {
        let (program, mark) = (shell_quoted(program), shell_quoted(&self.mark.to_string_lossy()));
        let command = "${BASH_EXECUTION_STRING:-$ZSH_EXECUTION_STRING}";
        format!(
            "[ -n \"$slm_mesh_shielded\" ] || [ -z \"{command}\" ] || [ ! -x {program} ] || \
             ! {{ read -r slm_mesh_peer < {mark}; }} 2>/dev/null || \
             exec {program} shield --if-possible --as \"$slm_mesh_peer\" -- \"${{BASH:-zsh}}\" -c \
             \"slm_mesh_shielded=1; {command}\" \"$0\" \"$@\""
        )
    }

    /// Turns the shield on. The shield protects the files that peers other than `peer` have locked.
    pub fn raise(&self, peer: &str) {
        let line = format!("{peer}\n");
        if fs::read_to_string(&self.mark).is_ok_and(|known| known == line) {
            return;
        }
        let folder = self.mark.parent().unwrap_or(&self.mark);
        // If the file can't be written, the command runs without a shield.
        let _ = DirBuilder::new().recursive(true).mode(0o700).create(folder);
        let _ = write_private(&self.mark, &line);
    }

    /// Turns the shield off.
    pub fn lower(&self) {
        // The removal usually fails, because the file does not exist.
        let _ = fs::remove_file(&self.mark);
    }

    /// Turns off the shields of all sessions.
    pub fn lower_all(places: &DataDir) {
        // The removal usually fails, because the folder does not exist until a session has a shield.
        let _ = fs::remove_dir_all(places.shields());
    }
}

/// Returns the shell line that sets `BASH_ENV` to the user's own value. If this process has inherited our value, the
/// line is copied from our file, because only our file contains the user's value.
fn users_bash_env(folder: &Path) -> String {
    let unset = || format!("unset {BASH_ENV}");
    let Some(value) = std::env::var_os(BASH_ENV) else { return unset() };
    if Path::new(&value).parent() != Some(folder) {
        return format!("export {BASH_ENV}={}", shell_quoted(&value.to_string_lossy()));
    }
    let former = fs::read_to_string(&value).unwrap_or_default();
    former.lines().next().map_or_else(unset, str::to_owned)
}

fn remove_old(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let modified = entry.metadata().and_then(|meta| meta.modified());
        if modified.is_ok_and(|at| at.elapsed().is_ok_and(|age| age > BASH_ENV_FILE_KEPT)) {
            // If this fails, the next session tries again.
            let _ = fs::remove_file(entry.path());
        }
    }
}

fn write_private(file: &Path, text: &str) -> std::io::Result<()> {
    let opened = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(file);
    opened.and_then(|mut file| file.write_all(text.as_bytes()))
}
