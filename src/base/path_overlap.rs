//! Compares the paths of locks. Brings a path into its normal form, and decides whether two paths, folders or globs
//! overlap.
//!
//! A path that ends in `/` is a folder and covers everything below it. A path such as `/r/new` may have been locked
//! before the folder existed. So a path without a slash at its end also counts as a folder when it is compared with a
//! path below it.
//!
//! `*` and `?` match within one component, and `**` matches any number of components. Brackets are plain characters,
//! because people have files such as `app/[id]/page.tsx`.

use std::cell::Cell;

/// Resolves `.` and `..` in the text of a path and removes repeated slashes. A slash at the end stays, because it marks
/// a folder. Symlinks are resolved by the client, because only the client sees its file system.
pub fn normal(path: &str) -> String {
    let folder = path.ends_with('/') || path.ends_with("/.") || path.ends_with("/..");
    let rooted = path.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => {
                parts.pop();
            }
            ".." if rooted => {}
            part => parts.push(part),
        }
    }
    let mut out = if rooted { format!("/{}", parts.join("/")) } else { parts.join("/") };
    if folder && !parts.is_empty() {
        out.push('/');
    }
    out
}

/// Whether two paths are the same, apart from a slash at the end. A path that was locked before the folder existed may
/// lack this slash.
pub fn is_same(a: &str, b: &str) -> bool {
    a.strip_suffix('/').unwrap_or(a) == b.strip_suffix('/').unwrap_or(b)
}

/// Whether a path can cover several files, because it is a folder or a glob.
pub fn is_pattern(path: &str) -> bool {
    // This searches bytes instead of characters, so it is quick even if the table of locks is full of long paths.
    path.ends_with('/') || path.as_bytes().contains(&b'*') || path.as_bytes().contains(&b'?')
}

/// Whether some file could match both paths.
pub fn overlap(a: &str, b: &str) -> bool {
    if is_below(a, b) || is_below(b, a) {
        return true;
    }
    if !is_pattern(a) && !is_pattern(b) {
        return a == b;
    }
    let (a, b) = (components(a), components(b));
    any_path(&a, &b, &Cell::new(STEPS_MAX))
}

/// Whether `path` is below `folder`, which must have no wildcards and no slash at its end.
fn is_below(path: &str, folder: &str) -> bool {
    !is_pattern(folder) && path.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'))
}

/// Whether one of these sorted paths is below `folder`.
fn has_below(sorted: &[&str], folder: &str) -> bool {
    let below = || folder.bytes().chain([b'/']);
    let at = sorted.partition_point(|path| path.bytes().lt(below()));
    sorted.get(at).is_some_and(|path| is_below(path, folder))
}

/// Several paths, prepared for comparison with many other paths.
#[derive(Debug)]
pub struct PathMatcher<'a> {
    /// The plain files, sorted.
    files: Vec<&'a str>,
    /// The folders and globs, sorted.
    globs: Vec<&'a str>,
    /// The components of the folders and globs.
    patterns: Vec<Vec<&'a str>>,
    /// The components of the plain files. Only comparisons with a folder or a glob need them.
    parts: Vec<Vec<&'a str>>,
    /// The number of steps that are left for the comparison.
    steps: Cell<u64>,
}

/// Maximum number of steps for comparing one request with all locks. This many steps take about a millisecond. The
/// patterns that people write need a hundredth of this number. If a comparison would need more steps, the paths count
/// as overlapping, so the request is refused or waits. A longer comparison would hold up other clients.
const STEPS_MAX: u64 = 200_000;
/// Each path of the request adds this number to the maximum number of steps. Hundreds of files may be compared with the
/// globs of their folder.
const STEPS_A_PATH: u64 = 500;
/// How many bytes of a path count as one step.
const BYTES_A_STEP: usize = 16;
/// A comparison of a pattern with a path costs this many steps.
const STEPS_A_PAIR: usize = 4;
/// A comparison of two component names costs this many steps if at least one of the names is a pattern.
const STEPS_A_NAME: usize = 32;

impl<'a> PathMatcher<'a> {
    /// Sorts the paths into plain files and patterns, and splits them into components.
    pub fn new(paths: impl Iterator<Item = &'a str>) -> PathMatcher<'a> {
        let (mut globs, mut files): (Vec<&str>, Vec<&str>) = paths.partition(|path| is_pattern(path));
        files.sort_unstable();
        globs.sort_unstable();
        let parts = files.iter().map(|path| components(path)).collect();
        let patterns = globs.iter().map(|path| components(path)).collect();
        let n_paths = (files.len() + globs.len()) as u64;
        PathMatcher { files, globs, patterns, parts, steps: Cell::new(STEPS_MAX + n_paths * STEPS_A_PATH) }
    }

    /// Whether some file could match both `path` and one of these paths.
    pub fn overlaps(&self, path: &str) -> bool {
        if self.has_folder_of(path) {
            return true;
        }
        if !is_pattern(path) {
            let is_named = self.files.binary_search(&path).is_ok();
            if is_named || has_below(&self.files, path) || has_below(&self.globs, path) {
                return true;
            }
            return !self.patterns.is_empty() && self.meets(&self.patterns, path);
        }
        self.meets(&self.patterns, path) || self.meets(&self.parts, path)
    }

    /// Whether one of the plain paths is a folder above `path`.
    fn has_folder_of(&self, path: &str) -> bool {
        let mut folders = path.match_indices('/').map(|(at, _)| &path[..at]);
        !self.files.is_empty() && folders.any(|folder| self.files.binary_search(&folder).is_ok())
    }

    /// Whether one of the patterns in `all` could match the same file as `path`. Also returns true if the comparison
    /// would take too many steps.
    fn meets(&self, all: &[Vec<&str>], path: &str) -> bool {
        if all.is_empty() {
            return false;
        }
        // Every pattern costs steps, even if its first component differs from that of the path.
        if !may_spend(&self.steps, path.len() / BYTES_A_STEP + all.len() * STEPS_A_PAIR, 0) {
            return true;
        }
        let mut alike = all.iter().filter(|parts| !ends_differ(parts, path, &self.steps)).peekable();
        if alike.peek().is_none() {
            return false;
        }
        if !may_spend(&self.steps, path.len(), 0) {
            return true;
        }
        let path = components(path);
        alike.any(|parts| any_path(parts, &path, &self.steps))
    }
}

/// The components of a path. The components of a folder end with `**`, because a folder covers everything below it.
fn components(path: &str) -> Vec<&str> {
    let mut parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    if path.ends_with('/') {
        parts.push("**");
    }
    // Two `**` in a row match the same paths as one `**`, but take more steps.
    parts.dedup_by(|next, part| *next == "**" && *part == "**");
    parts
}

/// Returns true if the first components of a pattern and a path differ, or if their last components differ. Most pairs
/// differ in this way, so most paths need not be split.
fn ends_differ(parts: &[&str], path: &str, steps: &Cell<u64>) -> bool {
    let differ =
        |(part, name): (&&str, &str)| *part != name && (tell_apart(part, name) || !any_name(part, name, steps));
    let is_plain = |pair: &(&&str, &str)| *pair.0 != "**" && pair.1 != "**";
    let mut front = parts.iter().zip(path.split('/').filter(|name| !name.is_empty())).take_while(is_plain);
    if front.any(differ) {
        return true;
    }
    let names = path.rsplit('/').filter(|name| !name.is_empty());
    let mut back = parts.iter().rev().zip(names).take_while(is_plain);
    !path.ends_with('/') && back.any(differ)
}

/// Whether two component patterns begin or end with different bytes, neither of which is a wildcard.
fn tell_apart(a: &str, b: &str) -> bool {
    let differ = |a: Option<&u8>, b: Option<&u8>| {
        let is_plain = |byte: &&u8| !matches!(byte, b'*' | b'?');
        a.filter(is_plain).zip(b.filter(is_plain)).is_some_and(|(a, b)| a != b)
    };
    let (a, b) = (a.as_bytes(), b.as_bytes());
    differ(a.first(), b.first()) || differ(a.last(), b.last())
}

/// Compares two patterns from both ends. At each end, stops at the first wildcard of either pattern. Returns `None` if
/// the compared parts differ, as in most pairs. Otherwise, returns the rest of both patterns. This comparison takes
/// linear time, but the tables in `any_path` and `any_name` take quadratic time.
fn without_ends<'a, T>(
    mut a: &'a [T],
    mut b: &'a [T],
    is_any: impl Fn(&T) -> bool,
    fits: impl Fn(&T, &T) -> bool,
) -> Option<(&'a [T], &'a [T])> {
    while let ([x, rest_a @ ..], [y, rest_b @ ..]) = (a, b)
        && !is_any(x)
        && !is_any(y)
    {
        if !fits(x, y) {
            return None;
        }
        (a, b) = (rest_a, rest_b);
    }
    while let ([rest_a @ .., x], [rest_b @ .., y]) = (a, b)
        && !is_any(x)
        && !is_any(y)
    {
        if !fits(x, y) {
            return None;
        }
        (a, b) = (rest_a, rest_b);
    }
    Some((a, b))
}

/// Deducts the steps for a table with `a + 1` rows and `b + 1` columns. Returns false if too few steps are left.
fn may_spend(steps: &Cell<u64>, a: usize, b: usize) -> bool {
    let left = steps.get().checked_sub((a as u64 + 1) * (b as u64 + 1));
    steps.set(left.unwrap_or(0));
    left.is_some()
}

/// Whether some path matches both lists of component patterns. Uses dynamic programming over both lists.
fn any_path(a: &[&str], b: &[&str], steps: &Cell<u64>) -> bool {
    let is_any = |part: &&str| *part == "**";
    let Some((a, b)) = without_ends(a, b, is_any, |x, y| any_name(x, y, steps)) else { return false };
    // If both lists contain `**`, some path always matches both, because each `**` can match the rest of the other
    // list.
    if a.iter().any(is_any) && b.iter().any(is_any) {
        return true;
    }
    if !may_spend(steps, a.len(), b.len()) {
        return true;
    }
    // `reach[j]` is true if some path matches both `a[i..]` and `b[j..]`; `i` counts down from the end.
    let mut reach = vec![false; b.len() + 1];
    for i in (0..=a.len()).rev() {
        let below = reach.clone();
        for j in (0..=b.len()).rev() {
            let right = j < b.len() && reach[j + 1];
            reach[j] = match (a.get(i), b.get(j)) {
                (None, None) => true,
                (Some(&"**"), Some(&"**")) => below[j] || right,
                (Some(&"**"), Some(_)) => below[j] || right,
                (Some(_), Some(&"**")) => right || below[j],
                (Some(&"**"), None) => below[j],
                (None, Some(&"**")) => right,
                (Some(x), Some(y)) => below[j + 1] && any_name(x, y, steps),
                _ => false,
            };
        }
    }
    reach[0]
}

/// One element of a component pattern.
#[derive(Debug, Clone, Copy, PartialEq)]
enum GlobToken {
    Just(char),
    One,
    Any,
}

fn pieces(pattern: &str) -> Vec<GlobToken> {
    let piece = |c| match c {
        '*' => GlobToken::Any,
        '?' => GlobToken::One,
        c => GlobToken::Just(c),
    };
    pattern.chars().map(piece).collect()
}

/// Whether some name matches both component patterns.
fn any_name(a: &str, b: &str, steps: &Cell<u64>) -> bool {
    if !is_pattern(a) && !is_pattern(b) {
        return a == b;
    }
    // Reading both patterns takes time and memory in proportion to their length.
    if !may_spend(steps, a.len() + b.len() + STEPS_A_NAME, 0) {
        return true;
    }
    let (a, b) = (pieces(a), pieces(b));
    let is_any = |piece: &GlobToken| *piece == GlobToken::Any;
    let fits = |x: &GlobToken, y: &GlobToken| x == y || *x == GlobToken::One || *y == GlobToken::One;
    let Some((a, b)) = without_ends(&a, &b, is_any, fits) else { return false };
    if a.iter().any(is_any) && b.iter().any(is_any) || !may_spend(steps, a.len(), b.len()) {
        return true;
    }
    let mut reach = vec![false; b.len() + 1];
    for i in (0..=a.len()).rev() {
        let below = reach.clone();
        for j in (0..=b.len()).rev() {
            let right = j < b.len() && reach[j + 1];
            reach[j] = match (a.get(i), b.get(j)) {
                (None, None) => true,
                (Some(GlobToken::Any), Some(_)) | (Some(_), Some(GlobToken::Any)) => below[j] || right,
                (Some(GlobToken::Any), None) => below[j],
                (None, Some(GlobToken::Any)) => right,
                (Some(GlobToken::Just(x)), Some(GlobToken::Just(y))) => x == y && below[j + 1],
                (Some(_), Some(_)) => below[j + 1],
                _ => false,
            };
        }
    }
    reach[0]
}

#[cfg(test)]
mod tests {
    use super::{PathMatcher, normal, overlap};
    use std::iter::once;

    #[test]
    fn paths_become_normal() {
        for (given, want) in [
            ("/a/b/../c", "/a/c"),
            ("/a//b/./c", "/a/b/c"),
            ("/../a", "/a"),
            ("/a/b/", "/a/b/"),
            ("a/../../b", "../b"),
            ("/", "/"),
            ("src/a.rs", "src/a.rs"),
        ] {
            assert_eq!(normal(given), want, "{given}");
        }
    }

    #[test]
    fn what_could_be_the_same_file_overlaps() {
        for (a, b, want) in [
            ("/r/a", "/r/a", true),
            ("/r/a", "/r/b", false),
            ("/r/src/", "/r/src/x/y", true),
            ("/r/src/", "/r/src", true),
            ("/r/src/", "/r/srcs", false),
            ("/r/src/", "/r/src/x/", true),
            ("/r/*.rs", "/r/a.rs", true),
            ("/r/*.rs", "/r/x/a.rs", false),
            ("/r/**/*.rs", "/r/x/y/a.rs", true),
            ("/r/**/*.rs", "/r/a.rs", true),
            ("/r/src/auth/**", "/r/src/auth/a/b", true),
            ("/r/a*.rs", "/r/*b.rs", true),
            ("/r/a*.rs", "/r/b*.rs", false),
            ("/r/[id].tsx", "/r/i.tsx", false),
            ("/r/[id].tsx", "/r/*.tsx", true),
            ("/r/**", "/q/**", false),
            ("/r/file?.c", "/r/file10.c", false),
            ("/r/a*b", "/r/ab", true),
            ("/r/ab*ba", "/r/aba", false),
            ("/r/*a", "/r/ab*", true),
            ("/r/a*c*", "/r/*b?", true),
            ("/r/*", "/r/???", true),
            ("/r/a?*", "/r/a", false),
            ("/r/**/a", "/r/b/**", true),
            ("/r/a/**/b", "/r/*/b", true),
            ("/r/a/**/b", "/r/b", false),
            // A path with another path below it is a folder.
            ("/r/new", "/r/new/f.rs", true),
            ("/r/new", "/r/new/deep/er/f.rs", true),
            ("/r/new", "/r/new/*.rs", true),
            ("/r/new", "/r/new/sub/", true),
            ("/r/new", "/r/newer/f.rs", false),
            ("/r/new", "/r/new.rs", false),
            ("/r/new", "/r/new-x/f.rs", false),
            ("/r/a", "/r/ab", false),
            ("/r/a.rs", "/r/**/*.c", false),
            ("/r/x/a.rs", "/r/*/a.rs", true),
            ("/r/x", "/r/*/a.rs", false),
            ("src", "src/a.rs", true),
        ] {
            assert_eq!(overlap(a, b), want, "{a} {b}");
            assert_eq!(overlap(b, a), want, "{b} {a}");
            // The result stays the same if the matcher has further paths that match neither path of the pair.
            let among = |path| PathMatcher::new(["/other", "/r!/x", "/r0/*.x", "/zoo/"].into_iter().chain(once(path)));
            assert_eq!(among(a).overlaps(b), want, "{a} and others, {b}");
            assert_eq!(among(b).overlaps(a), want, "{b} and others, {a}");
        }
    }

    #[test]
    fn hundreds_of_files_can_be_compared_with_the_globs_of_their_folder() {
        let files: Vec<String> = (0..520).map(|n| format!("/repo/gen/file{n}.txt")).collect();
        let matcher = PathMatcher::new(files.iter().map(String::as_str));
        assert!((0..20).all(|n| !matcher.overlaps(&format!("/repo/gen/*.x{n}"))), "no glob matches any of the files");
        assert!(matcher.overlaps("/repo/gen/*7.txt"));
    }

    #[test]
    fn what_costs_too_much_to_compare_counts_as_overlapping() {
        let folders: Vec<String> = (0..600).map(|n| format!("/{}x{n}", "a/".repeat(1900))).collect();
        let asked: Vec<String> = (0..64).map(|n| format!("/**/q{n}/**/x?*")).collect();
        let matcher = PathMatcher::new(asked.iter().map(String::as_str));
        assert!(folders.iter().any(|path| matcher.overlaps(path)));
        assert_eq!(matcher.steps.get(), 0);
        // Usual patterns stay far below the limit, even if the table of locks is full and the request contains a few
        // globs.
        let asked = ["/r/src/**/*.rs", "/r/docs/", "/r/tests/*_test.rs"];
        let matcher = PathMatcher::new(asked.into_iter());
        let n_met = (0..4096).filter(|n| matcher.overlaps(&format!("/r/lib/part{}/file{n}.rs", n % 50))).count();
        assert!(n_met == 0 && matcher.steps.get() > super::STEPS_MAX / 2, "{n_met}, {} left", matcher.steps.get());
    }

    /// Whether a word matches a pattern. This test uses the simplest possible method.
    fn fits(word: &[u8], pattern: &[u8]) -> bool {
        match (word, pattern) {
            (_, [b'*', rest @ ..]) => (0..=word.len()).any(|n| fits(&word[n..], rest)),
            ([w, word @ ..], [p, pattern @ ..]) => (*p == b'?' || w == p) && fits(word, pattern),
            (word, pattern) => word.is_empty() && pattern.is_empty(),
        }
    }

    /// All texts that consist of these letters, up to this length.
    fn texts(letters: &[u8], length: usize) -> Vec<Vec<u8>> {
        let mut all = vec![Vec::new()];
        let mut from = 0;
        for _ in 0..length {
            let to = all.len();
            for n in from..to {
                all.extend(letters.iter().map(|letter| [all[n].as_slice(), &[*letter]].concat()).collect::<Vec<_>>());
            }
            from = to;
        }
        all
    }

    #[test]
    fn two_patterns_overlap_if_some_name_fits_both() {
        let words = texts(b"ab", 6);
        let patterns = texts(b"ab*?", 3);
        let found: Vec<Vec<bool>> = patterns.iter().map(|p| words.iter().map(|w| fits(w, p)).collect()).collect();
        for (a, fits_a) in patterns.iter().zip(&found).skip(1) {
            for (b, fits_b) in patterns.iter().zip(&found).skip(1) {
                let want = fits_a.iter().zip(fits_b).any(|(a, b)| *a && *b);
                let text = |p: &[u8]| format!("/{}", String::from_utf8_lossy(p));
                assert_eq!(overlap(&text(a), &text(b)), want, "{} {}", text(a), text(b));
                // The same test for whole components. Here, `**` takes the place of `*`, and `*` takes the place of
                // `?`.
                let path = |p: &[u8]| p.iter().map(|c| format!("/{}", char::from(*c))).collect::<String>();
                let path = |p: &[u8]| path(p).replace('*', "**").replace('?', "*");
                // A plain path with something below it is a folder, not a file.
                let is_plain = |p: &[u8]| !p.iter().any(|c| b"*?".contains(c));
                let is_below = |a: &[u8], b: &[u8]| is_plain(b) && a.len() > b.len() && a.starts_with(b);
                let want = want || is_below(a, b) || is_below(b, a);
                assert_eq!(overlap(&path(a), &path(b)), want, "{} {}", path(a), path(b));
            }
        }
    }
}
