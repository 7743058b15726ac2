//! Numbers with their nouns.

/// A number and its noun: `1 entry`, `2 entries`.
pub fn counted(n: usize, one: &str, many: &str) -> String {
    format!("{n} {}", if n == 1 { one } else { many })
}
