//! Reads the source files of the project for the tests of its rules.

use std::fs;
use std::path::{Path, PathBuf};

/// A source file: its path, its lines, and the number of lines before its unit tests.
pub struct Source {
    pub path: String,
    pub lines: Vec<String>,
    pub n_code: usize,
}

impl Source {
    pub fn read(root: &Path, path: &Path) -> Source {
        let lines: Vec<String> = fs::read_to_string(path).unwrap().lines().map(str::to_owned).collect();
        let n_code = lines.iter().position(|line| line.trim() == "#[cfg(test)]").unwrap_or(lines.len());
        Source { path: path.strip_prefix(root).unwrap().to_string_lossy().into_owned(), lines, n_code }
    }

    /// The numbered lines of code, without comments and unit tests.
    pub fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let lines = self.lines[..self.n_code].iter().enumerate();
        lines.map(|(n, line)| (n + 1, line.as_str())).filter(|(_, line)| !line.trim_start().starts_with("//"))
    }

    /// The path relative to `src`; `None` if the file is not in `src`.
    pub fn inside(&self) -> Option<&str> {
        self.path.strip_prefix("src/")
    }

    /// The first component of the path below `src`: the name of a folder, or of a file without `.rs`.
    pub fn room(&self) -> Option<&str> {
        let first = self.inside()?.split('/').next()?;
        Some(first.strip_suffix(".rs").unwrap_or(first))
    }
}

pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The paths of all Rust files in these folders.
pub fn files(folders: &[&str]) -> Vec<PathBuf> {
    files_ending(folders, &["rs"])
}

/// The paths of all files in these folders that have one of these extensions.
pub fn files_ending(folders: &[&str], endings: &[&str]) -> Vec<PathBuf> {
    let mut open: Vec<PathBuf> = folders.iter().map(|folder| root().join(folder)).collect();
    let mut found = Vec::new();
    while let Some(path) = open.pop() {
        if path.is_dir() {
            open.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if path.extension().is_some_and(|ending| endings.iter().any(|known| ending == *known)) {
            found.push(path);
        }
    }
    found.sort();
    found
}

pub fn sources(folders: &[&str]) -> Vec<Source> {
    let found: Vec<Source> = files(folders).iter().map(|path| Source::read(root(), path)).collect();
    assert!(found.len() > 5, "no sources in {folders:?}");
    found
}

/// Fails if there are any breaches of a rule, and prints all of them at once.
pub fn check(rule: &str, breaches: &[String]) {
    assert!(breaches.is_empty(), "{rule}\n  {}", breaches.join("\n  "));
}
