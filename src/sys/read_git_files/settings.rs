//! Reads git's settings for a work tree. The settings come from the files of the machine, the user and the repository,
//! and from included files. The order is the same as in git.

use super::config_syntax::{ConfigEntry, entries};
use super::{WorkTree, read_beginning};
use crate::base::path_overlap;
use std::path::{Path, PathBuf};

/// Maximum depth of nested includes, the same as in git.
const DEPTH_MAX: usize = 10;
/// Maximum number of files to read. Without this limit, a file that includes itself twice would be read 2^10 times.
const FILES_MAX: usize = 64;

/// The settings that apply in a work tree.
pub(super) fn settings(tree: &WorkTree, home: &Path) -> Vec<ConfigEntry> {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let xdg = variable("XDG_CONFIG_HOME").unwrap_or_else(|| home.join(".config"));
    let of_user = match variable("GIT_CONFIG_GLOBAL") {
        Some(file) => vec![file],
        None => vec![xdg.join("git/config"), home.join(".gitconfig")],
    };
    let own = tree.common_dir.join("config");
    let of_machine = variable("GIT_CONFIG_SYSTEM").unwrap_or_else(|| PathBuf::from("/etc/gitconfig"));
    let mut reader = Reader { tree, home, own: &own, files_left: FILES_MAX, found: Vec::new() };
    for file in std::iter::once(&of_machine).chain(&of_user).chain([&own]) {
        reader.read(file, 0);
    }
    reader.found
}

struct Reader<'a> {
    tree: &'a WorkTree,
    home: &'a Path,
    /// The settings file of the repository.
    own: &'a Path,
    files_left: usize,
    found: Vec<ConfigEntry>,
}

impl Reader<'_> {
    fn read(&mut self, file: &Path, depth: usize) {
        let Some(left) = self.files_left.checked_sub(1).filter(|_| depth <= DEPTH_MAX) else { return };
        self.files_left = left;
        let folder = file.parent().unwrap_or(self.home);
        for entry in entries(&read_beginning(file).unwrap_or_default()) {
            let is_included = match entry.section.as_str() {
                "include" => entry.name == "path",
                "includeif" => entry.name == "path" && self.holds(&entry.subsection, folder),
                _ => false,
            };
            if is_included {
                self.read(&self.absolute(&entry.value, folder), depth + 1);
            } else {
                self.found.push(entry);
            }
        }
    }

    fn absolute(&self, path: &str, folder: &Path) -> PathBuf {
        match path.strip_prefix("~/") {
            Some(rest) => self.home.join(rest),
            None => folder.join(path),
        }
    }

    /// Whether the condition of an `includeIf` is met. An `onbranch` condition is never met, because the identity of a
    /// repository must not depend on the current branch of a clone.
    fn holds(&self, condition: &str, folder: &Path) -> bool {
        match condition.split_once(':') {
            Some(("gitdir", pattern)) => self.is_git_dir(pattern, folder, str::to_owned),
            Some(("gitdir/i", pattern)) => self.is_git_dir(pattern, folder, str::to_lowercase),
            Some(("hasconfig", rest)) => rest.strip_prefix("remote.*.url:").is_some_and(|pattern| {
                let own = entries(&read_beginning(self.own).unwrap_or_default()).collect::<Vec<_>>();
                let mut urls = own.iter().filter(|entry| entry.section == "remote" && entry.name == "url");
                urls.any(|entry| fits(&with_stars(pattern), &entry.value))
            }),
            _ => false,
        }
    }

    /// Whether a pattern matches the path of the git directory. The path may match as it is written, or with its
    /// symlinks resolved.
    fn is_git_dir(&self, pattern: &str, folder: &Path, spelling: fn(&str) -> String) -> bool {
        let below = |folder: &Path, rest: &str| format!("{}/{rest}", folder.display());
        let whole = match pattern.split_once('/') {
            Some(("~", rest)) => below(&self.home.canonicalize().unwrap_or(self.home.to_owned()), rest),
            Some((".", rest)) => below(folder, rest),
            Some(("", _)) => pattern.to_owned(),
            _ => format!("/**/{pattern}"),
        };
        let whole = spelling(&with_stars(&whole));
        let git_dir = &self.tree.git_dir;
        [git_dir.canonicalize().as_ref().unwrap_or(git_dir), git_dir]
            .iter()
            .any(|git_dir| fits(&whole, &spelling(&git_dir.to_string_lossy())))
    }
}

/// Appends `**` to a pattern that ends in a slash. In git, such a pattern matches everything in the folder.
fn with_stars(pattern: &str) -> String {
    if pattern.ends_with('/') { format!("{pattern}**") } else { pattern.to_owned() }
}

/// Whether a string matches a pattern with `*`, `?` and `**`.
fn fits(pattern: &str, text: &str) -> bool {
    if path_overlap::is_pattern(pattern) { path_overlap::overlap(pattern, text) } else { pattern == text }
}
