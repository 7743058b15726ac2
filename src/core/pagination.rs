//! Lists that end before all of it was said: where the next page begins.
//!
//! A place in a list is a number that only grows and a text that tells apart those which share it. Both
//! are a row's own, so that nothing is missed or said twice when other rows come and go in between.

use crate::base::error::Error;
use crate::base::limits;
use serde_json::{Value, json};

/// The longest mark, in bytes: a number and a path.
pub const MARK_MAX: usize = limits::PATH_MAX + 21;

/// Marks an answer behind whose last row, at this place, so many are left.
pub fn mark(value: &mut Value, n_left: usize, last: Option<(i64, &str)>) {
    if let Some((number, text)) = last.filter(|_| n_left > 0) {
        value["remaining"] = json!(n_left);
        value["next"] = json!(format!("{number} {text}"));
    }
}

/// The place that a mark names.
///
/// # Errors
/// When nobody gave it out.
pub fn read(mark: &str) -> Result<(i64, &str), Error> {
    let parts = mark.split_once(' ').and_then(|(number, text)| Some((number.parse().ok()?, text)));
    parts.ok_or_else(|| Error::usage("after", "want the next of an answer before"))
}
