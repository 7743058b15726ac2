//! Requests for locks, and the rules for conflicts. The rules decide whether a request and a lock share a file, and
//! whether the lock blocks the caller.

use super::Locks;
use crate::base::domain_enums::LockOwner;
use crate::base::id_types::{FencingToken, PeerId};
use crate::base::path_overlap::PathMatcher;
use crate::core::Args;
use crate::core::peers::Peers;
use crate::core::transaction_and_pending_effects::Turn;
use crate::store::{LockRow, PeerRow};

/// A repository, and one of its work trees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repository {
    /// An identifier that all work trees of the repository share.
    pub identity: String,
    /// The root of the work tree.
    pub root: String,
}

impl Repository {
    /// Creates a repository if both the identity and the root are known.
    pub fn new(identity: Option<String>, root: Option<String>) -> Option<Repository> {
        Some(Repository { identity: identity?, root: root? })
    }

    /// Returns the work trees that contain the paths of a call. If the client has not sent these work trees, returns
    /// only the client's own work tree, from the call or from `me`.
    pub(in crate::core) fn of_call(args: &Args, me: &PeerRow) -> Vec<Repository> {
        let (roots, identities) = (args.texts("gitRoots"), args.texts("repos"));
        if args.get("gitRoots").is_some() {
            let pairs = roots.into_iter().zip(identities);
            return pairs.map(|(root, id)| Repository { identity: id.to_owned(), root: root.to_owned() }).collect();
        }
        let text = |name, own: &Option<String>| args.text(name).map(str::to_owned).or_else(|| own.clone());
        Repository::new(text("repo", &me.repo), text("gitRoot", &me.git_root)).into_iter().collect()
    }

    /// Returns the path relative to the work tree, with a leading slash. Returns `None` if the path is outside the work
    /// tree.
    fn inside<'a>(&self, path: &'a str) -> Option<&'a str> {
        path.strip_prefix(self.root.trim_end_matches('/')).filter(|rest| rest.starts_with('/'))
    }
}

/// A request to lock paths.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LockRequest {
    /// The requested paths, in normal form.
    pub paths: Vec<String>,
    /// The peer that requests the lock.
    pub holder: PeerId,
    /// The future owner of the lock: the peer itself, or a turn, a subagent or a command of the peer.
    pub owner: LockOwner,
    /// The peer's reason for the lock.
    pub reason: String,
    /// The length of the lease, in ms.
    pub ttl_ms: i64,
    /// The work trees that may contain the paths. With these work trees, the same file can be recognized in another
    /// work tree.
    pub trees: Vec<Repository>,
    /// The machine whose file system contains the paths.
    pub host: String,
    /// Whether the lock covers all work trees of the repository.
    pub all_worktrees: bool,
    /// Whether a person's request renews a lock that the person already holds. If false, the lock blocks the request.
    /// An agent's request always renews the agent's own lock.
    pub renew: bool,
    /// Whether another session of the holder's process may have made the request.
    pub has_unclear_caller: bool,
    /// The keys of the commands inside which the requester runs. These commands do not end before the requester is
    /// done, so their locks do not end either.
    pub outer_commands: Vec<String>,
}

impl LockRequest {
    /// Whether the requester already holds this lock. If it does, the request renews the lock.
    pub(super) fn is_held_by(&self, lock: &LockRow) -> bool {
        let is_own = lock.owner == self.owner || lock.owner.is_shared() && self.owner.is_shared();
        lock.holder == self.holder && is_own && !lock.owner.excludes(&self.owner)
    }

    /// Returns the work tree that contains a path, and the path relative to this work tree. If work trees are nested,
    /// the path belongs to the inner one.
    pub(super) fn tree_of<'a>(&self, path: &'a str) -> Option<(&Repository, &'a str)> {
        let trees = self.trees.iter().filter_map(|tree| Some((tree, tree.inside(path)?)));
        trees.min_by_key(|(_, inside)| inside.len())
    }

    /// Renews the `old` lock on a path. If there is no old lock, creates a lock with the token `token`.
    pub(super) fn grant(&self, path: &str, old: Option<&LockRow>, token: FencingToken, now: i64) -> LockRow {
        // An edit can renew a lock that the agent requested explicitly. Such a lock still belongs to the peer, and its
        // lease does not get shorter.
        let is_edit = self.owner.is_edit();
        let kept = old.filter(|_| is_edit);
        let owner = match kept {
            Some(old) if !old.owner.is_edit() => &old.owner,
            // Two owners are editing this file: the turn and a subagent, or two subagents. The lock must not end when
            // one of them is done, so it now belongs to the turn.
            Some(old) if old.owner != self.owner => &LockOwner::Turn,
            _ => &self.owner,
        };
        let reason = match old {
            // The lock outlives this edit, and "editing" would not say why the agent requested the lock.
            Some(old) if is_edit && !old.owner.is_edit() => &old.reason,
            // If the peer now requests a lock that an edit took, the lock no longer ends with the turn. The old reason,
            // "editing", would soon be wrong.
            Some(old) if old.owner.is_edit() => &self.reason,
            Some(old) if self.reason.is_empty() => &old.reason,
            _ => &self.reason,
        };
        // If the path is in none of the work trees that this request lists, the lock keeps the work tree from an
        // earlier request.
        let (repo, repo_path) = match self.tree_of(path) {
            Some((tree, inside)) => (Some(tree.identity.clone()), Some(inside.to_owned())),
            None => old.map(|old| (old.repo.clone(), old.repo_path.clone())).unwrap_or_default(),
        };
        LockRow {
            // A renewed lock is still the same grant, so it keeps its token. The holder may have shown the token to
            // others.
            token: old.map_or(token, |old| old.token),
            path: path.to_owned(),
            holder: self.holder.clone(),
            owner: owner.clone(),
            reason: reason.clone(),
            host: self.host.clone(),
            repo_path,
            repo,
            all_worktrees: self.all_worktrees || old.is_some_and(|old| old.all_worktrees),
            granted: old.map_or(now, |old| old.granted),
            expires: kept.map_or(0, |old| old.expires).max(now + self.ttl_ms),
        }
    }
}

/// A request that is prepared for comparison with many locks.
pub(super) struct LockMatcher<'a> {
    pub(super) request: &'a LockRequest,
    groups: Vec<PathGroup<'a>>,
}

/// The requested paths in one work tree, or those outside all known work trees.
struct PathGroup<'a> {
    tree: Option<&'a Repository>,
    paths: Vec<&'a str>,
    matcher: PathMatcher<'a>,
    /// The requested paths, relative to the work tree.
    inside: PathMatcher<'a>,
}

impl<'a> LockMatcher<'a> {
    pub(super) fn new(request: &'a LockRequest) -> LockMatcher<'a> {
        let mut found: Vec<(Option<&Repository>, Vec<&str>, Vec<&str>)> = Vec::new();
        for path in &request.paths {
            let (tree, inside) = request.tree_of(path).unzip();
            let known = found.iter().position(|(known, ..)| *known == tree);
            let at = known.unwrap_or_else(|| {
                found.push((tree, Vec::new(), Vec::new()));
                found.len() - 1
            });
            found[at].1.push(path);
            found[at].2.extend(inside);
        }
        let groups = found.into_iter().map(|(tree, paths, inside)| PathGroup {
            tree,
            matcher: PathMatcher::new(paths.iter().copied()),
            paths,
            inside: PathMatcher::new(inside.into_iter()),
        });
        LockMatcher { request, groups: groups.collect() }
    }

    /// Whether a lock blocks the request.
    pub(super) fn conflicts(&self, peers: &Peers, lock: &LockRow) -> bool {
        let is_own = lock.holder == self.request.holder && is_compatible(peers, lock, self.request);
        !is_own && self.collides(lock)
    }

    /// Whether the request and a lock share a file.
    pub(super) fn collides(&self, lock: &LockRow) -> bool {
        let same_machine = lock.host == self.request.host;
        let across = self.request.all_worktrees || lock.all_worktrees || !same_machine;
        self.groups.iter().any(|group| {
            same_machine && group.matcher.overlaps(&lock.path) && !group.is_in_other_tree(lock)
                || across && group.overlaps_across(lock)
        })
    }
}

impl PathGroup<'_> {
    /// Whether a lock covers one of the paths, or the same file in another work tree of the repository.
    fn overlaps_across(&self, lock: &LockRow) -> bool {
        let (Some(tree), Some(lock_repo), Some(path)) = (self.tree, &lock.repo, &lock.repo_path) else {
            return false;
        };
        tree.identity == *lock_repo && self.inside.overlaps(path)
    }

    /// Whether the paths and a lock overlap only because one work tree is inside another. A folder or glob in the outer
    /// work tree does not cover the files of the inner work tree.
    fn is_in_other_tree(&self, lock: &LockRow) -> bool {
        let (Some(tree), Some(lock_repo), Some(lock_path)) = (self.tree, &lock.repo, &lock.repo_path) else {
            return false;
        };
        let own_root = tree.root.trim_end_matches('/');
        let Some(lock_root) = lock.path.strip_suffix(lock_path.as_str()) else { return false };
        if tree.identity != *lock_repo || own_root == lock_root {
            return false;
        }
        let is_below = |path: &str, root: &str| path.strip_prefix(root).is_some_and(|rest| rest.starts_with('/'));
        let inner = match (is_below(own_root, lock_root), is_below(lock_root, own_root)) {
            (true, _) => own_root,
            (_, true) => lock_root,
            _ => return false,
        };
        let is_lock_inside = is_below(&lock.path, inner);
        let same_tree = self.paths.iter().filter(|path| is_below(path, inner) == is_lock_inside);
        !PathMatcher::new(same_tree.copied()).overlaps(&lock.path)
    }
}

impl Locks {
    /// The locks that conflict with a request.
    pub fn conflicts(&self, peers: &Peers, request: &LockRequest) -> Vec<LockRow> {
        self.conflicting(peers, request).cloned().collect()
    }

    /// The last fencing token that was granted.
    pub(in crate::core) fn last_token(&self, turn: &Turn) -> FencingToken {
        turn.store.last_token()
    }

    /// Finds all locks that cover a file of the request, no matter which peer holds the lock.
    pub(in crate::core) fn sharing_files<'a>(&'a self, request: &'a LockRequest) -> impl Iterator<Item = &'a LockRow> {
        let matcher = LockMatcher::new(request);
        self.locks.candidates(request).into_iter().filter(move |lock| matcher.collides(lock))
    }

    /// Finds the locks that conflict with a request, one at a time.
    pub(in crate::core) fn conflicting<'a>(
        &'a self,
        peers: &'a Peers,
        request: &'a LockRequest,
    ) -> impl Iterator<Item = &'a LockRow> {
        let matcher = LockMatcher::new(request);
        self.locks.candidates(request).into_iter().filter(move |lock| {
            matcher.conflicts(peers, lock) || self.is_edited_by_other_subagent(lock, request) && matcher.collides(lock)
        })
    }
}

/// Whether a lock of the requester itself is compatible with the request. An agent's locks never block the agent. But
/// the commands of an agent exclude each other, and so do its subagents. If a command of an earlier session is still
/// running, its locks block the session that took over the name. A person's own lock blocks the person's request,
/// unless the request renews the lock.
fn is_compatible(peers: &Peers, lock: &LockRow, request: &LockRequest) -> bool {
    if peers.is_human(&request.holder) {
        return request.renew && lock.owner == request.owner;
    }
    lock.owner == request.owner || !lock.owner.excludes(&request.owner) && !peers.is_of_earlier_session(lock)
}
