//! Records the term in which each entry of the replicated log was stored. A term is a period in which one hub leads.
//!
//! With this record, a hub checks whether another hub's database contains this hub's last entry. The check works even
//! if the log no longer contains the entry.

use super::{Store, StoreResult};
use crate::base::id_types::Term;
use rusqlite::{Connection, OpenFlags, OptionalExtension};
use std::path::Path;

/// The terms are in the table `meta`, in the row with this name.
const TERMS: &str = "log_terms";
/// The number of terms that are kept. A new term begins when another hub leads, or when the leader is restarted.
const TERMS_MAX: usize = 256;

/// The newest terms of a log, in ascending order. With each term, the position of its first entry is stored.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LogTerms(Vec<(Term, u64)>);

impl LogTerms {
    /// The term in which the entry at this position was stored. `None` if the term is no longer known.
    pub fn term_at(&self, index: u64) -> Option<Term> {
        self.0.iter().rfind(|(_, first)| *first <= index).map(|(term, _)| *term)
    }

    fn parse(text: &str) -> LogTerms {
        let pair = |word: &str| {
            let (term, first) = word.split_once(':')?;
            Some((Term(term.parse().ok()?), first.parse().ok()?))
        };
        LogTerms(text.split(' ').filter_map(pair).collect())
    }
}

impl std::fmt::Display for LogTerms {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let words: Vec<String> = self.0.iter().map(|(term, first)| format!("{}:{first}", term.0)).collect();
        f.write_str(&words.join(" "))
    }
}

impl Store {
    /// Records that a term begins with the entry at position `first`. Must be called between [`Store::begin_call`] and
    /// [`Store::end_call`].
    ///
    /// # Errors
    /// When the database can't be read or written.
    pub fn note_term(&mut self, term: Term, first: u64) -> StoreResult<()> {
        let mut terms = LogTerms::parse(&self.meta(TERMS)?.unwrap_or_default());
        // An earlier term that begins at the same position contains no entry, so it is removed.
        terms.0.retain(|(_, other)| *other < first);
        terms.0.push((term, first));
        let n_old = terms.0.len().saturating_sub(TERMS_MAX);
        terms.0.drain(..n_old);
        self.set_meta(TERMS, &terms.to_string())
    }

    /// Reads the terms from another database file. Does not change the file.
    ///
    /// # Errors
    /// When the file can't be read.
    pub fn log_terms_of(file: &Path) -> StoreResult<LogTerms> {
        let db = Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
        let text: Option<String> =
            db.query_row("SELECT value FROM meta WHERE name = ?1", [TERMS], |row| row.get(0)).optional()?;
        Ok(LogTerms::parse(&text.unwrap_or_default()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_entry_belongs_to_the_last_term_that_began_before_it() {
        let mut store = Store::memory().unwrap();
        store.begin_call();
        for (term, first) in [(3, 1), (5, 10), (6, 20), (9, 20)] {
            store.note_term(Term(term), first).unwrap();
        }
        let terms = |store: &Store| LogTerms::parse(&store.meta(TERMS).unwrap().unwrap());
        let found = [1, 9, 10, 19, 20, 1000].map(|index| terms(&store).term_at(index).unwrap().0);
        assert_eq!(found, [3, 3, 5, 5, 9, 9], "the term 6 stored nothing");
        for n in 0..TERMS_MAX as u64 {
            store.note_term(Term(10 + n), 30 + n).unwrap();
        }
        assert_eq!((terms(&store).term_at(29), terms(&store).term_at(30)), (None, Some(Term(10))));
        assert_eq!(LogTerms::parse(""), LogTerms::default());
    }
}
