//! One entry of the log, as bytes: which leader wrote it, the mesh's time, and what the turn changed.

use super::Term;

/// The first byte of an entry.
const FORMAT: u8 = 1;
const HEADER_LEN: usize = 17;

/// What one turn of the leader changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEntry {
    /// The leader.
    pub term: Term,
    /// The mesh's time in that turn, ms. The next leader's clock goes on from here.
    pub now: i64,
    /// The changes, as the store recorded them.
    pub changes: Vec<u8>,
}

/// Why an entry can't be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryError {
    /// A newer slm-mesh wrote it, in this format.
    Newer(u8),
    /// It is no entry of this program.
    Foreign,
}

impl std::fmt::Display for EntryError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            EntryError::Newer(format) => write!(
                f,
                "the log was written by a newer slm-mesh (format {format}, this one knows {FORMAT}); \
                 upgrade this hub"
            ),
            EntryError::Foreign => f.write_str(
                "the log has an entry of another program; give this mesh a prefix of its own in SLM_MESH_STORE",
            ),
        }
    }
}

impl LogEntry {
    /// The bytes that the engine stores.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER_LEN + self.changes.len());
        bytes.push(FORMAT);
        bytes.extend(self.term.0.to_be_bytes());
        bytes.extend(self.now.to_be_bytes());
        bytes.extend(&self.changes);
        bytes
    }

    /// Reads an entry.
    ///
    /// # Errors
    /// When it is of a newer format, or none at all.
    pub fn from_bytes(bytes: &[u8]) -> Result<LogEntry, EntryError> {
        let (format, rest) = bytes.split_first().ok_or(EntryError::Foreign)?;
        if *format > FORMAT {
            return Err(EntryError::Newer(*format));
        }
        let (term, rest) = rest.split_first_chunk().ok_or(EntryError::Foreign)?;
        let (now, changes) = rest.split_first_chunk().ok_or(EntryError::Foreign)?;
        if *format != FORMAT {
            return Err(EntryError::Foreign);
        }
        let (term, now) = (Term(u64::from_be_bytes(*term)), i64::from_be_bytes(*now));
        Ok(LogEntry { term, now, changes: changes.to_vec() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_comes_back_as_it_was_and_others_are_refused() {
        for (now, changes) in [(1_795_000_000_000, vec![1, 2, 3]), (-1, vec![]), (i64::MAX, vec![0; 300])] {
            let entry = LogEntry { term: Term(u64::MAX - 7), now, changes };
            assert_eq!(LogEntry::from_bytes(&entry.to_bytes()), Ok(entry));
        }
        for foreign in [&b""[..], b"\x01", b"\x01234567812345", b"\x00234567812345678901"] {
            assert_eq!(LogEntry::from_bytes(foreign), Err(EntryError::Foreign), "{foreign:?}");
        }
        let newer = LogEntry::from_bytes(&[FORMAT + 1]).unwrap_err();
        assert!(newer.to_string().contains("upgrade this hub"), "{newer}");
    }
}
