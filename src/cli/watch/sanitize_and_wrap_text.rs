//! Prepares text from other peers for the screen: removes harmful characters, measures the width of the text, and
//! shortens it.
//!
//! **Invariant:** text from other peers reaches a line of the screen only through [`tame`].

use crate::cli::render;

/// How many combining marks a letter may have. More marks would cover the neighbouring lines.
const MARKS_MAX: usize = 2;

/// Reduces a string to one line without control characters and without characters that change the text's direction.
pub fn tame(text: &str) -> String {
    let mut n_marks = 0;
    let fits = |c: &char| {
        n_marks = if width_of(*c) == 0 { n_marks + 1 } else { 0 };
        n_marks <= MARKS_MAX
    };
    render::plain(text).chars().filter(fits).collect()
}

/// How many columns a character takes. The table contains only characters that have the same width on all terminals.
fn width_of(c: char) -> usize {
    match c as u32 {
        0x300..=0x36f | 0x483..=0x489 | 0x591..=0x5bd | 0x610..=0x61a | 0x64b..=0x65f => 0,
        0x1ab0..=0x1aff | 0x1dc0..=0x1dff | 0x200b..=0x200d | 0x2060..=0x2064 | 0x20d0..=0x20ff => 0,
        0xfe00..=0xfe0f | 0xfe20..=0xfe2f | 0xfeff | 0xe0000..=0xe01ef => 0,
        0x1100..=0x115f | 0x2e80..=0x303e | 0x3041..=0x4dbf | 0x4e00..=0xa4cf | 0xa960..=0xa97f => 2,
        0xac00..=0xd7a3 | 0xf900..=0xfaff | 0xfe30..=0xfe6f | 0xff00..=0xff60 | 0xffe0..=0xffe6 => 2,
        0x231a..=0x231b | 0x23e9..=0x23ec | 0x2705 | 0x270a..=0x270b | 0x2728 | 0x274c | 0x2753..=0x2755 => 2,
        0x1f004 | 0x1f0cf | 0x1f18e..=0x1f19a | 0x1f200..=0x1f64f | 0x1f680..=0x1f6ff | 0x1f7e0..=0x1f7eb => 2,
        0x1f900..=0x1f9ff | 0x1fa70..=0x1faff | 0x20000..=0x3fffd => 2,
        _ => 1,
    }
}

/// How many columns a string takes.
pub fn width(text: &str) -> usize {
    text.chars().map(width_of).sum()
}

/// Cuts a string to at most `max` columns, and marks the cut with `…`.
pub fn cut(text: &str, max: usize) -> String {
    if width(text) <= max {
        return text.to_owned();
    }
    let mut room = max.saturating_sub(1);
    let fits = |c: &char| {
        let n = width_of(*c);
        let fits = n <= room;
        room = if fits { room - n } else { 0 };
        fits
    };
    let kept: String = text.chars().take_while(fits).collect();
    if max == 0 { String::new() } else { kept + "…" }
}

/// Cuts off the beginning of a string whose end matters more, such as a path. Marks the cut with `…`.
pub fn cut_front(text: &str, max: usize) -> String {
    if width(text) <= max {
        return text.to_owned();
    }
    let turned: String = text.chars().rev().collect();
    cut(&turned, max).chars().rev().collect()
}

/// Cuts or pads a string to exactly this many columns.
pub fn cell(text: &str, columns: usize) -> String {
    let text = cut(text, columns);
    let n_missing = columns - width(&text);
    text + &" ".repeat(n_missing)
}

/// Breaks a text at spaces into lines of at most this many columns. A longer word stays whole, so that a path or a link
/// can be copied.
pub fn wrap_words(text: &str, columns: usize) -> Vec<String> {
    let mut lines = Vec::new();
    for line in text.lines() {
        let mut open = String::new();
        for word in line.split_inclusive(' ') {
            if !open.trim_end().is_empty() && width(&open) + width(word.trim_end()) > columns {
                lines.push(std::mem::take(&mut open).trim_end().to_owned());
            }
            open.push_str(word);
        }
        lines.push(open.trim_end().to_owned());
    }
    lines
}

/// Breaks a string into lines of at most this many columns, at spaces where possible.
pub fn wrap(text: &str, columns: usize) -> Vec<String> {
    let columns = columns.max(2);
    let mut lines = Vec::new();
    for line in text.lines() {
        let mut open = String::new();
        for word in tame(line).split_inclusive(' ') {
            if width(&open) + width(word.trim_end()) > columns && !open.is_empty() {
                lines.push(std::mem::take(&mut open).trim_end().to_owned());
            }
            for c in word.chars() {
                let is_full = width(&open) + width_of(c) > columns;
                // A space at the end of a full line is dropped.
                if is_full && c == ' ' {
                    continue;
                }
                if is_full {
                    lines.push(std::mem::take(&mut open));
                }
                open.push(c);
            }
        }
        lines.push(open.trim_end().to_owned());
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cell_has_the_width_that_was_asked_for() {
        for text in ["", "abc", "日本語のファイル", "e\u{301}e\u{301}e\u{301}e\u{301}e\u{301}", "a日b日c日", "👍👍👍👍"]
        {
            for columns in 0..12 {
                assert_eq!(width(&cell(text, columns)), columns, "{text:?} in {columns}");
                assert!(width(&cut_front(text, columns)) <= columns, "{text:?} in {columns}");
                assert!(wrap(text, columns).iter().all(|line| width(line) <= columns.max(2)), "{text:?} in {columns}");
            }
        }
        assert_eq!(cut("日本語", 5), "日本…");
        assert_eq!(cut_front("/a/long/path.rs", 8), "…path.rs");
        assert_eq!(wrap("one two three", 8), ["one two", "three"]);
        assert_eq!(wrap("one two ", 3), ["one", "two"], "the space after a full line is dropped");
        assert_eq!(wrap("abcdefghij\n\nx", 4), ["abcd", "efgh", "ij", "", "x"]);
        assert_eq!(
            wrap_words("see /a/long/path.rs and\n\n  b 日本語", 8),
            ["see", "/a/long/path.rs", "and", "", "  b", "日本語"]
        );
    }

    #[test]
    fn text_from_others_cannot_steer_the_terminal() {
        let evil = "\u{1b}[2J\u{9b}31m<b>\u{202e}txt\u{61c}\u{200f}\u{2028}\r\n\u{7}\u{0}a\u{300}\u{301}\u{302}\u{303}";
        let tamed = tame(evil);
        assert_eq!(
            tamed,
            "\u{fffd}[2J\u{fffd}31m<b>\u{fffd}txt\u{fffd}\u{fffd}\u{fffd}\u{fffd} \u{fffd}\u{fffd}a\u{300}\u{301}"
        );
        assert!(!wrap(evil, 10).concat().chars().any(char::is_control));
    }
}
