//! Reads the history of calls that `make test-store` recorded. With the crate todc-utils, checks that the mesh behaved
//! as if there were only one copy of its data. The exit status is 0 if so, 1 if not, and 2 if a file can't be read.
//!
//! Each line is one call. Its fields are separated by tabs: the object, the begin time, the end time, and the words of
//! the operation. A call without an answer has no end: it took effect at some time after its beginning, or never.

use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;
use std::rc::Rc;
use todc_utils::{Action, History, Specification, WGLChecker};

/// The model of one entry of the shared state. Its state is the entry's version and value.
struct Entry;

#[derive(Debug, Clone)]
enum EntryOperation {
    Get { version: u64, value: String },
    Set { value: String, outcome: SetOutcome },
    SetIf { expected: u64, value: String, outcome: SetIfOutcome },
}

#[derive(Debug, Clone)]
enum SetOutcome {
    Stored(u64),
    NoAnswer(Versions),
}

/// The versions in all answers to writes. No two writes have the same version, so a write whose answer was lost has
/// none of these versions. This leaves far fewer cases to check.
type Versions = Rc<BTreeSet<u64>>;

#[derive(Debug, Clone)]
enum SetIfOutcome {
    Stored(u64),
    /// The write was refused, because the entry had this version and not the expected one.
    Conflict(u64),
    NoAnswer(Versions),
}

impl Specification for Entry {
    type State = (u64, String);
    type Operation = EntryOperation;

    fn init() -> (u64, String) {
        (0, String::new())
    }

    fn apply(operation: &EntryOperation, state: &(u64, String)) -> (bool, (u64, String)) {
        let next = state.0 + 1;
        match operation {
            EntryOperation::Get { version, value } => ((*version, value) == (state.0, &state.1), state.clone()),
            EntryOperation::Set { value, outcome } => {
                let is_possible = match outcome {
                    SetOutcome::Stored(version) => *version == next,
                    SetOutcome::NoAnswer(taken) => !taken.contains(&next),
                };
                (is_possible, (next, value.clone()))
            }
            EntryOperation::SetIf { expected, value, outcome } => {
                let fits = *expected == state.0;
                let (is_possible, is_stored) = match outcome {
                    SetIfOutcome::Stored(version) => (fits && *version == next, true),
                    SetIfOutcome::Conflict(version) => (!fits && *version == state.0, false),
                    SetIfOutcome::NoAnswer(taken) => (true, fits && !taken.contains(&next)),
                };
                (is_possible, if is_stored { (next, value.clone()) } else { state.clone() })
            }
        }
    }
}

/// The model of one lock. Its state is the holder, the highest token in any answer, and whether this token belongs to
/// the present holder.
struct Lock;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct LockState {
    holder: Option<String>,
    token: u64,
    is_exact: bool,
}

#[derive(Debug, Clone)]
enum LockOperation {
    Lock { who: String, outcome: LockOutcome },
    Unlock { who: String, outcome: UnlockOutcome },
}

#[derive(Debug, Clone)]
enum LockOutcome {
    Granted(u64),
    HeldBy(String),
    NoAnswer,
}

#[derive(Debug, Clone)]
enum UnlockOutcome {
    Done,
    /// The unlock was refused, because the caller did not hold the lock.
    NotMine,
    NoAnswer,
}

impl Specification for Lock {
    type State = LockState;
    type Operation = LockOperation;

    fn init() -> LockState {
        LockState { holder: None, token: 0, is_exact: true }
    }

    fn apply(operation: &LockOperation, state: &LockState) -> (bool, LockState) {
        match operation {
            LockOperation::Lock { who, outcome } => lock(who, outcome, state),
            LockOperation::Unlock { who, outcome } => {
                let is_mine = state.holder.as_ref() == Some(who);
                let is_possible = match outcome {
                    UnlockOutcome::Done => is_mine,
                    UnlockOutcome::NotMine => !is_mine,
                    UnlockOutcome::NoAnswer => true,
                };
                let holder = state.holder.clone().filter(|_| !is_mine);
                (is_possible, LockState { holder, ..state.clone() })
            }
        }
    }
}

/// Returns whether this outcome of a lock call is possible, and the state after the call. A holder that locks again
/// keeps its token. Another caller gets a larger token, but only if nobody holds the lock.
fn lock(who: &str, outcome: &LockOutcome, state: &LockState) -> (bool, LockState) {
    let is_mine = state.holder.as_deref() == Some(who);
    let is_free = state.holder.is_none();
    let holder = Some(who.to_owned());
    match outcome {
        LockOutcome::Granted(token) => {
            let fits = if is_mine && state.is_exact { *token == state.token } else { *token > state.token };
            ((is_mine || is_free) && fits, LockState { holder, token: *token, is_exact: true })
        }
        LockOutcome::HeldBy(other) => (!is_mine && state.holder.as_ref() == Some(other), state.clone()),
        LockOutcome::NoAnswer if is_free => (true, LockState { holder, is_exact: false, ..state.clone() }),
        LockOutcome::NoAnswer => (true, state.clone()),
    }
}

/// One call with the times of its beginning and end.
struct Attempt<T> {
    began: u64,
    ended: Option<u64>,
    operation: T,
}

/// Whether a single copy of an object could have given the answers to these calls.
fn is_linearizable<S: Specification>(attempts: Vec<Attempt<S::Operation>>) -> bool
where
    S::Operation: Clone,
{
    let mut actions = Vec::new();
    for (process, attempt) in attempts.into_iter().enumerate() {
        actions.push((attempt.began, 0, process, Action::Call(attempt.operation.clone())));
        // If one call begins at the same instant as another call ends, their order is unknown. So beginnings are sorted
        // before ends.
        actions.push((attempt.ended.unwrap_or(u64::MAX), 1, process, Action::Response(attempt.operation)));
    }
    actions.sort_by_key(|(at, rank, process, _)| (*at, *rank, *process));
    let actions = actions.into_iter().map(|(_, _, process, action)| (process, action)).collect();
    WGLChecker::<S>::is_linearizable(History::from_actions(actions))
}

fn number(word: &str) -> Option<u64> {
    word.parse().ok()
}

fn entry_operation(words: &[&str], taken: &Versions) -> Option<EntryOperation> {
    let set = |value: &str, outcome| EntryOperation::Set { value: value.into(), outcome };
    Some(match *words {
        ["get", version, value] => EntryOperation::Get { version: number(version)?, value: value.into() },
        ["set", value] => set(value, SetOutcome::NoAnswer(Rc::clone(taken))),
        ["set", value, version] => set(value, SetOutcome::Stored(number(version)?)),
        ["set-if", expected, value, ref rest @ ..] => {
            let outcome = match *rest {
                ["stored", version] => SetIfOutcome::Stored(number(version)?),
                ["conflict", version] => SetIfOutcome::Conflict(number(version)?),
                [] => SetIfOutcome::NoAnswer(Rc::clone(taken)),
                _ => return None,
            };
            EntryOperation::SetIf { expected: number(expected)?, value: value.into(), outcome }
        }
        _ => return None,
    })
}

fn lock_operation(words: &[&str]) -> Option<LockOperation> {
    let lock = |who: &str, outcome| Some(LockOperation::Lock { who: who.into(), outcome });
    let unlock = |who: &str, outcome| Some(LockOperation::Unlock { who: who.into(), outcome });
    match *words {
        ["lock", who] => lock(who, LockOutcome::NoAnswer),
        ["lock", who, "granted", token] => lock(who, LockOutcome::Granted(number(token)?)),
        ["lock", who, "held", other] => lock(who, LockOutcome::HeldBy(other.into())),
        ["unlock", who] => unlock(who, UnlockOutcome::NoAnswer),
        ["unlock", who, "done"] => unlock(who, UnlockOutcome::Done),
        ["unlock", who, "not-mine"] => unlock(who, UnlockOutcome::NotMine),
        _ => None,
    }
}

/// Whether a single copy of an object could have given the answers in these lines. Returns `None` if a line is
/// malformed.
fn check(lines: &[Vec<&str>]) -> Option<bool> {
    let is_entry = lines.iter().any(|words| ["get", "set", "set-if"].contains(words.get(2).unwrap_or(&"")));
    if is_entry {
        let taken = Rc::new(lines.iter().filter_map(|words| taken_version(words)).collect());
        attempts(lines, |words| entry_operation(words, &taken)).map(is_linearizable::<Entry>)
    } else {
        attempts(lines, lock_operation).map(is_linearizable::<Lock>)
    }
}

/// The version in the answer to a write; `None` for other calls, and for writes that were refused or not answered.
fn taken_version(words: &[&str]) -> Option<u64> {
    match *words {
        [_, _, "set", _, version] | [_, _, "set-if", _, _, "stored", version] => number(version),
        _ => None,
    }
}

fn attempts<T>(lines: &[Vec<&str>], read: impl Fn(&[&str]) -> Option<T>) -> Option<Vec<Attempt<T>>> {
    let attempt = |words: &Vec<&str>| {
        let [began, ended, ref operation @ ..] = words[..] else { return None };
        let ended = if ended == "-" { None } else { Some(number(ended)?) };
        Some(Attempt { began: number(began)?, ended, operation: read(operation)? })
    };
    lines.iter().map(attempt).collect()
}

fn main() -> ExitCode {
    let Some(text) = std::env::args().nth(1).and_then(|path| std::fs::read_to_string(path).ok()) else {
        eprintln!("give the path of the file that contains the history");
        return ExitCode::from(2);
    };
    let mut objects: BTreeMap<&str, Vec<Vec<&str>>> = BTreeMap::new();
    for line in text.lines() {
        let (object, words) = line.split_once('\t').unwrap_or((line, ""));
        objects.entry(object).or_default().push(words.split('\t').collect());
    }
    println!("second opinion (todc-utils): {} attempts on {} entries and locks", text.lines().count(), objects.len());
    let mut n_wrong = 0;
    for (object, lines) in &objects {
        let Some(is_linearizable) = check(lines) else {
            eprintln!("the history of {object} contains a line that is not an attempt");
            return ExitCode::from(2);
        };
        if !is_linearizable {
            n_wrong += 1;
            println!("second opinion: a single copy of {object} can't have given these answers");
        }
    }
    ExitCode::from(u8::from(n_wrong > 0))
}
