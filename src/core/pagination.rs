//! Splits a list into pages if the list is too long for one reply. A reply contains one page and a cursor. The next
//! page begins at the cursor.
//!
//! A cursor describes the last row of a page by a number and a string. The rows are sorted by the number, and the
//! string distinguishes rows with the same number. No row is missed or repeated, even if other rows appear or disappear
//! before the next page is read.

use super::op_definition::ArgKind;
use super::{Arg, CliPlace};
use crate::base::error::Error;
use crate::base::json_text::visible_json_length;
use crate::base::limits;
use serde_json::{Value, json};

/// Maximum size of all rows in a page for people, in bytes. Two messages of maximum length fit into a page.
pub const PAGE_FOR_PEOPLE_MAX: usize = 128 * 1024;

/// Maximum length of a cursor, in bytes. This is enough for a number and a path.
pub const CURSOR_MAX: usize = limits::PATH_MAX + 21;

/// The argument `limit`, the maximum number of rows in a reply.
pub const fn limit(max: i64, help: &'static str) -> Arg {
    Arg::new("limit", ArgKind::Int { min: 1, max }, help)
}

/// The argument `rows`, with which a program gets more rows than `limit` allows.
pub const fn rows() -> Arg {
    Arg::new("rows", ArgKind::Int { min: 1, max: limits::ROWS_MAX }, "Maximum number of rows; replaces `limit`")
        .at(CliPlace::Hidden)
        .not_in_tool()
}

/// The argument `after`. The list begins after the row with this sequence number.
pub const fn after(help: &'static str) -> Arg {
    Arg::new("after", ArgKind::Int { min: 0, max: i64::MAX }, help)
}

/// The argument `before`. The list ends before the row with this sequence number.
pub const fn before(help: &'static str) -> Arg {
    Arg::new("before", ArgKind::Int { min: 0, max: i64::MAX }, help)
}

/// The argument `after` for the cursor at which the next page begins. The cursor has at most `max` bytes.
pub const fn next_page(max: usize) -> Arg {
    Arg::new("after", ArgKind::Text { min: 1, max }, "Where to start: `next` from the previous answer")
        .placeholder("CURSOR")
        .not_in_tool()
}

/// One page of a list. It contains the rows of one reply.
#[derive(Debug)]
pub struct Page {
    rows: Vec<Value>,
    size: usize,
    size_max: usize,
    /// Measures a row in bytes.
    measure: fn(&Value) -> usize,
}

impl Default for Page {
    /// A page that fits into a tool result.
    fn default() -> Page {
        Page { rows: Vec::new(), size: 0, size_max: limits::PAGE_MAX, measure: visible_json_length }
    }
}

impl Page {
    /// Makes a page for a person or a program. Such a page may be longer than a tool result.
    pub fn for_people() -> Page {
        Page { size_max: PAGE_FOR_PEOPLE_MAX, ..Page::default() }
    }

    /// Makes a page for a program that uses HTTP. Most lists fit into one such page.
    pub fn for_programs() -> Page {
        Page { size_max: limits::ROWS_BYTES_MAX, measure: approximate_size, ..Page::default() }
    }

    /// The maximum size of all rows of the page, in bytes.
    pub fn size_max(&self) -> usize {
        self.size_max
    }

    /// Adds a row if there is room for it, and returns whether the row was added. The first row is always added.
    /// Otherwise, a row that is too long for any page would block all later rows.
    #[must_use]
    pub fn add(&mut self, row: Value) -> bool {
        self.size += (self.measure)(&row);
        let fits = self.rows.is_empty() || self.size <= self.size_max;
        if fits {
            self.rows.push(row);
        }
        fits
    }

    /// How many rows the page has.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether the page has no rows.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The rows.
    pub fn into_rows(self) -> Vec<Value> {
        self.rows
    }
}

/// Returns the size of a row in bytes, without counting escapes. This takes hardly any time, even for long texts, and the
/// size of a page for programs has to be limited only roughly.
fn approximate_size(row: &Value) -> usize {
    match row {
        Value::String(text) => text.len(),
        Value::Array(items) => items.iter().map(approximate_size).sum(),
        Value::Object(fields) => fields.iter().map(|(name, value)| name.len() + approximate_size(value)).sum(),
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
    }
}

/// If rows remain after this page, adds the number of these rows and the cursor of the next page to the reply. `last`
/// describes the last row of this page.
pub fn add_cursor(value: &mut Value, n_left: usize, last: Option<(i64, &str)>) {
    if let Some((number, text)) = last.filter(|_| n_left > 0) {
        value["remaining"] = json!(n_left);
        value["next"] = json!(format!("{number} {text}"));
    }
}

/// Parses a cursor.
///
/// # Errors
/// When the text is not a cursor.
pub fn parse_cursor(cursor: &str) -> Result<(i64, &str), Error> {
    let parts = cursor.split_once(' ').and_then(|(number, text)| Some((number.parse().ok()?, text)));
    parts.ok_or_else(|| Error::usage("after", "expected the value of `next` from the previous answer"))
}
