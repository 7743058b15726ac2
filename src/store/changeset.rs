//! Encodes the changes of one turn of the event loop, so that another database can apply them. For each executed
//! statement, the bytes contain one row with the statement's values. Statements and long texts are stored only once.
//! The rows refer to them by number.
//!
//! The values are not part of the SQL, because SQLite stops reading SQL at a NUL byte.

use super::{StoreError, StoreResult};
use rusqlite::ToSql;
use rusqlite::types::{ToSqlOutput, ValueRef};
use std::collections::HashMap;

/// The version of the format. It is the first byte of a changeset. A program refuses unknown versions.
const FORMAT: u8 = 1;
/// Minimum length, in bytes, of a text that a changeset stores only once. Peer ids and typical messages to many
/// recipients are longer than this.
const SHARED_TEXT_MIN: usize = 16;

const NULL: u8 = 0;
const INTEGER: u8 = 1;
const REAL: u8 = 2;
const TEXT: u8 = 3;
const BLOB: u8 = 4;
const SHARED_TEXT: u8 = 5;

/// The encoded changes of one turn of the event loop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changeset(Vec<u8>);

impl Changeset {
    /// Makes a changeset from bytes that another machine sent. The bytes are checked when the changeset is applied.
    pub fn from_bytes(bytes: Vec<u8>) -> Changeset {
        Changeset(bytes)
    }

    /// Converts the changeset to bytes.
    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    /// The bytes of the changeset.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Starts to decode the changeset.
    ///
    /// # Errors
    /// When the bytes are not a changeset, or when the version of their format is unknown.
    pub(super) fn decode(&self) -> StoreResult<DecodedChanges<'_>> {
        let mut bytes = Bytes(&self.0);
        match bytes.byte()? {
            FORMAT => {}
            newer => return Err(StoreError::Newer(newer.into(), FORMAT.into())),
        }
        let statements = bytes.texts()?;
        let shared = bytes.texts()?;
        let n_rows = bytes.count()?;
        Ok(DecodedChanges { statements, shared, n_rows, bytes })
    }
}

/// Texts that are stored only once. Each text has a number. The rows contain this number instead of the text.
#[derive(Debug, Default)]
struct Interned(HashMap<Box<str>, usize>);

impl Interned {
    fn number(&mut self, text: &str) -> usize {
        if let Some(number) = self.0.get(text) {
            return *number;
        }
        let number = self.0.len();
        self.0.insert(text.into(), number);
        number
    }

    fn truncate(&mut self, n: usize) {
        if self.0.len() > n {
            self.0.retain(|_, number| *number < n);
        }
    }

    fn write(&self, out: &mut Vec<u8>) {
        let mut texts: Vec<(&str, usize)> = self.0.iter().map(|(text, number)| (&**text, *number)).collect();
        texts.sort_unstable_by_key(|(_, number)| *number);
        write_varint(out, texts.len() as u64);
        texts.into_iter().for_each(|(text, _)| write_bytes(out, text.as_bytes()));
    }
}

/// The size of a recorder's content at one moment.
#[derive(Debug, Clone, Copy, Default)]
struct Mark {
    statements: usize,
    shared: usize,
    shared_bytes: usize,
    rows: usize,
    bytes: usize,
}

/// Records the changes of the current turn.
#[derive(Debug, Default)]
pub(super) struct Recorder {
    statements: Interned,
    shared: Interned,
    /// The size of the shared texts, in bytes.
    shared_bytes: usize,
    n_rows: usize,
    rows: Vec<u8>,
    before_call: Mark,
}

impl Recorder {
    /// Records an executed statement and its values.
    pub(super) fn add(&mut self, sql: &'static str, values: &[&dyn ToSql]) -> StoreResult<()> {
        let statement = self.statements.number(sql);
        write_varint(&mut self.rows, statement as u64);
        write_varint(&mut self.rows, values.len() as u64);
        for value in values {
            match value.to_sql()? {
                ToSqlOutput::Borrowed(value) => self.add_value(value)?,
                ToSqlOutput::Owned(value) => self.add_value(ValueRef::from(&value))?,
                _ => return Err(StoreError::Sql("a value can't be recorded".into())),
            }
        }
        self.n_rows += 1;
        Ok(())
    }

    fn add_value(&mut self, value: ValueRef<'_>) -> StoreResult<()> {
        match value {
            ValueRef::Null => self.rows.push(NULL),
            ValueRef::Integer(number) => {
                self.rows.push(INTEGER);
                write_varint(&mut self.rows, ((number << 1) ^ (number >> 63)).cast_unsigned());
            }
            ValueRef::Real(number) => {
                self.rows.push(REAL);
                self.rows.extend(number.to_le_bytes());
            }
            ValueRef::Text(text) if text.len() >= SHARED_TEXT_MIN => {
                let text = std::str::from_utf8(text).map_err(|error| StoreError::Sql(error.to_string()))?;
                self.rows.push(SHARED_TEXT);
                let n_known = self.shared.0.len();
                let number = self.shared.number(text);
                if number == n_known {
                    self.shared_bytes += text.len();
                }
                write_varint(&mut self.rows, number as u64);
            }
            ValueRef::Text(bytes) => {
                self.rows.push(TEXT);
                write_bytes(&mut self.rows, bytes);
            }
            ValueRef::Blob(bytes) => {
                self.rows.push(BLOB);
                write_bytes(&mut self.rows, bytes);
            }
        }
        Ok(())
    }

    /// Begins a new call. [`Recorder::undo_call`] can remove the changes of this call.
    pub(super) fn begin_call(&mut self) {
        self.before_call = Mark {
            statements: self.statements.0.len(),
            shared: self.shared.0.len(),
            shared_bytes: self.shared_bytes,
            rows: self.n_rows,
            bytes: self.rows.len(),
        };
    }

    /// Removes the changes of the current call.
    pub(super) fn undo_call(&mut self) {
        let mark = self.before_call;
        self.statements.truncate(mark.statements);
        self.shared.truncate(mark.shared);
        self.shared_bytes = mark.shared_bytes;
        self.n_rows = mark.rows;
        self.rows.truncate(mark.bytes);
    }

    /// The size of the rows and of the shared texts, in bytes.
    pub(super) fn size(&self) -> usize {
        self.rows.len() + self.shared_bytes
    }

    /// Whether no changes were recorded.
    pub(super) fn is_empty(&self) -> bool {
        self.n_rows == 0
    }

    /// Returns the recorded changes, and empties the recorder.
    pub(super) fn take(&mut self) -> Changeset {
        let turn = std::mem::take(self);
        let mut out = vec![FORMAT];
        turn.statements.write(&mut out);
        turn.shared.write(&mut out);
        write_varint(&mut out, turn.n_rows as u64);
        out.extend(turn.rows);
        Changeset(out)
    }
}

/// A changeset that is being decoded. [`DecodedChanges::next_row`] returns its rows one by one.
pub(super) struct DecodedChanges<'a> {
    /// The SQL of each statement.
    pub(super) statements: Vec<&'a str>,
    shared: Vec<&'a str>,
    n_rows: usize,
    bytes: Bytes<'a>,
}

impl<'a> DecodedChanges<'a> {
    /// Decodes the next row. Returns the index of the row's statement, or `None` after the last row. Puts the row's
    /// values into `values`.
    pub(super) fn next_row(&mut self, values: &mut Vec<ValueRef<'a>>) -> StoreResult<Option<usize>> {
        values.clear();
        let Some(left) = self.n_rows.checked_sub(1) else {
            return if self.bytes.0.is_empty() { Ok(None) } else { Err(damaged()) };
        };
        self.n_rows = left;
        let statement = self.bytes.count()?;
        for _ in 0..self.bytes.count()? {
            values.push(self.value()?);
        }
        Ok(Some(statement))
    }

    fn value(&mut self) -> StoreResult<ValueRef<'a>> {
        Ok(match self.bytes.byte()? {
            NULL => ValueRef::Null,
            INTEGER => {
                let folded = self.bytes.varint()?;
                ValueRef::Integer((folded >> 1).cast_signed() ^ -(folded & 1).cast_signed())
            }
            REAL => {
                let bytes = self.bytes.take(8)?;
                ValueRef::Real(f64::from_le_bytes(bytes.try_into().map_err(|_| damaged())?))
            }
            TEXT => ValueRef::Text(self.bytes.sized()?),
            BLOB => ValueRef::Blob(self.bytes.sized()?),
            SHARED_TEXT => {
                let number = self.bytes.count()?;
                ValueRef::Text(self.shared.get(number).ok_or_else(damaged)?.as_bytes())
            }
            _ => return Err(damaged()),
        })
    }
}

/// The bytes that have not been read yet.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, n: usize) -> StoreResult<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(n).ok_or_else(damaged)?;
        self.0 = rest;
        Ok(head)
    }

    fn byte(&mut self) -> StoreResult<u8> {
        Ok(self.take(1)?[0])
    }

    fn varint(&mut self) -> StoreResult<u64> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(number);
            }
        }
        Err(damaged())
    }

    fn count(&mut self) -> StoreResult<usize> {
        usize::try_from(self.varint()?).map_err(|_| damaged())
    }

    fn sized(&mut self) -> StoreResult<&'a [u8]> {
        let n = self.count()?;
        self.take(n)
    }

    fn texts(&mut self) -> StoreResult<Vec<&'a str>> {
        // The memory is not reserved in advance, because damaged bytes could contain a huge count.
        (0..self.count()?).map(|_| std::str::from_utf8(self.sized()?).map_err(|_| damaged())).collect()
    }
}

fn write_varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn write_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    write_varint(out, bytes.len() as u64);
    out.extend(bytes);
}

pub(super) fn damaged() -> StoreError {
    StoreError::Sql("changes from another hub can't be read".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rusqlite::params;

    fn rows(changes: &Changeset) -> StoreResult<Vec<(String, Vec<String>)>> {
        let mut decoded = changes.decode()?;
        let (mut found, mut values) = (Vec::new(), Vec::new());
        while let Some(statement) = decoded.next_row(&mut values)? {
            let sql = *decoded.statements.get(statement).ok_or_else(damaged)?;
            found.push((sql.to_owned(), values.iter().map(|value| format!("{value:?}")).collect()));
        }
        Ok(found)
    }

    #[test]
    fn values_of_every_kind_come_back_as_they_were() {
        let mut recorder = Recorder::default();
        for number in [0, 1, -1, 63, -64, 64, 1 << 40, i64::MAX, i64::MIN] {
            recorder.add("one", params![number]).unwrap();
        }
        recorder.add("many", params![None::<i64>, 0.5, "", "a\0b", "a text of more than 16 bytes", true]).unwrap();
        let found = rows(&recorder.take()).unwrap();
        let numbers: Vec<&str> = found[..9].iter().map(|(_, values)| values[0].as_str()).collect();
        let want = [0, 1, -1, 63, -64, 64, 1 << 40, i64::MAX, i64::MIN].map(|number| format!("Integer({number})"));
        assert_eq!(numbers, want);
        let text = |text: &str| format!("{:?}", ValueRef::Text(text.as_bytes()));
        let want = [
            "Null".into(),
            "Real(0.5)".into(),
            text(""),
            text("a\0b"),
            text("a text of more than 16 bytes"),
            "Integer(1)".into(),
        ];
        assert_eq!(found[9], ("many".into(), want.to_vec()));
        assert!(recorder.is_empty());
    }

    #[test]
    fn a_text_to_many_recipients_is_written_once() {
        let text = "x".repeat(60_000);
        let mut recorder = Recorder::default();
        for recipient in 0..100 {
            recorder.add("send", params![recipient, text]).unwrap();
        }
        assert!(recorder.size() < 61_000);
        let changes = recorder.take();
        assert!(changes.as_bytes().len() < 61_000, "{}", changes.as_bytes().len());
        assert_eq!(rows(&changes).unwrap().len(), 100);
    }

    #[test]
    fn nothing_is_left_of_a_call_that_was_undone() {
        let mut recorder = Recorder::default();
        recorder.begin_call();
        recorder.add("kept", params!["a text that both calls share"]).unwrap();
        let size = recorder.size();
        recorder.begin_call();
        recorder.add("undone", params!["a text that both calls share", "and one of its own"]).unwrap();
        recorder.undo_call();
        assert_eq!(recorder.size(), size);
        recorder.add("after", params!["another text of its own"]).unwrap();
        let found = rows(&recorder.take()).unwrap();
        assert_eq!(found.iter().map(|(sql, _)| sql.as_str()).collect::<Vec<_>>(), ["kept", "after"]);
    }

    #[test]
    fn damaged_bytes_are_refused() {
        let mut recorder = Recorder::default();
        recorder.add("sql", params![7, "short", "a text of more than 16 bytes", None::<i64>]).unwrap();
        let whole = recorder.take();
        let bytes = whole.as_bytes();
        for n in 0..bytes.len() {
            assert!(rows(&Changeset::from_bytes(bytes[..n].to_vec())).is_err(), "cut at {n}");
            for wrong in [0, 0x7f, 0xff] {
                let mut bytes = bytes.to_vec();
                bytes[n] = wrong;
                // Damaged bytes may be a valid changeset by chance. They must never cause a panic or a huge allocation.
                let _ = rows(&Changeset::from_bytes(bytes));
            }
        }
        let longer = [bytes, &[0]].concat();
        assert!(rows(&Changeset::from_bytes(longer)).is_err());
        let newer = rows(&Changeset::from_bytes(vec![FORMAT + 1])).unwrap_err();
        assert!(matches!(newer, StoreError::Newer(..)), "{newer}");
    }
}
