//! Parses words with their quotes, expansions and substitutions.

use super::parser::{Parsed, Parser, SyntaxError};
use super::syntax_tree::{Expansion, Part, Word};
use std::rc::Rc;

impl Word {
    /// A word that consists of this text. The text is not expanded.
    pub(super) fn literal(text: String) -> Word {
        Word(vec![Part::Quoted(text)])
    }

    /// The text of a word. `None` if the word contains expansions.
    pub(super) fn as_literal(&self) -> Option<String> {
        let text = |part: &Part| match part {
            Part::Bare(text) | Part::Quoted(text) => Some(text.clone()),
            _ => None,
        };
        self.0.iter().map(text).collect()
    }

    fn push_bare(&mut self, c: char) {
        match self.0.last_mut() {
            Some(Part::Bare(text)) => text.push(c),
            _ => self.0.push(Part::Bare(c.into())),
        }
    }

    fn push_quoted(&mut self, text: &str) {
        match self.0.last_mut() {
            Some(Part::Quoted(quoted)) => quoted.push_str(text),
            _ => self.0.push(Part::Quoted(text.into())),
        }
    }
}

/// Whether a character ends an unquoted word.
fn ends_word(c: char) -> bool {
    c.is_ascii_whitespace() || ";&|()<>".contains(c)
}

impl Parser {
    /// Parses the word at this position. `None` if there is no word.
    pub(super) fn word(&mut self) -> Parsed<Option<Word>> {
        let mut word = Word::default();
        let start = self.at;
        self.nested(|parser| parser.word_parts(&mut word, ends_word))?;
        Ok((self.at > start).then_some(word))
    }

    fn word_parts(&mut self, word: &mut Word, ends: fn(char) -> bool) -> Parsed<()> {
        while let Some(c) = self.peek() {
            match c {
                '<' | '>' if self.peek_at(1) == Some('(') && word.0.is_empty() => {
                    self.at += 2;
                    let script = self.list(&[])?;
                    self.expect_sign(')')?;
                    word.0.push(Part::Process(Rc::new(script)));
                }
                '\\' => self.backslash(word),
                '\'' => self.single_quoted(word)?,
                '"' => {
                    self.at += 1;
                    word.push_quoted("");
                    self.double_quoted(word, Some('"'))?;
                }
                '$' if self.peek_at(1) == Some('\'') => self.escaped_quoted(word)?,
                '$' if self.peek_at(1) == Some('"') => self.at += 1,
                '$' => self.dollar(word, false)?,
                '`' => self.backquoted(word, false)?,
                c if ends(c) => break,
                c => {
                    word.push_bare(c);
                    self.at += 1;
                }
            }
        }
        Ok(())
    }

    fn backslash(&mut self, word: &mut Word) {
        match self.peek_at(1) {
            Some('\n') => {}
            Some(c) => word.push_quoted(c.encode_utf8(&mut [0; 4])),
            None => word.push_quoted("\\"),
        }
        self.at = (self.at + 2).min(self.text.len());
    }

    fn single_quoted(&mut self, word: &mut Word) -> Parsed<()> {
        let start = self.at + 1;
        let length = self.text[start..].iter().position(|c| *c == '\'').ok_or(SyntaxError)?;
        let text: String = self.text[start..start + length].iter().collect();
        word.push_quoted(&text);
        self.at = start + length + 1;
        Ok(())
    }

    /// Parses a string such as `$'…'`. In such a string, backslashes begin escapes.
    fn escaped_quoted(&mut self, word: &mut Word) -> Parsed<()> {
        self.at += 2;
        let mut bytes = Vec::new();
        loop {
            let c = self.peek().ok_or(SyntaxError)?;
            self.at += 1;
            match c {
                '\'' => break,
                '\\' => self.escape(&mut bytes)?,
                c => bytes.extend(c.encode_utf8(&mut [0; 4]).bytes()),
            }
        }
        // Several escapes may together form one character. An escape for zero ends the string.
        match bytes.split(|byte| *byte == 0).next().map(str::from_utf8) {
            Some(Ok(text)) => word.push_quoted(text),
            _ => word.0.push(Part::Unknown),
        }
        Ok(())
    }

    /// Parses an escape in `$'…'`, after its backslash.
    fn escape(&mut self, bytes: &mut Vec<u8>) -> Parsed<()> {
        let c = self.peek().ok_or(SyntaxError)?;
        self.at += 1;
        let c = match c {
            'n' => '\n',
            't' => '\t',
            'r' => '\r',
            'a' => '\u{7}',
            'b' => '\u{8}',
            'e' | 'E' => '\u{1b}',
            'f' => '\u{c}',
            'v' => '\u{b}',
            'x' => {
                bytes.push(self.code(16, 2) as u8);
                return Ok(());
            }
            '0'..='7' => {
                self.at -= 1;
                bytes.push(self.code(8, 3) as u8);
                return Ok(());
            }
            'u' => char::from_u32(self.code(16, 4)).unwrap_or(char::REPLACEMENT_CHARACTER),
            'U' => char::from_u32(self.code(16, 8)).unwrap_or(char::REPLACEMENT_CHARACTER),
            c => c,
        };
        bytes.extend(c.encode_utf8(&mut [0; 4]).bytes());
        Ok(())
    }

    fn code(&mut self, radix: u32, digits_max: usize) -> u32 {
        let mut value = 0;
        for _ in 0..digits_max {
            let Some(digit) = self.peek().and_then(|c| c.to_digit(radix)) else { break };
            value = value * radix + digit;
            self.at += 1;
        }
        value
    }

    /// Parses text in double quotes, up to and including `end`. If `end` is `None`, parses the body of a here-document,
    /// up to the end of the input.
    pub(super) fn double_quoted(&mut self, word: &mut Word, end: Option<char>) -> Parsed<()> {
        loop {
            let Some(c) = self.peek() else { return if end.is_none() { Ok(()) } else { Err(SyntaxError) } };
            match c {
                c if Some(c) == end => {
                    self.at += 1;
                    return Ok(());
                }
                '\\' => match self.peek_at(1) {
                    Some(c) if "$`\\\n".contains(c) || c == '"' && end.is_some() => self.backslash(word),
                    _ => {
                        word.push_quoted("\\");
                        self.at += 1;
                    }
                },
                '$' => self.dollar(word, true)?,
                '`' => self.backquoted(word, true)?,
                c => {
                    word.push_quoted(c.encode_utf8(&mut [0; 4]));
                    self.at += 1;
                }
            }
        }
    }

    fn dollar(&mut self, word: &mut Word, quoted: bool) -> Parsed<()> {
        if self.starts_with("$((") {
            self.at += 1;
            self.skip_arithmetic()?;
            word.0.push(Part::Unknown);
            return Ok(());
        }
        if self.accept("$(") {
            let script = Rc::new(self.list(&[])?);
            self.expect_sign(')')?;
            word.0.push(Part::Output { script, quoted });
            return Ok(());
        }
        if self.accept("${") {
            let part = self.nested(|parser| parser.braced_variable(quoted))?;
            word.0.push(part);
            return Ok(());
        }
        self.at += 1;
        let name = self.variable_name();
        if name.is_empty() {
            if quoted {
                word.push_quoted("$")
            } else {
                word.push_bare('$')
            }
            return Ok(());
        }
        let change = if name == "@" { Expansion::Every } else { Expansion::Plain };
        word.0.push(Part::Variable { name, change, quoted });
        Ok(())
    }

    fn variable_name(&mut self) -> String {
        let start = self.at;
        match self.peek() {
            Some(c) if c.is_ascii_alphabetic() || c == '_' => {
                while self.peek().is_some_and(|c| c.is_ascii_alphanumeric() || c == '_') {
                    self.at += 1;
                }
            }
            Some(c) if c.is_ascii_digit() || "@*#?$!-".contains(c) => self.at += 1,
            _ => {}
        }
        self.text[start..self.at].iter().collect()
    }

    /// Parses the rest of `${…}`, including the closing brace.
    fn braced_variable(&mut self, quoted: bool) -> Parsed<Part> {
        let is_length = self.peek() == Some('#') && self.peek_at(1) != Some('}');
        let name = if is_length { String::new() } else { self.variable_name() };
        let has_elements = self.accept("[@]") || self.accept("[*]");
        let element = if has_elements { None } else { self.element_number() };
        let change = match self.peek() {
            Some('}') if element.is_some() => Expansion::Element(element.unwrap_or_default()),
            _ if element.is_some() => Expansion::Unknown,
            Some('}') if has_elements || name == "@" => Expansion::Every,
            Some('}') => Expansion::Plain,
            _ if name.is_empty() || has_elements => Expansion::Unknown,
            _ => self.variable_change(quoted)?,
        };
        if change == Expansion::Unknown {
            let mut skipped = Word::default();
            self.braced_word(&mut skipped, quoted)?;
        }
        self.expect_brace()?;
        Ok(Part::Variable { name, change, quoted })
    }

    /// Parses an index such as `[2]`. Returns `None` if no index comes next.
    fn element_number(&mut self) -> Option<usize> {
        let rest = self.text.get(self.at..)?.strip_prefix(&['['])?;
        let n_digits = rest.iter().take_while(|c| c.is_ascii_digit()).count();
        let number = rest[..n_digits].iter().collect::<String>().parse().ok()?;
        (rest.get(n_digits) == Some(&']')).then(|| self.at += n_digits + 2)?;
        Some(number)
    }

    fn expect_brace(&mut self) -> Parsed<()> {
        if self.accept("}") { Ok(()) } else { Err(SyntaxError) }
    }

    fn variable_change(&mut self, quoted: bool) -> Parsed<Expansion> {
        let mut operand = Word::default();
        if [":-", ":=", "-", "="].iter().any(|sign| self.accept(sign)) {
            self.braced_word(&mut operand, quoted)?;
            return Ok(Expansion::Default(operand));
        }
        // A pattern is parsed like a word without quotes, even if the whole `"${name#pattern}"` is in quotes.
        if self.accept("#") {
            let longest = self.accept("#");
            self.braced_word(&mut operand, false)?;
            return Ok(Expansion::CutStart { pattern: operand, longest });
        }
        if self.accept("%") {
            let longest = self.accept("%");
            self.braced_word(&mut operand, false)?;
            return Ok(Expansion::CutEnd { pattern: operand, longest });
        }
        if self.accept("/") {
            let everywhere = self.accept("/");
            self.word_parts(&mut operand, |c| c == '/' || c == '}')?;
            let mut to = Word::default();
            if self.accept("/") {
                self.braced_word(&mut to, quoted)?;
            }
            return Ok(Expansion::Replace { from: operand, to, everywhere });
        }
        Ok(Expansion::Unknown)
    }

    /// Parses the word after an operator in `${…}`, up to the closing brace.
    fn braced_word(&mut self, word: &mut Word, quoted: bool) -> Parsed<()> {
        if !quoted {
            return self.word_parts(word, |c| c == '}');
        }
        loop {
            match self.peek().ok_or(SyntaxError)? {
                '}' => return Ok(()),
                '\\' => self.backslash(word),
                '$' => self.dollar(word, true)?,
                '`' => self.backquoted(word, true)?,
                '"' => {
                    self.at += 1;
                    self.double_quoted(word, Some('"'))?;
                }
                c => {
                    word.push_quoted(c.encode_utf8(&mut [0; 4]));
                    self.at += 1;
                }
            }
        }
    }

    fn backquoted(&mut self, word: &mut Word, quoted: bool) -> Parsed<()> {
        self.at += 1;
        let mut script = String::new();
        loop {
            match self.peek().ok_or(SyntaxError)? {
                '`' => break,
                '\\' if self.peek_at(1).is_some_and(|c| "`\\$".contains(c)) => {
                    self.at += 1;
                    script.extend(self.peek());
                }
                c => script.push(c),
            }
            self.at += 1;
        }
        self.at += 1;
        let commands = self.nested(|outer| outer.inner_script(&script))?;
        word.0.push(Part::Output { script: Rc::new(commands), quoted });
        Ok(())
    }

    /// Skips an arithmetic expression, `((…))`.
    pub(super) fn skip_arithmetic(&mut self) -> Parsed<()> {
        let mut open = 0_usize;
        loop {
            match self.peek().ok_or(SyntaxError)? {
                '(' => open += 1,
                ')' => open -= 1,
                _ => {}
            }
            self.at += 1;
            if open == 0 {
                return Ok(());
            }
        }
    }

    /// Parses the words after `[[`, up to and including `]]`.
    pub(super) fn condition_words(&mut self) -> Parsed<Vec<Word>> {
        let mut words = Vec::new();
        loop {
            self.skip_blank_lines()?;
            if self.accept("]]") {
                return Ok(words);
            }
            let mut word = Word::default();
            let start = self.at;
            self.nested(|parser| parser.word_parts(&mut word, |c| c.is_ascii_whitespace()))?;
            if self.at == start {
                return Err(SyntaxError);
            }
            words.push(word);
        }
    }
}
