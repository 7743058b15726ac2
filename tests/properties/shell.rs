//! Command lines: which files they write, whatever the bytes.
//!
//! A path is absolute and normalized; a command costs a bounded number of looks at the file tree; and a file whose name
//! is quoted is found under this name.

use slm_mesh::base::path_overlap::normal;
use slm_mesh::shell_writes::{Entry, FileTree, ShellWrite, written_files};
use std::cell::Cell;
use std::path::{Path, PathBuf};

/// How many looks at the file tree one command may cost, in addition to one for each of its bytes.
const LOOKS_MAX: usize = 25_000;

/// A tree without an end: each folder holds two files and a folder.
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

/// Takes the bytes as a command line, and as the name of a file.
pub fn check(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    for write in ask(&text) {
        let path = match &write {
            ShellWrite::File(path) | ShellWrite::Link(path) | ShellWrite::Folder(path) => path,
            ShellWrite::Maybe(maybe) => &maybe.folder,
        };
        let text = path.to_str().unwrap();
        assert!(text.starts_with('/') && normal(text) == text, "{write:?}");
        assert!(!text.contains(['\n', '\0']) && !text.starts_with("/dev/"), "{write:?}");
    }
    check_quoted(&text);
}

/// A redirection to a quoted name writes the file of this name, if there can be such a file.
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
