//! Wishes for locks, and what keeps one from being granted: whether two mean a common file, and whose
//! locks are no obstacle to whom.

use crate::base::paths::PathMatcher;
use crate::core::Mesh;
use crate::store::LockRow;

/// The mark of a lock that an edit took by itself: it falls when the agent's turn ends.
pub const TURN: &str = "turn";

/// What a caller wants to lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockRequest {
    /// Normal paths.
    pub paths: Vec<String>,
    /// Peer id of the wisher.
    pub holder: String,
    /// Key of the invocation, or "".
    pub bound: String,
    /// What for.
    pub reason: String,
    /// Length of the lease, ms.
    pub ttl_ms: i64,
    /// Repository identity and root, to know the same file in another work tree.
    pub repo: Option<(String, String)>,
    /// The machine whose file system the paths are of.
    pub host: String,
    /// Whether it shall hold in all work trees.
    pub everywhere: bool,
    /// Whether a lock of the same holder is renewed rather than in the way.
    pub renew: bool,
}

/// Whether a lock is its peer's, rather than one invocation's.
pub(crate) fn is_soft(bound: &str) -> bool {
    bound.is_empty() || bound == TURN
}

/// A wish, ready to be compared with many locks.
pub(crate) struct LockMatcher<'a> {
    pub(crate) want: &'a LockRequest,
    paths: PathMatcher<'a>,
    /// The same paths inside their repository.
    inside: PathMatcher<'a>,
}

impl<'a> LockMatcher<'a> {
    pub(crate) fn new(want: &'a LockRequest) -> LockMatcher<'a> {
        let inside = want.paths.iter().filter_map(|path| inside(path, want.repo.as_ref()));
        LockMatcher {
            want,
            paths: PathMatcher::new(want.paths.iter().map(String::as_str)),
            inside: PathMatcher::new(inside),
        }
    }

    /// Whether it and a lock mean a common file.
    pub(crate) fn collides(&self, lock: &LockRow) -> bool {
        let is_here = lock.host == self.want.host;
        if is_here && self.paths.overlaps(&lock.path) {
            return true;
        }
        let far = self.want.everywhere || lock.everywhere || !is_here;
        let (Some((repo, _)), Some(lock_repo), Some(rel)) = (&self.want.repo, &lock.repo, &lock.rel) else {
            return false;
        };
        far && repo == lock_repo && self.inside.overlaps(rel)
    }
}

/// A path inside its repository, with a leading slash; the repository itself is `/`.
pub(crate) fn inside<'a>(path: &'a str, repo: Option<&(String, String)>) -> Option<&'a str> {
    let (_, root) = repo?;
    let rel = path.strip_prefix(root.trim_end_matches('/'))?;
    rel.starts_with('/').then_some(rel)
}

impl Mesh {
    /// Locks that keep a wish from being granted.
    pub fn in_the_way(&self, want: &LockRequest) -> Vec<LockRow> {
        self.obstacles(want).cloned().collect()
    }

    /// The same, looked at only as far as somebody asks.
    pub(crate) fn obstacles<'a>(&'a self, want: &'a LockRequest) -> impl Iterator<Item = &'a LockRow> {
        let wish = LockMatcher::new(want);
        let mine = |lock: &LockRow| lock.holder == want.holder && self.is_one_wish(lock, want);
        self.locks.iter().filter(move |lock| !mine(lock) && wish.collides(lock))
    }

    /// Whether a lock of the same holder is no obstacle. No agent is ever refused by its own lock,
    /// only two commands that run for it exclude each other; two locks of a person are two wishes.
    fn is_one_wish(&self, lock: &LockRow, want: &LockRequest) -> bool {
        if self.is_human(&want.holder) {
            return want.renew && lock.bound == want.bound;
        }
        lock.bound == want.bound || is_soft(&lock.bound) || is_soft(&want.bound)
    }
}
