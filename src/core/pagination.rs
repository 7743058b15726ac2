//! Splits lists that are too long for one answer into pages: the arguments that choose a page, the rows that fit into
//! the page, and the cursor after which the next page begins.
//!
//! A cursor consists of a number that ascends from row to row, and of a string that distinguishes rows with the same
//! number. Both come from the last row of a page, so no row is missed or repeated if other rows appear or disappear
//! before the next page is read.

use super::Arg;
use super::op_definition::ArgKind;
use crate::base::error::Error;
use crate::base::json_text::json_length;
use crate::base::limits;
use serde_json::{Value, json};

/// Maximum size of the rows in an answer that people read, in bytes. Two of the longest messages fit.
pub const PAGE_FOR_PEOPLE_MAX: usize = 128 * 1024;

/// Maximum length of a cursor, in bytes: enough for a number and a path.
pub const CURSOR_MAX: usize = limits::PATH_MAX + 21;

/// The argument that limits the number of rows in an answer.
pub const fn limit(max: i64, help: &'static str) -> Arg {
    Arg::new("limit", ArgKind::Int { min: 1, max }, help)
}

/// The argument that names the sequence number after which the rows begin.
pub const fn after(help: &'static str) -> Arg {
    Arg::new("after", ArgKind::Int { min: 0, max: i64::MAX }, help)
}

/// The argument that names the sequence number before which the rows end.
pub const fn before(help: &'static str) -> Arg {
    Arg::new("before", ArgKind::Int { min: 0, max: i64::MAX }, help)
}

/// The argument that names the cursor of the next page. The cursor has at most `max` bytes.
pub const fn next_page(max: usize) -> Arg {
    Arg::new("after", ArgKind::Text { min: 1, max }, "Where to start: `next` from the previous answer")
        .placeholder("CURSOR")
        .not_in_tool()
}

/// The rows of one answer.
#[derive(Debug)]
pub struct Page {
    rows: Vec<Value>,
    size: usize,
    size_max: usize,
}

impl Default for Page {
    /// A page that fits into a tool result.
    fn default() -> Page {
        Page { rows: Vec::new(), size: 0, size_max: limits::PAGE_MAX }
    }
}

impl Page {
    /// A page for a person or a program, which need not fit into a tool result.
    pub fn for_people() -> Page {
        Page { size_max: PAGE_FOR_PEOPLE_MAX, ..Page::default() }
    }

    /// Adds a row if the row fits. Returns whether it was added. The first row always fits, so that each page makes
    /// progress.
    #[must_use]
    pub fn add(&mut self, row: Value) -> bool {
        self.size += json_length(&row);
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

/// If rows are left, adds two facts to an answer: how many are left, and the cursor of the last row in this answer.
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
