//! The files and folders that exist when a command in corpus.txt runs.

use slm_mesh::shell_writes::{Entry, FileTree};
use std::collections::BTreeMap;

/// The directory in which the commands in corpus.txt run.
pub const DIRECTORY: &str = "/work/app";

/// A file tree in memory: for each folder, the names of the entries, and whether each entry is a folder.
pub struct Tree {
    folders: BTreeMap<String, BTreeMap<String, bool>>,
}

/// The tree from tree.txt. Each line is the path of a file, or of a folder if it ends with a slash.
pub fn tree() -> Tree {
    let mut tree = Tree { folders: BTreeMap::new() };
    for line in include_str!("tree.txt").lines().filter(|line| line.starts_with('/')) {
        let is_folder = line.ends_with('/');
        let mut path = String::new();
        let parts: Vec<&str> = line.split('/').filter(|part| !part.is_empty()).collect();
        for (n, part) in parts.iter().enumerate() {
            let is_inner = n + 1 < parts.len() || is_folder;
            tree.folders.entry(path.clone()).or_default().insert((*part).to_owned(), is_inner);
            path = format!("{path}/{part}");
            if is_inner {
                tree.folders.entry(path.clone()).or_default();
            }
        }
    }
    tree
}

impl FileTree for Tree {
    fn is_link(&self, _: &str) -> bool {
        false
    }

    fn real_path(&self, path: &str) -> Option<String> {
        self.is_folder(path).map(|_| path.to_owned())
    }

    fn is_folder(&self, path: &str) -> Option<bool> {
        let path = path.trim_end_matches('/');
        if self.folders.contains_key(path) {
            return Some(true);
        }
        let (folder, name) = path.rsplit_once('/')?;
        self.folders.get(folder)?.get(name).copied()
    }

    fn has_content(&self, _: &str) -> bool {
        true
    }

    fn entries(&self, folder: &str) -> Option<Vec<Entry>> {
        let normal = slm_mesh::base::path_overlap::normal(folder);
        let entries = self.folders.get(normal.trim_end_matches('/'))?;
        Some(
            entries
                .iter()
                .map(|(name, is_folder)| Entry { name: name.clone(), is_folder: *is_folder, is_link: false })
                .collect(),
        )
    }

    fn patch_text(&self, path: &str) -> Option<String> {
        let names: &[&str] = match path {
            "/work/app/fix.patch" => &["src/main.rs"],
            "/tmp/gold_patch.diff" | "/tmp/patch.diff" | "/testbed/model.patch" => &["django/db/models/query.py"],
            _ => return None,
        };
        Some(names.iter().map(|name| format!("--- a/{name}\n+++ b/{name}\n@@ -1 +1 @@\n-x\n+y\n")).collect())
    }
}
