//! The errors about a command line that can't be parsed.

use super::verb_and_flag_tables::{
    all_verbs, closest_word, common_flags, flag_name, takes_text, usage_line, verb_flags, with_dashes,
};
use crate::base::error::{Error, ErrorKind};
use crate::core::op_definition::ArgRole;
use crate::core::{CliPlace, Op};

/// Changes an error so that it contains the argument in the form that users type: `--ttl` for `ttlMinutes`, `KEY` for
/// `key`.
pub fn on_command_line(op: &Op, error: Error) -> Error {
    let named = error.data.as_ref().and_then(|data| data["argument"].as_str()).map(str::to_owned);
    let Some(named) = named.filter(|named| error.text.starts_with(&format!("{named}:"))) else { return error };
    let known = op.args.iter().find(|arg| arg.name == named).and_then(|arg| match (arg.role, arg.place) {
        (ArgRole::Path, _) => Some("FILE".to_owned()),
        (_, CliPlace::Flag) => Some(flag_name(arg)),
        (_, CliPlace::Positional | CliPlace::Rest) => Some(arg.name.to_uppercase()),
        (_, CliPlace::Hidden) => None,
    });
    let Some(known) = known else { return error };
    Error { text: error.text.replacen(&named, &known, 1), ..error }
}

/// The error for an extra word: the verb has no argument for it.
pub(super) fn unexpected(verb: &str, word: &str) -> Error {
    usage_error(&format!("{verb}: unexpected {word}; see slm-mesh help {verb}"))
}

/// The error for a flag that the verb does not have. It lists the flags of the verb.
pub(super) fn unknown_flag(verb: &str, name: &str) -> Error {
    let known = common_flags().into_iter().chain(verb_flags(verb)).map(|flag| flag.name);
    let known: Vec<String> = known.collect();
    let cure = if takes_text(verb) { "; put -- before a value that begins with -" } else { "" };
    usage_error(&format!("{verb}: no flag {}; the flags of {verb} are {}{cure}", with_dashes(name), known.join(", ")))
}

/// The error for an unknown verb. It contains the most similar verb.
pub(super) fn unknown_verb(typed: &str) -> Error {
    let firsts = all_verbs().filter_map(|verb| verb.split(' ').next());
    let guess = closest_word(typed, firsts).map(|verb| format!("did you mean {verb}? ")).unwrap_or_default();
    usage_error(&format!("no verb \"{typed}\"; {guess}run slm-mesh help to list the verbs"))
}

/// Rephrases an error of the lexopt crate in the style of our own errors.
pub(super) fn lexopt_error(error: lexopt::Error) -> Error {
    usage_error(&match error {
        lexopt::Error::MissingValue { option: Some(option) } => format!("{option}: expected a value"),
        lexopt::Error::UnexpectedValue { option, value } => format!("{option} takes no value, got {value:?}"),
        other => other.to_string(),
    })
}

/// An error about the use of the command line.
pub(super) fn usage_error(text: &str) -> Error {
    Error::new(ErrorKind::Usage, text)
}

/// The error that shows how a verb is used.
pub(super) fn usage(verb: &str) -> Error {
    usage_error(&format!("usage: slm-mesh {}", usage_line(verb)))
}
