//! Splits a script in Python, JavaScript, Ruby, Perl or PHP into tokens. The tokenizer is rough, but it finds plain
//! literals.

/// The language of a script.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Language {
    /// Python.
    Python,
    /// JavaScript and TypeScript.
    JavaScript,
    /// Ruby.
    Ruby,
    /// Perl.
    Perl,
    /// PHP.
    Php,
}

/// A token of a script.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Token {
    /// A name, a keyword or a number.
    Name(String),
    /// A string literal whose value is known.
    Text(String),
    /// A literal whose value is unknown, such as a string with variables in it, or a regular expression.
    Computed,
    /// A single character that belongs to no other token, such as a bracket or an operator.
    Sign(char),
    /// The end of a statement.
    End,
}

/// Splits a script into tokens. Returns `None` if the end of a literal or of a comment is missing.
pub(super) fn tokens(script: &str, language: Language) -> Option<Vec<Token>> {
    let mut reader = TokenReader { text: script.chars().collect(), at: 0, language, open: 0, tokens: Vec::new() };
    while reader.at < reader.text.len() {
        reader.token()?;
    }
    reader.tokens.push(Token::End);
    Some(reader.tokens)
}

struct TokenReader {
    text: Vec<char>,
    at: usize,
    language: Language,
    /// The number of brackets that are open. Inside brackets, the end of a line does not end the statement.
    open: usize,
    tokens: Vec<Token>,
}

impl TokenReader {
    fn peek(&self, distance: usize) -> Option<char> {
        self.text.get(self.at + distance).copied()
    }

    fn token(&mut self) -> Option<()> {
        let c = self.peek(0)?;
        match c {
            '\n' => {
                if self.open == 0 {
                    self.tokens.push(Token::End);
                }
                self.at += 1;
            }
            c if c.is_whitespace() => self.at += 1,
            '\\' if self.peek(1) == Some('\n') => self.at += 2,
            '#' if self.language != Language::JavaScript => self.skip_line(),
            '/' if matches!(self.language, Language::JavaScript | Language::Php) => self.slash()?,
            '\'' | '"' => self.quoted(c, "")?,
            '`' if self.language == Language::JavaScript => self.quoted(c, "")?,
            c if c.is_alphanumeric() || c == '_' || c == '$' => self.name()?,
            c => {
                match c {
                    '(' | '[' => self.open += 1,
                    ')' | ']' => self.open = self.open.saturating_sub(1),
                    _ => {}
                }
                self.tokens.push(if c == ';' { Token::End } else { Token::Sign(c) });
                self.at += 1;
            }
        }
        Some(())
    }

    fn skip_line(&mut self) {
        while self.peek(0).is_some_and(|c| c != '\n') {
            self.at += 1;
        }
    }

    fn name(&mut self) -> Option<()> {
        let start = self.at;
        while self.peek(0).is_some_and(|c| c.is_alphanumeric() || c == '_' || c == '$') {
            self.at += 1;
        }
        let name: String = self.text[start..self.at].iter().collect();
        let is_prefix =
            self.language == Language::Python && name.len() <= 2 && name.chars().all(|c| "rbfuRBFUtT".contains(c));
        match self.peek(0) {
            Some(quote @ ('\'' | '"')) if is_prefix => self.quoted(quote, &name.to_ascii_lowercase())?,
            _ => self.tokens.push(Token::Name(name)),
        }
        Some(())
    }

    /// Reads a token that begins with a slash: a comment, a regular expression or an operator.
    fn slash(&mut self) -> Option<()> {
        match self.peek(1) {
            Some('/') => self.skip_line(),
            Some('*') => {
                self.at += 2;
                while !(self.peek(0) == Some('*') && self.peek(1) == Some('/')) {
                    self.peek(0)?;
                    self.at += 1;
                }
                self.at += 2;
            }
            _ if self.is_value_before() => {
                self.tokens.push(Token::Sign('/'));
                self.at += 1;
            }
            _ => self.regular_expression()?,
        }
        Some(())
    }

    fn is_value_before(&self) -> bool {
        match self.tokens.last() {
            Some(Token::Name(name)) => name != "return" && name != "typeof",
            Some(Token::Text(_) | Token::Computed) => true,
            Some(Token::Sign(sign)) => matches!(sign, ')' | ']' | '}'),
            Some(Token::End) | None => false,
        }
    }

    fn regular_expression(&mut self) -> Option<()> {
        let mut in_set = false;
        loop {
            self.at += 1;
            match self.peek(0)? {
                '\\' => self.at += 1,
                '[' => in_set = true,
                ']' => in_set = false,
                '\n' => return None,
                '/' if !in_set => break,
                _ => {}
            }
        }
        self.at += 1;
        self.tokens.push(Token::Computed);
        Some(())
    }

    /// Reads a string literal. `prefix` is its prefix in Python, such as `r` or `f`.
    fn quoted(&mut self, quote: char, prefix: &str) -> Option<()> {
        let is_triple = self.language == Language::Python && self.peek(1) == Some(quote) && self.peek(2) == Some(quote);
        let width = if is_triple { 3 } else { 1 };
        let is_raw = prefix.contains('r');
        let mut is_computed = prefix.contains(['f', 'b', 't']);
        let mut text = String::new();
        self.at += width;
        loop {
            let c = self.peek(0)?;
            let closes = (0..width).all(|n| self.peek(n) == Some(quote));
            match c {
                _ if closes => break,
                '\n' if !is_triple && self.language == Language::Python => return None,
                '\\' if !is_raw => {
                    self.at += 1;
                    match self.peek(0)? {
                        'n' => text.push('\n'),
                        't' => text.push('\t'),
                        c @ ('\\' | '\'' | '"' | '`' | '/') => text.push(c),
                        _ => is_computed = true,
                    }
                }
                '\\' => {
                    text.push(c);
                    self.at += 1;
                    text.extend(self.peek(0));
                }
                '$' if quote == '`' && self.peek(1) == Some('{') => is_computed = true,
                '#' if quote == '"' && self.language == Language::Ruby && self.peek(1) == Some('{') => {
                    is_computed = true
                }
                '$' | '@' if quote == '"' && self.language == Language::Perl => is_computed = true,
                '$' if quote == '"' && self.language == Language::Php => is_computed = true,
                c => text.push(c),
            }
            self.at += 1;
        }
        self.at += width;
        self.tokens.push(if is_computed { Token::Computed } else { Token::Text(text) });
        Some(())
    }
}
