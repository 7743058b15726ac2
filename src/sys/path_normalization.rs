//! Normalises paths for locks, so that each file has only one path, even if the file does not exist yet.
//!
//! **Invariant:** a normalised path is absolute and contains no `.`, no `..` and no symlinks. The path of a folder ends
//! in `/`.

mod stored_spelling;

use crate::base::error::{Error, ErrorKind};
use std::collections::VecDeque;
use std::ffi::OsString;
use std::path::{Component, Path, PathBuf};

/// Maximum number of symlinks in one path. Linux has the same limit (path_resolution(7)).
const LINKS_MAX: usize = 40;

/// Returns the absolute form of a path that a user typed. A relative path is relative to the working directory.
///
/// # Errors
/// If the path is relative and the working directory is gone.
pub fn absolute(path: &str) -> Result<String, Error> {
    if !without_prefix(path).starts_with('/')
        && let Err(error) = std::env::current_dir()
    {
        let text = format!(
            "\"{path}\" is relative, and the working directory is gone ({error}); give the absolute path, starting with /"
        );
        return Err(Error::new(ErrorKind::Usage, text));
    }
    Ok(absolute_in("", path))
}

/// Makes a path absolute. A relative path is relative to `dir`, or to this process's working directory if `dir` is
/// empty. In a glob, symlinks are resolved only before the first component with a wildcard.
pub fn absolute_in(dir: &str, path: &str) -> String {
    let given = without_prefix(path);
    let mut whole = if given.starts_with('/') { given } else { format!("{dir}/{given}") };
    if !whole.starts_with('/') || dir.is_empty() && !without_prefix(path).starts_with('/') {
        // A relative `dir` comes from the input of a hook, and is relative to the agent's working directory. The hook
        // itself runs in that directory.
        whole = format!("{}/{whole}", std::env::current_dir().unwrap_or_default().display());
    }
    normal_form(&whole)
}

/// The absolute path of a symlink itself, not of its target. Other symlinks in the path are resolved.
pub fn absolute_link(path: &str) -> String {
    let given = without_prefix(path);
    let (folder, name) = given.rsplit_once('/').map_or((".", given.as_str()), |(folder, name)| (folder, name));
    if matches!(name, "" | "." | "..") {
        return absolute_in("", &given);
    }
    format!("{}{name}", absolute_in("", &format!("{folder}/")))
}

/// Returns the absolute form of a path that an agent gave to a session. A relative path is relative to the project, or
/// to `root` if the working directory is not a project.
///
/// # Errors
/// If the path is relative and there is neither a project nor a root. The error contains the cause and a remedy.
pub fn resolve(path: &str, root: Option<&str>) -> Result<String, String> {
    let given = without_prefix(path);
    if given.starts_with('/') {
        return Ok(normal_form(&given));
    }
    let dir = match (project_dir(), root) {
        (Ok(dir), _) => dir.to_string_lossy().into_owned(),
        (Err(_), Some(root)) => root.to_owned(),
        (Err(why), None) => {
            let shown: String = given.chars().take(60).collect();
            return Err(format!("\"{shown}\" is relative, and {why}; give the absolute path, starting with /"));
        }
    };
    Ok(normal_form(&format!("{dir}/{given}")))
}

/// The working directory, if it may be a project.
///
/// # Errors
/// If the directory no longer exists, or if it is HOME or `/`. Some clients start the MCP servers of all workspaces in
/// HOME or in `/`.
pub fn project_dir() -> Result<PathBuf, &'static str> {
    let Ok(dir) = std::env::current_dir() else { return Err("the folder in which this session was started is gone") };
    let home = std::env::var_os("HOME").map(PathBuf::from).and_then(|home| home.canonicalize().ok());
    if dir == Path::new("/") {
        return Err("this session was started in /");
    }
    if home.is_some_and(|home| dir.canonicalize().is_ok_and(|dir| dir == home)) {
        return Err("this session was started in the home folder");
    }
    Ok(dir)
}

/// The path in a `file:` URI. `None` for any other URI.
pub fn from_uri(uri: &str) -> Option<String> {
    let rest = uri.strip_prefix("file://")?;
    let rest = rest.strip_prefix("localhost").unwrap_or(rest);
    let bytes = rest.starts_with('/').then(|| percent_decoded(rest.as_bytes()))?;
    String::from_utf8(bytes).ok()
}

/// Turns `file:///a` into `/a`, and `~/a` into a path below HOME.
fn without_prefix(path: &str) -> String {
    let home = || std::env::var("HOME").ok().filter(|home| home.starts_with('/'));
    if let Some(path) = from_uri(path) {
        return path;
    }
    match (path.strip_prefix("~/"), home()) {
        (Some(rest), Some(home)) => format!("{home}/{rest}"),
        _ if path == "~" => home().map_or_else(|| path.to_owned(), |home| format!("{home}/")),
        _ => path.to_owned(),
    }
}

/// Decodes the `%` escapes in a string: `%2F` becomes a slash.
pub(super) fn percent_decoded(text: &[u8]) -> Vec<u8> {
    let digit = |byte: Option<&u8>| byte.and_then(|byte| char::from(*byte).to_digit(16));
    let mut bytes = Vec::with_capacity(text.len());
    let mut at = 0;
    while at < text.len() {
        match (text[at], digit(text.get(at + 1)), digit(text.get(at + 2))) {
            (b'%', Some(high), Some(low)) => {
                bytes.push((high * 16 + low) as u8);
                at += 3;
            }
            (byte, ..) => {
                bytes.push(byte);
                at += 1;
            }
        }
    }
    bytes
}

fn normal_form(path: &str) -> String {
    let whole = Path::new(path);
    let is_folder = path.ends_with('/') || whole.is_dir();
    let resolved = stored_spelling::stored_spelling(&without_links(whole));
    let mut text = crate::base::path_overlap::normal(&resolved.to_string_lossy());
    if is_folder && !text.ends_with('/') {
        text.push('/');
    }
    text
}

/// Replaces each symlink in a path with its target, even if the target does not exist yet. From the first component
/// with a wildcard onwards, symlinks stay as they are. After too many symlinks, further symlinks stay as they are, too.
fn without_links(path: &Path) -> PathBuf {
    let mut done = PathBuf::from("/");
    let mut rest: VecDeque<OsString> = path.components().map(|part| part.as_os_str().to_owned()).collect();
    let (mut n_links, mut is_pattern) = (0, false);
    while let Some(part) = rest.pop_front() {
        match Path::new(&part).components().next() {
            Some(Component::RootDir) => done = PathBuf::from("/"),
            // After a symlink, `..` means the parent of the symlink's target. All symlinks before this `..` have
            // already been resolved.
            Some(Component::ParentDir) => {
                done.pop();
            }
            Some(Component::Normal(_)) => {
                is_pattern |= crate::base::path_overlap::is_pattern(&part.to_string_lossy());
                let next = done.join(&part);
                match std::fs::read_link(&next).ok().filter(|_| !is_pattern && n_links < LINKS_MAX) {
                    Some(target) => {
                        n_links += 1;
                        let parts: Vec<OsString> =
                            target.components().map(|part| part.as_os_str().to_owned()).collect();
                        parts.into_iter().rev().for_each(|part| rest.push_front(part));
                    }
                    None => done = next,
                }
            }
            _ => {}
        }
    }
    done
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    /// The real path of a new folder. The folder is removed when this value is dropped.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Folder {
            let dir = std::env::temp_dir().join(format!("slm-mesh-{name}-{}", std::process::id()));
            std::fs::create_dir_all(&dir).unwrap();
            Folder(dir.canonicalize().unwrap())
        }

        fn at(&self, path: &str) -> String {
            format!("{}/{path}", self.0.display())
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn one_file_has_one_path_before_it_exists_too() {
        let dir = Folder::new("paths");
        std::fs::create_dir_all(dir.at("real/deep")).unwrap();
        for (target, link) in [
            ("real", "folder"),
            ("new.txt", "dangling"),
            ("gen/made", "later"),
            ("dangling", "twice"),
            ("loop-b", "loop-a"),
            ("loop-a", "loop-b"),
        ] {
            symlink(target, dir.at(link)).unwrap();
        }
        symlink(dir.at("real/deep"), dir.at("real/absolute")).unwrap();
        for (given, want) in [
            ("dangling", "new.txt"),
            ("twice", "new.txt"),
            ("later/x.rs", "gen/made/x.rs"),
            ("folder/none/x", "real/none/x"),
            ("folder/../y", "y"),
            ("folder/absolute/../z", "real/z"),
            ("folder", "real/"),
            ("none/", "none/"),
            ("folder/*.rs", "real/*.rs"),
            ("a/**/folder", "a/**/folder"),
            ("./real//deep/.", "real/deep/"),
            ("app/[id]/page.tsx", "app/[id]/page.tsx"),
        ] {
            assert_eq!(absolute(&dir.at(given)), Ok(dir.at(want)), "{given}");
            assert_eq!(absolute_in(&dir.at(""), given), dir.at(want), "{given} in its folder");
            assert_eq!(resolve(&dir.at(given), None), Ok(dir.at(want)), "{given}");
        }
        assert!(absolute(&dir.at("loop-a")).unwrap().contains("loop-"), "a loop ends");
    }

    #[test]
    fn uris_and_the_home_folder_are_understood() {
        for (given, want) in [
            ("file:///a/b%20c", Some("/a/b c")),
            ("file://localhost/a", Some("/a")),
            ("file:///%C3%A4/100%", Some("/\u{e4}/100%")),
            ("file://elsewhere/a", None),
            ("https://a/b", None),
            ("/a", None),
        ] {
            assert_eq!(from_uri(given).as_deref(), want, "{given}");
        }
        let home = std::env::var("HOME").unwrap();
        assert_eq!(without_prefix("~/x"), format!("{home}/x"));
        assert_eq!(without_prefix("~x/y"), "~x/y");
        assert_eq!(absolute("file:///no/such"), Ok("/no/such".into()));
    }
}
