//! The JSON fields of requests to the HTTP routes of slm-mesh 1.x. The fields have the same limits as the arguments of
//! the mesh's operations.

use super::no;
use crate::base::error::Error;
use crate::base::limits;
use crate::core::Op;
use crate::core::op_definition::ArgKind;
use serde_json::{Map, Value};

/// Returns the maximum length that an operation declares for an argument.
pub fn max_of(op: &Op, arg: &str) -> usize {
    match op.args.iter().find(|known| known.name == arg).map(|known| known.kind) {
        Some(ArgKind::Text { max, .. } | ArgKind::Texts { max, .. } | ArgKind::Units { max }) => max,
        _ => 0,
    }
}

/// Returns the values that an operation accepts for an argument.
pub fn choices_of(op: &Op, arg: &str) -> &'static [&'static str] {
    match op.args.iter().find(|known| known.name == arg).map(|known| known.kind) {
        Some(ArgKind::Choice(words)) => words,
        _ => &[],
    }
}

/// The fields of a request. A field of the wrong type counts as missing, and unknown fields are ignored.
pub struct Fields {
    values: Map<String, Value>,
    /// The repository of the directory in the request. The broker looks up the repository before the route runs.
    pub repository: Option<String>,
}

impl Fields {
    pub fn new(values: Map<String, Value>, repository: Option<String>) -> Fields {
        Fields { values, repository }
    }
    pub fn text(&self, name: &str) -> Option<&str> {
        self.values.get(name).and_then(Value::as_str)
    }
    /// Returns the text of a field; `None` if the field is missing or empty.
    pub fn word(&self, name: &str) -> Option<&str> {
        self.text(name).filter(|text| !text.is_empty())
    }
    pub fn integer(&self, name: &str) -> Option<i64> {
        self.values.get(name).and_then(Value::as_i64)
    }
    pub fn number(&self, name: &str) -> Option<f64> {
        self.values.get(name).and_then(Value::as_f64)
    }
    pub fn texts(&self, name: &str) -> Option<Vec<&str>> {
        let list = self.values.get(name).and_then(Value::as_array)?;
        Some(list.iter().take(limits::LIST_MAX).filter_map(Value::as_str).collect())
    }
    /// Returns the number of rows that the client wants. A negative number stands for the maximum.
    pub fn limit(&self, default: i64) -> i64 {
        let n = self.number("limit").map_or(default, |n| n as i64);
        if n < 0 { limits::ROWS_MAX } else { n.min(limits::ROWS_MAX) }
    }
    /// Returns the text of a field. Fails if the text is longer than the operation allows for `arg`.
    pub fn bounded(&self, name: &str, op: &Op, arg: &str) -> Result<Option<String>, Error> {
        let max = max_of(op, arg);
        match self.text(name) {
            Some(text) if text.len() > max => Err(no(format!("{name} too long (max {max} bytes)"))),
            text => Ok(text.map(str::to_owned)),
        }
    }
    /// Returns the text of a field; `None` if it is missing or empty. Fails if the text is longer than the operation
    /// allows.
    pub fn bounded_word(&self, name: &str, op: &Op, arg: &str) -> Result<Option<String>, Error> {
        Ok(self.bounded(name, op, arg)?.filter(|text| !text.is_empty()))
    }
}
