//! Wildcards as the shell knows them: `*`, `?` and brackets, and `**` between slashes.

/// One element of a pattern.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Sign {
    /// A character that stands for itself.
    Literal(char),
    /// `*`.
    Any,
    /// `?`.
    One,
    /// `[…]`: whether it excludes, and the ranges.
    Set(bool, Vec<(char, char)>),
}

/// Parses a pattern, of which only the characters marked `true` are live.
pub(super) fn pattern(text: &[(char, bool)]) -> Vec<Sign> {
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

/// Parses a pattern in which every character is live.
pub(super) fn live_pattern(text: &str) -> Vec<Sign> {
    pattern(&text.chars().map(|c| (c, true)).collect::<Vec<_>>())
}

/// Whether a text without quotes has wildcards.
pub(super) fn has_wildcards(text: &str) -> bool {
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
            // A slash is in no file name; `[:class:]` is beyond this module.
            '/' | '[' => return None,
            _ => {}
        }
        let is_range = matches!(text.get(at + 1), Some(('-', _))) && !matches!(text.get(at + 2), None | Some((']', _)));
        let last = if is_range { text[at + 2].0 } else { c };
        ranges.push((c, last));
        at += if is_range { 3 } else { 1 };
    }
}

/// Whether a name fits, in time proportional to both lengths multiplied.
pub(super) fn fits(name: &[char], signs: &[Sign]) -> bool {
    let (mut n, mut s) = (0, 0);
    let mut star = None;
    while n < name.len() {
        let is_one = match signs.get(s) {
            Some(Sign::Any) => {
                star = Some((s, n));
                s += 1;
                continue;
            }
            Some(sign) => fits_one(name[n], sign),
            None => false,
        };
        if is_one {
            n += 1;
            s += 1;
        } else if let Some((at, from)) = star {
            star = Some((at, from + 1));
            n = from + 1;
            s = at + 1;
        } else {
            return false;
        }
    }
    signs[s..].iter().all(|sign| *sign == Sign::Any)
}

fn fits_one(c: char, sign: &Sign) -> bool {
    match sign {
        Sign::Literal(literal) => *literal == c,
        Sign::One => true,
        Sign::Any => false,
        Sign::Set(excludes, ranges) => ranges.iter().any(|(first, last)| (*first..=*last).contains(&c)) != *excludes,
    }
}

/// Whether a text fits a pattern whose characters are all live.
pub(super) fn text_fits(text: &str, signs: &[Sign]) -> bool {
    fits(&text.chars().collect::<Vec<_>>(), signs)
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
