//! Work tree, branch and repository of a directory, read from git's files: to start git would cost
//! milliseconds.

use std::io::Read;
use std::path::{Path, PathBuf};

/// Bytes that are read of one of git's files.
const FILE_MAX: u64 = 64 << 10;

/// What git knows of a work tree.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GitFacts {
    /// Root of the work tree.
    pub root: Option<String>,
    /// The branch, or the first digits of the commit if the head is detached.
    pub branch: Option<String>,
    /// The same for all work trees and clones of one repository: the normal form of its origin,
    /// else the path of its common git directory.
    pub repo: Option<String>,
}

/// The beginning of a file; `None` if it can't be read. A directory that a caller names may hold a pipe or
/// a device under that name, which must neither block this process nor fill its memory.
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

/// Looks for a work tree, from a directory upwards.
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
    let repo = origin(&config).map_or_else(|| common.display().to_string(), |url| normal_url(&url));
    GitFacts {
        root: Some(root.display().to_string()),
        branch: Some(branch).filter(|branch| !branch.is_empty()),
        repo: Some(repo),
    }
}

/// The git directory of a work tree's root: `.git`, or where the file of that name points.
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
    let mut inside = false;
    for line in config.lines().map(str::trim) {
        if line.starts_with('[') {
            inside = line.replace(' ', "") == "[remote\"origin\"]";
        } else if inside
            && let Some((name, url)) = line.split_once('=')
            && name.trim() == "url"
        {
            return Some(url.trim().to_owned());
        }
    }
    None
}

/// `git@host:a/b.git`, `ssh://git@host/a/b` and `https://user:word@host/a/b.git/` are one: `host/a/b`.
fn normal_url(url: &str) -> String {
    let rest = url.split_once("://").map_or_else(|| url.replacen(':', "/", 1), |(_, rest)| rest.to_owned());
    let (host, path) = rest.split_once('/').unwrap_or((&rest, ""));
    if host.is_empty() {
        return url.trim_end_matches('/').trim_end_matches(".git").to_owned();
    }
    let host = host.rsplit('@').next().unwrap_or(host).split(':').next().unwrap_or(host).to_ascii_lowercase();
    let path = path.trim_end_matches('/');
    format!("{host}/{}", path.strip_suffix(".git").unwrap_or(path))
}

#[cfg(test)]
mod tests {
    #[test]
    fn ways_to_write_one_origin_are_one() {
        for url in [
            "git@Example.org:a/b.git",
            "ssh://git@example.org:22/a/b",
            "https://u:w@example.org/a/b.git/",
            "https://example.org/a/b",
        ] {
            assert_eq!(super::normal_url(url), "example.org/a/b", "{url}");
        }
        assert_eq!(super::normal_url("/srv/git/b.git"), "/srv/git/b");
    }
}
