//! Finds the files that a sed script writes with the command `w`.

use std::iter::Peekable;
use std::str::Chars;

/// Commands whose argument is the rest of the line: a text, a file, a label or a comment.
const TAKES_LINE: &[char] = &['a', 'i', 'c', 'r', 'R', ':', '#'];
/// Commands without arguments.
const IS_WHOLE: &[char] = &['}', '=', 'd', 'D', 'g', 'G', 'h', 'H', 'n', 'N', 'p', 'P', 'x', 'z', 'F'];

/// The files that a sed script writes, even if no line of the input matches. `None` if the script contains an unknown
/// command.
pub(super) fn written_files(script: &str) -> Option<Vec<String>> {
    let mut reader = ScriptReader { rest: script.chars().peekable() };
    let mut found = Vec::new();
    while reader.skip(|c| c.is_whitespace() || c == ';') {
        found.extend(reader.command()?);
    }
    Some(found)
}

/// Reads the commands of a sed script.
struct ScriptReader<'s> {
    rest: Peekable<Chars<'s>>,
}

impl ScriptReader<'_> {
    /// Skips characters. Returns whether more text follows.
    fn skip(&mut self, is_skipped: impl Fn(char) -> bool) -> bool {
        while self.rest.next_if(|c| is_skipped(*c)).is_some() {}
        self.rest.peek().is_some()
    }

    /// Reads a command and the addresses before it. Returns the file that the command writes. An inner `None` means
    /// that the command writes no file. An outer `None` means that the command is unknown.
    fn command(&mut self) -> Option<Option<String>> {
        self.address()?;
        if self.rest.next_if_eq(&',').is_some() {
            self.skip(|c| c == ' ' || c == '+' || c == '~');
            self.address()?;
        }
        self.skip(|c| c == ' ' || c == '\t' || c == '!');
        match self.rest.next()? {
            'w' | 'W' => Some(Some(self.file())),
            's' => {
                self.two_parts()?;
                self.skip(|c| "gpiImM".contains(c) || c.is_ascii_digit());
                match self.rest.next_if_eq(&'w') {
                    Some(_) => Some(Some(self.file())),
                    None => self.is_at_end().then_some(None),
                }
            }
            'y' => {
                self.two_parts()?;
                self.is_at_end().then_some(None)
            }
            'b' | 't' | 'T' | 'q' | 'Q' | 'l' | 'L' => {
                self.skip(|c| c != ';' && c != '\n' && c != '}');
                Some(None)
            }
            c if TAKES_LINE.contains(&c) => {
                self.line();
                Some(None)
            }
            '{' => Some(None),
            c if IS_WHOLE.contains(&c) => self.is_at_end().then_some(None),
            _ => None,
        }
    }

    /// Whether the command is complete before the next character.
    fn is_at_end(&mut self) -> bool {
        self.rest.peek().is_none_or(|c| c.is_whitespace() || ";}#".contains(*c))
    }

    /// If an address comes next, skips the address: a line number, `$` or a regular expression.
    fn address(&mut self) -> Option<()> {
        match self.rest.peek() {
            Some('/') => {
                self.rest.next();
                self.part('/')?;
            }
            Some('\\') => {
                self.rest.next();
                let delimiter = self.rest.next()?;
                self.part(delimiter)?;
            }
            Some('$') => {
                self.rest.next();
            }
            _ => {}
        }
        self.skip(|c| c.is_ascii_digit() || c == '~' || c == 'I' || c == 'M' || c == ' ');
        Some(())
    }

    /// Skips the pattern and the replacement of `s/a/b/`.
    fn two_parts(&mut self) -> Option<()> {
        let delimiter = self.rest.next().filter(|c| *c != '\n' && *c != '\\')?;
        self.part(delimiter)?;
        self.part(delimiter)
    }

    /// Skips the text up to and including the next delimiter.
    fn part(&mut self, delimiter: char) -> Option<()> {
        loop {
            match self.rest.next()? {
                '\\' => {
                    self.rest.next()?;
                }
                c if c == delimiter => return Some(()),
                _ => {}
            }
        }
    }

    /// The rest of the line. A line that ends in a backslash continues on the next line.
    fn line(&mut self) -> String {
        let mut line = String::new();
        while let Some(c) = self.rest.next_if(|c| *c != '\n') {
            line.push(c);
            if c == '\\' {
                line.extend(self.rest.next());
            }
        }
        line
    }

    /// The path of a file, which is the rest of the line.
    fn file(&mut self) -> String {
        self.line().trim_start().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::written_files;

    #[test]
    fn a_script_names_the_files_that_it_writes() {
        for (script, want) in [
            ("w a", Some("a")),
            ("/x/w a b", Some("a b")),
            ("/x/,$ !w a", Some("a")),
            ("s/a/b/w c", Some("c")),
            ("s|a|/w b|gpw c\n1,3W d", Some("c d")),
            ("s/a/\\/w b/; y/w/v/; 1d;$!N;P;D", Some("")),
            ("s/[/]w a/b/", None),
            ("\\,w a,w b", Some("b")),
            ("/w a/{s/x/y/;p;}; 2q; b end; :end", Some("")),
            ("a w x\\\nw y\nw z", Some("z")),
            ("a\\\nw x\ni w", Some("")),
            ("0~3w a", Some("a")),
            ("1,+2w a", Some("a")),
            ("# w a\nr w b", Some("")),
            ("s/a", None),
            ("e date > a", None),
            ("?", None),
        ] {
            let found = written_files(script).map(|files| files.join(" "));
            assert_eq!(found.as_deref(), want, "{script:?}");
        }
    }
}
