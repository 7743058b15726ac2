//! Reads git's settings files, whose syntax is described in git-config(1). A line that ends in a backslash is not
//! joined with the next line, because a URL needs only one line.

/// One setting.
#[derive(Debug, PartialEq)]
pub(super) struct ConfigEntry {
    /// The section in lower case: the first word in `[section "subsection"]`.
    pub(super) section: String,
    /// The subsection, which is case-sensitive.
    pub(super) subsection: String,
    /// The name, in lower case.
    pub(super) name: String,
    /// The value, without quotes and comments.
    pub(super) value: String,
}

/// The settings in the text of a file, in the order in which they appear.
pub(super) fn entries(text: &str) -> impl Iterator<Item = ConfigEntry> {
    let (mut section, mut subsection) = (String::new(), String::new());
    // An editor may have put a byte order mark before the first section.
    text.trim_start_matches('\u{feff}').lines().filter_map(move |line| {
        let mut line = line.trim();
        if let Some(head) = line.strip_prefix('[') {
            let (head, rest) = split_head(head)?;
            (section, subsection) = match head.split_once(char::is_whitespace) {
                Some((name, sub)) => (name.to_lowercase(), unquoted(sub.trim())),
                // `[section.subsection]` is an old form that ignores case.
                None => {
                    let head = head.to_lowercase();
                    head.split_once('.').map_or_else(|| (head.clone(), String::new()), |(a, b)| (a.into(), b.into()))
                }
            };
            line = rest.trim();
        }
        let (name, value) = line.split_once('=')?;
        let (section, subsection) = (section.clone(), subsection.clone());
        Some(ConfigEntry { section, subsection, name: name.trim().to_lowercase(), value: unquoted(value.trim()) })
    })
}

/// Splits a text at its closing bracket. The text starts after the opening bracket. Returns the text in the brackets,
/// and the text after the closing bracket.
fn split_head(text: &str) -> Option<(&str, &str)> {
    let (mut is_quoted, mut is_escaped) = (false, false);
    for (at, c) in text.char_indices() {
        match c {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            '"' => is_quoted = !is_quoted,
            ']' if !is_quoted => return Some((&text[..at], &text[at + 1..])),
            _ => {}
        }
    }
    None
}

/// The value without quotes, with escapes resolved, and without the comment after it.
fn unquoted(text: &str) -> String {
    let mut plain = String::new();
    let mut is_quoted = false;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '"' => is_quoted = !is_quoted,
            '\\' => plain.extend(chars.next()),
            '#' | ';' if !is_quoted => break,
            _ => plain.push(c),
        }
    }
    plain.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_read_in_every_form_of_the_manual() {
        let text = "[url \"git@h:\"]\n\tinsteadOf = gh: # short\n[Remote \"o]x\"] URL=\"a;b\"\n[core]\n; no\nbare\n";
        let entry = |section: &str, subsection: &str, name: &str, value: &str| ConfigEntry {
            section: section.into(),
            subsection: subsection.into(),
            name: name.into(),
            value: value.into(),
        };
        let found: Vec<ConfigEntry> = entries(text).collect();
        assert_eq!(found, [entry("url", "git@h:", "insteadof", "gh:"), entry("remote", "o]x", "url", "a;b")]);
    }
}
