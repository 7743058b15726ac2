//! `complete`: prints the words that may come next on a command line. The completion script of a shell runs this verb
//! each time the user presses Tab.
//!
//! **Invariant:** `complete` never starts a broker. It answers quickly or not at all.

use super::args::is_file_list;
use super::verb_and_flag_tables::{self, FLAGS};
use super::{actor_params, generate_help_and_man_page, help_topics, load_environment, print_line, render};
use crate::base::counted::counted;
use crate::base::error::Error;
use crate::client::Client;
use crate::core::op_definition::ArgKind;
use crate::core::{Arg, CliPlace};
use crate::known_agents::AGENTS;
use serde_json::{Value, json};
use std::time::Duration;

/// Maximum time to wait for the broker after the user has pressed Tab.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(300);
/// The groups to which users can send messages, in addition to single peers.
const GROUPS: &[&str] = &["all", "directory", "human", "repo"];

/// A word that may come next, and its description, which may be empty.
type Completion = (String, String);

/// Prints the candidates for the last word, one per line: the word, a tab, and the description.
pub fn print_candidates(words: &[String]) -> Result<u8, Error> {
    let (typed, before) = words.split_last().map_or(("", words), |(last, before)| (last.as_str(), before));
    for (word, about) in candidates(before, typed) {
        if word.starts_with(typed) {
            print_line(&format!("{word}\t{about}"))?;
        }
    }
    Ok(0)
}

fn candidates(before: &[String], typed: &str) -> Vec<Completion> {
    let words = plain_words(before);
    let verb = find_verb(&words);
    if let Some(flag) = before.last().filter(|word| word.starts_with('-')).map(|word| word.trim_start_matches('-'))
        && verb_and_flag_tables::takes_value(flag) == Some(true)
    {
        return flag_values(verb.unwrap_or(""), flag);
    }
    if let Some((flag, _)) = typed.split_once('=').filter(|(flag, _)| flag.starts_with("--")) {
        let values = flag_values(verb.unwrap_or(""), flag.trim_start_matches('-')).into_iter();
        return values.map(|(value, about)| (format!("{flag}={value}"), about)).collect();
    }
    if typed.starts_with('-') {
        let own = verb.map(verb_and_flag_tables::verb_flags).unwrap_or_default();
        return own
            .into_iter()
            .chain(verb_and_flag_tables::common_flags())
            .map(|flag| (flag.name, flag.help))
            .collect();
    }
    let mut found = verb_words(&words);
    if let Some(verb) = verb {
        found.extend(argument_values(verb, words.len() - verb.split(' ').count()));
    }
    found
}

/// Returns the words that are neither flags nor values of flags.
fn plain_words(before: &[String]) -> Vec<&str> {
    let mut words = Vec::new();
    let mut rest = before.iter();
    while let Some(word) = rest.next() {
        let Some(name) = word.strip_prefix('-') else {
            words.push(word.as_str());
            continue;
        };
        if verb_and_flag_tables::takes_value(name.trim_start_matches('-')) == Some(true) {
            rest.next();
        }
    }
    words
}

fn find_verb(words: &[&str]) -> Option<&'static str> {
    let two = words.iter().take(2).copied().collect::<Vec<_>>().join(" ");
    let find = |typed: &str| verb_and_flag_tables::all_verbs().find(|verb| *verb == typed);
    find(&two).or_else(|| find(words.first()?))
}

/// Returns the next word of each verb that begins with these words. If there are no words, returns the first word of
/// each verb.
fn verb_words(words: &[&str]) -> Vec<Completion> {
    let typed = words.iter().map(|word| format!("{word} ")).collect::<String>();
    let mut found: Vec<Completion> = Vec::new();
    for (verb, about) in generate_help_and_man_page::verb_summaries() {
        let Some(next) = verb.strip_prefix(&typed).and_then(|rest| rest.split(' ').next()) else { continue };
        if !found.iter().any(|(known, _)| known == next) {
            found.push((next.to_owned(), about.to_owned()));
        }
    }
    found
}

/// The possible values of a flag.
fn flag_values(verb: &str, name: &str) -> Vec<Completion> {
    let arg = verb_and_flag_tables::verb_args(verb).iter().find(|arg| arg.has_flag(name));
    if let Some(values) = arg.map(arg_values).filter(|values| !values.is_empty()) {
        return values;
    }
    match FLAGS.iter().find(|flag| flag.is(name) && (flag.verbs.is_empty() || flag.verbs.contains(&verb))) {
        Some(flag) if flag.value == "PEER" => peers(),
        // The placeholder of `--agent` is not `AGENT`, because the flag also accepts an agent that slm-mesh does not
        // know.
        Some(flag) if flag.value == "AGENT" || flag.name == "agent" => agents(),
        _ => Vec::new(),
    }
}

/// The possible values of the verb's argument at this position.
fn argument_values(verb: &str, position: usize) -> Vec<Completion> {
    let plain = |list: &[&str]| list.iter().map(|word| ((*word).to_owned(), String::new())).collect();
    match verb {
        "help" if position == 0 => {
            let topics = help_topics::TOPICS.iter().map(|(name, about, _)| ((*name).to_owned(), (*about).to_owned()));
            topics.chain(verb_words(&[])).collect()
        }
        "setup" => agents(),
        "hook" if position == 0 => agents(),
        "guard" if position == 0 => plain(&["install", "remove"]),
        "unlock" => locked_files(),
        "transcript" if position == 0 => peers(),
        _ => {
            let mut args = verb_and_flag_tables::verb_args(verb).iter().filter(|arg| arg.place == CliPlace::Positional);
            args.nth(position).map(arg_values).unwrap_or_default()
        }
    }
}

/// The possible values of an operation's argument, if they can be listed.
fn arg_values(arg: &Arg) -> Vec<Completion> {
    match arg.kind {
        ArgKind::Choice(words) => words.iter().map(|word| ((*word).to_owned(), String::new())).collect(),
        _ if is_file_list(arg) => Vec::new(),
        _ if arg.name == "to" => {
            let groups = GROUPS.iter().map(|word| ((*word).to_owned(), "group".to_owned()));
            peers().into_iter().chain(groups).chain(channels()).collect()
        }
        _ if ["from", "with"].contains(&arg.name) => peers().into_iter().chain(channels()).collect(),
        _ if arg.name == "channel" => channels(),
        _ if arg.name == "key" && arg.place == CliPlace::Positional => state_keys(),
        _ => Vec::new(),
    }
}

fn agents() -> Vec<Completion> {
    AGENTS.iter().map(|agent| (agent.id.to_owned(), agent.title.to_owned())).collect()
}

fn peers() -> Vec<Completion> {
    list("peers", &json!({ "scope": "machine", "includeAway": true, "whoami": true }), "peers", |row| {
        (text(&row["name"]), text(&row["summary"]))
    })
}

fn channels() -> Vec<Completion> {
    list("channel.list", &json!({}), "channels", |row| {
        (text(&row["name"]), counted(row["count"].as_u64().unwrap_or(0) as usize, "member", "members"))
    })
}

fn state_keys() -> Vec<Completion> {
    list("state.list", &json!({}), "entries", |row| (text(&row["key"]), String::new()))
}

fn locked_files() -> Vec<Completion> {
    list("lock.query", &json!({}), "locks", |row| (render::relative(&text(&row["filePath"])), text(&row["holder"])))
}

/// Requests a list from the broker, and makes a candidate from each row. Returns an empty list if no broker is running
/// or if the broker is slow.
fn list(method: &str, params: &Value, name: &str, to_candidate: fn(&Value) -> Completion) -> Vec<Completion> {
    let answer = || {
        let (places, settings) = load_environment().ok()?;
        let mut all = actor_params(&settings);
        all.extend(params.as_object().cloned().unwrap_or_default());
        let mut client = Client::connect(&places).ok()?;
        client.set_receive_timeout(Some(ANSWER_TIMEOUT)).ok()?;
        client.call(method, &Value::Object(all)).ok()
    };
    let answer = answer().unwrap_or_default();
    answer[name].as_array().into_iter().flatten().map(to_candidate).collect()
}

/// Makes text from a peer safe for a terminal: a single line without control characters.
fn text(value: &Value) -> String {
    render::plain(value.as_str().unwrap_or(""))
}
