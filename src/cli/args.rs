//! Arguments into a command: verbs and flags come from the operations' table.

use super::flags::{self, FLAGS};
use super::setup::Asked;
use super::word_value;
use crate::base::error::{Error, ErrorKind};
use crate::base::limits;
use crate::core::op::ArgKind;
use crate::core::{Arg, CliPlace, Op};
use lexopt::{Arg as Given, Parser};
use serde_json::{Map, Value, json};
use std::ffi::OsString;
use std::io::Read;

/// What is to be done.
#[derive(Debug, Clone)]
pub enum Command {
    /// No arguments: a session, or a greeting on a terminal.
    Bare,
    /// The MCP session; `legacy` refuses the modern era.
    #[allow(missing_docs)]
    Mcp { legacy: bool },
    /// The broker, here or behind.
    #[allow(missing_docs)]
    Start { detach: bool, as_daemon: bool },
    /// The broker's end.
    Stop,
    /// Leftovers of a crash.
    Clean,
    /// An agent's hook.
    Hook(String, bool),
    /// Carry lines for ssh.
    Pipe,
    /// Print a secret.
    Secret,
    /// The agents' settings.
    Setup(Asked),
    /// A look at everything; with an agent's name a proof of its hooks.
    Doctor(Option<String>),
    /// The git hooks: install, remove, or what they run.
    Guard(Vec<String>),
    /// The hubs on the local network, looked for so many seconds.
    Hubs(u64),
    /// The announcing process, with its orders.
    Announce(Vec<String>),
    /// The version.
    Version,
    /// Help, on a topic.
    Help(String),
    /// Changes of a state entry as they come.
    Watch,
    /// Everything as it happens; or with true a line for each event.
    Live(bool),
    /// The page in a browser; with true its link is only printed.
    Web(bool),
    /// One operation.
    Operation(&'static Op),
}

/// A command line, understood.
#[derive(Debug, Clone)]
pub struct Parsed {
    /// What is to be done.
    pub command: Command,
    /// The operation's arguments.
    pub args: Map<String, Value>,
    /// `--json`.
    pub json: bool,
    /// `--as`.
    pub acting: Option<String>,
    /// `--follow`.
    pub follow: bool,
    /// What stands after `--` behind `lock`.
    pub command_line: Vec<OsString>,
}

/// Understands a command line.
///
/// # Errors
/// For an unknown verb or flag, or a value that does not fit, with what is accepted.
pub fn parse(argv: Vec<OsString>) -> Result<Parsed, Error> {
    let mut words = argv;
    let mut command_line = Vec::new();
    if is_lock(&words)
        && let Some(at) = words.iter().position(|word| word == "--")
    {
        command_line = words.split_off(at).split_off(1);
        if command_line.is_empty() {
            return Err(usage("lock: want a command after --"));
        }
    }
    let mut reader = Reader { parsed: Parsed::new(command_line), words: Vec::new(), flags: Vec::new() };
    let mut parser = Parser::from_args(words);
    loop {
        if let Some(number) = negative(&mut parser) {
            reader.words.push(number);
            continue;
        }
        let Some(given) = parser.next().map_err(misread)? else { return reader.finish() };
        let given = given.to_owned_arg();
        reader.take(given, &mut parser)?;
    }
}

/// `-5` where a word or a flag may stand: no flag of ours is a digit, so it is meant as a value.
fn negative(parser: &mut Parser) -> Option<String> {
    let mut rest = parser.try_raw_args()?;
    let word = rest.peek()?.to_str()?.to_owned();
    let is_number = word.strip_prefix('-')?.starts_with(|c: char| c.is_ascii_digit() || c == '.');
    (is_number && word.parse::<f64>().is_ok()).then(|| rest.next())?;
    Some(word)
}

impl Parsed {
    fn new(command_line: Vec<OsString>) -> Parsed {
        Parsed { command: Command::Bare, args: Map::new(), json: false, acting: None, follow: false, command_line }
    }
}

/// An argument that does not borrow the parser.
enum Owned {
    Flag(String),
    Word(OsString),
}

trait ToOwnedArg {
    fn to_owned_arg(&self) -> Owned;
}

impl ToOwnedArg for Given<'_> {
    fn to_owned_arg(&self) -> Owned {
        match self {
            Given::Long(name) => Owned::Flag((*name).to_owned()),
            Given::Short(c) => Owned::Flag(c.to_string()),
            Given::Value(word) => Owned::Word(word.clone()),
        }
    }
}

struct Reader {
    parsed: Parsed,
    words: Vec<String>,
    /// Flags whose verb may still come: name and value.
    flags: Vec<(String, Option<String>)>,
}

/// Who has not answered by then is not there.
const HUBS_SECONDS_MAX: i64 = 60;

impl Reader {
    fn take(&mut self, given: Owned, parser: &mut Parser) -> Result<(), Error> {
        let name = match given {
            Owned::Word(word) => {
                self.words.push(text(word)?);
                return Ok(());
            }
            Owned::Flag(name) => name,
        };
        match name.as_str() {
            "json" => self.parsed.json = true,
            "help" | "h" => self.parsed.command = Command::Help(String::new()),
            "version" | "V" => self.parsed.command = Command::Version,
            "follow" | "f" => self.parsed.follow = true,
            "as" => self.parsed.acting = Some(acting(text(parser.value().map_err(misread)?)?)?),
            _ => {
                let value = match flags::takes_value(&name) {
                    Some(true) => Some(text(parser.value().map_err(misread)?)?),
                    Some(false) => None,
                    // An unknown one is told of with its verb, which may still come.
                    None => parser.optional_value().map(text).transpose()?,
                };
                self.flags.push((name, value));
            }
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Parsed, Error> {
        if let Command::Help(_) = self.parsed.command {
            self.parsed.command = Command::Help(self.words.join(" "));
            return Ok(self.parsed);
        }
        if let Command::Version = self.parsed.command {
            return Ok(self.parsed);
        }
        let first = self.words.first().cloned().unwrap_or_default();
        let command = match first.as_str() {
            "" if self.words.is_empty() => match self.flags.first() {
                None => Command::Bare,
                Some((flag, _)) => {
                    let flag = flags::dashed(flag);
                    return Err(usage(&format!("{flag}: want a verb with it; slm-mesh help lists them")));
                }
            },
            "mcp" => Command::Mcp { legacy: self.switch("legacy") },
            "start" => Command::Start { detach: self.switch("detach"), as_daemon: self.switch("as-daemon") },
            "stop" => Command::Stop,
            "clean" => Command::Clean,
            "watch" => Command::Live(self.switch("plain")),
            "web" => Command::Web(self.switch("print")),
            "guard" => Command::Guard(self.words.split_off(1)),
            "setup" => Command::Setup(Asked {
                agents: self.words.split_off(1),
                dry: self.switch("dry-run"),
                remove: self.switch("remove"),
                project: self.switch("project"),
                wake: self.wake()?,
            }),
            "doctor" => Command::Doctor(self.value("prove")),
            "hubs" => Command::Hubs(self.seconds()?),
            "announce" => Command::Announce(self.words.split_off(1)),
            "hook" => {
                let agent = self.words.get(1).cloned().unwrap_or_default();
                self.words.truncate(1);
                Command::Hook(agent, self.switch("wake"))
            }
            "pipe" => Command::Pipe,
            "secret" => Command::Secret,
            "version" => Command::Version,
            "help" => Command::Help(self.words.split_off(1).join(" ")),
            _ => return self.operation(),
        };
        let extra = self.words.get(1).filter(|_| !matches!(command, Command::Help(_)));
        let flag = self.flags.first().map(|(name, _)| flags::dashed(name));
        if let Some(extra) = extra.cloned().or(flag).or(self.parsed.follow.then(|| "--follow".to_owned())) {
            return Err(usage(&format!("{first}: {extra} means nothing here; see slm-mesh help {first}")));
        }
        self.parsed.command = command;
        Ok(self.parsed)
    }

    fn switch(&mut self, name: &str) -> bool {
        let n_before = self.flags.len();
        self.flags.retain(|(flag, _)| flag != name);
        self.flags.len() < n_before
    }

    fn wake(&mut self) -> Result<Option<bool>, Error> {
        match (self.switch("wake"), self.switch("no-wake")) {
            (true, true) => Err(usage("setup: --wake and --no-wake contradict each other")),
            (on, off) => Ok((on || off).then_some(on)),
        }
    }

    /// How long `hubs` waits for answers.
    fn seconds(&mut self) -> Result<u64, Error> {
        let Some(word) = self.value("wait") else { return Ok(1) };
        let seconds = word_value(ArgKind::Int { min: 1, max: HUBS_SECONDS_MAX }, "wait", word)?;
        match seconds.as_u64().filter(|n| (1..=HUBS_SECONDS_MAX as u64).contains(n)) {
            Some(n) => Ok(n),
            None => Err(usage(&format!("hubs: --wait: want a whole number from 1 to {HUBS_SECONDS_MAX}"))),
        }
    }

    fn value(&mut self, name: &str) -> Option<String> {
        let at = self.flags.iter().position(|(flag, _)| flag == name)?;
        self.flags.remove(at).1
    }

    fn operation(mut self) -> Result<Parsed, Error> {
        let verb = self.verb()?;
        self.words.drain(..verb.split(' ').count());
        if self.parsed.follow && !FLAGS.iter().any(|flag| flag.is("follow") && flag.verbs.contains(&verb)) {
            return Err(usage(&format!("--follow: {verb} does not follow; inbox and events do")));
        }
        if verb == "state watch" {
            return self.watch();
        }
        // The verb was found by its operation.
        let Some(op) = flags::operation(verb) else { return Err(no_verb(verb)) };
        self.parsed.command = Command::Operation(op);
        if verb == "broadcast" {
            self.parsed.args.insert("to".into(), json!("all"));
        }
        for (name, value) in std::mem::take(&mut self.flags) {
            self.flag(op, verb, &name, value)?;
        }
        self.positional(op, verb)?;
        if op.name == "peers" {
            self.parsed.args.entry("scope").or_insert(json!("machine"));
        }
        // What the broker would say of these arguments is said without it, in no time.
        let mut checked = self.parsed.args.clone();
        let files = checked.shift_remove("filePaths");
        let is_whole = op.args.iter().all(|arg| !arg.required || checked.contains_key(arg.name));
        if !is_whole || ["lock.lock", "lock.unlock"].contains(&op.name) && files.is_none() {
            return Err(usage(&format!("usage: slm-mesh {}", flags::usage(verb))));
        }
        if files.as_ref().and_then(Value::as_array).is_some_and(|files| files.contains(&json!(""))) {
            return Err(Error::usage("FILE", "want a file, a folder or a glob, got \"\""));
        }
        op.check(checked).map_err(|error| on_command_line(op, error))?;
        Ok(self.parsed)
    }

    /// Finds the verb, of one word or two.
    fn verb(&self) -> Result<&'static str, Error> {
        let two = self.words.iter().take(2).cloned().collect::<Vec<_>>().join(" ");
        let one = self.words.first().cloned().unwrap_or_default();
        let find = |typed: &str| flags::verbs().find(|verb| *verb == typed);
        match find(&two).filter(|_| self.words.len() > 1).or_else(|| find(&one)) {
            Some(verb) => Ok(verb),
            None if one == "state" => {
                Err(usage("state: want get, set, list, delete or watch; see slm-mesh help state"))
            }
            None => Err(no_verb(&one)),
        }
    }

    fn watch(mut self) -> Result<Parsed, Error> {
        self.parsed.command = Command::Watch;
        for (name, value) in std::mem::take(&mut self.flags) {
            let value = value.unwrap_or_default();
            match name.as_str() {
                "namespace" => drop(self.parsed.args.insert(name, json!(value))),
                "wait" => drop(self.parsed.args.insert(
                    "waitSeconds".into(),
                    word_value(ArgKind::Int { min: 1, max: limits::WAIT_SECONDS_MAX }, "--wait", value)?,
                )),
                _ => return Err(no_flag("state watch", &name)),
            }
        }
        let [key] = &self.words[..] else {
            return Err(usage(&format!("usage: slm-mesh {}", flags::usage("state watch"))));
        };
        self.parsed.args.insert("key".into(), json!(key));
        Ok(self.parsed)
    }

    fn flag(&mut self, op: &'static Op, verb: &str, name: &str, value: Option<String>) -> Result<(), Error> {
        let mut args = op.args.iter().filter(|arg| arg.place == CliPlace::Flag);
        let arg = args.find(|arg| arg.flag() == name || arg.short == Some(name));
        let Some(arg) = arg else {
            let is_acting = FLAGS.iter().any(|flag| flag.name == "as" && flag.is(name));
            let Some(peer) = value.filter(|_| is_acting) else { return Err(no_flag(verb, name)) };
            self.parsed.acting = Some(acting(peer)?);
            return Ok(());
        };
        let shown = flags::name(arg);
        let value = match (arg.kind, value) {
            (ArgKind::Flag, _) => json!(true),
            (ArgKind::Texts { .. }, Some(list)) => {
                let more = list.split(',').filter(|item| !item.is_empty()).map(|item| json!(item));
                let mut all = self.parsed.args.get(arg.name).and_then(Value::as_array).cloned().unwrap_or_default();
                all.extend(more);
                json!(all)
            }
            (kind, Some(word)) => word_value(kind, &shown, word)?,
            (_, None) => return Err(usage(&format!("{shown}: want a value"))),
        };
        self.parsed.args.insert(arg.name.into(), value);
        Ok(())
    }

    fn positional(&mut self, op: &'static Op, verb: &str) -> Result<(), Error> {
        let mut words = std::mem::take(&mut self.words).into_iter();
        for arg in op.args.iter().filter(|arg| arg.place == CliPlace::Positional) {
            if self.parsed.args.contains_key(arg.name) {
                continue;
            }
            if let Some(word) = words.next() {
                self.parsed.args.insert(arg.name.into(), word_value(arg.kind, &flags::placeholder(arg), word)?);
            }
        }
        let rest: Vec<String> = words.collect();
        let Some(arg) = op.args.iter().find(|arg| arg.place == CliPlace::Rest) else {
            return rest.first().map_or(Ok(()), |word| {
                Err(usage(&format!("{verb}: {word} means nothing here; see slm-mesh help {verb}")))
            });
        };
        if !rest.is_empty() {
            self.parsed.args.insert(arg.name.into(), words_value(arg, rest)?);
        }
        Ok(())
    }
}

/// The remaining words: a list where one is wanted, else one text; `-` reads it from standard input.
fn words_value(arg: &Arg, words: Vec<String>) -> Result<Value, Error> {
    if let ArgKind::Texts { .. } = arg.kind {
        return Ok(json!(words));
    }
    if words != ["-"] {
        return Ok(json!(words.join(" ")));
    }
    let mut text = Vec::new();
    let mut input = std::io::stdin().lock().take(limits::PAYLOAD_MAX as u64 + 2);
    input.read_to_end(&mut text).map_err(|error| usage(&format!("standard input can't be read ({error})")))?;
    let text = String::from_utf8(text).map_err(|_| usage("standard input is not UTF-8"))?;
    Ok(json!(text.strip_suffix('\n').unwrap_or(&text)))
}

/// Whether the verb of a command line, its first word that is neither a flag nor a flag's value, is
/// `lock`: then `--` begins a command.
fn is_lock(words: &[OsString]) -> bool {
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let text = word.to_string_lossy();
        if !text.starts_with('-') {
            return word == "lock";
        }
        let name = text.trim_start_matches('-');
        if !name.contains('=') && flags::takes_value(name) == Some(true) {
            words.next();
        }
    }
    false
}

/// An error in the words of the command line: `--ttl` for `ttlMinutes`, `KEY` for `key`.
pub fn on_command_line(op: &Op, error: Error) -> Error {
    let named = error.data.as_ref().and_then(|data| data["argument"].as_str()).map(str::to_owned);
    let Some(named) = named.filter(|named| error.text.starts_with(&format!("{named}:"))) else { return error };
    let known = match named.as_str() {
        "filePath" | "filePaths" => Some("FILE".to_owned()),
        name => op.args.iter().find(|arg| arg.name == name).and_then(|arg| match arg.place {
            CliPlace::Flag => Some(flags::name(arg)),
            CliPlace::Positional | CliPlace::Rest => Some(arg.name.to_uppercase()),
            CliPlace::Hidden => None,
        }),
    };
    let Some(known) = known else { return error };
    Error { text: error.text.replacen(&named, &known, 1), ..error }
}

fn no_flag(verb: &str, name: &str) -> Error {
    let known: Vec<String> = flags::common().into_iter().chain(flags::of(verb)).map(|flag| flag.name).collect();
    let takes_text = flags::usage(verb).contains("…") && !verb.contains("lock") || verb == "state set";
    let cure = if takes_text { "; put -- before a value that begins with -" } else { "" };
    usage(&format!("{verb}: no flag {}; there are {}{cure}", flags::dashed(name), known.join(", ")))
}

fn no_verb(typed: &str) -> Error {
    let firsts = flags::verbs().filter_map(|verb| verb.split(' ').next());
    let meant = flags::meant(typed, firsts).map(|verb| format!("did you mean {verb}? ")).unwrap_or_default();
    usage(&format!("no verb \"{typed}\"; {meant}slm-mesh help lists them"))
}

fn acting(peer: String) -> Result<String, Error> {
    if peer.is_empty() { Err(usage("--as: want the name or the id of a peer, got \"\"")) } else { Ok(peer) }
}

/// What the splitter of flags and values says, in our words.
fn misread(error: lexopt::Error) -> Error {
    usage(&match error {
        lexopt::Error::MissingValue { option: Some(option) } => format!("{option}: want a value"),
        lexopt::Error::UnexpectedValue { option, value } => format!("{option}: takes no value, got {value:?}"),
        other => other.to_string(),
    })
}

fn usage(text: &str) -> Error {
    Error::new(ErrorKind::Usage, text)
}

fn text(word: OsString) -> Result<String, Error> {
    word.into_string().map_err(|word| usage(&format!("{word:?}: want UTF-8")))
}
