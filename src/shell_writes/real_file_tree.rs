//! Reads the real files on this machine, up to certain limits.

use super::{Entry, FileTree};
use std::cell::RefCell;
use std::fs::{self, File, Metadata};
use std::io::Read;
use std::path::{Path, PathBuf};

/// Maximum number of entries in a folder. A larger folder is not listed.
const ENTRIES_MAX: usize = 10_000;
/// Maximum number of bytes that are read from a patch file.
const PATCH_MAX: u64 = 1 << 20;

/// The real files on this machine. Patch files are read only if they are below `patches_below`.
#[derive(Debug)]
pub struct Disk {
    patches_below: Option<PathBuf>,
    /// The path of the last lookup, and its result. The next lookup often has the same path. In this case, it needs no
    /// system call.
    last_lookup: RefCell<(String, Option<Metadata>)>,
}

impl Disk {
    /// The real files on this machine. Patch files are read only if they are below `directory`.
    pub fn new(directory: &Path) -> Disk {
        Disk { patches_below: fs::canonicalize(directory).ok(), last_lookup: RefCell::default() }
    }

    /// The metadata of a path. If the path is a symbolic link, this is the metadata of the link itself.
    fn lookup(&self, path: &str) -> Option<Metadata> {
        let mut last = self.last_lookup.borrow_mut();
        if last.0 != path {
            *last = (path.to_owned(), fs::symlink_metadata(path).ok());
        }
        last.1.clone()
    }
}

impl FileTree for Disk {
    fn is_folder(&self, path: &str) -> Option<bool> {
        let found = self.lookup(path)?;
        // A symbolic link without a target counts as a file, because a command would replace the link.
        Some(if found.is_symlink() { fs::metadata(path).is_ok_and(|end| end.is_dir()) } else { found.is_dir() })
    }

    fn is_link(&self, path: &str) -> bool {
        self.lookup(path).is_some_and(|found| found.is_symlink())
    }

    fn real_path(&self, path: &str) -> Option<String> {
        fs::canonicalize(path).ok()?.into_os_string().into_string().ok()
    }

    fn has_content(&self, path: &str) -> bool {
        fs::metadata(path).is_ok_and(|found| found.len() > 0)
    }

    fn entries(&self, folder: &str) -> Option<Vec<Entry>> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(folder).ok()? {
            let entry = entry.ok()?;
            let kind = entry.file_type().ok()?;
            // A file name that is not UTF-8 is skipped, because a command line can't contain it.
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
        // Only regular files are read. Reading a device or a FIFO could block, or could consume data that another
        // program needs.
        let is_allowed = real.starts_with(self.patches_below.as_ref()?) && real.metadata().ok()?.is_file();
        if !is_allowed {
            return None;
        }
        let mut text = Vec::new();
        File::open(real).ok()?.take(PATCH_MAX).read_to_end(&mut text).ok()?;
        Some(String::from_utf8_lossy(&text).into_owned())
    }
}
