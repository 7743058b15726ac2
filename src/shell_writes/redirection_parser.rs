//! Parses redirections and here-documents.

use super::parser::{Parsed, Parser, SyntaxError};
use super::syntax_tree::{Redirect, Word};
use std::cell::OnceCell;
use std::rc::Rc;

/// A here-document of the current line. The body of the here-document begins on the next line.
pub(super) struct PendingDocument {
    end: String,
    strips_tabs: bool,
    is_literal: bool,
    body: Rc<OnceCell<Word>>,
}

impl Parser {
    /// Reads the bodies of the pending here-documents. The parser must be at the beginning of a line.
    pub(super) fn take_documents(&mut self) -> Parsed<()> {
        for document in std::mem::take(&mut self.pending) {
            let mut body = String::new();
            loop {
                if self.is_at_end() {
                    // In bash, a here-document without an end mark ends at the end of the script.
                    break;
                }
                let start = self.at;
                while self.peek().is_some_and(|c| c != '\n') {
                    self.at += 1;
                }
                let line: String = self.text[start..self.at].iter().collect();
                self.at += 1;
                let line = if document.strips_tabs { line.trim_start_matches('\t') } else { &line };
                if line == document.end {
                    break;
                }
                body.push_str(line);
                body.push('\n');
            }
            self.at = self.at.min(self.text.len());
            let word = if document.is_literal { Word::literal(body) } else { self.nested(|_| document_word(&body))? };
            // The body of a here-document is set only once, so setting it can't fail.
            let _ = document.body.set(word);
        }
        Ok(())
    }

    /// Parses the redirection at this position. `None` if there is no redirection.
    pub(super) fn redirect(&mut self) -> Parsed<Option<Redirect>> {
        let start = self.at;
        while self.peek().is_some_and(|c| c.is_ascii_digit()) {
            self.at += 1;
        }
        let from: String = self.text[start..self.at].iter().collect();
        let is_both = from.is_empty() && self.starts_with("&>");
        if !is_both && !matches!(self.peek(), Some('<' | '>')) {
            self.at = start;
            return Ok(None);
        }
        if from.is_empty() && matches!(self.peek_at(1), Some('(')) && self.peek() != Some('&') {
            // A process substitution such as `<(ls)` is parsed as a word.
            return Ok(None);
        }
        if self.accept("<<<") {
            return Ok(Some(Redirect::HereString(self.target()?)));
        }
        if self.starts_with("<<") {
            return self.here_document().map(Some);
        }
        if self.accept(">&") || self.accept("<&") {
            let word = self.target()?;
            let is_number = word.as_literal().is_some_and(|text| text.chars().all(|c| c.is_ascii_digit() || c == '-'));
            return Ok(Some(if is_number || !from.is_empty() { Redirect::Descriptor } else { Redirect::Create(word) }));
        }
        if ["&>>", ">>", ">|", "<>"].iter().any(|sign| self.accept(sign)) {
            return Ok(Some(Redirect::Write(self.target()?)));
        }
        if self.accept("&>") || self.accept(">") {
            return Ok(Some(Redirect::Create(self.target()?)));
        }
        self.accept("<");
        Ok(Some(Redirect::Read(self.target()?)))
    }

    fn target(&mut self) -> Parsed<Word> {
        self.skip_blanks();
        self.word()?.ok_or(SyntaxError)
    }

    fn here_document(&mut self) -> Parsed<Redirect> {
        self.at += 2;
        let strips_tabs = self.accept("-");
        self.skip_blanks();
        let start = self.at;
        let word = self.word()?.ok_or(SyntaxError)?;
        let is_literal = self.text[start..self.at].iter().any(|c| matches!(c, '\'' | '"' | '\\'));
        let end = word.as_literal().ok_or(SyntaxError)?;
        let body = Rc::new(OnceCell::new());
        self.pending.push(PendingDocument { end, strips_tabs, is_literal, body: body.clone() });
        Ok(Redirect::HereDocument(body))
    }
}

/// Parses the body of a here-document in which variables are expanded.
fn document_word(body: &str) -> Parsed<Word> {
    let mut parser = Parser::new(body);
    let mut word = Word::default();
    parser.nested(|parser| parser.double_quoted(&mut word, None))?;
    Ok(word)
}
