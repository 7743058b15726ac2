//! Parses the grammar of POSIX sh and the extensions of bash, by recursive descent.
//!
//! The syntax tree contains only the parts of the script that can write files. Arithmetic, for example, is skipped. The
//! parser reads one line of commands at a time, because a shell runs all lines that precede a syntax error.

use super::redirection_parser::PendingDocument;
use super::syntax_tree::{AssignedValue, Assignment, Command, Joint, Simple, Word};
use std::rc::Rc;

/// Maximum nesting depth of commands. Deeper nesting is a syntax error, because it might exhaust the stack.
pub(super) const DEPTH_MAX: usize = 40;

/// The error for text that the parser can't parse.
#[derive(Debug, PartialEq)]
pub(super) struct SyntaxError;

/// The result of a parsing function.
pub(super) type Parsed<T> = Result<T, SyntaxError>;

/// A script, and the parser's position in it.
pub(super) struct Parser {
    pub(super) text: Vec<char>,
    pub(super) at: usize,
    depth: usize,
    /// The here-documents of the current line. Their bodies begin on the next line.
    pub(super) pending: Vec<PendingDocument>,
}

impl Parser {
    /// Makes a parser that starts at the beginning of a script.
    pub(super) fn new(script: &str) -> Parser {
        Parser { text: script.chars().collect(), at: 0, depth: 0, pending: Vec::new() }
    }

    /// The commands of the next line; `None` at the end of the script.
    pub(super) fn next_line(&mut self) -> Parsed<Option<Command>> {
        self.skip_blank_lines()?;
        if self.is_at_end() {
            return Ok(None);
        }
        let line = self.and_or_list(&[])?;
        self.skip_blanks();
        match self.peek() {
            None => {}
            Some('\n') => {
                self.at += 1;
                self.take_documents()?;
            }
            // A `)` or `}` without an opening bracket before it.
            Some(_) => return Err(SyntaxError),
        }
        Ok(Some(line))
    }

    pub(super) fn peek(&self) -> Option<char> {
        self.text.get(self.at).copied()
    }

    pub(super) fn peek_at(&self, distance: usize) -> Option<char> {
        self.text.get(self.at + distance).copied()
    }

    pub(super) fn is_at_end(&self) -> bool {
        self.at >= self.text.len()
    }

    pub(super) fn starts_with(&self, text: &str) -> bool {
        text.chars().enumerate().all(|(n, c)| self.peek_at(n) == Some(c))
    }

    pub(super) fn accept(&mut self, text: &str) -> bool {
        let is_here = self.starts_with(text);
        if is_here {
            self.at += text.chars().count();
        }
        is_here
    }

    /// Calls a parsing function one nesting level deeper. Returns an error if the maximum depth has been reached.
    pub(super) fn nested<T>(&mut self, rule: impl FnOnce(&mut Parser) -> Parsed<T>) -> Parsed<T> {
        if self.depth >= DEPTH_MAX {
            return Err(SyntaxError);
        }
        self.depth += 1;
        let result = rule(self);
        self.depth -= 1;
        result
    }

    /// Skips blanks, line continuations and a comment, but not the end of the line.
    pub(super) fn skip_blanks(&mut self) {
        loop {
            match self.peek() {
                Some(' ' | '\t' | '\r') => self.at += 1,
                Some('\\') if self.peek_at(1) == Some('\n') => self.at += 2,
                Some('#') => {
                    while self.peek().is_some_and(|c| c != '\n') {
                        self.at += 1;
                    }
                }
                _ => return,
            }
        }
    }

    /// Skips blanks and line ends. Reads the here-documents that begin after a line end.
    pub(super) fn skip_blank_lines(&mut self) -> Parsed<()> {
        loop {
            self.skip_blanks();
            if self.peek() != Some('\n') {
                return Ok(());
            }
            self.at += 1;
            self.take_documents()?;
        }
    }

    /// Parses the script inside backquotes. Its nesting depth is added to the depth of the outer script.
    pub(super) fn inner_script(&self, script: &str) -> Parsed<Command> {
        let mut inner = Parser::new(script);
        inner.depth = self.depth;
        let commands = inner.list(&[])?;
        if inner.is_at_end() { Ok(commands) } else { Err(SyntaxError) }
    }

    /// Parses commands up to `)`, `;;`, one of the reserved words in `until`, or the end of the script.
    pub(super) fn list(&mut self, until: &[&str]) -> Parsed<Command> {
        self.nested(|parser| {
            let mut commands = Vec::new();
            loop {
                parser.skip_blank_lines()?;
                if parser.is_at_end()
                    || parser.peek() == Some(')')
                    || parser.starts_with(";;")
                    || parser.is_reserved(until)
                {
                    return Ok(Command::Sequence(commands));
                }
                commands.push(parser.and_or_list(until)?);
            }
        })
    }

    /// Parses the commands of one line, which are separated by `;` or `&`.
    fn and_or_list(&mut self, until: &[&str]) -> Parsed<Command> {
        let mut commands = Vec::new();
        loop {
            let command = self.and_or()?;
            self.skip_blanks();
            let is_background = self.peek() == Some('&');
            commands.push(if is_background { Command::Subshell(Box::new(command)) } else { command });
            if self.starts_with(";;") || !matches!(self.peek(), Some(';' | '&')) {
                break;
            }
            self.at += 1;
            self.skip_blanks();
            let is_over = matches!(self.peek(), None | Some('\n' | ')')) || self.starts_with(";;");
            if is_over || self.is_reserved(until) {
                break;
            }
        }
        Ok(if commands.len() == 1 { commands.remove(0) } else { Command::Sequence(commands) })
    }

    fn and_or(&mut self) -> Parsed<Command> {
        let first = self.pipeline()?;
        let mut others = Vec::new();
        loop {
            self.skip_blanks();
            let joint = if self.accept("&&") {
                Joint::And
            } else if self.accept("||") {
                Joint::Or
            } else {
                break;
            };
            self.skip_blank_lines()?;
            others.push((joint, self.pipeline()?));
        }
        Ok(if others.is_empty() { first } else { Command::AndOr(Box::new(first), others) })
    }

    fn pipeline(&mut self) -> Parsed<Command> {
        self.skip_blanks();
        let mut is_negated = false;
        loop {
            if self.accept_reserved("!") {
                is_negated = !is_negated;
            } else if self.accept_reserved("time") {
                self.skip_blanks();
                self.accept_reserved("-p");
            } else {
                break;
            }
            self.skip_blanks();
        }
        let mut stages = vec![self.nested(Parser::command)?];
        loop {
            self.skip_blanks();
            if self.starts_with("||") || self.peek() != Some('|') {
                break;
            }
            self.at += 1;
            if self.peek() == Some('&') {
                self.at += 1;
            }
            self.skip_blank_lines()?;
            stages.push(self.nested(Parser::command)?);
        }
        let pipeline = if stages.len() == 1 { stages.remove(0) } else { Command::Pipeline(stages) };
        Ok(if is_negated { Command::Not(Box::new(pipeline)) } else { pipeline })
    }

    /// Whether the next word is one of these reserved words.
    fn is_reserved(&self, words: &[&str]) -> bool {
        words.iter().any(|word| {
            let behind = self.peek_at(word.chars().count());
            self.starts_with(word) && behind.is_none_or(|c| c.is_whitespace() || ";&|()<>".contains(c))
        })
    }

    fn accept_reserved(&mut self, word: &str) -> bool {
        self.is_reserved(&[word]) && self.accept(word)
    }

    fn expect_reserved(&mut self, word: &str) -> Parsed<()> {
        self.skip_blank_lines()?;
        if self.accept_reserved(word) { Ok(()) } else { Err(SyntaxError) }
    }

    fn command(&mut self) -> Parsed<Command> {
        self.skip_blanks();
        let Some(compound) = self.compound()? else { return self.simple() };
        let mut redirects = Vec::new();
        loop {
            self.skip_blanks();
            match self.redirect()? {
                Some(redirect) => redirects.push(redirect),
                None => break,
            }
        }
        let is_plain = redirects.is_empty();
        Ok(if is_plain { compound } else { Command::Redirected(Box::new(compound), redirects) })
    }

    fn compound(&mut self) -> Parsed<Option<Command>> {
        if self.starts_with("((") {
            return self.skip_arithmetic().map(|()| Some(Command::Sequence(Vec::new())));
        }
        if self.accept("(") {
            let body = self.list(&[])?;
            self.expect_sign(')')?;
            return Ok(Some(Command::Subshell(Box::new(body))));
        }
        if self.accept_reserved("{") {
            let body = self.list(&["}"])?;
            self.expect_reserved("}")?;
            return Ok(Some(body));
        }
        if self.accept_reserved("[[") {
            return self.condition_words().map(|words| Some(Command::Condition(words)));
        }
        if self.accept_reserved("if") {
            return self.if_command().map(Some);
        }
        let is_until = self.accept_reserved("until");
        if is_until || self.accept_reserved("while") {
            let condition = Box::new(self.list(&["do"])?);
            let condition = if is_until { Box::new(Command::Not(condition)) } else { condition };
            return Ok(Some(Command::While(condition, Box::new(self.do_group()?))));
        }
        if self.accept_reserved("for") {
            return self.for_command().map(Some);
        }
        if self.accept_reserved("select") {
            // The body of `select` runs only after a user has chosen from a menu, so the body is ignored.
            return self.for_command().map(|_| Some(Command::Sequence(Vec::new())));
        }
        if self.accept_reserved("case") {
            return self.case_command().map(Some);
        }
        if self.accept_reserved("function") {
            self.skip_blanks();
            let name = self.plain_name();
            self.skip_blanks();
            return self.function_body(name).map(Some);
        }
        self.function()
    }

    pub(super) fn expect_sign(&mut self, sign: char) -> Parsed<()> {
        self.skip_blank_lines()?;
        if self.peek() != Some(sign) {
            return Err(SyntaxError);
        }
        self.at += 1;
        Ok(())
    }

    fn if_command(&mut self) -> Parsed<Command> {
        let mut branches = Vec::new();
        loop {
            let condition = self.list(&["then"])?;
            self.expect_reserved("then")?;
            branches.push((condition, self.list(&["elif", "else", "fi"])?));
            if self.accept_reserved("elif") {
                continue;
            }
            let has_else = self.accept_reserved("else");
            let otherwise = if has_else { Some(Box::new(self.list(&["fi"])?)) } else { None };
            self.expect_reserved("fi")?;
            return Ok(Command::If(branches, otherwise));
        }
    }

    fn do_group(&mut self) -> Parsed<Command> {
        self.skip_blank_lines()?;
        if self.accept_reserved("{") {
            let body = self.list(&["}"])?;
            self.expect_reserved("}")?;
            return Ok(body);
        }
        self.expect_reserved("do")?;
        let body = self.list(&["done"])?;
        self.expect_reserved("done")?;
        Ok(body)
    }

    fn for_command(&mut self) -> Parsed<Command> {
        self.skip_blanks();
        if self.starts_with("((") {
            self.skip_arithmetic()?;
            self.skip_separator()?;
            // The value of the loop's counter is unknown, so the loop is parsed as a `while` loop with an empty
            // condition.
            let body = Box::new(self.do_group()?);
            return Ok(Command::While(Box::new(Command::Sequence(Vec::new())), body));
        }
        let name = self.plain_name();
        self.skip_blank_lines()?;
        let words = if self.accept_reserved("in") { Some(self.words()?) } else { None };
        self.skip_separator()?;
        Ok(Command::For { name, words, body: Box::new(self.do_group()?) })
    }

    fn skip_separator(&mut self) -> Parsed<()> {
        self.skip_blanks();
        if self.peek() == Some(';') {
            self.at += 1;
        }
        self.skip_blank_lines()
    }

    fn case_command(&mut self) -> Parsed<Command> {
        self.skip_blanks();
        let subject = self.word()?.ok_or(SyntaxError)?;
        self.expect_reserved("in")?;
        let mut arms = Vec::new();
        loop {
            self.skip_blank_lines()?;
            if self.accept_reserved("esac") {
                return Ok(Command::Case(subject, arms));
            }
            self.accept("(");
            let mut patterns = Vec::new();
            loop {
                self.skip_blanks();
                patterns.push(self.word()?.ok_or(SyntaxError)?);
                self.skip_blanks();
                if !self.accept("|") {
                    break;
                }
            }
            self.expect_sign(')')?;
            arms.push((patterns, self.list(&["esac"])?));
            if !self.accept(";;&") && !self.accept(";;") {
                self.skip_blank_lines()?;
            }
        }
    }

    fn plain_name(&mut self) -> String {
        let start = self.at;
        while self.peek().is_some_and(|c| c.is_alphanumeric() || "_-.:".contains(c)) {
            self.at += 1;
        }
        self.text[start..self.at].iter().collect()
    }

    /// Parses the definition of a function, `name() body`.
    fn function(&mut self) -> Parsed<Option<Command>> {
        let start = self.at;
        let name = self.plain_name();
        self.skip_blanks();
        if name.is_empty() || !self.starts_with("(") {
            self.at = start;
            return Ok(None);
        }
        self.function_body(name).map(Some)
    }

    fn function_body(&mut self, name: String) -> Parsed<Command> {
        if self.accept("(") {
            self.expect_sign(')')?;
        }
        self.skip_blank_lines()?;
        let body = self.nested(Parser::command)?;
        Ok(Command::Function(name, Rc::new(body)))
    }

    /// Parses words up to the end of the command.
    fn words(&mut self) -> Parsed<Vec<Word>> {
        let mut words = Vec::new();
        loop {
            self.skip_blanks();
            match self.word()? {
                Some(word) => words.push(word),
                None => return Ok(words),
            }
        }
    }

    fn simple(&mut self) -> Parsed<Command> {
        let mut simple = Simple::default();
        loop {
            self.skip_blanks();
            if let Some(redirect) = self.redirect()? {
                simple.redirects.push(redirect);
                continue;
            }
            if simple.words.is_empty()
                && let Some(assignment) = self.assignment()?
            {
                simple.assignments.push(assignment);
                continue;
            }
            match self.word()? {
                Some(word) => simple.words.push(word),
                None => break,
            }
        }
        let is_empty = simple.words.is_empty() && simple.assignments.is_empty() && simple.redirects.is_empty();
        if is_empty { Err(SyntaxError) } else { Ok(Command::Simple(simple)) }
    }

    fn assignment(&mut self) -> Parsed<Option<Assignment>> {
        let start = self.at;
        while self.peek().is_some_and(|c| c.is_ascii_alphanumeric() || c == '_') {
            self.at += 1;
        }
        let name: String = self.text[start..self.at].iter().collect();
        let is_name = name.chars().next().is_some_and(|c| !c.is_ascii_digit());
        let appends = is_name && self.accept("+=");
        if !is_name || !appends && !self.accept("=") {
            self.at = start;
            return Ok(None);
        }
        if !self.accept("(") {
            let value = AssignedValue::Text(self.word()?.unwrap_or_default());
            return Ok(Some(Assignment { name, appends, value }));
        }
        let mut words = Vec::new();
        loop {
            self.skip_blank_lines()?;
            if self.accept(")") {
                return Ok(Some(Assignment { name, appends, value: AssignedValue::List(words) }));
            }
            words.push(self.word()?.ok_or(SyntaxError)?);
        }
    }
}
