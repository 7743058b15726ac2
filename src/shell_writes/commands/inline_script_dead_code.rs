//! Removes the parts of a script that certainly do not run.

use super::inline_script_tokens::{Language, Token};
use super::inline_script_variables::name;
use std::collections::HashMap;

/// Removes from a Python script the code that never runs: blocks after `if False` or `if 0`, and functions whose names
/// occur nowhere else.
pub(super) fn without_uncalled_blocks(script: &str) -> String {
    let mut kept = String::with_capacity(script.len());
    // The indentation of the block that is being skipped.
    let mut skipped = None;
    let counts = counts(script.split(|c: char| !is_name(c)));
    for line in script.lines() {
        let text = line.trim_start();
        let indentation = line.len() - text.len();
        if skipped.is_some_and(|outer| text.is_empty() || indentation > outer) {
            continue;
        }
        skipped = never_runs(text, &counts).then_some(indentation);
        if skipped.is_none() {
            kept.push_str(line);
            kept.push('\n');
        }
    }
    kept
}

/// Whether a line of a Python script begins a block that never runs.
fn never_runs(line: &str, counts: &HashMap<&str, usize>) -> bool {
    if line.starts_with("if False:") || line.starts_with("if 0:") {
        return true;
    }
    let definition = line.strip_prefix("async ").unwrap_or(line).trim_start().strip_prefix("def ");
    let function = definition.and_then(|rest| rest.split(|c: char| !is_name(c)).next()).unwrap_or_default();
    // Python calls functions such as `__init__` implicitly, so they may run although their names occur only once.
    !function.is_empty() && !function.starts_with("__") && counts.get(function) == Some(&1)
}

fn is_name(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The number of times that each word occurs.
fn counts<'w>(words: impl Iterator<Item = &'w str>) -> HashMap<&'w str, usize> {
    let mut counts = HashMap::new();
    words.for_each(|word| *counts.entry(word).or_default() += 1);
    counts
}

/// Removes functions whose names occur nowhere else. Does nothing for Python and Ruby, because their functions have no
/// braces.
pub(super) fn without_uncalled_functions(tokens: Vec<Token>, language: Language) -> Vec<Token> {
    let keyword = match language {
        Language::JavaScript | Language::Php => "function",
        Language::Perl => "sub",
        Language::Python | Language::Ruby => return tokens,
    };
    let counts = counts(tokens.iter().filter_map(|token| name(Some(token))));
    let mut kept = Vec::with_capacity(tokens.len());
    let mut at = 0;
    while at < tokens.len() {
        let function = name(tokens.get(at + 1)).filter(|_| name(tokens.get(at)) == Some(keyword));
        let is_uncalled = function.is_some_and(|function| counts.get(function) == Some(&1));
        match is_uncalled.then(|| end_of_body(&tokens, at)).flatten() {
            Some(end) => at = end,
            None => {
                kept.push(tokens[at].clone());
                at += 1;
            }
        }
    }
    kept
}

/// The index of the token after the first complete pair of braces. The search begins at `at`.
fn end_of_body(tokens: &[Token], at: usize) -> Option<usize> {
    let mut open = 0_usize;
    for (n, token) in tokens.iter().enumerate().skip(at) {
        match token {
            Token::Sign('{') => open += 1,
            Token::Sign('}') => {
                open = open.checked_sub(1)?;
                if open == 0 {
                    return Some(n + 1);
                }
            }
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shell_writes::commands::inline_script_tokens::tokens;

    #[test]
    fn functions_that_nobody_calls_are_left_out() {
        for (script, want) in [
            ("def f():\n    a()\n\n    b()\nc()", "c()\n"),
            ("def f():\n    a()\nf()", "def f():\n    a()\nf()\n"),
            ("class A:\n    def __init__(self):\n        a()\n", "class A:\n    def __init__(self):\n        a()\n"),
            ("if False:\n  a()\nelse:\n  b()", "else:\n  b()\n"),
            ("async def f(): a()\nb()", "b()\n"),
        ] {
            assert_eq!(without_uncalled_blocks(script), want);
        }
        let script = "function f(){ if (1) { a() } } function g(){ b() } g()";
        let kept = without_uncalled_functions(tokens(script, Language::JavaScript).unwrap(), Language::JavaScript);
        let has = |word: &str| kept.iter().any(|token| name(Some(token)) == Some(word));
        assert!(!has("a") && has("b"), "{kept:?}");
    }
}
