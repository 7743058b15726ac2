//! The locks that the test expects. If the answer to a lock call was lost, it is uncertain whether the lock exists.

use crate::model::{HUMAN, NAMES, Who, minutes};
use serde_json::Value;
use slm_mesh::base::limits::{COMMAND_LEASE_MS, GRACE_MS};
use std::collections::{BTreeMap, BTreeSet};

/// The paths that the test locks. Each bit of a number stands for a file, and is set if the path covers this file.
pub const PATHS: [(&str, u16); 9] = [
    ("/p/a", 1),
    ("/p/b", 2),
    ("/p/dir/", 0b0111_0000),
    ("/p/dir/x", 16),
    ("/p/dir/y", 32),
    ("/p/*.rs", 0b1100),
    ("/p/m.rs", 4),
    ("/p/**/*.rs", 0b0100_1100),
    ("/p/dir/q.rs", 64),
];

/// A lock on one path. The lock was granted, or it may have been granted.
#[derive(Debug, Clone)]
struct Grant {
    path: usize,
    who: Who,
    command: String,
    /// The lock's token. If the answer was lost, this is `None`, and the unknown token is higher than `above`.
    token: Option<i64>,
    above: i64,
    /// The time until which the lock must be in force.
    sure: i64,
    /// The time until which the lock can be in force.
    may: i64,
    /// Whether the lock was granted before the last crash of the broker.
    old: bool,
}

/// The paths and the caller of a lock or unlock call.
#[derive(Debug, Clone)]
pub struct LockRequest {
    pub paths: Vec<usize>,
    pub who: Who,
    pub command: String,
    renew: bool,
    ttl: i64,
}

impl LockRequest {
    pub fn new(who: Who, args: &Value) -> LockRequest {
        let listed = args["filePaths"].as_array().into_iter().flatten().chain(args.get("filePath"));
        let mut paths: Vec<usize> = listed.map(path).collect();
        paths.sort_unstable();
        paths.dedup();
        let renew = args["renew"].as_bool().unwrap_or(who != HUMAN);
        let ttl = minutes(args, "ttlMinutes").unwrap_or(600_000);
        LockRequest { paths, who, command: args["command"].as_str().unwrap_or("").to_owned(), renew, ttl }
    }

    fn is_hindered_by(&self, grant: &Grant) -> bool {
        self.is_hindered(grant.who, &grant.command, &[grant.path])
    }

    /// Whether this request must wait for an older request that is also waiting.
    pub fn is_hindered_by_request(&self, ahead: &LockRequest) -> bool {
        self.is_hindered(ahead.who, &ahead.command, &ahead.paths)
    }

    fn is_hindered(&self, who: Who, command: &str, paths: &[usize]) -> bool {
        let one = match who == self.who {
            false => false,
            true if self.who == HUMAN => self.renew && command == self.command,
            true => command == self.command || command.is_empty() || self.command.is_empty(),
        };
        let shares = |path: &usize| paths.iter().any(|other| PATHS[*path].1 & PATHS[*other].1 != 0);
        !one && self.paths.iter().any(shares)
    }
}

fn path(name: &Value) -> usize {
    PATHS.iter().position(|(path, _)| name == path).unwrap_or_else(|| panic!("a lock on {name}, which nobody asked"))
}

/// All locks that exist or may exist.
#[derive(Debug, Default)]
pub struct Locks {
    grants: Vec<Grant>,
    /// The highest token in any answer.
    token: i64,
    /// The latest tokens in answers, each with its owner.
    tokens: BTreeMap<i64, (Who, String)>,
    /// The keys of all `lock FILE -- COMMAND` calls that run, or may run.
    running: BTreeSet<String>,
    /// The keys of the calls that must be running, because their callers got an answer.
    surely_running: BTreeSet<String>,
    /// The time of the broker's last restart; `None` after the grace period in which commands can reconnect and keep
    /// their locks.
    orphans: Option<i64>,
}

impl Locks {
    /// Whether another owner's lock may prevent this request.
    pub fn may_be_held(&self, request: &LockRequest) -> bool {
        self.grants.iter().any(|grant| request.is_hindered_by(grant))
    }

    /// Whether a peer holds a lock, or may hold one.
    pub fn may_hold_any(&self, who: Who) -> bool {
        self.grants.iter().any(|grant| grant.who == who)
    }

    /// Records a granted request. Fails if the answer can't be right.
    pub fn granted(&mut self, request: &LockRequest, rows: &[Value], now: i64) {
        if let Some(other) = self.grants.iter().find(|grant| request.is_hindered_by(grant) && grant.sure > now) {
            panic!("two hold a lock: {request:?} was granted, and there is {other:?}, known to {}", NAMES[other.who]);
        }
        self.grants.retain(|grant| !request.is_hindered_by(grant));
        let mut told: Vec<usize> = rows.iter().map(|row| path(&row["filePath"])).collect();
        told.sort_unstable();
        assert!(told == request.paths, "granted {told:?}, and not {request:?}");
        let before = self.token;
        for row in rows {
            let (path, token) = (path(&row["filePath"]), row["token"].as_i64().expect("a token"));
            assert!(row["expiresInSeconds"] == request.ttl / 1000, "another lease than asked for: {row}");
            let own =
                |grant: &&Grant| grant.path == path && grant.who == request.who && grant.command == request.command;
            match self.grants.iter().find(own) {
                Some(old) if old.sure > now => assert!(old.token == Some(token), "a renewal got {token}: {old:?}"),
                Some(old) if old.token == Some(token) || old.token.is_none() && token > old.above => {}
                _ => assert!(token > before, "token {token} after {before}"),
            }
            let owner = (request.who, request.command.clone());
            let first = self.tokens.entry(token).or_insert_with(|| owner.clone());
            assert!(*first == owner, "token {token} was {first:?}'s, and is {owner:?}'s");
            self.token = self.token.max(token);
            let old = self.grants.iter().find(own).is_some_and(|grant| grant.old);
            self.grants.retain(|grant| !own(&grant));
            let (who, command) = owner;
            let until = now + request.ttl;
            self.grants.push(Grant { path, who, command, token: Some(token), above: 0, sure: until, may: until, old });
            self.surely_running.insert(request.command.clone());
        }
        while self.tokens.len() > 1000 {
            self.tokens.pop_first();
        }
        self.run(&request.command);
    }

    fn run(&mut self, command: &str) {
        if !command.is_empty() {
            self.running.insert(command.to_owned());
        }
    }

    /// Records a lock call whose answer was lost. Its locks may have been granted.
    pub fn perhaps_granted(&mut self, request: &LockRequest, now: i64) {
        let until = now + request.ttl;
        for path in &request.paths {
            let own = |grant: &&mut Grant| {
                grant.path == *path && grant.who == request.who && grant.command == request.command
            };
            match self.grants.iter_mut().find(own) {
                // The call may have renewed the lock. The new lease can be shorter than the old one.
                Some(grant) => {
                    (grant.sure, grant.may) = (grant.sure.min(until), grant.may.max(until));
                    if grant.sure <= now {
                        // The old lease may have ended before the call. The lock would then have a new token.
                        grant.above = grant.token.take().map_or(grant.above, |token| token - 1);
                    }
                }
                None => self.grants.push(Grant {
                    path: *path,
                    who: request.who,
                    command: request.command.clone(),
                    token: None,
                    above: self.token,
                    sure: 0,
                    may: until,
                    old: false,
                }),
            }
        }
        self.run(&request.command);
    }

    /// Checks an answer that refused a request and named this lock as the reason.
    pub fn refused(&self, request: &LockRequest, lock: &Value, ids: &[Option<String>]) {
        let fits = |grant: &&Grant| {
            request.is_hindered_by(grant)
                && lock["filePath"] == PATHS[grant.path].0
                && ids[grant.who].as_ref().is_none_or(|id| lock["lockedBy"] == id.as_str())
                && grant.token.is_none_or(|token| lock["token"] == token)
        };
        assert!(self.grants.iter().any(|grant| fits(&grant)), "{request:?} was refused by a lock that fell: {lock}");
    }

    /// Records an unlock call. If its answer was lost (`is_sure` is false), the locks may or may not have ended.
    pub fn unlocked(&mut self, request: &LockRequest, is_sure: bool) {
        let meant = |grant: &Grant| {
            grant.who == request.who && grant.command == request.command && request.paths.contains(&grant.path)
        };
        if is_sure {
            self.grants.retain(|grant| !meant(grant));
        } else {
            self.grants.iter_mut().filter(|grant| meant(grant)).for_each(|grant| grant.sure = 0);
        }
    }

    /// Checks an answer that refused to unlock paths. Fails if it is certain that the caller holds all of these paths.
    pub fn not_unlocked(&self, request: &LockRequest, now: i64) {
        let held = |path: &usize| {
            let own =
                |grant: &Grant| grant.path == *path && grant.who == request.who && grant.command == request.command;
            self.grants.iter().any(|grant| own(grant) && grant.sure > now)
        };
        assert!(!request.paths.iter().all(held), "{request:?} was told that it does not hold what it holds");
    }

    /// Records that the human (the person who owns the machine) takes away all locks that prevent a request. Returns
    /// the holder and path of each of these locks, and whether the lock was certainly in force.
    pub fn stolen(&mut self, request: &LockRequest, is_sure: bool, now: i64) -> Vec<(Who, &'static str, bool)> {
        let mut notes = Vec::new();
        for grant in self.grants.iter_mut().filter(|grant| request.is_hindered_by(grant)) {
            notes.push((grant.who, PATHS[grant.path].0, is_sure && grant.sure > now));
            grant.sure = 0;
        }
        if is_sure {
            self.grants.retain(|grant| !request.is_hindered_by(grant));
        }
        notes
    }

    /// Ends all locks of a peer that has left, except the locks of its commands.
    pub fn left(&mut self, who: Who) {
        self.grants.retain(|grant| grant.who != who || !grant.command.is_empty());
    }

    /// Ends the locks of a command whose connection has ended.
    pub fn command_ended(&mut self, command: &str) {
        self.running.remove(command);
        self.surely_running.remove(command);
        self.grants.retain(|grant| grant.command != command);
    }

    /// Records that the broker was restarted. Commands have a grace period to reconnect. A session that was already
    /// away keeps its locks for one more grace period at most.
    pub fn crashed(&mut self, now: i64) {
        self.running.clear();
        self.surely_running.clear();
        self.orphans = Some(now);
        self.grants.iter_mut().for_each(|grant| grant.old = true);
    }

    /// Ends the grace period of a peer that was already away when the broker was restarted. The locks that the peer had
    /// at that time end, too. Later locks, which a verb (subcommand) took as this peer, may stay.
    pub fn left_before(&mut self, who: Who) {
        self.grants.retain(|grant| grant.who != who || !grant.command.is_empty() || !grant.old);
        self.doubt(who);
    }

    /// Records that it is uncertain whether this peer's locks still exist.
    pub fn doubt(&mut self, who: Who) {
        self.grants.iter_mut().filter(|grant| grant.who == who && grant.command.is_empty()).for_each(|g| g.sure = 0);
    }

    /// Ends the locks whose lease has ended. The lock of a command is extended while the command runs or can reconnect.
    pub fn expire(&mut self, now: i64) {
        let has_grace = self.orphans.is_some_and(|since| since + GRACE_MS > now);
        for grant in self.grants.iter_mut().filter(|grant| grant.may <= now && !grant.command.is_empty()) {
            if has_grace || self.running.contains(&grant.command) {
                grant.may = now + COMMAND_LEASE_MS;
            }
            if self.surely_running.contains(&grant.command) && grant.sure > 0 {
                grant.sure = grant.may;
            }
        }
        self.grants.retain(|grant| grant.may > now);
        if self.orphans.is_some_and(|since| since + GRACE_MS <= now) {
            self.orphans = None;
            self.grants.retain(|grant| grant.command.is_empty() || self.running.contains(&grant.command));
        }
    }

    /// Checks the list of all locks in an answer of the mesh.
    pub fn listed(&mut self, rows: &[Value], now: i64) {
        let mut seen = Vec::new();
        for row in rows {
            let path = path(&row["filePath"]);
            let token = row["token"].as_i64().expect("a token");
            let fits = |n: &usize, known: bool| {
                let grant = &self.grants[*n];
                let same =
                    if known { grant.token == Some(token) } else { grant.token.is_none() && token > grant.above };
                same && grant.path == path && row["holder"] == NAMES[grant.who] && !seen.contains(n)
            };
            let all = 0..self.grants.len();
            let n = all.clone().find(|n| fits(n, true)).or_else(|| all.clone().find(|n| fits(n, false)));
            let n = n.unwrap_or_else(|| panic!("a lock that fell: {row} at {now}"));
            seen.push(n);
        }
        for (n, grant) in self.grants.iter().enumerate() {
            assert!(seen.contains(&n) || grant.sure <= now, "{} lost a lock: {grant:?} at {now}", NAMES[grant.who]);
        }
    }
}
