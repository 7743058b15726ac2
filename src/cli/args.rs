//! Arguments into a command: verbs and flags come from the operations' table.

use super::setup::Asked;
use super::word_value;
use crate::mesh::op::Kind as Is;
use crate::mesh::{Arg, Fault, Kind, OPS, Op, Place, limits};
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
    /// The version.
    Version,
    /// Help, on a topic.
    Help(String),
    /// Changes of a state entry as they come.
    Watch,
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

/// Verbs that are no operation, for help and completions: name, arguments, what it does.
pub const VERBS: &[(&str, &str, &str)] = &[
    ("start", "[--detach]", "Run the broker here, or behind with --detach; with other settings the live one gives way"),
    ("stop", "", "End the broker in order; sessions stay and start it again when they are used"),
    ("broadcast", "MESSAGE…", "Send a message to every peer that is here, and to the human"),
    (
        "state watch",
        "KEY [--namespace N] [--wait S]",
        "Print an entry and each change of it; with --wait end at the first, or after S seconds",
    ),
    ("clean", "", "Remove what a crashed run left in the data directory; no process is touched"),
    (
        "setup",
        "[AGENT…] [--dry-run] [--remove] [--project] [--wake|--no-wake]",
        "Connect the agents that are here, or those named: server, hooks and commands; or take all of it out again; \
         --wake lets mail wake idle sessions",
    ),
    (
        "doctor",
        "[--prove AGENT]",
        "Look whether broker and agents are as they should be, with the cure for each fault; or prove an agent's hooks",
    ),
    ("hook", "AGENT", "Answer a hook of an agent: claude, codex, copilot, gemini, cursor, vscode, devin or opencode"),
    ("guard", "install|remove", "Have git refuse commits and pushes of files that somebody else has locked"),
    ("secret", "", "Print a good secret for SLM_MESH_SHARED_SECRET, by which machines of one mesh know each other"),
    ("pipe", "", "Carry lines between standard input and output and this machine's broker: what ssh:// runs on a hub"),
    ("version", "", "Print the version"),
    ("help", "[VERB or TOPIC]", "Explain a verb or a topic"),
    ("mcp", "[--legacy]", "Serve MCP on standard input and output; what an agent starts"),
];

/// Understands a command line.
///
/// # Errors
/// For an unknown verb or flag, or a value that does not fit, with what is accepted.
pub fn parse(argv: Vec<OsString>) -> Result<Parsed, Fault> {
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
    while let Some(given) = parser.next().map_err(|error| usage(&error.to_string()))? {
        reader.take(&given.to_owned_arg(), &mut parser)?;
    }
    reader.finish()
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
    /// Flags without their verb's help yet: name and value.
    flags: Vec<(String, Option<String>)>,
}

/// Flags that take no value, besides those of the operations.
const SWITCHES: &[&str] = &["detach", "legacy", "as-daemon", "once", "dry-run", "remove", "project"];

impl Reader {
    fn take(&mut self, given: &Owned, parser: &mut Parser) -> Result<(), Fault> {
        let flag = match given {
            Owned::Word(word) => {
                self.words.push(text(word.clone())?);
                return Ok(());
            }
            Owned::Flag(flag) => flag.as_str(),
        };
        match flag {
            "json" => self.parsed.json = true,
            "help" | "h" => self.parsed.command = Command::Help(String::new()),
            "version" | "V" => self.parsed.command = Command::Version,
            "follow" | "f" => self.parsed.follow = true,
            "as" => self.parsed.acting = Some(text(parser.value().map_err(|error| usage(&error.to_string()))?)?),
            // An unknown one is told of with its verb, which may still come.
            switch if SWITCHES.contains(&switch) || is_switch(switch) || !is_known(switch) => {
                self.flags.push((switch.to_owned(), None))
            }
            name => {
                let value = text(parser.value().map_err(|error| usage(&error.to_string()))?)?;
                self.flags.push((name.to_owned(), Some(value)));
            }
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Parsed, Fault> {
        if let Command::Help(_) = self.parsed.command {
            self.parsed.command = Command::Help(self.words.join(" "));
            return Ok(self.parsed);
        }
        if let Command::Version = self.parsed.command {
            return Ok(self.parsed);
        }
        let first = self.words.first().cloned().unwrap_or_default();
        let command = match first.as_str() {
            "" if self.flags.is_empty() => Command::Bare,
            "mcp" => Command::Mcp { legacy: self.switch("legacy") },
            "start" => Command::Start { detach: self.switch("detach"), as_daemon: self.switch("as-daemon") },
            "stop" => Command::Stop,
            "clean" => Command::Clean,
            "guard" => Command::Guard(self.words.split_off(1)),
            "setup" => Command::Setup(Asked {
                agents: self.words.split_off(1),
                dry: self.switch("dry-run"),
                remove: self.switch("remove"),
                project: self.switch("project"),
                wake: self.wake()?,
            }),
            "doctor" => Command::Doctor(self.value("prove")),
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
        if let Some(extra) = extra.cloned().or(self.flags.first().map(|(name, _)| format!("--{name}"))) {
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

    fn wake(&mut self) -> Result<Option<bool>, Fault> {
        match (self.switch("wake"), self.switch("no-wake")) {
            (true, true) => Err(usage("setup: --wake and --no-wake contradict each other")),
            (on, off) => Ok((on || off).then_some(on)),
        }
    }

    fn value(&mut self, name: &str) -> Option<String> {
        let at = self.flags.iter().position(|(flag, _)| flag == name)?;
        self.flags.remove(at).1
    }

    fn operation(mut self) -> Result<Parsed, Fault> {
        let n_words = self.verb()?;
        let Command::Operation(op) = self.parsed.command.clone() else {
            // `state watch` takes what `state get` takes, and a time.
            self.words.drain(..n_words);
            return self.watch();
        };
        self.words.drain(..n_words);
        for (name, value) in std::mem::take(&mut self.flags) {
            self.flag(op, &name, value)?;
        }
        self.positional(op)?;
        if op.name == "peers" {
            self.parsed.args.entry("scope").or_insert(json!("machine"));
        }
        if self.parsed.follow && !["inbox", "events.read"].contains(&op.name) {
            return Err(usage(&format!(
                "--follow: {} does not follow; inbox and events do",
                op.verb.unwrap_or(op.name)
            )));
        }
        // What the broker would say of these arguments is said without it, in no time.
        let mut checked = self.parsed.args.clone();
        checked.shift_remove("filePaths");
        if op.args.iter().all(|arg| !arg.required || checked.contains_key(arg.name)) {
            op.check(checked).map_err(|fault| on_command_line(op, fault))?;
        } else {
            return Err(usage(&format!("usage: slm-mesh {}", super::docs::usage(op))));
        }
        if ["lock.lock", "lock.unlock"].contains(&op.name) && !self.parsed.args.contains_key("filePaths") {
            return Err(usage(&format!("usage: slm-mesh {}", super::docs::usage(op))));
        }
        Ok(self.parsed)
    }

    /// Finds the verb; answers how many words it has.
    fn verb(&mut self) -> Result<usize, Fault> {
        let two = self.words.iter().take(2).cloned().collect::<Vec<_>>().join(" ");
        let one = self.words.first().cloned().unwrap_or_default();
        if one == "broadcast" {
            self.parsed.args.insert("to".into(), json!("all"));
            self.parsed.command = Command::Operation(&crate::mesh::messages::SEND);
            return Ok(1);
        }
        if two == "state watch" {
            self.parsed.command = Command::Watch;
            return Ok(2);
        }
        let find = |verb: &str| OPS.iter().copied().find(|op| op.verb == Some(verb));
        if let Some(op) = find(&two).filter(|_| two.contains(' ')) {
            self.parsed.command = Command::Operation(op);
            return Ok(2);
        }
        match find(&one) {
            Some(op) => {
                self.parsed.command = Command::Operation(op);
                Ok(1)
            }
            None if one == "state" => {
                Err(usage("state: want get, set, list, delete or watch; see slm-mesh help state"))
            }
            None => Err(usage(&format!("no verb {one}; slm-mesh help lists them"))),
        }
    }

    fn watch(mut self) -> Result<Parsed, Fault> {
        for (name, value) in std::mem::take(&mut self.flags) {
            let value = value.unwrap_or_default();
            match name.as_str() {
                "namespace" => drop(self.parsed.args.insert(name, json!(value))),
                "wait" => drop(self.parsed.args.insert(
                    "waitSeconds".into(),
                    word_value(Is::Int { min: 1, max: limits::WAIT_SECONDS_MAX }, "wait", value)?,
                )),
                _ => return Err(usage(&format!("state watch: no flag --{name}"))),
            }
        }
        let [key] = &self.words[..] else {
            return Err(usage("usage: slm-mesh state watch KEY [--namespace N] [--wait S]"));
        };
        self.parsed.args.insert("key".into(), json!(key));
        Ok(self.parsed)
    }

    fn flag(&mut self, op: &'static Op, name: &str, value: Option<String>) -> Result<(), Fault> {
        let arg = op.args.iter().find(|arg| {
            arg.place != Place::Wire && arg.place != Place::Words && (arg.flag() == name || arg.short == Some(name))
        });
        let Some(arg) = arg else {
            let for_acting = ["from", "peer-id", "peer"].contains(&name);
            if for_acting && value.is_some() {
                self.parsed.acting = value;
                return Ok(());
            }
            let known: Vec<String> = op
                .args
                .iter()
                .filter(|arg| arg.place == Place::Flag)
                .map(|arg| format!("--{}", arg.short.map_or_else(|| arg.flag(), str::to_owned)))
                .collect();
            let verb = op.verb.unwrap_or(op.name);
            return Err(usage(&format!(
                "{verb}: no flag --{name}; there are --json, --as{}{}",
                if known.is_empty() { "" } else { ", " },
                known.join(", ")
            )));
        };
        let value = match (arg.kind, value) {
            (Is::Flag, _) => json!(true),
            (Is::Texts { .. }, Some(list)) => {
                let more = list.split(',').filter(|item| !item.is_empty()).map(|item| json!(item));
                let mut all = self.parsed.args.get(arg.name).and_then(Value::as_array).cloned().unwrap_or_default();
                all.extend(more);
                json!(all)
            }
            (kind, Some(word)) => word_value(kind, name, word)?,
            (_, None) => return Err(usage(&format!("--{name}: want a value"))),
        };
        self.parsed.args.insert(arg.name.into(), value);
        Ok(())
    }

    fn positional(&mut self, op: &'static Op) -> Result<(), Fault> {
        let mut words = std::mem::take(&mut self.words).into_iter();
        for arg in op.args.iter().filter(|arg| arg.place == Place::Word) {
            if self.parsed.args.contains_key(arg.name) {
                continue;
            }
            if let Some(word) = words.next() {
                self.parsed.args.insert(arg.name.into(), word_value(arg.kind, arg.name, word)?);
            }
        }
        let rest: Vec<String> = words.collect();
        let Some(arg) = op.args.iter().find(|arg| arg.place == Place::Words) else {
            let verb = op.verb.unwrap_or(op.name);
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
fn words_value(arg: &Arg, words: Vec<String>) -> Result<Value, Fault> {
    if let Is::Texts { .. } = arg.kind {
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
        let stands_alone = ["json", "help", "h", "version", "V", "follow", "f"].contains(&name);
        if !stands_alone && !name.contains('=') && !SWITCHES.contains(&name) && !is_switch(name) {
            words.next();
        }
    }
    false
}

/// Whether some verb takes a flag of this name, with a value.
fn is_known(name: &str) -> bool {
    let own = ["as", "from", "peer-id", "peer", "namespace", "wait", "prove"];
    own.contains(&name) || OPS.iter().flat_map(|op| op.args).any(|arg| arg.flag() == name || arg.short == Some(name))
}

fn is_switch(name: &str) -> bool {
    let args = OPS.iter().flat_map(|op| op.args);
    args.filter(|arg| matches!(arg.kind, Is::Flag)).any(|arg| arg.flag() == name || arg.short == Some(name))
}

/// The broker's words for an argument, with the name that the command line has for it.
fn on_command_line(op: &Op, fault: Fault) -> Fault {
    let named = fault.data.as_ref().and_then(|data| data["argument"].as_str());
    let arg = named.and_then(|name| op.args.iter().find(|arg| arg.name == name));
    let Some(arg) = arg.filter(|arg| arg.place == Place::Flag) else { return fault };
    let flag = format!("--{}", arg.short.map_or_else(|| arg.flag(), str::to_owned));
    Fault { text: fault.text.replacen(arg.name, &flag, 1), ..fault }
}

fn usage(text: &str) -> Fault {
    Fault::new(Kind::Usage, text)
}

fn text(word: OsString) -> Result<String, Fault> {
    word.into_string().map_err(|word| usage(&format!("{}: want UTF-8", word.to_string_lossy())))
}
