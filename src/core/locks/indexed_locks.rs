//! The locks in force, with indexes by path and by holder. The indexes find the few locks that concern a request,
//! although thousands of others may be in force.

use super::request_conflicts::LockRequest;
use crate::base::id_types::{FencingToken, PeerId};
use crate::base::path_overlap;
use crate::store::LockRow;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// The locks in force.
#[derive(Debug, Default)]
pub(super) struct IndexedLocks {
    /// The locks in the order in which they were granted. A renewed lock keeps its number.
    rows: BTreeMap<u64, LockRow>,
    last_number: u64,
    by_path: PathIndex,
    /// The paths relative to the work tree, for each repository identity.
    by_repo_path: HashMap<String, PathIndex>,
    by_holder: HashMap<PeerId, BTreeSet<u64>>,
}

impl IndexedLocks {
    /// All locks, in the order in which they were granted.
    pub(super) fn iter(&self) -> impl ExactSizeIterator<Item = &LockRow> {
        self.rows.values()
    }

    /// All locks, so that their expiry can be changed. No other field may change, because the indexes contain copies of
    /// some of the other fields.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut LockRow> {
        self.rows.values_mut()
    }

    /// The locks of a peer.
    pub(super) fn of_holder(&self, holder: &PeerId) -> impl Iterator<Item = &LockRow> {
        self.by_holder.get(holder).into_iter().flatten().map(|number| &self.rows[number])
    }

    /// The locks on exactly this path. A slash at the end makes no difference.
    pub(super) fn on_path<'a>(&'a self, path: &'a str) -> impl Iterator<Item = &'a LockRow> {
        let locks = self.by_path.numbers(path).iter().map(|number| &self.rows[number]);
        locks.filter(|lock| path_overlap::is_same(&lock.path, path))
    }

    /// Returns all locks that may share a file with the request, and possibly other locks. The caller compares these
    /// locks with the request.
    pub(super) fn candidates(&self, request: &LockRequest) -> Vec<&LockRow> {
        let mut numbers = Vec::new();
        for path in &request.paths {
            self.by_path.find(path, &mut numbers);
            if let Some((tree, inside)) = request.tree_of(path)
                && let Some(index) = self.by_repo_path.get(&tree.identity)
            {
                index.find(inside, &mut numbers);
            }
            // If the request contains folders inside each other, the same locks are found again for each folder. So if
            // the list of found numbers is as long as the list of all locks, all locks are returned.
            if numbers.len() >= self.rows.len() {
                return self.rows.values().collect();
            }
        }
        numbers.sort_unstable();
        numbers.dedup();
        numbers.iter().map(|number| &self.rows[number]).collect()
    }

    /// Replaces all locks.
    pub(super) fn replace_all(&mut self, rows: Vec<LockRow>) {
        *self = IndexedLocks::default();
        for row in rows {
            self.put(row);
        }
    }

    /// Adds a lock. If there already is a lock with the same token and path, replaces it.
    pub(super) fn put(&mut self, row: LockRow) {
        let number = self.take(row.token, &row.path).unwrap_or_else(|| {
            self.last_number += 1;
            self.last_number
        });
        self.by_path.add(&row.path, number);
        if let Some((identity, path)) = repo_path(&row) {
            self.by_repo_path.entry(identity.to_owned()).or_default().add(path, number);
        }
        self.by_holder.entry(row.holder.clone()).or_default().insert(number);
        self.rows.insert(number, row);
    }

    /// Removes the lock with this token and path.
    pub(super) fn remove(&mut self, token: FencingToken, path: &str) {
        self.take(token, path);
    }

    /// Removes a lock, and returns its number.
    fn take(&mut self, token: FencingToken, path: &str) -> Option<u64> {
        let candidates = self.by_path.numbers(path);
        let is_it = |number: &&u64| self.rows.get(number).is_some_and(|row| row.token == token && row.path == path);
        let number = *candidates.iter().find(is_it)?;
        let row = self.rows.remove(&number)?;
        self.by_path.remove(path, number);
        if let Some((identity, path)) = repo_path(&row)
            && let Some(index) = self.by_repo_path.get_mut(identity)
        {
            index.remove(path, number);
            if index.is_empty() {
                self.by_repo_path.remove(identity);
            }
        }
        if let Some(numbers) = self.by_holder.get_mut(&row.holder) {
            numbers.remove(&number);
            if numbers.is_empty() {
                self.by_holder.remove(&row.holder);
            }
        }
        Some(number)
    }
}

/// The identity of a lock's repository, and the path relative to the work tree.
fn repo_path(row: &LockRow) -> Option<(&str, &str)> {
    Some((row.repo.as_deref()?, row.repo_path.as_deref()?))
}

/// Maps each path to the numbers of its locks. A glob is listed under the folder above its first wildcard.
#[derive(Debug, Default)]
struct PathIndex(BTreeMap<String, Vec<u64>>);

impl PathIndex {
    fn add(&mut self, path: &str, number: u64) {
        self.0.entry(plain_part(path).to_owned()).or_default().push(number);
    }

    fn remove(&mut self, path: &str, number: u64) {
        if let Some(numbers) = self.0.get_mut(plain_part(path)) {
            numbers.retain(|one| *one != number);
            if numbers.is_empty() {
                self.0.remove(plain_part(path));
            }
        }
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The numbers of all locks on this path. They may include the numbers of locks on other paths.
    fn numbers(&self, path: &str) -> &[u64] {
        self.0.get(plain_part(path)).map_or(&[], Vec::as_slice)
    }

    /// Appends the numbers of all locks that may share a file with `path`: the locks on the folders above it, on the
    /// path itself, and on everything below it.
    fn find(&self, path: &str, found: &mut Vec<u64>) {
        let top = plain_part(path);
        let folders = top.match_indices('/').map(|(at, _)| &top[..at]);
        let above = [""].into_iter().filter(|root| *root != top).chain(folders);
        found.extend(above.chain([top]).filter_map(|folder| self.0.get(folder)).flatten());
        let below = if top.is_empty() { String::new() } else { format!("{top}/") };
        let inside = self.0.range(below.clone()..).take_while(|(path, _)| path.starts_with(&below));
        found.extend(inside.flat_map(|(_, numbers)| numbers));
    }
}

/// Returns the folder above the first component with a wildcard. Without wildcards, returns the whole path.
fn plain_part(path: &str) -> &str {
    match path.find(['*', '?']) {
        Some(wildcard) => path[..wildcard].rfind('/').map_or("", |slash| without_slashes(&path[..slash])),
        None => without_slashes(path),
    }
}

/// Removes the slashes at both ends of a path. A comparison with a glob ignores these slashes, too.
fn without_slashes(path: &str) -> &str {
    path.trim_matches('/')
}

#[cfg(test)]
mod tests {
    use super::super::request_conflicts::{LockMatcher, Repository};
    use super::*;

    /// Paths with up to three components. Some begin or end with a slash.
    fn paths() -> Vec<String> {
        let mut all = vec![String::new()];
        for depth in 0..3 {
            let longest = all.iter().filter(|path| path.matches('/').count() == depth);
            let longer = |path: &String| ["a", "b", "a*", "?", "**"].map(|name| format!("{path}/{name}"));
            let more: Vec<String> = longest.flat_map(longer).collect();
            all.extend(more);
        }
        let with_slash: Vec<String> = all.iter().map(|path| format!("{path}/")).collect();
        all.extend(with_slash);
        let relative: Vec<String> = all.iter().filter_map(|path| path.strip_prefix('/')).map(str::to_owned).collect();
        all.extend(relative);
        all
    }

    fn row(path: &str, token: i64) -> LockRow {
        LockRow { path: path.to_owned(), token: FencingToken(token), ..LockRow::default() }
    }

    #[test]
    fn the_index_finds_each_lock_that_shares_a_file_with_a_request() {
        let paths = paths();
        let mut locks = IndexedLocks::default();
        for (token, path) in (1..).zip(&paths) {
            locks.put(row(path, token));
        }
        for path in &paths {
            let request = LockRequest { paths: vec![path.clone()], ..LockRequest::default() };
            let matcher = LockMatcher::new(&request);
            let tokens: BTreeSet<FencingToken> = locks.candidates(&request).iter().map(|lock| lock.token).collect();
            let missed = locks.iter().find(|lock| matcher.collides(lock) && !tokens.contains(&lock.token));
            assert_eq!(missed.map(|lock| &lock.path), None, "not found for {path}");
            assert!(locks.on_path(path).any(|lock| lock.path == *path), "{path}");
        }
    }

    #[test]
    fn a_request_is_not_compared_with_the_locks_on_other_files() {
        let mut locks = IndexedLocks::default();
        for n in 0..1000 {
            locks.put(row(&format!("/src/{n}/a.rs"), n));
        }
        // A request is not compared with a glob in another folder, either.
        locks.put(row("/docs/**/*.md", 1000));
        for (path, n) in [("/src/7/a.rs", 1), ("/src/7/", 1), ("/src/7/*.rs", 1), ("/docs/a", 1), ("/src/", 1000)] {
            let request = LockRequest { paths: vec![path.to_owned()], ..LockRequest::default() };
            assert_eq!(locks.candidates(&request).len(), n, "{path}");
        }
    }

    #[test]
    fn the_index_finds_the_same_file_in_another_work_tree() {
        let in_tree = |root: &str, path: &str| LockRequest {
            paths: vec![format!("{root}{path}")],
            trees: Repository::new(Some("r".into()), Some(root.into())).into_iter().collect(),
            all_worktrees: true,
            ..LockRequest::default()
        };
        let mut locks = IndexedLocks::default();
        locks.put(in_tree("/one", "/src/a.rs").grant("/one/src/a.rs", None, FencingToken(1), 0));
        locks.put(in_tree("/one", "/src/b.rs").grant("/one/src/b.rs", None, FencingToken(1), 0));
        for (path, n) in [("/src/a.rs", 1), ("/src/", 2), ("/src/*.rs", 2), ("/docs/a.rs", 0)] {
            assert_eq!(locks.candidates(&in_tree("/two", path)).len(), n, "{path}");
        }
        locks.remove(FencingToken(1), "/one/src/a.rs");
        assert!(locks.candidates(&in_tree("/two", "/src/a.rs")).is_empty());
    }

    #[test]
    fn a_removed_lock_leaves_nothing_in_the_indexes() {
        let mut locks = IndexedLocks::default();
        for path in ["/a", "/a/", "/*"] {
            let held = LockRow { repo: Some("r".into()), repo_path: Some(path.into()), ..row(path, 7) };
            locks.put(held.clone());
            locks.put(LockRow { expires: 9, ..held });
        }
        assert_eq!(locks.iter().map(|lock| lock.expires).collect::<Vec<_>>(), [9, 9, 9]);
        assert_eq!(locks.of_holder(&"".into()).count(), 3);
        for path in ["/a", "/a/", "/*"] {
            locks.remove(FencingToken(7), path);
        }
        assert!(locks.by_path.is_empty() && locks.by_repo_path.is_empty() && locks.by_holder.is_empty());
        assert_eq!(locks.iter().len(), 0);
    }
}
