//! Finds the host to which ssh connects for a name in a URL. Reads ssh's settings files (ssh_config(5)) and the files
//! that they include, and applies their `Host` and `Match` blocks.

use crate::base::shell_wildcards::{has_wildcards, live_pattern, pattern, text_fits};
use crate::sys::account;
use crate::sys::read_git_files::read_beginning;
use std::path::{Path, PathBuf};

/// Maximum depth of nested includes, the same as in ssh.
const DEPTH_MAX: usize = 16;
/// Maximum number of files to read for one name. Without this limit, a file that includes itself twice would be read
/// 2^16 times.
const FILES_MAX: usize = 64;
/// Maximum number of files in a folder that are compared with a wildcard of an `Include` line.
const NAMES_MAX: usize = 1_000;

/// Returns the host to which ssh connects for a name. The first `HostName` line that applies wins, and the user's files
/// come before the machine's files.
pub(super) fn host_name(name: &str, user: Option<&str>, home: &Path) -> String {
    let own = Search { name, user, home, folder: &home.join(".ssh"), files_left: FILES_MAX }.in_file("config", 0);
    let of_machine =
        || Search { name, user, home, folder: Path::new("/etc/ssh"), files_left: FILES_MAX }.in_file("ssh_config", 0);
    own.or_else(of_machine).unwrap_or_else(|| name.to_owned()).to_ascii_lowercase()
}

/// A search for the `HostName` of a name.
struct Search<'a> {
    name: &'a str,
    /// The user name in the URL.
    user: Option<&'a str>,
    home: &'a Path,
    /// The folder against which relative paths are resolved.
    folder: &'a Path,
    files_left: usize,
}

impl Search<'_> {
    fn in_file(&mut self, path: impl AsRef<Path>, depth: usize) -> Option<String> {
        self.files_left = self.files_left.checked_sub(1)?;
        let text = read_beginning(&self.folder.join(path))?;
        // Lines before the first block apply to every host.
        let mut applies = true;
        for line in text.lines() {
            let mut words = words(line).into_iter();
            let keyword = words.next().unwrap_or_default().to_ascii_lowercase();
            match keyword.as_str() {
                "host" => applies = names_host(words, self.name),
                "match" => applies = matches_host(words, self.name, self.user),
                "hostname" if applies => return Some(self.expanded(&words.next()?)),
                // A block ends at the end of its file. So an included file does not change `applies`.
                "include" if applies && depth < DEPTH_MAX => {
                    let files = words.flat_map(|pattern| self.included(&pattern)).collect::<Vec<_>>();
                    if let Some(found) = files.into_iter().find_map(|file| self.in_file(file, depth + 1)) {
                        return Some(found);
                    }
                }
                _ => {}
            }
        }
        None
    }

    /// The value of a `HostName` line, in which the name replaces `%h`.
    fn expanded(&self, value: &str) -> String {
        value.replace("%h", self.name).replace("%%", "%")
    }

    /// The files that match a pattern of an `Include` line, in lexical order.
    fn included(&self, pattern: &str) -> Vec<PathBuf> {
        let whole = match pattern.strip_prefix("~/") {
            Some(rest) => self.home.join(rest),
            None => self.folder.join(pattern),
        };
        let mut found = vec![PathBuf::new()];
        for part in whole.components() {
            let part = part.as_os_str().to_string_lossy();
            found = match has_wildcards(&part) {
                true => found.iter().flat_map(|folder| names_that_fit(folder, &part)).take(FILES_MAX).collect(),
                false => found.iter().map(|folder| folder.join(&*part)).collect(),
            };
        }
        found
    }
}

/// The entries of a folder that match a pattern, sorted. A wildcard does not match the dot of a hidden file.
fn names_that_fit(folder: &Path, pattern: &str) -> Vec<PathBuf> {
    let signs = live_pattern(pattern);
    let fits = |name: &str| text_fits(name, &signs) && (!name.starts_with('.') || pattern.starts_with('.'));
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten().take(NAMES_MAX);
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok()).filter(|name| fits(name));
    let mut paths: Vec<PathBuf> = names.map(|name| folder.join(name)).collect();
    paths.sort();
    paths
}

/// Splits a line into a keyword and its arguments. Ignores a comment at the end of the line. An argument may be quoted,
/// and an equals sign may follow the keyword.
fn words(line: &str) -> Vec<String> {
    let line = line.trim();
    let keyword = line.split(|c: char| c.is_whitespace() || c == '=').next().unwrap_or_default();
    let rest = line[keyword.len()..].trim_start();
    let mut words = vec![keyword.to_owned()];
    let mut chars = rest.strip_prefix('=').unwrap_or(rest).chars().peekable();
    while let Some(first) = chars.find(|c| !c.is_whitespace()) {
        if first == '#' {
            break;
        }
        let (mut word, mut quote, mut next) = (String::new(), None, Some(first));
        while let Some(c) = next.filter(|c| quote.is_some() || !c.is_whitespace()) {
            match c {
                '\\' => word.push(chars.next_if(|c| ['"', '\'', '\\', ' '].contains(c)).unwrap_or(c)),
                '"' | '\'' if quote.is_none() => quote = Some(c),
                c if quote == Some(c) => quote = None,
                c => word.push(c),
            }
            next = chars.next();
        }
        words.push(word);
    }
    words
}

/// Whether a `Host` line applies to a name. The line applies if at least one of its patterns matches, and no pattern
/// with `!` matches. Case matters.
fn names_host(patterns: impl IntoIterator<Item = impl AsRef<str>>, name: &str) -> bool {
    let mut applies = false;
    for given in patterns {
        let given = given.as_ref();
        let (is_negated, given) = given.strip_prefix('!').map_or((false, given), |given| (true, given));
        // In ssh's patterns, brackets have no special meaning.
        let signs = pattern(&given.chars().map(|c| (c, c != '[')).collect::<Vec<_>>());
        if text_fits(name, &signs) {
            if is_negated {
                return false;
            }
            applies = true;
        }
    }
    applies
}

/// Whether a `Match` line applies to a name. The line applies if all its criteria are met. Unlike in a `Host` line, the
/// case of host names does not matter. A criterion that only ssh can decide, such as the result of a command, counts as
/// not met.
fn matches_host(criteria: impl IntoIterator<Item = String>, name: &str, user: Option<&str>) -> bool {
    let mut words = criteria.into_iter();
    let mut is_first = true;
    while let Some(word) = words.next() {
        let (is_negated, word) = word.strip_prefix('!').map_or((false, &*word), |word| (true, word));
        let mut lists = |name: &str| words.next().map(|list| names_host(list.split(','), name));
        let holds = match word.to_ascii_lowercase().as_str() {
            "all" => Some(true),
            // In ssh, after a `HostName` line has replaced the name, `host` stands for the new name. This search ends
            // at the first such line, so here `host` means the same as `originalhost`.
            "host" | "originalhost" => {
                let list = words.next().map(|list| list.to_ascii_lowercase());
                list.map(|list| names_host(list.split(','), &name.to_ascii_lowercase()))
            }
            "user" => user.and_then(lists),
            "localuser" => lists(&account::user()),
            _ => None,
        };
        if holds.is_none_or(|holds| holds == is_negated) {
            return false;
        }
        is_first = false;
    }
    !is_first
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    /// Returns the host that is found for a name if `~/.ssh` contains these files.
    fn found(files: &[(&str, &str)], name: &str) -> String {
        let home = std::env::temp_dir().join(format!("slm-mesh-ssh-{:032x}", crate::sys::random_u128()));
        for (path, text) in files {
            let path = home.join(".ssh").join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text.replace("HOME", &home.display().to_string())).unwrap();
        }
        let host = host_name(name, Some("git"), &home);
        fs::remove_dir_all(home).unwrap();
        host
    }

    #[test]
    fn a_block_says_which_host_a_name_means() {
        let config = "Host work w-* # of the team\n HostName = Example.org # its forge\nHost \"q d\" quoted\n \
                      hostname \"quoted.example\"\nHost *\n HostName %h.lan";
        for (name, host) in [
            ("work", "example.org"),
            ("w-1", "example.org"),
            ("quoted", "quoted.example"),
            ("of", "of.lan"),
            ("other", "other.lan"),
        ] {
            assert_eq!(found(&[("config", config)], name), host, "{name}");
        }
        let config = "Host work\n HostName no.example\nMatch host WORK\n HostName Yes.example";
        assert_eq!(found(&[("config", config)], "Work"), "yes.example", "case matters in Host, but not in Match");
        let config = "Match host work exec \"true # = \"\n HostName no.example\nMatch originalhost work\n HostName yes";
        assert_eq!(found(&[("config", config)], "work"), "yes");
    }

    #[test]
    fn included_files_apply_where_they_are_included() {
        let work = "Host work\n HostName included.example\n";
        let late = "Host work\n HostName late.example\n";
        for (why, files) in [
            ("relative paths are below ~/.ssh", vec![("config", "Include conf.d/work"), ("conf.d/work", work)]),
            ("absolute and below ~", vec![("config", "Include ~/.ssh/no HOME/.ssh/w"), ("w", work)]),
            ("wildcards", vec![("config", "include con?.d/*"), ("conf.d/1", work), ("conf.d/2", late)]),
            ("brackets", vec![("config", "Include c/[0-9]*"), ("c/a", late), ("c/10-work", work)]),
            ("no hidden files", vec![("config", "Include c/*"), ("c/.bak", late), ("c/w", work)]),
            ("quotes", vec![("config", "Include \"my work\""), ("my work", work)]),
            ("in a block that applies", vec![("config", "Host w*\n Include w"), ("w", "HostName included.example")]),
            ("the first value wins", vec![("config", &format!("Include w\n{late}")), ("w", work)]),
            ("in each other", vec![("config", "Include a"), ("a", "Include b\nInclude a"), ("b", work)]),
            (
                "a block ends at the end of the included file",
                vec![("config", "Include a\nHostName included.example"), ("a", "Host other\n")],
            ),
        ] {
            assert_eq!(found(&files, "work"), "included.example", "{why}");
        }
    }

    #[test]
    fn an_included_file_that_does_not_apply_or_never_ends_says_nothing() {
        let work = "Host work\n HostName no.example\n";
        let many: Vec<(String, &str)> = (0..200).map(|n| (format!("many/{n:03}"), "Include ../.ssh/many/*")).collect();
        let mut circle: Vec<(&str, &str)> = many.iter().map(|(path, text)| (path.as_str(), *text)).collect();
        circle.extend([("config", "Include many/* none/*\nInclude config\n")]);
        for (why, files) in [
            ("in a block for others", vec![("config", "Host other\n Include w"), ("w", work)]),
            ("in a Match block that does not apply", vec![("config", "Match user root\n Include w"), ("w", work)]),
            ("a circle of files", circle),
            ("no file", vec![("config", "Include\nInclude no\nInclude [\nHostName")]),
        ] {
            assert_eq!(found(&files, "work"), "work", "{why}");
        }
    }

    #[test]
    fn a_match_block_applies_if_all_that_can_be_known_holds() {
        let matches = |criteria: &str, user| matches_host(criteria.split(' ').map(str::to_owned), "work", user);
        for (criteria, fits) in [
            ("all", true),
            ("host work", true),
            ("originalhost other,w*", true),
            ("Host work user git", true),
            ("host work user root", false),
            ("!host other", true),
            ("!host work", false),
            ("host *,!work", false),
            ("host work exec true", false),
            ("final host work", false),
            ("host", false),
            ("", false),
        ] {
            assert_eq!(matches(criteria, Some("git")), fits, "{criteria}");
        }
        assert!(!matches("user git", None), "the user is unknown, because ssh settings can change it");
        assert!(matches(&format!("localuser {}", account::user()), None));
    }

    #[test]
    fn a_host_block_names_hosts_by_patterns() {
        for (patterns, fits) in
            [("work", true), ("w*k", true), ("w?rk other", true), ("* !work", false), ("wor", false), ("[w]ork", false)]
        {
            assert_eq!(names_host(patterns.split(' '), "work"), fits, "{patterns}");
        }
    }
}
