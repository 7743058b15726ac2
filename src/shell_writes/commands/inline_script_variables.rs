//! Finds the values of the variables in a script, if they are plain literals.

use super::inline_script_tokens::Token;
use std::collections::HashMap;

/// Maximum number of functions whose calls are examined.
const FUNCTIONS_MAX: usize = 64;

/// The values that a variable may have in a script.
#[derive(Debug, Clone, Default)]
pub(super) struct Binding {
    /// All literals that the script assigns to the variable, in the order of the script.
    pub values: Vec<String>,
    /// Whether the values are `pathlib` objects.
    pub is_path: bool,
    /// Whether the variable may have other values that are unknown.
    pub is_unknown: bool,
}

/// The text of a token, if the token is a name.
pub(super) fn name(token: Option<&Token>) -> Option<&str> {
    if let Some(Token::Name(name)) = token { Some(name) } else { None }
}

/// Whether a token is this character.
pub(super) fn is_sign(token: Option<&Token>, sign: char) -> bool {
    token == Some(&Token::Sign(sign))
}

/// Parses an expression such as `Path("a") / "b"` at this position. Returns the path, and the index of the token after
/// the expression.
pub(super) fn path_literal(tokens: &[Token], at: usize) -> Option<(String, usize)> {
    let mut at = at;
    if name(tokens.get(at)) == Some("pathlib") && is_sign(tokens.get(at + 1), '.') {
        at += 2;
    }
    let is_path = name(tokens.get(at)) == Some("Path") && is_sign(tokens.get(at + 1), '(');
    let (Some(Token::Text(text)), true) = (tokens.get(at + 2), is_path && is_sign(tokens.get(at + 3), ')')) else {
        return None;
    };
    let mut text = text.clone();
    at += 4;
    while let (true, Some(Token::Text(part))) = (is_sign(tokens.get(at), '/'), tokens.get(at + 1)) {
        text = format!("{text}/{part}");
        at += 2;
    }
    Some((text, at))
}

/// Parses a list such as `["a", "b"]` or `("a", "b")` at this position. Returns the texts in the list, and the index of
/// the token after the list.
pub(super) fn list_literal(tokens: &[Token], at: usize) -> Option<(Vec<String>, usize)> {
    let close = if is_sign(tokens.get(at), '[') { ']' } else { ')' };
    if !is_sign(tokens.get(at), '[') && !is_sign(tokens.get(at), '(') {
        return None;
    }
    let mut values = Vec::new();
    let mut at = at + 1;
    loop {
        match tokens.get(at)? {
            Token::Text(text) => values.push(text.clone()),
            Token::Sign(sign) if *sign == close => return Some((values, at + 1)),
            Token::End => {}
            _ => return None,
        }
        at += 1;
        match tokens.get(at)? {
            Token::Sign(',') => at += 1,
            Token::Sign(sign) if *sign == close => {}
            _ => return None,
        }
    }
}

/// The values of all variables in a script.
pub(super) fn bindings(tokens: &[Token]) -> HashMap<String, Binding> {
    let mut found: HashMap<String, Binding> = HashMap::new();
    let mut open = 0_usize;
    let mut n_functions = 0;
    for (at, token) in tokens.iter().enumerate() {
        match token {
            Token::Sign('(' | '[') => open += 1,
            Token::Sign(')' | ']') => open = open.saturating_sub(1),
            Token::Sign('=') => {
                if is_sign(tokens.get(at + 1), '>') {
                    forget_parameters(tokens, at, &mut found);
                } else if open == 0 {
                    assignment(tokens, at, &mut found);
                }
            }
            Token::Name(word) => match word.as_str() {
                "for" => for_names(tokens, at, &mut found),
                "as" | "lambda" | "catch" => {
                    name(tokens.get(at + 1)).into_iter().for_each(|name| forget(name, &mut found));
                }
                "def" | "function" => {
                    n_functions += 1;
                    parameters(tokens, at, n_functions <= FUNCTIONS_MAX, &mut found);
                }
                _ => {}
            },
            _ => {}
        }
    }
    found
}

fn forget(name: &str, found: &mut HashMap<String, Binding>) {
    found.entry(name.to_owned()).or_default().is_unknown = true;
}

/// Records the value of the assignment `name = value`. `at` is the index of the `=` token.
fn assignment(tokens: &[Token], at: usize, found: &mut HashMap<String, Binding>) {
    let is_comparison =
        is_sign(tokens.get(at + 1), '=') || at > 0 && matches!(&tokens[at - 1], Token::Sign('=' | '!' | '<' | '>'));
    let Some(target) = at.checked_sub(1).filter(|_| !is_comparison) else { return };
    let Some(word) = name(tokens.get(target)) else {
        // The assignment is `name += value` or a more complex expression, so the variable's value is unknown.
        target.checked_sub(1).and_then(|n| name(tokens.get(n))).into_iter().for_each(|name| forget(name, found));
        return;
    };
    // In `a, b = …`, the values of all variables are unknown.
    let mut before = target;
    while before >= 2 && is_sign(tokens.get(before - 1), ',') {
        before -= 2;
        name(tokens.get(before)).into_iter().for_each(|name| forget(name, found));
    }
    if target > 0 && is_sign(tokens.get(target - 1), '.') {
        return;
    }
    let binding = found.entry(word.to_owned()).or_default();
    let ends = |at: usize| matches!(tokens.get(at), Some(Token::End | Token::Sign('}')) | None);
    let is_tuple = before != target;
    match (tokens.get(at + 1), path_literal(tokens, at + 1), list_literal(tokens, at + 1)) {
        (Some(Token::Text(text)), _, _) if ends(at + 2) && !is_tuple => binding.values.push(text.clone()),
        (_, Some((text, end)), _) if ends(end) && !is_tuple => {
            binding.values.push(text);
            binding.is_path = true;
        }
        (_, _, Some((texts, end))) if ends(end) && !is_tuple => binding.values.extend(texts),
        _ => binding.is_unknown = true,
    }
}

/// Records the values of the variable in `for name in […]` or `for name of […]`.
fn for_names(tokens: &[Token], at: usize, found: &mut HashMap<String, Binding>) {
    let mut targets = Vec::new();
    for (n, token) in tokens.iter().enumerate().skip(at + 1).take(12) {
        match token {
            Token::Name(word) if word == "in" || word == "of" => {
                let list = list_literal(tokens, n + 1).map(|(values, _)| values);
                let list = list.or_else(|| {
                    let binding = found.get(name(tokens.get(n + 1))?)?;
                    (!binding.is_unknown && binding.values.len() > 1).then(|| binding.values.clone())
                });
                match (targets.as_slice(), list) {
                    ([target], Some(values)) => found.entry(String::clone(target)).or_default().values.extend(values),
                    _ => targets.iter().for_each(|target| forget(target, found)),
                }
                return;
            }
            Token::Name(word) if !matches!(word.as_str(), "const" | "let" | "var") => targets.push(word.clone()),
            Token::End => break,
            _ => {}
        }
    }
    targets.iter().for_each(|target| forget(target, found));
}

/// Records the values of a function's parameters. The values of the first parameter are the literals in calls of the
/// function. The values of all other parameters are unknown.
fn parameters(tokens: &[Token], at: usize, looks_for_calls: bool, found: &mut HashMap<String, Binding>) {
    let Some(function) = name(tokens.get(at + 1)) else { return };
    let Some(end) = tokens.iter().skip(at).take(200).position(|token| *token == Token::Sign(')')).map(|n| n + at)
    else {
        return;
    };
    let names: Vec<&str> = tokens[(at + 2).min(end)..end].iter().filter_map(|token| name(Some(token))).collect();
    let Some((first, rest)) = names.split_first() else { return };
    rest.iter().for_each(|name| forget(name, found));
    let near = if looks_for_calls { tokens } else { &[] };
    let calls = near
        .windows(3)
        .enumerate()
        .filter(|(n, window)| *n != at + 1 && name(window.first()) == Some(function) && is_sign(window.get(1), '('));
    for (n, window) in calls {
        let is_whole = matches!(tokens.get(n + 3), Some(Token::Sign(',' | ')')));
        if let (Token::Text(text), true) = (&window[2], is_whole) {
            found.entry((*first).to_owned()).or_default().values.push(text.clone());
        }
    }
    if !found.contains_key(*first) {
        forget(first, found);
    }
}

/// Marks the parameters of an arrow function such as `(a, b) => …` as unknown.
fn forget_parameters(tokens: &[Token], at: usize, found: &mut HashMap<String, Binding>) {
    for token in tokens[..at].iter().rev().take(20) {
        match token {
            Token::Name(name) => forget(name, found),
            Token::Sign(')' | ',' | '{' | '}') => {}
            _ => return,
        }
    }
}
