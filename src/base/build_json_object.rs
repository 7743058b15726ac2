//! Builds JSON objects from values without copying the values.

use serde_json::{Map, Value};

/// An object with these fields, in this order. `json!` would copy each value, and copying a value costs more than
/// creating it.
pub fn json_object<const N: usize>(fields: [(&str, Value); N]) -> Value {
    let mut map = Map::with_capacity(N);
    for (name, value) in fields {
        map.insert(name.to_owned(), value);
    }
    Value::Object(map)
}
