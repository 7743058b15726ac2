//! Splits the arguments of a program into options and operands.

use super::super::shell_state::Field;

/// Lists those options of a program that take a value. All other options are flags.
pub(super) struct Spec {
    /// Letters of short options that take a value. The value is the rest of the word, as in `-ofile`, or the next word.
    pub short: &'static str,
    /// Letters of short options with an optional value. The value can only be the rest of the word, as in `-i.bak`.
    pub attached: &'static str,
    /// Names of long options that take a value. The value comes after `=`, or it is the next word.
    pub long: &'static [&'static str],
    /// Whether all words after the first operand are operands, too.
    pub stops: bool,
}

impl Spec {
    /// The specification for a program whose options take no values.
    pub(super) const FLAGS: Spec = Spec { short: "", attached: "", long: &[], stops: false };

    /// Makes a specification from the options that take a value. Options may follow operands.
    pub(super) const fn new(short: &'static str, long: &'static [&'static str]) -> Spec {
        Spec { short, attached: "", long, stops: false }
    }

    /// Splits arguments into options and operands.
    pub(super) fn parse(&self, arguments: &[Field]) -> Options {
        let mut options = Options::default();
        let mut rest = arguments.iter();
        while let Some(field) = rest.next() {
            match field.text() {
                Some("--") => {
                    options.operands.extend(rest.cloned());
                    break;
                }
                Some(text) if text.starts_with("--") => {
                    let (name, value) =
                        text[2..].split_once('=').map_or((&text[2..], None), |(name, value)| (name, Some(value)));
                    let known = value.map(|value| Field::Known(value.to_owned()));
                    let value = if known.is_none() && self.long.contains(&name) { rest.next().cloned() } else { known };
                    options.given.push((name.to_owned(), value));
                }
                Some(text) if text.len() > 1 && text.starts_with('-') => {
                    self.letters(&text[1..], &mut rest, &mut options)
                }
                _ => {
                    options.has_many |= *field == Field::Many;
                    options.operands.push(field.clone());
                    if self.stops {
                        options.operands.extend(rest.cloned());
                        break;
                    }
                }
            }
        }
        options
    }

    fn letters<'f>(&self, letters: &str, rest: &mut impl Iterator<Item = &'f Field>, options: &mut Options) {
        for (at, letter) in letters.char_indices() {
            let behind = &letters[at + letter.len_utf8()..];
            let takes_next = self.short.contains(letter);
            if !takes_next && !self.attached.contains(letter) {
                options.given.push((letter.to_string(), None));
                continue;
            }
            let attached = (!behind.is_empty()).then(|| Field::Known(behind.to_owned()));
            let value = if attached.is_none() && takes_next { rest.next().cloned() } else { attached };
            options.given.push((letter.to_string(), value));
            return;
        }
    }
}

/// The arguments of a program, split into options and operands.
#[derive(Debug, Default)]
pub(super) struct Options {
    given: Vec<(String, Option<Field>)>,
    /// The arguments that are not options.
    pub operands: Vec<Field>,
    /// Whether an operand stands for an unknown number of words. In this case, the positions of later operands are
    /// unknown.
    pub has_many: bool,
}

impl Options {
    /// Whether the arguments contain one of these options.
    pub(super) fn has(&self, names: &[&str]) -> bool {
        self.given.iter().any(|(name, _)| names.contains(&name.as_str()))
    }

    /// The last option with one of these names.
    pub(super) fn last(&self, names: &[&str]) -> Option<&str> {
        self.given.iter().rev().map(|(name, _)| name.as_str()).find(|name| names.contains(name))
    }

    /// The value of the last option with one of these names.
    pub(super) fn value(&self, names: &[&str]) -> Option<&Field> {
        self.given.iter().rev().find(|(name, _)| names.contains(&name.as_str())).and_then(|(_, value)| value.as_ref())
    }

    /// The values of all options with one of these names.
    pub(super) fn values(&self, names: &[&str]) -> impl Iterator<Item = &Field> {
        self.given
            .iter()
            .filter(move |(name, _)| names.contains(&name.as_str()))
            .filter_map(|(_, value)| value.as_ref())
    }

    /// The operands whose text is known.
    pub(super) fn texts(&self) -> impl Iterator<Item = &str> {
        self.operands.iter().filter_map(Field::text)
    }
}
