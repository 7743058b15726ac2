//! Formats JSON values as text. Their `Display` gives the same text, but takes twice as many instructions.

use serde_json::Value;

/// The text of a value.
pub fn json_text(value: &Value) -> String {
    // An error is impossible: writing to a string always succeeds, and the keys of a `Value` are strings.
    serde_json::to_string(value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_text_is_that_of_display() {
        let values = [
            json!(null),
            json!(-1.5e300),
            json!("ä \u{7} \" \\ \u{1F600}"),
            json!({ "b": [1, true, {}], "a": { "nested": [[]] } }),
        ];
        for value in values {
            assert_eq!(json_text(&value), value.to_string());
        }
    }
}
