//! The files on this machine, read within limits.

use super::{Entry, FileTree};
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

/// Folders with more entries are not listed.
const ENTRIES_MAX: usize = 10_000;
/// Maximum number of bytes that are read from a patch file.
const PATCH_MAX: u64 = 1 << 20;

/// The files on this machine. Patch files are read only if they are below `patches_below`.
#[derive(Debug)]
pub struct Disk {
    patches_below: Option<PathBuf>,
}

impl Disk {
    /// A file tree in which patch files below this directory may be read.
    pub fn new(directory: &Path) -> Disk {
        Disk { patches_below: fs::canonicalize(directory).ok() }
    }
}

impl FileTree for Disk {
    fn is_folder(&self, path: &str) -> Option<bool> {
        // A broken link counts as a file, because a command would replace it.
        fs::metadata(path).or_else(|_| fs::symlink_metadata(path)).ok().map(|found| found.is_dir())
    }

    fn is_link(&self, path: &str) -> bool {
        fs::symlink_metadata(path).is_ok_and(|found| found.is_symlink())
    }

    fn has_content(&self, path: &str) -> bool {
        fs::metadata(path).is_ok_and(|found| found.len() > 0)
    }

    fn entries(&self, folder: &str) -> Option<Vec<Entry>> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(folder).ok()? {
            let entry = entry.ok()?;
            let kind = entry.file_type().ok()?;
            // A command line is text, so it can't contain a file name that is not valid UTF-8.
            let Ok(name) = entry.file_name().into_string() else { continue };
            let is_folder = kind.is_dir() || kind.is_symlink() && entry.path().is_dir();
            entries.push(Entry { name, is_folder, is_link: kind.is_symlink() });
            if entries.len() > ENTRIES_MAX {
                return None;
            }
        }
        Some(entries)
    }

    fn patch_text(&self, path: &str) -> Option<String> {
        let real = fs::canonicalize(path).ok()?;
        // A device or a FIFO might block, and reading might change it, so only regular files are read.
        let is_allowed = real.starts_with(self.patches_below.as_ref()?) && real.metadata().ok()?.is_file();
        if !is_allowed {
            return None;
        }
        let mut text = Vec::new();
        File::open(real).ok()?.take(PATCH_MAX).read_to_end(&mut text).ok()?;
        Some(String::from_utf8_lossy(&text).into_owned())
    }
}
