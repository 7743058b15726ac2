//! Pages of lists that are longer than one answer, with the cursor at which the next page begins.
//!
//! A cursor is an ascending number, and a text that distinguishes rows with the same number. Both belong to the row
//! itself, so no row is missed or repeated when others come and go in between.

use crate::base::error::Error;
use crate::base::limits;
use serde_json::{Value, json};

/// The longest cursor, in bytes: a number and a path.
pub const CURSOR_MAX: usize = limits::PATH_MAX + 21;

/// Adds to an answer how many rows are left and the cursor of its last row, if any are left.
pub fn add_cursor(value: &mut Value, n_left: usize, last: Option<(i64, &str)>) {
    if let Some((number, text)) = last.filter(|_| n_left > 0) {
        value["remaining"] = json!(n_left);
        value["next"] = json!(format!("{number} {text}"));
    }
}

/// Reads a cursor.
///
/// # Errors
/// When the text is not a cursor.
pub fn parse_cursor(cursor: &str) -> Result<(i64, &str), Error> {
    let parts = cursor.split_once(' ').and_then(|(number, text)| Some((number.parse().ok()?, text)));
    parts.ok_or_else(|| Error::usage("after", "want the value of next from the previous answer"))
}
