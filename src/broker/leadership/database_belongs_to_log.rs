//! Checks whether a hub's database belongs to the log in etcd, so that the data of two meshes never mixes.

use crate::store::LogPosition;

/// Tells the user what to do when the database and the log in etcd contradict each other.
const REJOIN: &str = "if etcd was restored from a backup, run slm-mesh start --rejoin on this hub to set its database \
                      aside and join the mesh in etcd";

/// The result of comparing a hub's database with the log in etcd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DatabaseLogMatch {
    /// There is no log yet. This hub may begin one with its own data.
    NoLog,
    /// The database belongs to the log. The hub may follow the log, and may lead.
    SameLog,
    /// The hub first needs a copy of the leader's database.
    NeedsSnapshot,
    /// The database does not belong to the log, for the reason given here. The user must decide what to do.
    Refused(String),
}

impl DatabaseLogMatch {
    /// Compares the last entry of the log in etcd (`end`) with the last log entry in the database (`own`).
    /// `is_expendable` is true if the database can be replaced without a loss.
    pub fn of(end: Option<LogPosition>, own: Option<LogPosition>, is_expendable: bool) -> DatabaseLogMatch {
        match (end, own) {
            (None, None) => DatabaseLogMatch::NoLog,
            (None, Some(own)) => DatabaseLogMatch::Refused(format!(
                "etcd has no log under the name in SLM_MESH_STORE, but this hub's database belongs to a log and is at \
                 entry {}; if etcd lost its data, run slm-mesh start --new-log on the hub whose database is at the \
                 highest entry, and then run slm-mesh start --rejoin on the others",
                own.index
            )),
            (Some(_), None) if is_expendable => DatabaseLogMatch::NeedsSnapshot,
            (Some(_), None) => DatabaseLogMatch::Refused(
                "this hub's database has messages, state or locks that are not in the log in etcd: either the log \
                 belongs to another mesh, or this hub has run without SLM_MESH_STORE; to set this database aside and \
                 join the mesh in etcd, run slm-mesh start --rejoin; to keep this database, give its mesh another name \
                 in SLM_MESH_STORE"
                    .into(),
            ),
            (Some(end), Some(own)) if end.log != own.log => DatabaseLogMatch::Refused(
                "this hub's database does not belong to the log in etcd, but to another log; to set this database \
                 aside and join the mesh in etcd, run slm-mesh start --rejoin; to keep this database, give its mesh \
                 another name in SLM_MESH_STORE"
                    .into(),
            ),
            (Some(end), Some(own)) if own.index > end.index => DatabaseLogMatch::Refused(format!(
                "this hub's database is at entry {}, but the log in etcd ends at entry {}; {REJOIN}",
                own.index, end.index
            )),
            (Some(end), Some(own)) if own.index == end.index && own.stamp != end.stamp => {
                DatabaseLogMatch::Refused(diverged(own.index))
            }
            (Some(_), Some(_)) => DatabaseLogMatch::SameLog,
        }
    }
}

/// Returns the error text for an entry that differs between the database and the log in etcd.
pub(super) fn diverged(index: u64) -> String {
    format!("entry {index} of the log in etcd differs from the entry with this number in this hub's database; {REJOIN}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::error::problem_and_cure;
    use crate::base::id_types::{EntryStamp, LogId, Term};

    fn at(log: u128, index: u64) -> Option<LogPosition> {
        Some(LogPosition { log: LogId(log), index, stamp: EntryStamp { term: Term(index), now: 0 } })
    }

    #[test]
    fn a_database_follows_only_its_own_log() {
        for is_expendable in [true, false] {
            assert_eq!(DatabaseLogMatch::of(None, None, is_expendable), DatabaseLogMatch::NoLog);
            assert_eq!(DatabaseLogMatch::of(at(1, 9), at(1, 9), is_expendable), DatabaseLogMatch::SameLog);
            assert_eq!(DatabaseLogMatch::of(at(1, 9), at(1, 2), is_expendable), DatabaseLogMatch::SameLog);
        }
        assert_eq!(DatabaseLogMatch::of(at(1, 9), None, true), DatabaseLogMatch::NeedsSnapshot);
        let restored = at(1, 9).map(|end| LogPosition { stamp: EntryStamp { now: 1, ..end.stamp }, ..end });
        let refused =
            [(at(1, 9), None), (at(1, 9), at(2, 3)), (at(1, 9), at(1, 10)), (None, at(1, 3)), (at(1, 9), restored)];
        for (found, own) in refused {
            let DatabaseLogMatch::Refused(why) = DatabaseLogMatch::of(found, own, false) else {
                panic!("{found:?} {own:?}")
            };
            let cure = problem_and_cure(&why).1.unwrap_or_default();
            assert!(cure.contains("slm-mesh start --rejoin"), "{why}");
        }
    }
}
