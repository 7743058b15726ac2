//! Finds the work tree, the branch and the repository of a directory by reading git's files, because starting git would
//! take milliseconds.

mod config_file;
mod remote_url;

use config_file::entries;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Maximum number of bytes to read from one of git's files.
const FILE_MAX: u64 = 64 << 10;

/// Facts about a work tree.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GitFacts {
    /// The root of the work tree.
    pub root: Option<String>,
    /// The branch. If the head is detached, the first digits of the commit.
    pub branch: Option<String>,
    /// The identity of the repository, which is the same for all its work trees and clones: the normal form of the
    /// origin's URL, or the path of the common git directory if there is no origin.
    pub repo: Option<String>,
}

/// The beginning of a file; `None` if the file can't be read. A caller may name any directory, in which the file may be
/// a pipe or a device. Such a file must neither block this process nor fill its memory.
fn read_beginning(path: &Path) -> Option<String> {
    use rustix::fs::{Mode, OFlags};
    let opened = rustix::fs::open(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty()).ok()?;
    let file = std::fs::File::from(opened);
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    let mut text = String::new();
    file.take(FILE_MAX).read_to_string(&mut text).ok()?;
    Some(text)
}

/// Searches for a work tree in a directory and its parents.
pub fn facts(dir: &Path) -> GitFacts {
    let Some((root, git_dir)) = dir.ancestors().take(64).find_map(|at| Some((at, git_dir(at)?))) else {
        return GitFacts::default();
    };
    let head = read_beginning(&git_dir.join("HEAD")).unwrap_or_default();
    let branch = match head.trim().strip_prefix("ref: refs/heads/") {
        Some(branch) => branch.to_owned(),
        None => head.trim().chars().take(12).collect(),
    };
    let common = match read_beginning(&git_dir.join("commondir")) {
        Some(path) => git_dir.join(path.trim()),
        None => git_dir,
    };
    let common = common.canonicalize().unwrap_or(common);
    let config = read_beginning(&common.join("config")).unwrap_or_default();
    let repo = origin(&config)
        .map_or_else(|| common.display().to_string(), |url| remote_url::normal_form(&url, root, &config));
    GitFacts {
        root: Some(root.display().to_string()),
        branch: Some(branch).filter(|branch| !branch.is_empty()),
        repo: Some(repo),
    }
}

/// The git directory for the root of a work tree: `.git` itself, or the directory to which a file of that name points.
fn git_dir(root: &Path) -> Option<PathBuf> {
    let dot_git = root.join(".git");
    let meta = std::fs::metadata(&dot_git).ok()?;
    if meta.is_dir() {
        return dot_git.join("HEAD").exists().then_some(dot_git);
    }
    let text = read_beginning(&dot_git)?;
    Some(root.join(text.strip_prefix("gitdir:")?.trim()))
}

/// The URL of the remote `origin`.
fn origin(config: &str) -> Option<String> {
    let mut entries = entries(config);
    let url = entries.find(|entry| entry.section == "remote" && entry.subsection == "origin" && entry.name == "url");
    url.map(|entry| entry.value)
}
