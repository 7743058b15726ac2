//! Encodes one entry of the replicated log as bytes. An entry has a header and the changes of one turn of the leader's
//! event loop. The header contains the version of the tables, the log's id, the leader's term and the mesh's time.

use crate::base::id_types::{EntryStamp, LogId, Term};

/// The first byte of an encoded entry: the version of this format.
const FORMAT: u8 = 1;
/// The length of the header before the changes, in bytes: format, schema, log id, and two stamps. A stamp is a term and
/// a time. The first stamp belongs to this entry, and the second stamp belongs to the previous entry.
const HEADER_LEN: usize = 1 + 4 + 16 + 2 * (8 + 8);

/// The changes that the leader made in one turn of its event loop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEntry {
    /// The id of the log. If two meshes use the same prefix by mistake, their log ids differ.
    pub log: LogId,
    /// The version of the leader's database tables. A hub whose tables are older can't apply the changes.
    pub schema: u32,
    /// The term of the leader. A term is a period in which one hub leads.
    pub term: Term,
    /// The time on the mesh's clock when the leader made the changes, in ms. The clock of the next leader never runs
    /// behind this time.
    pub now: i64,
    /// The stamp of the previous entry; all zeros in the first entry. A hub applies this entry only if the last entry
    /// in its database has this stamp.
    pub previous: EntryStamp,
    /// The changes, as the store recorded them.
    pub changes: Vec<u8>,
}

/// Why an entry can't be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryError {
    /// A newer slm-mesh wrote the entry, in a format with this number.
    Newer(u8),
    /// Another program wrote the entry.
    Foreign,
}

impl std::fmt::Display for EntryError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            EntryError::Newer(format) => write!(
                f,
                "the log was written by a newer slm-mesh (it has format {format}, but this version knows only \
                 {FORMAT}); upgrade this hub"
            ),
            EntryError::Foreign => f.write_str(
                "the log contains an entry that another program wrote; give this mesh a name of its own in \
                 SLM_MESH_STORE",
            ),
        }
    }
}

impl LogEntry {
    /// The stamp of this entry. Two different entries at the same position never have the same stamp.
    pub fn stamp(&self) -> EntryStamp {
        EntryStamp { term: self.term, now: self.now }
    }

    /// The entry as bytes, which etcd stores.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER_LEN + self.changes.len());
        bytes.push(FORMAT);
        bytes.extend(self.schema.to_be_bytes());
        bytes.extend(self.log.0.to_be_bytes());
        bytes.extend(self.term.0.to_be_bytes());
        bytes.extend(self.now.to_be_bytes());
        bytes.extend(self.previous.term.0.to_be_bytes());
        bytes.extend(self.previous.now.to_be_bytes());
        bytes.extend(&self.changes);
        bytes
    }

    /// Decodes an entry.
    ///
    /// # Errors
    /// When the entry has a newer format, or another program wrote it.
    pub fn from_bytes(bytes: &[u8]) -> Result<LogEntry, EntryError> {
        let (format, rest) = bytes.split_first().ok_or(EntryError::Foreign)?;
        if *format > FORMAT {
            return Err(EntryError::Newer(*format));
        }
        let (schema, rest) = rest.split_first_chunk().ok_or(EntryError::Foreign)?;
        let (log, rest) = rest.split_first_chunk().ok_or(EntryError::Foreign)?;
        let (term, rest) = rest.split_first_chunk().ok_or(EntryError::Foreign)?;
        let (now, rest) = rest.split_first_chunk().ok_or(EntryError::Foreign)?;
        let (previous_term, rest) = rest.split_first_chunk().ok_or(EntryError::Foreign)?;
        let (previous_now, changes) = rest.split_first_chunk().ok_or(EntryError::Foreign)?;
        if *format != FORMAT {
            return Err(EntryError::Foreign);
        }
        Ok(LogEntry {
            log: LogId(u128::from_be_bytes(*log)),
            schema: u32::from_be_bytes(*schema),
            term: Term(u64::from_be_bytes(*term)),
            now: i64::from_be_bytes(*now),
            previous: EntryStamp {
                term: Term(u64::from_be_bytes(*previous_term)),
                now: i64::from_be_bytes(*previous_now),
            },
            changes: changes.to_vec(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_comes_back_as_it_was_and_others_are_refused() {
        for (now, changes) in [(1_795_000_000_000, vec![1, 2, 3]), (-1, vec![]), (i64::MAX, vec![0; 300])] {
            let (log, term) = (LogId(u128::MAX - 3), Term(u64::MAX - 7));
            let previous = EntryStamp { term: Term(term.0 - 1), now: now - 1 };
            let entry = LogEntry { log, schema: 10, term, now, previous, changes };
            assert_eq!(LogEntry::from_bytes(&entry.to_bytes()), Ok(entry));
        }
        let of_no_format = [b'\0'; HEADER_LEN];
        for foreign in [&b""[..], b"\x01", b"\x01234567812345", &of_no_format[..]] {
            assert_eq!(LogEntry::from_bytes(foreign), Err(EntryError::Foreign), "{foreign:?}");
        }
        let newer = LogEntry::from_bytes(&[FORMAT + 1]).unwrap_err();
        assert!(newer.to_string().contains("upgrade this hub"), "{newer}");
    }
}
