//! Determines whether the remotes of two clones are the same repository, by writing each URL in one normal form. For
//! this, URLs are resolved as git does: git replaces the beginning of a URL (`insteadOf`), ssh replaces host names, and
//! a path may be relative.

use super::config_file::entries;
use super::read_beginning;
use crate::base::paths;
use crate::sys::account;
use std::path::{Path, PathBuf};

/// Maximum number of settings files that one file may include.
const INCLUDES_MAX: usize = 8;

/// The host names under which forges offer ssh for networks that block port 22, according to their documentation.
const SSH_DOORS: &[(&str, &str)] =
    &[("ssh.github.com", "github.com"), ("altssh.gitlab.com", "gitlab.com"), ("altssh.bitbucket.org", "bitbucket.org")];

/// The normal form that is the same for all URLs of a repository: `host/owner/name`, or a path on this machine. `root`
/// is the root of the work tree, and `config` is the text of its settings file.
pub(super) fn normal_form(url: &str, root: &Path, config: &str) -> String {
    let home = account::home().unwrap_or_default();
    let settings = [user_settings(&home), config.to_owned()].concat();
    resolve(url, root, &settings, || read_beginning(&home.join(".ssh/config")).unwrap_or_default())
}

fn resolve(url: &str, root: &Path, settings: &str, ssh_settings: impl FnOnce() -> String) -> String {
    match split(&replaced(url, settings)) {
        Location::Path(path) => local(&root.join(path)),
        Location::Host { host, path, ssh } => {
            let host = ssh.map_or(host.clone(), |login| ssh_host(&host, login.user.as_deref(), &ssh_settings()));
            let host = SSH_DOORS.iter().find(|(door, _)| *door == host).map_or(host.as_str(), |(_, host)| *host);
            // Forges ignore case in names, so no two repositories differ only by case.
            format!("{host}/{}", without_ending(path.trim_matches('/')).to_lowercase())
        }
    }
}

/// Where a URL leads, before ssh's settings are applied.
#[derive(Debug, PartialEq)]
enum Location {
    Path(String),
    /// To a host. `ssh` says that the host is reached through ssh.
    Host {
        host: String,
        path: String,
        ssh: Option<SshLogin>,
    },
}

/// What a URL tells ssh, other than the host.
#[derive(Debug, PartialEq)]
struct SshLogin {
    user: Option<String>,
}

/// Splits a URL that has one of the forms in git-clone(1). Users, passwords and ports are dropped, because they do not
/// identify the repository.
fn split(url: &str) -> Location {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    if scheme == "file" {
        return Location::Path(rest.to_owned());
    }
    let parts = if scheme.is_empty() { scp_parts(rest) } else { Some(rest.split_once('/').unwrap_or((rest, ""))) };
    let Some((host, path)) = parts.filter(|(host, _)| !host.is_empty()) else { return Location::Path(rest.to_owned()) };
    let (login, host) = host.rsplit_once('@').map_or((None, host), |(login, host)| (Some(login), host));
    let host = if host.starts_with('[') { host } else { host.split(':').next().unwrap_or(host) };
    let is_ssh = scheme.is_empty() || scheme.contains("ssh");
    let user = login.and_then(|login| login.split(':').next()).map(str::to_owned);
    let ssh = is_ssh.then_some(SshLogin { user });
    Location::Host { host: host.to_ascii_lowercase(), path: path.to_owned(), ssh }
}

/// Splits `user@host:path` into two parts. A colon that comes after a slash belongs to a path.
fn scp_parts(url: &str) -> Option<(&str, &str)> {
    url.split_once(':').filter(|(host, _)| !host.contains('/'))
}

/// The path of a repository on this machine. Git also accepts `name` for `name.git`.
fn local(path: &Path) -> String {
    let path = without_ending(path.to_str().unwrap_or_default().trim_end_matches('/')).to_owned();
    // A path that can't be looked up is used as it was written.
    let real = [".git", ""].iter().find_map(|ending| std::fs::canonicalize(format!("{path}{ending}")).ok());
    real.map_or_else(|| paths::normal(&path), |real| without_ending(&real.display().to_string()).to_owned())
}

fn without_ending(path: &str) -> &str {
    path.trim_end_matches('/').trim_end_matches(".git").trim_end_matches('/')
}

/// Replaces the beginning of a URL, by the longest `OLD` that matches among the settings `url.NEW.insteadOf = OLD`.
fn replaced(url: &str, settings: &str) -> String {
    let fits = entries(settings)
        .filter(|entry| entry.section == "url" && entry.name == "insteadof" && url.starts_with(&entry.value));
    match fits.max_by_key(|entry| entry.value.len()) {
        Some(entry) => format!("{}{}", entry.subsection, &url[entry.value.len()..]),
        None => url.to_owned(),
    }
}

/// The text of git's settings for the user and for the machine, including the files that these settings include.
fn user_settings(home: &Path) -> String {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let xdg = variable("XDG_CONFIG_HOME").unwrap_or_else(|| home.join(".config"));
    let own = match variable("GIT_CONFIG_GLOBAL") {
        Some(file) => vec![file],
        None => vec![xdg.join("git/config"), home.join(".gitconfig")],
    };
    let mut text = String::new();
    for file in std::iter::once(PathBuf::from("/etc/gitconfig")).chain(own) {
        let Some(found) = read_beginning(&file) else { continue };
        let included = entries(&found).filter(|entry| entry.section == "include" && entry.name == "path");
        for entry in included.take(INCLUDES_MAX) {
            let folder = file.parent().unwrap_or(home);
            let path = match entry.value.strip_prefix("~/") {
                Some(rest) => home.join(rest),
                None => folder.join(&entry.value),
            };
            text.push_str(&read_beginning(&path).unwrap_or_default());
            text.push('\n');
        }
        text.push_str(&found);
        text.push('\n');
    }
    text
}

/// The host to which ssh connects for a name, according to the user's `Host` and `Match` blocks (ssh_config(5)).
fn ssh_host(name: &str, user: Option<&str>, settings: &str) -> String {
    let mut applies = false;
    for line in settings.lines() {
        let line = line.trim().replacen('=', " ", 1);
        let (word, value) = line.split_once(char::is_whitespace).unwrap_or((&line, ""));
        match word.to_ascii_lowercase().as_str() {
            "host" => applies = names_host(value, name),
            "match" => applies = matches_host(value, name, user),
            // ssh uses the first value that applies.
            "hostname" if applies => return value.trim().trim_matches('"').replace("%h", name).to_ascii_lowercase(),
            _ => {}
        }
    }
    name.to_owned()
}

/// Whether a `Host` line applies to a name. The line applies if at least one of its patterns matches, and no pattern
/// with `!` matches.
fn names_host(patterns: &str, name: &str) -> bool {
    let fits = |pattern: &str| fits_pattern(pattern.to_ascii_lowercase().as_bytes(), name.as_bytes());
    let patterns = || patterns.split_whitespace().map(|pattern| pattern.trim_matches('"'));
    let is_excluded = patterns().filter_map(|pattern| pattern.strip_prefix('!')).any(fits);
    !is_excluded && patterns().filter(|pattern| !pattern.starts_with('!')).any(fits)
}

/// Whether a `Match` line applies to a name. The line applies if all its criteria hold. A criterion that only ssh can
/// decide, such as the result of a command, counts as not met, because running a command from here would surprise the
/// user.
fn matches_host(criteria: &str, name: &str, user: Option<&str>) -> bool {
    let words: Vec<&str> = criteria.split_whitespace().map(|word| word.trim_matches('"')).collect();
    let mut words = words.into_iter();
    let mut is_first = true;
    while let Some(word) = words.next() {
        let (is_negated, word) = word.strip_prefix('!').map_or((false, word), |word| (true, word));
        let holds = match word.to_ascii_lowercase().as_str() {
            "all" => Some(true),
            // No earlier HostName line has applied. ssh uses the first HostName line that applies, so such a line would
            // have been used already.
            "host" | "originalhost" => words.next().map(|list| names_host(&list.replace(',', " "), name)),
            "user" => words.next().and_then(|list| Some(names_host(&list.replace(',', " "), user?))),
            _ => None,
        };
        if holds.is_none_or(|holds| holds == is_negated) {
            return false;
        }
        is_first = false;
    }
    !is_first
}

/// Whether a pattern with `*` and `?` matches a name.
fn fits_pattern(pattern: &[u8], name: &[u8]) -> bool {
    let (mut at, mut star) = ((0, 0), None);
    while at.1 < name.len() {
        if pattern.get(at.0) == Some(&b'*') {
            star = Some((at.0 + 1, at.1));
            at.0 += 1;
        } else if pattern.get(at.0).is_some_and(|byte| *byte == b'?' || *byte == name[at.1]) {
            at = (at.0 + 1, at.1 + 1);
        } else if let Some((behind, from)) = star {
            star = Some((behind, from + 1));
            at = (behind, from + 1);
        } else {
            return false;
        }
    }
    pattern[at.0..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn normal(url: &str, root: &str, settings: &str) -> String {
        let ssh_settings = "Host work w-*\n HostName = Example.org\nHost *\n HostName %h\n";
        resolve(url, Path::new(root), settings, || ssh_settings.to_owned())
    }

    #[test]
    fn ways_to_write_one_origin_are_one() {
        for url in [
            "git@Example.org:a/b.git",
            "example.org:a/b",
            "work:a/b",
            "git@w-1:/a/b.git",
            "ssh://git@example.org:22/a/b",
            "https://u:w@example.org/a/B.git/",
            "https://example.org/a/b",
            "git+ssh://example.org/a/b.git",
        ] {
            assert_eq!(normal(url, "/w", ""), "example.org/a/b", "{url}");
        }
        for path in ["/srv/no/b.git", "file:///srv/no/b", "/srv/no/b.git/", "../srv/no/b"] {
            assert_eq!(normal(path, "/w", ""), "/srv/no/b", "{path}");
        }
        assert_eq!(normal("ssh://git@ssh.github.com:443/o/r.git", "/w", ""), "github.com/o/r");
        assert_eq!(normal("https://work/a/b", "/w", ""), "work/a/b", "only ssh reads ssh's settings");
    }

    #[test]
    fn a_relative_path_is_beside_its_own_work_tree() {
        assert_eq!(normal("../up.git", "/w/a", ""), "/w/up");
        assert_eq!(normal("../up.git", "/v/a", ""), "/v/up");
        assert_eq!(normal("./a:b", "/w", ""), "/w/a:b");
    }

    #[test]
    fn the_longest_beginning_is_replaced() {
        let config = "[url \"git@h.org:\"]\ninsteadOf = gh:\n[url \"https://other.org/\"]\n insteadof = gh:x/\n";
        assert_eq!(normal("gh:o/r", "/w", config), "h.org/o/r");
        assert_eq!(normal("gh:x/r", "/w", config), "other.org/r");
    }

    #[test]
    fn a_match_block_applies_if_all_that_can_be_known_holds() {
        for (criteria, fits) in [
            ("all", true),
            ("host work", true),
            ("originalhost other,w*", true),
            ("Host \"work\" user git", true),
            ("host work user root", false),
            ("!host other", true),
            ("!host work", false),
            ("host *,!work", false),
            ("host work exec \"test -f /tmp/x\"", false),
            ("final host work", false),
            ("host", false),
            ("", false),
        ] {
            assert_eq!(matches_host(criteria, "work", Some("git")), fits, "{criteria}");
        }
        assert!(!matches_host("user git", "work", None), "ssh would ask its settings for the user");
        let settings =
            "Match host work exec \"true\"\n HostName no.example\nMatch originalhost work\n HostName yes.example\n";
        let found = resolve("git@work:a/b.git", Path::new("/w"), "", || settings.to_owned());
        assert_eq!(found, "yes.example/a/b");
    }

    #[test]
    fn a_host_block_names_hosts_by_patterns() {
        for (patterns, fits) in
            [("work", true), ("w*k", true), ("w?rk other", true), ("* !work", false), ("wor", false), ("", false)]
        {
            assert_eq!(names_host(patterns, "work"), fits, "{patterns}");
        }
    }
}
