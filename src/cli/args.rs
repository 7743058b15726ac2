//! Parses a command line. The table of operations and `verb_and_flag_tables.rs` define the verbs and flags.

pub use super::parsed_command::{CliCommand, ParsedCommand};

use super::print_peer_transcript::{LAST_DEFAULT, LAST_MAX, TranscriptOptions};
use super::restore_file::RestoreOptions;
use super::sandbox_command_from_locked_files::ShieldOptions;
use super::setup_and_doctor::SetupOptions;
use super::usage_errors::{lexopt_error, on_command_line, unexpected, unknown_flag, unknown_verb, usage, usage_error};
use super::verb_and_flag_tables::{FLAGS, all_verbs, flag_name, placeholder, takes_command, takes_value, with_dashes};
use super::verb_behavior_table::{self, CliOperation};
use super::word_value;
use crate::base::error::Error;
use crate::base::{limits, untrusted_text};
use crate::broker::startup::LogChange;
use crate::core::op_definition::{ArgKind, ArgRole};
use crate::core::{Arg, CliPlace, Op};
use lexopt::{Arg as LexoptArg, Parser};
use serde_json::{Value, json};
use std::ffi::OsString;
use std::io::Read;

/// Parses a command line.
///
/// # Errors
/// If a verb or flag is unknown, or a value is wrong. The error says what is accepted.
pub fn parse(argv: Vec<OsString>) -> Result<ParsedCommand, Error> {
    let mut words = argv;
    if words.first().is_some_and(|word| word == "complete") {
        let typed = words.split_off(1).into_iter().map(utf8).collect::<Result<_, _>>()?;
        return Ok(ParsedCommand { command: CliCommand::Complete(typed), ..ParsedCommand::new(Vec::new()) });
    }
    let mut command_line = Vec::new();
    if let Some(verb) = command_verb(&words)
        && let Some(at) = words.iter().position(|word| word == "--")
    {
        command_line = words.split_off(at).split_off(1);
        if command_line.is_empty() {
            return Err(usage_error(&format!("{verb}: expected a command after --")));
        }
    }
    let mut parser = CommandParser { parsed: ParsedCommand::new(command_line), words: Vec::new(), flags: Vec::new() };
    let mut rest = Parser::from_args(words);
    loop {
        if let Some(word) = dashed_value(&mut rest) {
            parser.words.push(word);
            continue;
        }
        let flag = match rest.next().map_err(lexopt_error)? {
            None => return parser.finish(),
            Some(LexoptArg::Value(word)) => {
                parser.words.push(utf8(word)?);
                continue;
            }
            Some(LexoptArg::Long(name)) => name.to_owned(),
            Some(LexoptArg::Short(letter)) => letter.to_string(),
        };
        parser.add_flag(flag, &mut rest)?;
    }
}

/// Takes the next word if it begins with `-` but contains no flag name after the dash. Examples are `-5`, `-> done` and
/// `- buy milk`.
fn dashed_value(parser: &mut Parser) -> Option<String> {
    let mut rest = parser.try_raw_args()?;
    let word = rest.peek()?.to_str()?.to_owned();
    let name = word.strip_prefix("--").or_else(|| word.strip_prefix('-'))?.split('=').next()?;
    let is_name = name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
    if is_name || ["-", "--"].contains(&word.as_str()) {
        return None;
    }
    rest.next();
    Some(word)
}

/// The words and flags of a command line whose verb is not known yet.
struct CommandParser {
    parsed: ParsedCommand,
    words: Vec<String>,
    /// The flags of the verb, each with its name and value.
    flags: Vec<(String, Option<String>)>,
}

/// Maximum time that the verb `hubs` may wait, in seconds. No hub needs longer to answer.
const HUBS_SECONDS_MAX: i64 = 60;

impl CommandParser {
    fn add_flag(&mut self, name: String, rest: &mut Parser) -> Result<(), Error> {
        match name.as_str() {
            "json" => self.parsed.json = true,
            "help" | "h" => self.parsed.command = CliCommand::Help(String::new()),
            "version" | "V" => self.parsed.command = CliCommand::Version,
            "follow" | "f" => self.parsed.follow = true,
            "as" => self.parsed.acting = Some(acting_peer(utf8(rest.value().map_err(lexopt_error)?)?)?),
            _ => {
                let value = match takes_value(&name) {
                    Some(true) => Some(utf8(rest.value().map_err(lexopt_error)?)?),
                    Some(false) => None,
                    // The error about an unknown flag should contain the verb. But the verb may follow the flag, so the
                    // flag is kept until the verb is known.
                    None => rest.optional_value().map(utf8).transpose()?,
                };
                self.flags.push((name, value));
            }
        }
        Ok(())
    }

    fn finish(mut self) -> Result<ParsedCommand, Error> {
        if let CliCommand::Help(_) = self.parsed.command {
            self.parsed.command = CliCommand::Help(self.words.join(" "));
            return Ok(self.parsed);
        }
        if let CliCommand::Version = self.parsed.command {
            return Ok(self.parsed);
        }
        let first = self.words.first().cloned().unwrap_or_default();
        let Some(command) = self.plain_command(&first)? else { return self.operation() };
        let extra = self.words.get(1).filter(|_| !matches!(command, CliCommand::Help(_)));
        let flag = self.flags.first().map(|(name, _)| with_dashes(name));
        if let Some(extra) = extra.cloned().or(flag).or(self.parsed.follow.then(|| "--follow".to_owned())) {
            return Err(unexpected(&first, &extra));
        }
        self.parsed.command = command;
        Ok(self.parsed)
    }

    /// Returns the agent that the user gives with `--agent`.
    fn take_agent(&mut self) -> Result<Option<String>, Error> {
        let Some(name) = self.take_value("agent") else { return Ok(None) };
        untrusted_text::check_name(&name).map_err(|want| Error::usage("--agent", want))?;
        Ok(Some(name.to_lowercase()))
    }

    /// Builds the command from the words and flags of a verb that is not an operation. Returns `None` for any other
    /// verb.
    fn plain_command(&mut self, verb: &str) -> Result<Option<CliCommand>, Error> {
        Ok(Some(match verb {
            "" if self.words.is_empty() => match self.flags.first() {
                None => CliCommand::Bare,
                Some((flag, _)) => {
                    let flag = with_dashes(flag);
                    return Err(usage_error(&format!("{flag} needs a verb; run slm-mesh help to list the verbs")));
                }
            },
            "mcp" => CliCommand::Mcp { legacy: self.take_switch("legacy"), agent: self.take_agent()? },
            "start" => CliCommand::Start {
                detach: self.take_switch("detach"),
                as_daemon: self.take_switch("as-daemon"),
                log_change: self
                    .take_choice("new-log", "rejoin")?
                    .map(|is_new| if is_new { LogChange::BeginNew } else { LogChange::Rejoin }),
            },
            "stop" => CliCommand::Stop { force: self.take_switch("force") },
            "clean" => CliCommand::Clean,
            "restore" => CliCommand::RestoreBackup(self.take_backup()?),
            "watch" => CliCommand::WatchMesh(self.take_switch("plain")),
            "web" => CliCommand::Web(self.take_switch("print")),
            "guard" => CliCommand::Guard(self.words.split_off(1)),
            "setup" => CliCommand::Setup(self.take_setup()?),
            "doctor" => CliCommand::Doctor(self.take_value("prove")),
            "hubs" => CliCommand::Hubs(self.take_hubs_seconds()?),
            "announce" => CliCommand::Announce(self.words.split_off(1)),
            "hook" => {
                let dialect = self.words.get(1).cloned();
                self.words.truncate(1);
                let (wake, agent) = (self.take_switch("wake"), self.take_agent()?);
                // Flags that remain now are unknown, and the caller reports them. So the missing agent is reported only
                // if no flag remains.
                if dialect.is_none() && self.flags.is_empty() && !self.parsed.follow {
                    return Err(usage("hook"));
                }
                CliCommand::Hook { dialect: dialect.unwrap_or_default(), wake, agent }
            }
            "shield" => CliCommand::Shield(self.take_shield()?),
            "transcript" => CliCommand::Transcript(self.take_transcript()?),
            "pipe" => CliCommand::Pipe,
            "secret" => CliCommand::Secret,
            "version" => CliCommand::Version,
            "help" => CliCommand::Help(self.words.split_off(1).join(" ")),
            _ => return Ok(None),
        }))
    }

    fn take_switch(&mut self, name: &str) -> bool {
        let n_before = self.flags.len();
        self.flags.retain(|(flag, _)| flag != name);
        self.flags.len() < n_before
    }

    fn take_value(&mut self, name: &str) -> Option<String> {
        let at = self.flags.iter().position(|(flag, _)| flag == name)?;
        self.flags.remove(at).1
    }

    /// Returns whether the user gave the flag `on` (true) or the flag `off` (false); `None` if the user gave neither
    /// flag.
    fn take_choice(&mut self, on: &str, off: &str) -> Result<Option<bool>, Error> {
        match (self.take_switch(on), self.take_switch(off)) {
            (true, true) => {
                Err(usage_error(&format!("--{on} and --{off} contradict each other; give only one of them")))
            }
            (on, off) => Ok((on || off).then_some(on)),
        }
    }

    fn take_setup(&mut self) -> Result<SetupOptions, Error> {
        let options = SetupOptions {
            agents: self.words.split_off(1),
            dry: self.take_switch("dry-run"),
            remove: self.take_switch("remove"),
            project: self.take_switch("project"),
            wake: self.take_choice("wake", "no-wake")?,
            shield: self.take_choice("shield", "no-shield")?,
        };
        let on = [("wake", options.wake), ("shield", options.shield)].into_iter().find(|(_, on)| *on == Some(true));
        match on.filter(|_| options.remove) {
            Some((on, _)) => {
                Err(usage_error(&format!("--{on} and --remove contradict each other; give only one of them")))
            }
            None => Ok(options),
        }
    }

    fn take_shield(&mut self) -> Result<ShieldOptions, Error> {
        let mut options = ShieldOptions { files: Vec::new(), is_optional: self.take_switch("if-possible") };
        while let Some(file) = self.take_value("file") {
            options.files.push(file);
        }
        // Flags that remain now are unknown, and the caller reports them. So the missing command is reported only if no
        // flag remains.
        if self.parsed.command_line.is_empty() && self.flags.is_empty() && !self.parsed.follow {
            return Err(usage("shield"));
        }
        Ok(options)
    }

    fn take_backup(&mut self) -> Result<String, Error> {
        let flag = self.flags.first().map(|(name, _)| name.as_str()).or(self.parsed.follow.then_some("follow"));
        if let Some(name) = flag {
            return Err(unknown_flag("restore", name));
        }
        if self.words.len() > 1 {
            return Ok(self.words.remove(1));
        }
        Err(usage("restore"))
    }

    /// Returns how long the verb `hubs` waits for replies, in seconds.
    fn take_hubs_seconds(&mut self) -> Result<u64, Error> {
        Ok(self.take_number("hubs", "wait", HUBS_SECONDS_MAX)?.unwrap_or(1))
    }

    /// Returns the number after a flag, from 1 to `max`; `None` if the flag is missing.
    fn take_number(&mut self, verb: &str, flag: &str, max: i64) -> Result<Option<u64>, Error> {
        let Some(word) = self.take_value(flag) else { return Ok(None) };
        let number = word_value(ArgKind::Int { min: 1, max }, flag, word)?;
        match number.as_u64().filter(|n| (1..=max as u64).contains(n)) {
            Some(n) => Ok(Some(n)),
            None => Err(usage_error(&format!("{verb}: --{flag}: expected a whole number from 1 to {max}"))),
        }
    }

    fn take_transcript(&mut self) -> Result<TranscriptOptions, Error> {
        let last = self.take_number("transcript", "last", LAST_MAX)?.map_or(LAST_DEFAULT, |n| n as usize);
        let grep = self.take_value("grep");
        let mut words = self.words.drain(1..self.words.len().min(2));
        match words.next() {
            // Flags that remain now are unknown, and the caller reports them. So the missing peer is reported only if
            // no flag remains.
            None if self.flags.is_empty() && !self.parsed.follow => Err(usage("transcript")),
            peer => Ok(TranscriptOptions { peer: peer.unwrap_or_default(), last, grep }),
        }
    }

    fn operation(mut self) -> Result<ParsedCommand, Error> {
        let verb = self.find_verb()?;
        self.words.drain(..verb.split(' ').count());
        if self.parsed.follow && !FLAGS.iter().any(|flag| flag.is("follow") && flag.verbs.contains(&verb)) {
            return Err(usage_error(&format!(
                "--follow: {verb} has no such flag; use --follow with inbox, log or events"
            )));
        }
        if verb == "state watch" {
            return self.watch_state();
        }
        if verb == "lock restore" {
            return self.lock_restore();
        }
        let Some(row) = verb_behavior_table::of_verb(verb) else { return Err(unknown_verb(verb)) };
        self.parsed.command = CliCommand::Operation(row);
        if verb == "broadcast" {
            self.parsed.args.insert("to".into(), json!("all"));
        }
        for (name, value) in std::mem::take(&mut self.flags) {
            self.set_flag(row.op, verb, &name, value)?;
        }
        self.set_words(row.op, verb)?;
        self.check(row, verb)?;
        Ok(self.parsed)
    }

    /// Checks the arguments in the same way as the broker does, so that a mistake is reported even if no broker is
    /// running.
    fn check(&self, row: &CliOperation, verb: &str) -> Result<(), Error> {
        let op = row.op;
        let mut checked = self.parsed.args.clone();
        let files = op.args.iter().find(|arg| is_file_list(arg)).and_then(|arg| checked.shift_remove(arg.name));
        let is_complete = op.args.iter().all(|arg| !arg.required || checked.contains_key(arg.name));
        if !is_complete || row.needs_file && files.is_none() {
            return Err(usage(verb));
        }
        if files.as_ref().and_then(Value::as_array).is_some_and(|files| files.contains(&json!(""))) {
            return Err(Error::usage("FILE", "expected a file, a folder or a glob, got \"\""));
        }
        op.check(checked).map(|_| ()).map_err(|error| on_command_line(op, error))
    }

    /// Finds the verb, which is one word or two words.
    fn find_verb(&self) -> Result<&'static str, Error> {
        let two = self.words.iter().take(2).cloned().collect::<Vec<_>>().join(" ");
        let one = self.words.first().cloned().unwrap_or_default();
        let find = |typed: &str| all_verbs().find(|verb| *verb == typed);
        match find(&two).filter(|_| self.words.len() > 1).or_else(|| find(&one)) {
            Some(verb) => Ok(verb),
            None if one == "state" => {
                Err(usage_error("state: expected get, set, list, delete or watch; see slm-mesh help state"))
            }
            None => Err(unknown_verb(&one)),
        }
    }

    fn watch_state(mut self) -> Result<ParsedCommand, Error> {
        self.parsed.command = CliCommand::WatchState;
        for (name, value) in std::mem::take(&mut self.flags) {
            let value = value.unwrap_or_default();
            match name.as_str() {
                "namespace" => drop(self.parsed.args.insert(name, json!(value))),
                "wait" => drop(self.parsed.args.insert(
                    "waitSeconds".into(),
                    word_value(ArgKind::Int { min: 1, max: limits::WAIT_SECONDS_MAX }, "--wait", value)?,
                )),
                _ => return Err(unknown_flag("state watch", &name)),
            }
        }
        let [key] = &self.words[..] else {
            return Err(usage("state watch"));
        };
        self.parsed.args.insert("key".into(), json!(key));
        Ok(self.parsed)
    }

    fn lock_restore(mut self) -> Result<ParsedCommand, Error> {
        let (yes, force) = (self.take_switch("yes"), self.take_switch("force"));
        if let Some((name, _)) = self.flags.first() {
            return Err(unknown_flag("lock restore", name));
        }
        let file = match &self.words[..] {
            [file] if self.parsed.command_line.is_empty() && !file.is_empty() => file.clone(),
            _ => {
                return Err(usage("lock restore"));
            }
        };
        self.parsed.command = CliCommand::RestoreFile(RestoreOptions { file, yes, force });
        Ok(self.parsed)
    }

    fn set_flag(&mut self, op: &'static Op, verb: &str, name: &str, value: Option<String>) -> Result<(), Error> {
        let mut args = op.args.iter().filter(|arg| arg.place == CliPlace::Flag);
        let arg = args.find(|arg| arg.has_flag(name));
        let Some(arg) = arg else {
            let is_acting = FLAGS.iter().any(|flag| flag.name == "as" && flag.is(name));
            let Some(peer) = value.filter(|_| is_acting) else { return Err(unknown_flag(verb, name)) };
            self.parsed.acting = Some(acting_peer(peer)?);
            return Ok(());
        };
        let shown = flag_name(arg);
        let value = match (arg.kind, value) {
            (ArgKind::Flag, _) => json!(true),
            (ArgKind::Texts { .. }, Some(list)) => {
                let more = list.split(',').filter(|item| !item.is_empty()).map(|item| json!(item));
                let mut all = self.parsed.args.get(arg.name).and_then(Value::as_array).cloned().unwrap_or_default();
                all.extend(more);
                json!(all)
            }
            (kind, Some(word)) => word_value(kind, &shown, word)?,
            (_, None) => return Err(usage_error(&format!("{shown}: expected a value"))),
        };
        self.parsed.args.insert(arg.name.into(), value);
        Ok(())
    }

    /// Assigns the words after the verb to the operation's arguments.
    fn set_words(&mut self, op: &'static Op, verb: &str) -> Result<(), Error> {
        let mut words = std::mem::take(&mut self.words).into_iter();
        for arg in op.args.iter().filter(|arg| arg.place == CliPlace::Positional) {
            if self.parsed.args.contains_key(arg.name) {
                continue;
            }
            if let Some(word) = words.next() {
                self.parsed.args.insert(arg.name.into(), word_value(arg.kind, &placeholder(arg), word)?);
            }
        }
        let rest: Vec<String> = words.collect();
        let Some(arg) = op.args.iter().find(|arg| arg.place == CliPlace::Rest) else {
            return rest.first().map_or(Ok(()), |word| Err(unexpected(verb, word)));
        };
        if !rest.is_empty() {
            self.parsed.args.insert(arg.name.into(), words_value(arg, rest)?);
        }
        Ok(())
    }
}

/// Whether an argument is a list of files that users type as plain words, without a flag.
pub fn is_file_list(arg: &Arg) -> bool {
    arg.role == ArgRole::Path && arg.place == CliPlace::Rest
}

/// Turns the remaining words into a list or a text, depending on the argument. If the only word is `-`, the text comes
/// from standard input.
fn words_value(arg: &Arg, words: Vec<String>) -> Result<Value, Error> {
    if let ArgKind::Texts { .. } = arg.kind {
        return Ok(json!(words));
    }
    if words != ["-"] {
        return Ok(json!(words.join(" ")));
    }
    let mut text = Vec::new();
    let mut input = std::io::stdin().lock().take(limits::PAYLOAD_MAX as u64 + 2);
    input.read_to_end(&mut text).map_err(|error| usage_error(&format!("cannot read standard input ({error})")))?;
    let text = String::from_utf8(text).map_err(|_| usage_error("standard input is not UTF-8"))?;
    Ok(json!(text.strip_suffix('\n').unwrap_or(&text)))
}

/// Returns the verb if it accepts a command after `--`. The verb is the first word that is
/// neither a flag nor a flag's value.
fn command_verb(words: &[OsString]) -> Option<&'static str> {
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let text = word.to_string_lossy();
        if !text.starts_with('-') {
            return all_verbs().find(|verb| word == verb && takes_command(verb));
        }
        let name = text.trim_start_matches('-');
        if !name.contains('=') && takes_value(name) == Some(true) {
            words.next();
        }
    }
    None
}

fn acting_peer(peer: String) -> Result<String, Error> {
    if peer.is_empty() { Err(usage_error("--as: expected the name or the id of a peer, got \"\"")) } else { Ok(peer) }
}

fn utf8(word: OsString) -> Result<String, Error> {
    word.into_string().map_err(|word| usage_error(&format!("{word:?}: expected UTF-8")))
}
