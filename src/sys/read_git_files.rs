//! Finds the work tree, the branch and the repository of a directory. Reads git's files directly, because starting git
//! would take milliseconds.

mod config_syntax;
mod normalize_remote_url;
mod settings;
mod ssh_config;

use crate::base::limits;
use crate::sys::account;
use crate::sys::regular_file::buffer_for;
use config_syntax::ConfigEntry;
use normalize_remote_url::Remote;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, HashMap};
use std::io::Read;
use std::path::{Path, PathBuf};

/// Maximum number of bytes to read from one of git's files.
const FILE_MAX: u64 = 64 << 10;
/// Maximum number of origins to follow on this machine. Without a limit, the search would never end if two repositories
/// were each other's origin.
const CLONES_MAX: usize = 5;

/// Facts about a work tree.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GitFacts {
    /// The root of the work tree.
    pub root: Option<String>,
    /// The branch, or the first digits of the commit's id if the head is detached.
    pub branch: Option<String>,
    /// The identity of the repository. All work trees and clones of a repository have the same identity. It is the
    /// normal form of the origin's URL, or the path of the common git directory if there is no origin.
    pub repo: Option<String>,
}

/// A work tree, or a bare repository.
struct WorkTree {
    root: PathBuf,
    git_dir: PathBuf,
    /// The git directory that all work trees of the repository share.
    common_dir: PathBuf,
}

/// Returns the beginning of a file; `None` if the file can't be read. Callers may choose any directory, so the file may
/// be a pipe or a device. Such a file must neither block this process nor fill its memory.
fn read_beginning(path: &Path) -> Option<String> {
    use rustix::fs::{Mode, OFlags};
    let opened = rustix::fs::open(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty()).ok()?;
    let file = std::fs::File::from(opened);
    let meta = file.metadata().ok()?;
    if !meta.is_file() {
        return None;
    }
    let mut bytes = buffer_for(meta.len().min(FILE_MAX));
    file.take(FILE_MAX).read_to_end(&mut bytes).ok()?;
    // A name in the file may be invalid UTF-8, but the URL in the file is needed anyway.
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// Searches a directory and its parents for a work tree, and returns facts about it.
pub fn facts(dir: &Path) -> GitFacts {
    let Some(tree) = dir.ancestors().take(64).find_map(|at| Some(WorkTree::new(at, git_dir(at)?))) else {
        return GitFacts::default();
    };
    let head = read_beginning(&tree.git_dir.join("HEAD")).unwrap_or_default();
    let branch = match head.trim().strip_prefix("ref: refs/heads/") {
        // This placeholder is not a branch. `HEAD` contains it if the repository stores its references in tables
        // (`reftable`).
        Some(".invalid") => String::new(),
        Some(branch) => branch.to_owned(),
        None => head.trim().chars().take(12).collect(),
    };
    GitFacts {
        root: Some(tree.root.display().to_string()),
        branch: Some(branch).filter(|branch| !branch.is_empty()),
        repo: Some(tree.identity(&account::home().unwrap_or_default(), CLONES_MAX)),
    }
}

/// A work tree whose repository is already known, so git's files are not read again.
#[derive(Debug, Clone, Copy)]
pub struct KnownTree<'a> {
    /// The root of the work tree.
    pub root: &'a str,
    /// The identity of the repository.
    pub repo: &'a str,
}

impl<'a> KnownTree<'a> {
    /// The work tree with this root and repository; `None` if one of the two values is not a string.
    pub fn of(root: &'a Value, repo: &'a Value) -> Option<KnownTree<'a>> {
        Some(KnownTree { root: root.as_str()?, repo: repo.as_str()? })
    }
}

/// Returns the roots of the work trees that contain these paths. Also returns the identities of the work trees'
/// repositories, in the same order. The paths are normalised like the paths of locks, and may be globs.
pub fn work_trees<'a>(
    paths: impl Iterator<Item = &'a str>,
    known_tree: Option<KnownTree<'_>>,
) -> (Vec<String>, Vec<String>) {
    let home = account::home().unwrap_or_default();
    let mut roots = HashMap::<&Path, Option<&Path>>::new();
    let mut found = BTreeMap::new();
    for path in paths {
        let fixed = path.split(['*', '?']).next().unwrap_or(path);
        let folder = Path::new(fixed.rfind('/').map_or("/", |slash| &fixed[..slash.max(1)]));
        let (mut passed, mut root) = (Vec::new(), None);
        // Several paths often have the same parent folders, so each folder is looked up only once.
        for at in folder.ancestors().take(64) {
            if let Some(known) = roots.get(at) {
                root = *known;
                break;
            }
            passed.push(at);
            let identity = match known_tree.filter(|known| at == Path::new(known.root)) {
                Some(known) => Some(known.repo.to_owned()),
                None => git_dir(at).map(|git_dir| WorkTree::new(at, git_dir).identity(&home, CLONES_MAX)),
            };
            if let Some(identity) = identity {
                found.insert(at.display().to_string(), identity);
                root = Some(at);
                break;
            }
        }
        roots.extend(passed.into_iter().map(|at| (at, root)));
    }
    // A work tree whose root or identity is empty or too long is left out. Otherwise, the broker would refuse the whole
    // call and check no lock.
    let fits = |text: &String| (1..=limits::PATH_MAX).contains(&text.len());
    found.into_iter().filter(|(root, identity)| fits(root) && fits(identity)).unzip()
}

/// Finds the work trees of the paths in a call's parameters, and adds these work trees to the parameters.
pub fn name_work_trees(params: &mut Map<String, Value>) {
    let one = params.get("filePath").and_then(Value::as_str);
    let several = params.get("filePaths").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
    let known = params.get("gitRoot").zip(params.get("repo")).and_then(|(root, repo)| KnownTree::of(root, repo));
    let (roots, repos) = work_trees(several.chain(one), known);
    params.extend([("gitRoots".to_owned(), json!(roots)), ("repos".to_owned(), json!(repos))]);
}

impl WorkTree {
    fn new(root: &Path, git_dir: PathBuf) -> WorkTree {
        let common_dir = match read_beginning(&git_dir.join("commondir")) {
            Some(path) => git_dir.join(path.trim()),
            None => git_dir.clone(),
        };
        let common_dir = common_dir.canonicalize().unwrap_or(common_dir);
        WorkTree { root: root.to_owned(), git_dir, common_dir }
    }

    /// The identity of the repository. If the origin is a repository on this machine, returns the identity of the
    /// origin instead. At most `clones` origins are followed.
    fn identity(&self, home: &Path, clones: usize) -> String {
        let settings = settings::settings(self, home);
        let Some(url) = origin(&settings) else { return self.common_dir.display().to_string() };
        match normalize_remote_url::resolve(&url, self.main_root(), &settings, home) {
            Remote::Host(name) => name,
            Remote::Path(path) => match clones.checked_sub(1).zip(repository_at(&path)) {
                Some((clones, original)) => original.identity(home, clones),
                None => normalize_remote_url::path_spelling(&path),
            },
        }
    }

    /// The directory against which a relative URL is resolved. It is the same for all work trees of the repository.
    fn main_root(&self) -> &Path {
        match self.common_dir.file_name() {
            Some(name) if name == ".git" => self.common_dir.parent().unwrap_or(&self.root),
            _ if self.git_dir.join("commondir").exists() => &self.common_dir,
            _ => &self.root,
        }
    }
}

/// The repository at a path. It may have a work tree or be bare. Git also accepts `name` for `name.git`.
fn repository_at(path: &Path) -> Option<WorkTree> {
    let with_ending = PathBuf::from(format!("{}.git", path.to_str()?.trim_end_matches('/')));
    [path, &with_ending].into_iter().find_map(|at| {
        let is_bare = || at.join("HEAD").is_file() && at.join("objects").is_dir();
        let git_dir = git_dir(at).or_else(|| is_bare().then(|| at.to_owned()))?;
        Some(WorkTree::new(at, git_dir))
    })
}

/// The git directory of the work tree with this root. It is the directory `.git`, or the directory that the file `.git`
/// names.
fn git_dir(root: &Path) -> Option<PathBuf> {
    let dot_git = root.join(".git");
    let meta = std::fs::metadata(&dot_git).ok()?;
    if meta.is_dir() {
        return dot_git.join("HEAD").exists().then_some(dot_git);
    }
    let text = read_beginning(&dot_git)?;
    Some(root.join(text.strip_prefix("gitdir:")?.trim()))
}

/// The URL of the remote `origin`, or of the first remote if there is no `origin`. A clone may have no `origin`,
/// because `git clone --origin NAME` gives the remote a different name.
fn origin(settings: &[ConfigEntry]) -> Option<String> {
    let urls = || settings.iter().filter(|entry| entry.section == "remote" && entry.name == "url");
    let url = urls().find(|entry| entry.subsection == "origin").or_else(|| urls().next());
    url.map(|entry| entry.value.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    /// A home directory with repositories.
    struct Home(PathBuf);

    impl Home {
        fn new() -> Home {
            let path = std::env::temp_dir().join(format!("slm-mesh-git-{:032x}", crate::sys::random_u128()));
            fs::create_dir(&path).unwrap();
            Home(path.canonicalize().unwrap())
        }

        fn write(&self, path: &str, text: &str) {
            let path = self.0.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }

        /// Creates a git directory with these settings. In the settings, `HOME` stands for this home directory.
        fn git_dir(&self, path: &str, config: &str) {
            self.write(&format!("{path}/HEAD"), "ref: refs/heads/main\n");
            self.write(&format!("{path}/config"), &config.replace("HOME", &self.0.display().to_string()));
            fs::create_dir_all(self.0.join(path).join("objects")).unwrap();
        }

        fn identity(&self, folder: &str) -> String {
            let root = self.0.join(folder);
            WorkTree::new(&root, git_dir(&root).unwrap()).identity(&self.0, CLONES_MAX)
        }
    }

    impl Drop for Home {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_clone_of_a_repository_on_this_machine_is_the_same_repository() {
        let home = Home::new();
        let origin = |url: &str| format!("[remote \"origin\"]\n url = {url}\n");
        home.git_dir("alone/.git", "");
        for (folder, url) in
            [("a", "HOME/alone"), ("b", "file://HOME/alone/.git"), ("deep/c", "../../alone/"), ("d", "HOME/a")]
        {
            home.git_dir(&format!("{folder}/.git"), &origin(url));
            assert_eq!(home.identity(folder), home.identity("alone"), "{url}");
        }
        home.git_dir("with space/.git", "");
        home.git_dir("e/.git", &origin("file://HOME/with%20space"));
        assert_eq!(home.identity("e"), home.identity("with space"));

        // Now both `alone` and `alone.git` exist. Git tries the path of the URL unchanged before it tries the path with
        // `.git`.
        home.git_dir("alone.git", &origin("https://example.org/o/r.git"));
        for (folder, url, want) in [("f", "../alone.git", "example.org/o/r"), ("g", "../alone", "alone")] {
            home.git_dir(&format!("{folder}/.git"), &origin(url));
            let want = if want == "alone" { home.identity(want) } else { want.to_owned() };
            assert_eq!(home.identity(folder), want, "{url}");
        }
        home.git_dir("ping/.git", &origin("../pong"));
        home.git_dir("pong/.git", &origin("../ping"));
        assert!(!home.identity("ping").is_empty(), "a circle ends");
    }

    #[test]
    fn all_work_trees_of_a_repository_have_one_identity() {
        let home = Home::new();
        home.git_dir("x/main/.git", "[remote \"origin\"]\n url = ../up.git\n");
        home.write("x/main/.git/worktrees/w/HEAD", "ref: refs/heads/w\n");
        home.write("x/main/.git/worktrees/w/commondir", "../..\n");
        home.write("far/away/w/.git", &format!("gitdir: {}/x/main/.git/worktrees/w\n", home.0.display()));
        assert_eq!(home.identity("far/away/w"), home.identity("x/main"));
        assert_eq!(home.identity("x/main"), home.0.join("x/up").display().to_string());
    }

    #[test]
    fn each_path_names_the_innermost_work_tree_that_contains_it() {
        let home = Home::new();
        home.git_dir("r/.git", "");
        home.git_dir("r/sub/.git", "[remote \"origin\"]\n url = https://example.org/sub\n");
        let at = |path: &str| format!("{}/{path}", home.0.display());
        let long = format!("[remote \"origin\"]\n url = https://example.org/{}\n", "x".repeat(limits::PATH_MAX));
        home.git_dir("long/.git", &long);
        for (paths, roots) in [
            (&["r/a", "r/new/b", "r/s*/x", "r/"][..], &["r"][..]),
            (&["r/sub/a", "r/sub/", "r/sub/**"], &["r/sub"]),
            (&["r/sub/a", "a", "r/a"], &["r", "r/sub"]),
            (&["a", "**", "long/a"], &[]),
        ] {
            let paths: Vec<String> = paths.iter().map(|path| at(path)).chain(["/a".into(), "/*".into()]).collect();
            let (found, repos) = work_trees(paths.iter().map(String::as_str), None);
            assert_eq!(found, roots.iter().map(|root| at(root)).collect::<Vec<_>>(), "{paths:?}");
            assert_eq!(repos, roots.iter().map(|root| home.identity(root)).collect::<Vec<_>>());
        }
    }

    #[test]
    fn an_origin_is_found_wherever_git_finds_it() {
        let home = Home::new();
        home.write(".gitconfig", "[includeIf \"gitdir:~/work/\"]\n path = work.conf\n[include]\n path = more\n");
        home.write("work.conf", "[url \"https://example.org/team/\"]\n insteadOf = ours:\n");
        home.write("more", "[includeIf \"hasconfig:remote.*.url:two:**\"]\n path = ~/deep/two\n");
        home.write("deep/two", "[url \"https://example.org/two/\"]\n insteadOf = two:\n[include]\n path = two\n");
        let bytes = b"\xef\xbb\xbf[remote.origin]\nurl = https://example.org/o/r\n[user]\nname = J\xf6rg\n";
        home.git_dir("latin/.git", "");
        fs::write(home.0.join("latin/.git/config"), bytes).unwrap();
        for (folder, config, want) in [
            ("upstream", "[remote \"gh\"]\n url = https://example.org/o/r\n[remote \"b\"]\n url = b:\n", "o/r"),
            ("both", "[remote \"b\"]\n url = b:\n[remote \"origin\"]\n url = git@example.org:o/r\n", "o/r"),
            ("work/in", "[remote \"origin\"]\n url = ours:r.git\n", "team/r"),
            ("two", "[remote \"origin\"]\n url = two:r/\n", "two/r"),
        ] {
            home.git_dir(&format!("{folder}/.git"), config);
            assert_eq!(home.identity(folder), format!("example.org/{want}"), "{folder}");
        }
        home.git_dir("work-not/.git", "[remote \"origin\"]\n url = ours:r.git\n");
        assert_eq!(home.identity("work-not"), "ours/r.git".trim_end_matches(".git"));
        assert_eq!(home.identity("latin"), "example.org/o/r");
    }

    #[test]
    fn a_repository_whose_references_are_in_tables_has_no_known_branch() {
        let home = Home::new();
        home.git_dir("r/.git", "");
        assert_eq!(facts(&home.0.join("r")).branch.as_deref(), Some("main"));
        home.write("r/.git/HEAD", "ref: refs/heads/.invalid\n");
        assert_eq!(facts(&home.0.join("r")).branch, None);
    }
}
