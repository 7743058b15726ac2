//! Decides whether a text matches a search. A search consists of plain words. No character has a special meaning.

use memchr::memchr2;

/// The words and the phrase that a text must contain.
#[derive(Debug, Default)]
pub(super) struct TextFilter {
    /// The text must contain all of these words, regardless of case.
    words: Vec<Needle>,
    /// The text must contain this phrase exactly.
    phrase: Option<Needle>,
    /// A buffer for texts in lower case. It is reused for each text, so that less memory is allocated.
    lowered: String,
}

impl TextFilter {
    /// Creates a filter for `words`, which are separated by spaces, and for an exact `phrase`. If both are missing or
    /// empty, every text passes.
    pub(super) fn new(words: Option<&str>, phrase: Option<&str>) -> TextFilter {
        let mut words: Vec<Needle> =
            words.unwrap_or("").split_whitespace().map(|word| Needle::new(to_lower(word))).collect();
        // The longest word comes first in the search, because it probably occurs in the fewest texts.
        words.sort_by_key(|word| std::cmp::Reverse(word.text.len()));
        let phrase = phrase.filter(|phrase| !phrase.is_empty()).map(|phrase| Needle::new(phrase.to_owned()));
        TextFilter { words, phrase, lowered: String::new() }
    }

    /// Whether a text contains all the words and the exact phrase.
    pub(super) fn matches(&mut self, text: &str) -> bool {
        let TextFilter { words, phrase, lowered } = self;
        if phrase.as_ref().is_some_and(|phrase| phrase.find(text, Case::Matters).is_none()) {
            return false;
        }
        lowered.clear();
        words.iter().all(|word| word.find_in_any_case(text, lowered).is_some())
    }

    /// Returns the position of the first match of any word in a text. If the upper and the lower case of a letter
    /// differ in length, the position is only approximate.
    pub(super) fn place_in(&mut self, text: &str) -> usize {
        let TextFilter { words, lowered, .. } = self;
        lowered.clear();
        words.iter().filter_map(|word| word.find_in_any_case(text, lowered)).min().unwrap_or(0)
    }
}

/// How a search treats the upper and lower case of ASCII letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Case {
    Matters,
    Ignored,
}

/// Characters that are common in most languages and in code. The most common characters come first.
const COMMON: &[u8] = b" etaoinsrhldcumfpgwybvkxjqz";

/// A string to search for. The search looks for the rarest byte of the string first.
#[derive(Debug)]
struct Needle {
    text: String,
    /// The position of the rarest byte in `text`.
    rare: usize,
}

impl Needle {
    fn new(text: String) -> Needle {
        let rank = |byte: u8| COMMON.iter().position(|common| *common == byte).unwrap_or(COMMON.len());
        let rare = text.bytes().enumerate().max_by_key(|(_, byte)| rank(byte.to_ascii_lowercase()));
        Needle { rare: rare.map_or(0, |(place, _)| place), text }
    }

    /// Finds this word in `text`. The word must be in lower case. `lowered` is a cache for `text` in lower case, and is
    /// empty at first.
    fn find_in_any_case(&self, text: &str, lowered: &mut String) -> Option<usize> {
        let found = self.find(text, Case::Ignored);
        if found.is_some() || text.is_ascii() {
            return found;
        }
        // Only two non-ASCII letters have a lower-case form with an ASCII letter: the Kelvin sign and the dotted
        // capital I. No other non-ASCII letter can match an ASCII word.
        if self.text.is_ascii() && !text.contains(['\u{212a}', '\u{130}']) {
            return None;
        }
        if lowered.is_empty() {
            lowered.extend(text.chars().flat_map(char::to_lowercase));
        }
        self.find(lowered, Case::Matters)
    }

    fn find(&self, text: &str, case: Case) -> Option<usize> {
        let (text, needle) = (text.as_bytes(), self.text.as_bytes());
        let fits = |window: &[u8]| match case {
            Case::Matters => window == needle,
            Case::Ignored => window.eq_ignore_ascii_case(needle),
        };
        let rare = *needle.get(self.rare)?;
        let other = if case == Case::Ignored { rare.to_ascii_uppercase() } else { rare };
        let mut start = 0;
        // The search looks for the rare byte only at positions where the whole needle would fit into the text.
        while let Some(room) = text.get(start + self.rare..(text.len() + self.rare + 1).saturating_sub(needle.len())) {
            start += memchr2(rare, other, room)?;
            if fits(&text[start..start + needle.len()]) {
                return Some(start);
            }
            start += 1;
        }
        None
    }
}

/// Converts a string to lower case, letter by letter. `str::to_lowercase` is not used, because it treats a Σ at the end
/// of a word specially. With that function, a search word might not match inside a longer word.
fn to_lower(text: &str) -> String {
    text.chars().flat_map(char::to_lowercase).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_found_in_any_order_and_case() {
        let text = "The Lexer's tests FAIL in src/lex.rs; ΟΔΟΣ, größer, 東京都";
        for (words, found) in [
            ("fail lexer", true),
            ("LEX.RS", true),
            ("fail parser", false),
            ("οδοσ", true),
            ("GRÖSSER", false),
            ("Größer", true),
            ("東京", true),
            ("", true),
            (" \t ", true),
        ] {
            assert_eq!(TextFilter::new(Some(words), None).matches(text), found, "{words:?}");
        }
    }

    #[test]
    fn a_query_has_no_syntax() {
        let text = "say \"NEAR(a b)\" * AND -x OR col:y NOT ^z % _ ' ; -- \\ \u{0}";
        for word in text.split(' ') {
            assert!(TextFilter::new(Some(word), Some(word)).matches(text), "{word:?}");
            assert!(!TextFilter::new(Some(word), None).matches("none of it"), "{word:?}");
        }
    }

    #[test]
    fn a_text_finds_each_of_its_parts() {
        for text in ["a", "aXbxb", "K\u{212a}\u{130}", "日本語 ok", "\n\t~", "éÉ"] {
            let starts: Vec<usize> = text.char_indices().map(|(at, _)| at).chain([text.len()]).collect();
            for (n, from) in starts.iter().enumerate() {
                for to in &starts[n + 1..] {
                    let part = &text[*from..*to];
                    assert!(TextFilter::new(Some(part), Some(part)).matches(text), "{part:?} in {text:?}");
                    assert!(!TextFilter::new(None, Some(&format!("{part}{text}"))).matches(text), "{part:?}");
                }
            }
        }
        assert!(!TextFilter::new(Some("longer"), None).matches("long"));
        assert!(!TextFilter::new(Some("x"), None).matches(""));
    }

    #[test]
    fn an_exact_text_is_found_as_it_stands() {
        for (phrase, found) in [("a  b", true), ("a b", false), ("A  b", false), ("c\nd", true)] {
            assert_eq!(TextFilter::new(None, Some(phrase)).matches("a  b c\nd"), found, "{phrase:?}");
        }
    }
}
