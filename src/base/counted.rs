//! Formats numbers with their nouns.

/// Formats a number with its noun in the singular or the plural: `1 entry`, `2 entries`.
pub fn counted(n: usize, one: &str, many: &str) -> String {
    format!("{n} {}", if n == 1 { one } else { many })
}
