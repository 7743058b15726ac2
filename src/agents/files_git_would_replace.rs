//! Asks git whether a command such as `git stash` or `git checkout .` would replace files that other peers hold.
//!
//! **Invariant:** git is run only if the command might write files in a folder, and other peers hold files in this
//! folder. Only git subcommands that change nothing are run.

use crate::shell_writes::{GitTest, MaybeWritten};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

/// How long git may delay an agent's command. After this time, the command runs without the check, and the hook after
/// the command reports what has changed.
const LIMIT: Duration = Duration::from_millis(500);

/// Returns the held files that the command would replace, including files in held folders.
pub fn replaced(maybe_written: &[MaybeWritten], held: &[PathBuf]) -> Vec<String> {
    let mut found = Vec::new();
    for maybe in maybe_written {
        let is_meant = |path: &&PathBuf| {
            let name = path.to_string_lossy();
            path.starts_with(&maybe.folder)
                && (maybe.endings.is_empty() || maybe.endings.iter().any(|ending| name.ends_with(ending)))
        };
        let held: Vec<&PathBuf> = held.iter().filter(is_meant).collect();
        for test in maybe.git_tests.iter().filter(|_| !held.is_empty()) {
            found.extend(passing(test, &maybe.folder, &held));
        }
    }
    found.sort();
    found.dedup();
    found
}

/// Runs git for one test. Returns the files that pass the test.
fn passing(test: &GitTest, folder: &Path, held: &[&PathBuf]) -> Vec<String> {
    let folder = if folder.is_dir() { folder } else { folder.parent().unwrap_or(folder) };
    let mut git = Command::new("git");
    git.arg("-C").arg(folder).args(["-c", "core.fsmonitor=false", "-c", "core.quotePath=false"]);
    match test {
        GitTest::DiffersFromIndex => git.args(["diff", "--relative", "--name-only", "-z"]),
        // If `commit` begins with a dash, git reads it as an option in the agent's command. The command then does
        // something else, so the test does not apply.
        GitTest::DiffersFrom { commit, .. } if commit.starts_with('-') => return Vec::new(),
        GitTest::DiffersFrom { commit, removes_new } => {
            let filter = if *removes_new { "--diff-filter=ACDMRT" } else { "--diff-filter=CDMRT" };
            git.args(["diff", "--relative", "--name-only", "-z", "--no-renames", filter, commit])
        }
        GitTest::IsUntracked { with_ignored } => {
            git.args(["ls-files", "--others", "-z"]).args((!with_ignored).then_some("--exclude-standard"))
        }
    };
    git.arg("--").args(held).env("GIT_OPTIONAL_LOCKS", "0").env("GIT_LITERAL_PATHSPECS", "1");
    // If a git hook has started the agent, inherited variables could lead git to another repository or index.
    git.env_remove("GIT_DIR").env_remove("GIT_WORK_TREE").env_remove("GIT_INDEX_FILE");
    let names = output_in_time(git).unwrap_or_default();
    let names = names.split(|byte| *byte == 0).filter(|name| !name.is_empty());
    names.map(|name| folder.join(std::ffi::OsStr::from_bytes(name)).to_string_lossy().into_owned()).collect()
}

/// The output of a command; `None` if the command fails, takes too long or can't be started.
fn output_in_time(mut command: Command) -> Option<Vec<u8>> {
    let (sender, receiver) = mpsc::channel();
    command.stdin(Stdio::null()).stderr(Stdio::null());
    // A command that exceeds the limit is not killed. After this process has exited, the command can't write its output
    // any more, so the command soon ends.
    std::thread::Builder::new().spawn(move || sender.send(command.output())).ok()?;
    let output = receiver.recv_timeout(LIMIT).ok()?.ok()?;
    output.status.success().then_some(output.stdout)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shell_writes::{Disk, ShellWrite, written_files};

    /// Makes a work tree with several files. The file `dirty` differs from the commit and the index. The file `staged`
    /// differs only from the commit. The file `new` is only in the index, and `loose` is untracked.
    fn work_tree() -> PathBuf {
        let folder = std::env::temp_dir().join(format!("slm-mesh-git-{:032x}", crate::sys::random_u128()));
        std::fs::create_dir_all(folder.join("src")).unwrap();
        let write = |name: &str, text: &str| std::fs::write(folder.join(name), text).unwrap();
        let git = |words: &str| {
            let mut git = Command::new("git");
            git.arg("-C").arg(&folder).args(["-c", "user.name=a", "-c", "user.email=a@b"]);
            assert!(git.args(words.split(' ')).status().unwrap().success(), "{words}");
        };
        git("init -q");
        ["clean", "dirty", "staged", "src/dirty"].iter().for_each(|name| write(name, "1\n"));
        write(".gitignore", "ignored\n");
        git("add .");
        git("commit -qm One");
        ["dirty", "staged", "new", "src/dirty", "loose", "ignored"].iter().for_each(|name| write(name, "2\n"));
        git("add staged new");
        folder
    }

    #[test]
    fn git_tells_which_held_files_a_command_replaces() {
        let folder = work_tree();
        let directory = folder.to_string_lossy().into_owned();
        let held: Vec<PathBuf> = ["clean", "dirty", "staged", "new", "loose", "ignored", "src"]
            .iter()
            .map(|name| folder.join(name))
            .collect();
        for (command, want) in [
            ("git stash", "dirty new src/dirty staged"),
            ("git stash -u", "dirty loose new src/dirty staged"),
            ("git stash -a", "dirty ignored loose new src/dirty staged"),
            ("git stash push -m x -- src", "src/dirty"),
            ("git stash pop", ""),
            ("git stash --keep-index", ""),
            ("git checkout .", "dirty src/dirty"),
            ("git checkout -- .", "dirty src/dirty"),
            ("git checkout HEAD -- .", "dirty src/dirty staged"),
            ("git checkout HEAD .", "dirty src/dirty staged"),
            ("git checkout -f", "dirty new src/dirty staged"),
            ("git checkout main", ""),
            ("git checkout nothing -- .", ""),
            ("git checkout --output=x -- .", "dirty src/dirty"),
            ("cd src && git checkout .", "src/dirty"),
            ("git -C src restore .", "src/dirty"),
            ("git restore '*'", "dirty src/dirty"),
            ("git restore -s HEAD .", "dirty new src/dirty staged"),
            ("git restore --staged .", ""),
            ("git restore --staged --worktree .", "dirty new src/dirty staged"),
            ("git reset --hard", "dirty new src/dirty staged"),
            ("git reset --hard HEAD~1", ""),
            ("git reset --soft HEAD", ""),
            ("git clean -fd", "loose"),
            ("git clean -fdx", "ignored loose"),
            ("git clean -f", ""),
            ("git clean -nd", ""),
            // The commit stores the changes, so the reset that follows replaces nothing.
            ("git commit -qam x && git reset --hard", ""),
            ("git status && git stash", "dirty new src/dirty staged"),
        ] {
            let writes = written_files(command, &directory, &|_| None, &Disk::new(&folder));
            let maybe = writes.into_iter().filter_map(|write| match write {
                ShellWrite::Maybe(maybe) => Some(maybe),
                ShellWrite::File(_) | ShellWrite::Link(_) | ShellWrite::Folder(_) | ShellWrite::Matches(_) => None,
            });
            let found = replaced(&maybe.collect::<Vec<_>>(), &held);
            let names: Vec<&str> =
                found.iter().map(|path| path.strip_prefix(&directory).unwrap().trim_start_matches('/')).collect();
            assert_eq!(names.join(" "), want, "{command}");
        }
        std::fs::remove_dir_all(folder).unwrap();
    }
}
