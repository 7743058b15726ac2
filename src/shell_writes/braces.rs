//! Brace expansion: `{a,b}` and `{1..3}`.

use super::syntax_tree::{Part, Word};

/// Maximum number of words that may result from the braces in one word.
const WORDS_MAX: usize = 256;

/// An element of a word. `Live` is a character outside quotes, so it may be a brace. `Part` is anything else.
#[derive(Clone)]
enum Atom {
    Live(char),
    Part(Part),
}

/// Maximum length of a word whose braces are expanded. The time for the expansion grows with the square of the length,
/// so a longer word counts as unknown.
const LENGTH_MAX: usize = 1024;

/// The length of a word that has braces outside quotes; 0 for any other word. Each quoted part and each expansion
/// counts as 1.
pub(super) fn live_length(word: &Word) -> usize {
    let has_braces = word.0.iter().any(|part| matches!(part, Part::Bare(text) if text.contains('{')));
    let length = |part: &Part| if let Part::Bare(text) = part { text.len() } else { 1 };
    if has_braces { word.0.iter().map(length).sum() } else { 0 }
}

/// Expands the braces of a word. Returns `None` if the word is too long, or if the result has too many words.
pub(super) fn expand(word: &Word) -> Option<Vec<Word>> {
    match live_length(word) {
        0 => return Some(vec![word.clone()]),
        1..=LENGTH_MAX => {}
        _ => return None,
    }
    let mut atoms = Vec::new();
    for part in &word.0 {
        match part {
            Part::Bare(text) => atoms.extend(text.chars().map(Atom::Live)),
            part => atoms.push(Atom::Part(part.clone())),
        }
    }
    let mut words = Vec::new();
    collect(&atoms, &mut words, 0)?;
    Some(words.iter().map(|atoms| word_of(atoms)).collect())
}

fn word_of(atoms: &[Atom]) -> Word {
    let mut word = Word::default();
    for atom in atoms {
        match (atom, word.0.last_mut()) {
            (Atom::Live(c), Some(Part::Bare(text))) => text.push(*c),
            (Atom::Live(c), _) => word.0.push(Part::Bare((*c).into())),
            (Atom::Part(part), _) => word.0.push(part.clone()),
        }
    }
    word
}

/// Expands the first group of braces, and then the resulting words.
fn collect(atoms: &[Atom], words: &mut Vec<Vec<Atom>>, depth: usize) -> Option<()> {
    if depth > 16 || words.len() >= WORDS_MAX {
        return None;
    }
    for start in 0..atoms.len() {
        if !matches!(atoms[start], Atom::Live('{')) {
            continue;
        }
        let Some((choices, end)) = choices(&atoms[start..]) else { continue };
        if choices.len() > WORDS_MAX {
            return None;
        }
        for choice in choices {
            let whole = [&atoms[..start], &choice, &atoms[start + end..]].concat();
            collect(&whole, words, depth + 1)?;
        }
        return Some(());
    }
    words.push(atoms.to_vec());
    Some(())
}

/// If `atoms` begins with a group of braces, returns the alternatives in the group and the group's length.
fn choices(atoms: &[Atom]) -> Option<(Vec<Vec<Atom>>, usize)> {
    let mut depth = 0;
    let mut commas = vec![0];
    let mut end = None;
    for (at, atom) in atoms.iter().enumerate() {
        match atom {
            Atom::Live('{') => depth += 1,
            Atom::Live('}') => depth -= 1,
            Atom::Live(',') if depth == 1 => commas.push(at),
            _ => {}
        }
        if depth == 0 {
            end = Some(at);
            break;
        }
    }
    let end = end?;
    if commas.len() == 1 {
        return Some((sequence(&atoms[1..end])?, end + 1));
    }
    commas.push(end);
    Some((commas.windows(2).map(|pair| atoms[pair[0] + 1..pair[1]].to_vec()).collect(), end + 1))
}

/// The words of a sequence such as `1..3` or `a..c`.
fn sequence(atoms: &[Atom]) -> Option<Vec<Vec<Atom>>> {
    let text: String =
        atoms.iter().map(|atom| if let Atom::Live(c) = atom { Some(*c) } else { None }).collect::<Option<_>>()?;
    let (first, last) = text.split_once("..")?;
    let words: Vec<String> = match (first.parse::<i64>(), last.parse::<i64>()) {
        (Ok(a), Ok(b)) => {
            let width = if first.starts_with('0') || last.starts_with('0') { first.len().max(last.len()) } else { 0 };
            let (low, high) = (a.min(b), a.max(b));
            if high.checked_sub(low)? > WORDS_MAX as i64 {
                return None;
            }
            (low..=high).map(|n| format!("{n:0width$}")).collect()
        }
        _ => {
            let (mut a, mut b) = (first.chars(), last.chars());
            let (Some(low), None, Some(high), None) = (a.next(), a.next(), b.next(), b.next()) else { return None };
            (low..=high).map(String::from).collect()
        }
    };
    Some(words.iter().map(|word| word.chars().map(Atom::Live).collect()).collect())
}
