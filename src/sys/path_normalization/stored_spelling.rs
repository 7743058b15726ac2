//! Changes a path to the spelling that the file system stores. On volumes that ignore case or Unicode forms, several
//! spellings open the same file. Only the existing part of the path is changed.

use std::path::{Path, PathBuf};

/// The path in the spelling that the file system stores.
#[cfg(target_os = "macos")]
pub(super) fn stored_spelling(path: &Path) -> PathBuf {
    use rustix::fs::{Mode, OFlags};
    use std::ffi::OsString;
    use std::os::unix::ffi::OsStringExt;
    // O_EVTONLY in <sys/fcntl.h>: opens a file only to find its name, even without permission to read the file.
    let flags = OFlags::from_bits_retain(0x8000) | OFlags::CLOEXEC;
    let stored = path.ancestors().find_map(|at| {
        let file = rustix::fs::open(at, flags, Mode::empty()).ok()?;
        // This call uses `F_GETPATH` of <sys/fcntl.h>, which returns the path in the spelling that the file system
        // stores.
        let stored = rustix::fs::getpath(&file).ok()?;
        let rest = path.strip_prefix(at).ok()?;
        let stored = PathBuf::from(OsString::from_vec(stored.into_bytes()));
        // Joining an empty path would add a slash. The path of a file would then look like the path of a folder.
        Some(if rest.as_os_str().is_empty() { stored } else { stored.join(rest) })
    });
    stored.unwrap_or_else(|| path.to_path_buf())
}

/// The path in the spelling that the file system stores. No system call of Linux reports this spelling. Several
/// spellings may open the same file, for example on a USB stick or on a Windows volume under WSL.
#[cfg(not(target_os = "macos"))]
pub(super) fn stored_spelling(path: &Path) -> PathBuf {
    spelling::stored_in(path, &spelling::System)
}

#[cfg(any(not(target_os = "macos"), test))]
mod spelling {
    use std::ffi::{OsStr, OsString};
    use std::os::unix::ffi::{OsStrExt, OsStringExt};
    use std::path::{Path, PathBuf};

    /// Maximum number of entries to read from a folder. In a larger folder, names are not changed.
    pub(super) const ENTRIES_MAX: usize = 10_000;

    /// Looks up names in the real file system, or in the file system of a test.
    pub(super) trait Names {
        /// The device and the inode of an existing file.
        fn id(&self, path: &Path) -> Option<(u64, u64)>;
        /// The first entries of a folder, and their inodes.
        fn entries(&self, folder: &Path) -> Vec<(OsString, u64)>;
    }

    /// The real file system.
    #[cfg(not(target_os = "macos"))]
    pub(super) struct System;

    #[cfg(not(target_os = "macos"))]
    impl Names for System {
        fn id(&self, path: &Path) -> Option<(u64, u64)> {
            use std::os::unix::fs::MetadataExt;
            std::fs::symlink_metadata(path).ok().map(|meta| (meta.dev(), meta.ino()))
        }

        fn entries(&self, folder: &Path) -> Vec<(OsString, u64)> {
            use std::os::unix::fs::DirEntryExt;
            let entries = std::fs::read_dir(folder).into_iter().flatten().flatten().take(ENTRIES_MAX);
            entries.map(|entry| (entry.file_name(), entry.ino())).collect()
        }
    }

    pub(super) fn stored_in(path: &Path, names: &impl Names) -> PathBuf {
        let mut parts: Vec<OsString> = path.iter().map(OsStr::to_owned).collect();
        let n_existing = path.ancestors().find(|at| names.id(at).is_some()).map_or(0, |at| at.iter().count());
        let mut ignores_case = true;
        // The loop starts at the last name, because a volume that ignores case may be mounted in a folder that
        // distinguishes case. If a folder distinguishes case, all folders above it are assumed to distinguish case,
        // too.
        for n in (1..n_existing).rev() {
            let folder: PathBuf = parts[..n].iter().collect();
            // A name without letters does not show whether the volume ignores case.
            if let Some(other) = in_other_case(&parts[n]).filter(|_| ignores_case) {
                let id = names.id(&folder.join(&parts[n]));
                ignores_case = id.is_some() && names.id(&folder.join(other)) == id;
            }
            if ignores_case || !parts[n].is_ascii() {
                parts[n] = stored_name(&folder, &parts[n], names);
            }
        }
        parts.iter().collect()
    }

    /// The name with upper and lower case swapped. `None` if the name has no ASCII letters.
    fn in_other_case(name: &OsStr) -> Option<OsString> {
        let other =
            |byte: u8| if byte.is_ascii_lowercase() { byte.to_ascii_uppercase() } else { byte.to_ascii_lowercase() };
        let bytes: Vec<u8> = name.as_bytes().iter().map(|byte| other(*byte)).collect();
        (bytes != name.as_bytes()).then(|| OsString::from_vec(bytes))
    }

    /// Finds out which entry of a folder is opened by the name `name`. Returns the stored name of this entry.
    fn stored_name(folder: &Path, name: &OsStr, names: &impl Names) -> OsString {
        let entries = names.entries(folder);
        if entries.len() >= ENTRIES_MAX || entries.iter().any(|(entry, _)| entry == name) {
            return name.to_owned();
        }
        let lower = |name: &OsStr| name.to_str().map(str::to_lowercase);
        let inode = names.id(&folder.join(name)).map(|(_, inode)| inode);
        let in_case = entries.iter().find(|(entry, _)| lower(entry).is_some() && lower(entry) == lower(name));
        let found = in_case.or_else(|| entries.iter().find(|(_, of_entry)| Some(*of_entry) == inode));
        found.map_or_else(|| name.to_owned(), |(entry, _)| entry.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::spelling::{ENTRIES_MAX, Names, stored_in};
    use std::cell::Cell;
    use std::ffi::OsString;
    use std::path::Path;

    /// A file system with these paths. Below `/mnt`, two names open the same file if `fold` makes them equal.
    struct Tree {
        paths: Vec<&'static str>,
        fold: fn(&str) -> String,
        n_questions: Cell<usize>,
    }

    impl Tree {
        fn spelling(&self, path: &str) -> String {
            stored_in(Path::new(path), self).to_str().unwrap().to_owned()
        }

        fn folded(&self, path: &str) -> String {
            if path.starts_with("/mnt/") { (self.fold)(path) } else { path.to_owned() }
        }
    }

    impl Names for Tree {
        fn id(&self, path: &Path) -> Option<(u64, u64)> {
            self.n_questions.set(self.n_questions.get() + 1);
            let folded = self.folded(path.to_str().unwrap());
            self.paths.iter().position(|known| self.folded(known) == folded).map(|n| (1, n as u64))
        }

        fn entries(&self, folder: &Path) -> Vec<(OsString, u64)> {
            let folder = self.folded(folder.to_str().unwrap());
            let rows = self.paths.iter().enumerate();
            let inside = rows.filter_map(|(n, path)| {
                let (parent, name) = path.rsplit_once('/')?;
                (self.folded(parent) == folder).then(|| (OsString::from(name), n as u64))
            });
            inside.collect()
        }
    }

    fn without_accents(text: &str) -> String {
        text.replace("e\u{301}", "\u{e9}")
    }

    #[test]
    fn all_spellings_of_a_file_become_the_stored_one() {
        let paths =
            vec!["/", "/mnt", "/mnt/c", "/mnt/c/Src", "/mnt/c/Src/1", "/mnt/c/Src/1/Main.rs", "/mnt/c/Src/\u{c4}.rs"];
        let tree = Tree { paths, fold: str::to_lowercase, n_questions: Cell::new(0) };
        for (given, want) in [
            ("/mnt/c/src/1/MAIN.RS", "/mnt/c/Src/1/Main.rs"),
            ("/mnt/c/Src/1/Main.rs", "/mnt/c/Src/1/Main.rs"),
            ("/mnt/c/SRC/1/new.rs", "/mnt/c/Src/1/new.rs"),
            ("/mnt/c/sRC/1", "/mnt/c/Src/1"),
            ("/mnt/c/src/\u{e4}.rs", "/mnt/c/Src/\u{c4}.rs"),
            ("/MNT/c/src", "/MNT/c/src"),
            ("/nothing/Here", "/nothing/Here"),
            ("/", "/"),
        ] {
            assert_eq!(tree.spelling(given), want, "{given}");
        }
        let paths = vec!["/", "/mnt", "/mnt/Caf\u{e9}", "/mnt/Caf\u{e9}/a.rs"];
        let tree = Tree { paths, fold: without_accents, n_questions: Cell::new(0) };
        for (given, want) in
            [("Cafe\u{301}/a.rs", "Caf\u{e9}/a.rs"), ("Caf\u{e9}/a.rs", "Caf\u{e9}/a.rs"), ("caf\u{e9}", "caf\u{e9}")]
        {
            assert_eq!(tree.spelling(&format!("/mnt/{given}")), format!("/mnt/{want}"));
        }
    }

    #[test]
    fn where_case_matters_names_differ_and_two_questions_are_enough() {
        let tree = Tree {
            paths: vec![
                "/",
                "/w",
                "/w/src",
                "/w/Src",
                "/w/src/a.rs",
                "/w/Src/a.rs",
                "/w/Src/A.rs",
                "/w/\u{e4}",
                "/w/\u{c4}",
            ],
            fold: str::to_owned,
            n_questions: Cell::new(0),
        };
        for path in ["/w/src/a.rs", "/w/Src/a.rs", "/w/Src/A.rs", "/w/src/b/c.rs", "/w/\u{e4}", "/w/\u{c4}"] {
            assert_eq!(tree.spelling(path), path);
        }
        tree.n_questions.set(0);
        tree.spelling("/w/src/a.rs");
        assert!(tree.n_questions.get() <= 3, "{}", tree.n_questions.get());
    }

    #[test]
    fn a_folder_with_too_many_entries_is_left_as_it_is_written() {
        struct Many;
        impl Names for Many {
            fn id(&self, _: &Path) -> Option<(u64, u64)> {
                Some((1, 1))
            }
            fn entries(&self, _: &Path) -> Vec<(OsString, u64)> {
                vec![("other".into(), 1); ENTRIES_MAX]
            }
        }
        assert_eq!(stored_in(Path::new("/many/Name"), &Many), Path::new("/many/Name"));
    }
}
