//! Tests which files slm-mesh finds in random command lines.
//!
//! Each path must be absolute and normalized. The number of look-ups in the file tree must stay limited. A write to a
//! quoted file name must be found.

use slm_mesh::base::path_overlap::normal;
use slm_mesh::shell_writes::{Entry, FileTree, ShellWrite, written_files};
use std::cell::Cell;
use std::path::{Path, PathBuf};

/// The maximum number of look-ups in the file tree for one command. Each byte of the command allows one more.
const LOOKS_MAX: usize = 25_000;

/// An endless file tree. Each folder contains two files and another folder.
struct EndlessTree {
    n_looks: Cell<usize>,
}

impl EndlessTree {
    fn look(&self) {
        self.n_looks.set(self.n_looks.get() + 1);
    }
}

impl FileTree for EndlessTree {
    fn is_folder(&self, path: &str) -> Option<bool> {
        self.look();
        let name = path.rsplit('/').next().unwrap_or("");
        (!name.starts_with('n')).then(|| name.is_empty() || name.starts_with('d'))
    }

    fn is_link(&self, _: &str) -> bool {
        self.look();
        false
    }

    fn real_path(&self, path: &str) -> Option<String> {
        self.look();
        self.is_folder(path).map(|_| path.to_owned())
    }

    fn has_content(&self, _: &str) -> bool {
        self.look();
        true
    }

    fn entries(&self, _: &str) -> Option<Vec<Entry>> {
        self.look();
        let entry = |name: &str| Entry { name: name.to_owned(), is_folder: name == "d", is_link: false };
        Some(vec![entry("a.py"), entry("b.rs"), entry("d")])
    }

    fn patch_text(&self, _: &str) -> Option<String> {
        self.look();
        Some("--- a/x\n+++ b/x\n@@ -1 +1 @@\n-a\n+b\n".into())
    }
}

fn ask(command: &str) -> Vec<ShellWrite> {
    let tree = EndlessTree { n_looks: Cell::new(0) };
    let home = |name: &str| (name == "HOME").then(|| "/home/dev".to_owned());
    let writes = written_files(command, "/work", &home, &tree);
    let n_looks = tree.n_looks.get();
    assert!(n_looks <= LOOKS_MAX + command.len(), "{n_looks} looks at the files");
    writes
}

/// Reads the bytes as a command line, and then uses them as a file name in a new command.
pub fn check(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    for write in ask(&text) {
        let path = match &write {
            ShellWrite::File(path) | ShellWrite::Link(path) | ShellWrite::Folder(path) | ShellWrite::Matches(path) => {
                path
            }
            ShellWrite::Maybe(maybe) => &maybe.folder,
        };
        let text = path.to_str().unwrap();
        assert!(text.starts_with('/') && normal(text) == text, "{write:?}");
        assert!(!text.contains(['\n', '\0']) && !text.starts_with("/dev/"), "{write:?}");
    }
    check_quoted(&text);
}

/// Checks that a redirection to a quoted file name is found, if a file can have this name.
fn check_quoted(name: &str) {
    let quoted = format!("echo > '{}'", name.replace('\'', "'\\''"));
    let path = normal(&if name.starts_with('/') { name.to_owned() } else { format!("/work/{name}") });
    let is_odd = name.is_empty() || name.ends_with('/') || name.contains(['*', '?', '\n', '\0']) || path.len() > 4096;
    let is_device = ["/dev/", "/proc/", "/sys/"].iter().any(|folder| path.starts_with(folder));
    let is_folder = Path::new(&path).file_name().is_none_or(|name| name.to_string_lossy().starts_with('d'));
    let want = if is_odd || is_device || is_folder || path.ends_with('/') {
        Vec::new()
    } else {
        vec![ShellWrite::File(PathBuf::from(path))]
    };
    assert_eq!(ask(&quoted), want, "{quoted:?}");
}
