//! Finds the files that an awk script writes, and the commands that it runs.

/// An awk script, and the variables that command-line options set.
pub(super) struct AwkScript<'s> {
    pub script: &'s str,
    /// The names and values of `-v name=value`.
    pub assigned: &'s [(&'s str, &'s str)],
}

impl AwkScript<'_> {
    /// The files that the script certainly writes, and the commands that it certainly runs.
    pub(super) fn outputs(&self) -> (Vec<String>, Vec<String>) {
        let (mut files, mut commands) = (Vec::new(), Vec::new());
        let mut prints = false;
        let mut rest = self.script;
        while let Some(first) = rest.chars().next() {
            match first {
                '"' => {
                    let Some((_, behind)) = literal(rest) else { return (files, commands) };
                    rest = behind;
                    continue;
                }
                '{' | '}' | ';' | '\n' => prints = false,
                '#' => rest = &rest[rest.find('\n').unwrap_or(rest.len() - 1)..],
                'p' if rest.starts_with("print") => prints = true,
                's' if rest.starts_with("system(") => {
                    let call = literal(&rest["system(".len()..]);
                    commands.extend(call.filter(|(_, behind)| behind.starts_with(')')).map(|(text, _)| text));
                }
                // In a `print` statement, `>` writes to a file. Elsewhere, it is a comparison.
                '>' if prints => {
                    let target = rest.trim_start_matches('>').trim_start_matches(' ');
                    files.extend(self.whole_value(target));
                    rest = target;
                    continue;
                }
                '|' if prints && !rest.starts_with("||") => {
                    let target = rest[1..].trim_start_matches('&').trim_start_matches(' ');
                    commands.extend(self.whole_value(target));
                    rest = target;
                    continue;
                }
                _ => {}
            }
            rest = &rest[first.len_utf8()..];
        }
        (files, commands)
    }

    /// The value of the string or variable at the start of `text`, if the statement ends right after it.
    fn whole_value(&self, text: &str) -> Option<String> {
        let (value, behind) = literal(text).or_else(|| self.variable(text))?;
        let behind = behind.trim_start_matches(' ');
        (behind.trim().is_empty() || behind.starts_with([';', '}', '\n'])).then_some(value)
    }

    /// The value of the variable at the start of `text`, and the text after the variable. `None` if the command line
    /// does not set the variable, or if the script also uses the variable elsewhere and may change it there.
    fn variable<'t>(&self, text: &'t str) -> Option<(String, &'t str)> {
        let end = text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(text.len());
        let (name, behind) = text.split_at(end);
        let (_, value) = self.assigned.iter().find(|(assigned, _)| *assigned == name)?;
        let n_uses = self.script.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').filter(|word| *word == name);
        (n_uses.count() == 1 && !value.contains('\\')).then(|| ((*value).to_owned(), behind))
    }
}

/// The string at the start of `text`, and the text after the string. `None` if the string contains escapes.
fn literal(text: &str) -> Option<(String, &str)> {
    let inner = text.strip_prefix('"')?;
    let end = inner.find(['"', '\\'])?;
    let behind = inner[end..].strip_prefix('"')?;
    Some((inner[..end].to_owned(), behind))
}
