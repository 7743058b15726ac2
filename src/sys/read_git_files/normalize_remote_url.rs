//! Converts the URLs of remotes to a normal form. All URLs of one repository have the same normal form. `insteadOf`
//! settings, ssh's host names and relative paths are resolved as in git.

use super::config_syntax::ConfigEntry;
use super::ssh_config;
use crate::base::path_overlap;
use crate::sys::path_normalization;
use std::path::{Path, PathBuf};

/// The two host names of each forge. The first name accepts ssh on port 443, for networks that block port 22 (see the
/// forge's documentation). The second name is the usual one.
const SSH_DOORS: &[(&str, &str)] =
    &[("ssh.github.com", "github.com"), ("altssh.gitlab.com", "gitlab.com"), ("altssh.bitbucket.org", "bitbucket.org")];

/// Where a URL leads.
#[derive(Debug, PartialEq)]
pub(super) enum Remote {
    /// A path on this machine. [`path_spelling`] returns its normal form.
    Path(PathBuf),
    /// `host/owner/name`, in the normal form that is the same for all URLs of a repository.
    Host(String),
}

/// Finds out where a URL leads. A relative path is resolved against `root`.
pub(super) fn resolve(url: &str, root: &Path, settings: &[ConfigEntry], home: &Path) -> Remote {
    match split(&replaced(url, settings)) {
        Location::Path(path) => Remote::Path(root.join(path)),
        Location::Host { host, path, ssh } => {
            let host = match ssh {
                Some(login) => ssh_config::host_name(&host, login.user.as_deref(), home),
                None => host.to_ascii_lowercase(),
            };
            let host = SSH_DOORS.iter().find(|(door, _)| *door == host).map_or(host.as_str(), |(_, host)| *host);
            // Forges ignore case in names, so names that differ only in case mean the same repository.
            Remote::Host(format!("{host}/{}", without_ending(path.trim_matches('/')).to_lowercase()))
        }
    }
}

/// Where a URL leads, before ssh's settings are applied.
#[derive(Debug, PartialEq)]
enum Location {
    Path(String),
    /// The URL leads to a host. `ssh` is `None` if the URL does not use ssh.
    Host {
        host: String,
        path: String,
        ssh: Option<SshLogin>,
    },
}

/// The user in an ssh URL. ssh's settings may depend on the user.
#[derive(Debug, PartialEq)]
struct SshLogin {
    user: Option<String>,
}

/// Splits a URL that has one of the forms in git-clone(1). Passwords and ports are dropped, because they do not
/// identify the repository. The user is kept, because ssh's settings may depend on the user.
fn split(url: &str) -> Location {
    let Some((scheme, rest)) = url.split_once("://") else {
        return match scp_parts(url) {
            Some((host, path)) => on_host(host, path, true),
            None => Location::Path(url.to_owned()),
        };
    };
    // Git decodes `%` escapes only in URLs with a scheme.
    let rest = String::from_utf8_lossy(&path_normalization::percent_decoded(rest.as_bytes())).into_owned();
    match (scheme, rest.split_once('/').unwrap_or((&rest, ""))) {
        ("file", _) | (_, ("", _)) => Location::Path(rest.clone()),
        (scheme, (host, path)) => on_host(host, path, scheme.contains("ssh")),
    }
}

/// Parses the host part of a URL, which may also contain a user and a port.
fn on_host(host: &str, path: &str, is_ssh: bool) -> Location {
    let (login, host) = host.rsplit_once('@').map_or((None, host), |(login, host)| (Some(login), host));
    // Brackets surround an IPv6 address, or a host with its port.
    let host = match host.strip_prefix('[') {
        Some(host) => host.split(']').next().unwrap_or(host),
        None => host.split([':', ']']).next().unwrap_or(host),
    };
    let user = login.and_then(|login| login.trim_start_matches('[').split(':').next()).map(str::to_owned);
    let ssh = is_ssh.then_some(SshLogin { user });
    Location::Host { host: host.to_owned(), path: path.to_owned(), ssh }
}

/// Splits `user@host:path` into two parts. A colon that comes after a slash belongs to a path, and a colon in brackets
/// belongs to the host.
fn scp_parts(url: &str) -> Option<(&str, &str)> {
    let host = if url.starts_with('[') || url.contains("@[") { url.find("]:")? + 1 } else { url.find(':')? };
    let (host, path) = (&url[..host], &url[host + 1..]);
    (!host.is_empty() && !host.contains('/')).then_some((host, path))
}

/// The normal form of a path at which no repository can be found. The ending `.git` is removed, because git also
/// accepts `name` for `name.git`.
pub(super) fn path_spelling(path: &Path) -> String {
    let path = without_ending(path.to_str().unwrap_or_default().trim_end_matches('/')).to_owned();
    // If the path can't be looked up, only its text is normalised.
    let real = [".git", ""].iter().find_map(|ending| std::fs::canonicalize(format!("{path}{ending}")).ok());
    real.map_or_else(|| path_overlap::normal(&path), |real| without_ending(&real.display().to_string()).to_owned())
}

fn without_ending(path: &str) -> &str {
    path.trim_end_matches('/').trim_end_matches(".git").trim_end_matches('/')
}

/// Replaces the beginning of a URL according to the settings `url.NEW.insteadOf = OLD`. The longest matching `OLD`
/// wins. Among settings with the same `OLD`, the first wins.
fn replaced(url: &str, settings: &[ConfigEntry]) -> String {
    let is_rule = |entry: &&ConfigEntry| entry.section == "url" && entry.name == "insteadof";
    let fitting = settings.iter().filter(is_rule).filter(|entry| url.starts_with(&entry.value));
    match fitting.rev().max_by_key(|entry| entry.value.len()) {
        Some(entry) => format!("{}{}", entry.subsection, &url[entry.value.len()..]),
        None => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::config_syntax::entries;
    use super::*;

    fn normal(url: &str, root: &str, settings: &str) -> String {
        match resolve(url, Path::new(root), &entries(settings).collect::<Vec<_>>(), Path::new("/no home")) {
            Remote::Host(name) => name,
            Remote::Path(path) => path_spelling(&path),
        }
    }

    #[test]
    fn ways_to_write_one_origin_are_one() {
        for url in [
            "git@Example.org:a/b.git",
            "example.org:a/b",
            "git@example.org:/a/b.git",
            "[git@example.org:2222]:a/b",
            "ssh://git@example.org:22/a/b",
            "https://u:w@example.org/a/B.git/",
            "https://example.org/a/b",
            "https://example.org/%61/b",
            "git+ssh://example.org/a/b.git",
        ] {
            assert_eq!(normal(url, "/w", ""), "example.org/a/b", "{url}");
        }
        for url in ["ssh://git@[2001:db8::1]:22/a/b", "git@[2001:DB8::1]:a/b.git", "[2001:db8::1]:/a/b"] {
            assert_eq!(normal(url, "/w", ""), "2001:db8::1/a/b", "{url}");
        }
        for path in ["/srv/no/b.git", "file:///srv/no/b", "/srv/no/b.git/", "../srv/no/b", "file:///srv/n%6F/b"] {
            assert_eq!(normal(path, "/w", ""), "/srv/no/b", "{path}");
        }
        assert_eq!(normal("ssh://git@ssh.github.com:443/o/r.git", "/w", ""), "github.com/o/r");
    }

    #[test]
    fn a_relative_path_is_beside_its_own_work_tree() {
        assert_eq!(normal("../up.git", "/w/a", ""), "/w/up");
        assert_eq!(normal("../up.git", "/v/a", ""), "/v/up");
        assert_eq!(normal("./a:b", "/w", ""), "/w/a:b");
    }

    #[test]
    fn the_longest_beginning_is_replaced() {
        let config = "[url \"git@h.org:\"]\ninsteadOf = gh:\n[url \"https://other.org/\"]\n insteadof = gh:x/\n\
                      [url \"https://late.org/\"]\n insteadof = gh:\n";
        assert_eq!(normal("gh:o/r", "/w", config), "h.org/o/r");
        assert_eq!(normal("gh:x/r", "/w", config), "other.org/r");
    }
}
