//! Matches names with shell patterns, which contain `*`, `?` or brackets. Also quotes words for a shell.

/// Quotes a word for a shell, if this is necessary.
pub fn shell_quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._+-@:,=".contains(c);
    if word.chars().all(is_plain) { word.to_owned() } else { format!("'{}'", word.replace('\'', "'\\''")) }
}

/// One element of a pattern.
#[derive(Debug, Clone, PartialEq)]
pub enum Sign {
    /// A literal character.
    Literal(char),
    /// `*`, which matches any number of characters.
    Any,
    /// `?`, which matches one character.
    One,
    /// `[…]`, as ranges. The flag is true if the ranges are excluded, as in `[!…]`.
    Set(bool, Vec<(char, char)>),
}

/// Parses a pattern. Only a character that is marked `true` can be a wildcard. All other characters are literal.
pub fn pattern(text: &[(char, bool)]) -> Vec<Sign> {
    let mut signs = Vec::new();
    let mut at = 0;
    while let Some((c, live)) = text.get(at).copied() {
        at += 1;
        match c {
            '*' if live => signs.push(Sign::Any),
            '?' if live => signs.push(Sign::One),
            '[' if live => match set(&text[at..]) {
                Some((set, length)) => {
                    signs.push(set);
                    at += length;
                }
                None => signs.push(Sign::Literal(c)),
            },
            c => signs.push(Sign::Literal(c)),
        }
    }
    signs
}

/// Parses a pattern in which every character can be a wildcard.
pub fn live_pattern(text: &str) -> Vec<Sign> {
    pattern(&text.chars().map(|c| (c, true)).collect::<Vec<_>>())
}

/// Whether an unquoted string contains wildcards.
pub fn has_wildcards(text: &str) -> bool {
    text.contains(['*', '?', '['])
}

fn set(text: &[(char, bool)]) -> Option<(Sign, usize)> {
    let excludes = matches!(text.first(), Some(('!' | '^', _)));
    let start = usize::from(excludes);
    let mut at = start;
    let mut ranges = Vec::new();
    loop {
        let (c, _) = *text.get(at)?;
        match c {
            ']' if at > start => return Some((Sign::Set(excludes, ranges), at + 1)),
            // A set with a slash can't match a file name, and `[:class:]` is not supported.
            '/' | '[' => return None,
            _ => {}
        }
        let is_range = matches!(text.get(at + 1), Some(('-', _))) && !matches!(text.get(at + 2), None | Some((']', _)));
        let last = if is_range { text[at + 2].0 } else { c };
        ranges.push((c, last));
        at += if is_range { 3 } else { 1 };
    }
}

/// Whether a string matches a pattern. The time is at most proportional to the product of their lengths.
pub fn text_fits(text: &str, signs: &[Sign]) -> bool {
    // The end of most names differs from the end of the pattern, as in `a.py` and `*.rs`. So the ends are compared
    // first.
    if let Some(Sign::Literal(last)) = signs.last()
        && !text.ends_with(*last)
    {
        return false;
    }
    let (mut rest, mut s) = (text.chars(), 0);
    // The rest of the pattern after the latest `*`, and the position in the text where this rest was last tried.
    let mut star = None;
    loop {
        if let Some(Sign::Any) = signs.get(s) {
            s += 1;
            if s == signs.len() {
                return true;
            }
            star = Some((s, rest.clone()));
            continue;
        }
        let mut after = rest.clone();
        let Some(c) = after.next() else { return s == signs.len() };
        if signs.get(s).is_some_and(|sign| fits_one(c, sign)) {
            rest = after;
            s += 1;
        } else if let Some((follows, begins)) = &mut star {
            begins.next();
            rest = begins.clone();
            s = *follows;
        } else {
            return false;
        }
    }
}

fn fits_one(c: char, sign: &Sign) -> bool {
    match sign {
        Sign::Literal(literal) => *literal == c,
        Sign::One => true,
        Sign::Any => false,
        Sign::Set(excludes, ranges) => ranges.iter().any(|(first, last)| (*first..=*last).contains(&c)) != *excludes,
    }
}

#[cfg(test)]
mod tests {
    use super::{live_pattern, text_fits};

    #[test]
    fn names_fit_their_patterns() {
        for (pattern, name, want) in [
            ("*.py", "a.py", true),
            ("*.py", "a.pyc", false),
            ("[a-c]?.rs", "bx.rs", true),
            ("[!a-c]*", "b", false),
            ("a*b*c", "a-b-b-c", true),
            ("[x", "[x", true),
            ("", "", true),
        ] {
            assert_eq!(text_fits(name, &live_pattern(pattern)), want, "{pattern} {name}");
        }
    }
}
