//! The JSON fields of requests to the HTTP routes of slm-mesh 1.x.

use super::no;
use crate::base::error::Error;
use crate::base::limits;
use serde_json::{Map, Value};

/// Cuts an id or a name to the maximum number of characters that is stored. Clients may send longer ones.
pub fn shortened(text: &str) -> String {
    text.chars().take(limits::WORD_MAX).collect()
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
    /// Returns the peer's id in a field; `None` if it is missing or empty. Fails if the id is longer than an id may be.
    pub fn short_id(&self, name: &str) -> Result<Option<&str>, Error> {
        match self.word(name) {
            Some(id) if id.len() > limits::WORD_MAX => {
                Err(no(format!("{name} too long (max {} bytes)", limits::WORD_MAX)))
            }
            id => Ok(id),
        }
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
}
