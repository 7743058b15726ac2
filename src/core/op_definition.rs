//! The definition of an operation. An [`Op`] determines the socket method, the MCP tool and its schema, and the verb
//! (the subcommand of the command line). The help, the man page and the README's tables also come from it.
//!
//! **Invariant:** the code of an operation receives only [`Args`] that have passed [`Op::check`].

use crate::base::error::{Error, ErrorKind};
use crate::base::json_text::json_length;
use crate::base::limits;
use crate::core::op_behavior::OpBehavior;
use crate::core::operations_on_broker_itself::BrokerRequest;
use crate::core::{CallContext, Mesh, Outcome};
use serde_json::{Map, Value, json};

/// The kind of value that an argument has.
#[allow(missing_docs)] // the comment of each variant explains its limits
#[derive(Debug, Clone, Copy)]
pub enum ArgKind {
    /// A string of `min` to `max` UTF-8 bytes.
    Text { min: usize, max: usize },
    /// A string of 1 to `max` UTF-16 code units. JavaScript clients count strings in this unit.
    Units { max: usize },
    /// A whole number.
    Int { min: i64, max: i64 },
    /// True or false.
    Flag,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// At most `items` strings. Each string has 1 to `max` bytes.
    Texts { items: usize, max: usize },
    /// A JSON object of at most `max` bytes and at most `limits::DEPTH_MAX` nested levels.
    Object { max: usize },
}

/// How the command line accepts an argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CliPlace {
    /// The argument follows its flag: `--kebab-name VALUE`.
    Flag,
    /// The argument has a fixed position and no flag.
    Positional,
    /// The argument takes all remaining words.
    Rest,
    /// The command line does not accept the argument. Only programs send it.
    Hidden,
}

/// What a client does with the value of an argument before it sends the value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ArgRole {
    /// The client sends the value unchanged.
    Value,
    /// A path. The client makes it absolute.
    Path,
    /// An idempotency key: repeated calls with the same key take effect only once. If the user gives no key, the client
    /// generates one.
    IdempotencyKey,
    /// The position at which a part of a long value begins. The MCP server asks for the first part, because a tool's
    /// result has a maximum size.
    PartStart,
    /// The git work trees that contain the paths of the call. The client finds them.
    WorkTrees,
    /// The keys of the commands inside which the caller runs. The command line reads them from the environment.
    OuterCommands,
    /// Whether messages that the answer shows count as read. If a user looks at another peer's messages, the command
    /// line sends `false`.
    MarksAsRead,
}

/// The argument that contains the time at which the caller began to wait, in ms since the epoch, by the caller's clock.
/// A client that repeats a call after a lost connection sends the same time again. So callers keep their order in the
/// line. A duration would be wrong when the call arrives, because the call may be delayed, for instance while the
/// broker starts.
pub const WAITING_SINCE: &str = "waitingSince";

/// One argument of an operation.
#[derive(Debug, Clone, Copy)]
pub struct Arg {
    /// The name of the argument on the socket and in MCP, in camelCase.
    pub name: &'static str,
    /// The kind of value that the argument accepts.
    pub kind: ArgKind,
    /// Whether every call must contain the argument.
    pub required: bool,
    /// A description in one line, for the schema, the help and the man page.
    pub help: &'static str,
    /// How the command line accepts the argument.
    pub place: CliPlace,
    /// A shorter flag for the command line, without dashes.
    pub short: Option<&'static str>,
    /// The word for the value in usage lines, such as `PEER`; `None` for the default word.
    pub placeholder: Option<&'static str>,
    /// Whether the MCP tool accepts this argument. If it does not, only people and hooks use the argument.
    pub tool: bool,
    /// What clients do with the value before they send it.
    pub role: ArgRole,
}

impl Arg {
    /// Makes an optional argument that the command line accepts as a flag.
    pub const fn new(name: &'static str, kind: ArgKind, help: &'static str) -> Arg {
        Arg {
            name,
            kind,
            required: false,
            help,
            place: CliPlace::Flag,
            short: None,
            placeholder: None,
            tool: true,
            role: ArgRole::Value,
        }
    }
    /// Returns the definition of the argument with which a caller limits how long its call waits, in seconds.
    pub const fn wait_seconds(help: &'static str) -> Arg {
        Arg::new("waitSeconds", ArgKind::Int { min: 0, max: limits::WAIT_SECONDS_MAX }, help)
    }
    /// Makes the optional argument [`WAITING_SINCE`].
    pub const fn waiting_since() -> Arg {
        let kind = ArgKind::Int { min: 0, max: i64::MAX };
        Arg::new(WAITING_SINCE, kind, "The time at which the caller began to wait, if this is a repeated call")
            .at(CliPlace::Hidden)
            .not_in_tool()
    }
    /// Makes the argument required.
    pub const fn required(mut self) -> Arg {
        self.required = true;
        self
    }
    /// Sets how the command line accepts the argument.
    pub const fn at(mut self, place: CliPlace) -> Arg {
        self.place = place;
        self
    }
    /// Gives the argument a shorter flag.
    pub const fn short(mut self, flag: &'static str) -> Arg {
        self.short = Some(flag);
        self
    }
    /// Sets the word for the value in usage lines.
    pub const fn placeholder(mut self, word: &'static str) -> Arg {
        self.placeholder = Some(word);
        self
    }
    /// Excludes the argument from the MCP tool.
    pub const fn not_in_tool(mut self) -> Arg {
        self.tool = false;
        self
    }
    /// Marks the argument as a path. Clients make the path absolute.
    pub const fn path(mut self) -> Arg {
        self.role = ArgRole::Path;
        self
    }
    /// Sets what a client does with the value before it sends the value.
    pub const fn role(mut self, role: ArgRole) -> Arg {
        self.role = role;
        self
    }
    /// Marks the argument as an idempotency key.
    pub const fn idempotency_key(mut self) -> Arg {
        self.role = ArgRole::IdempotencyKey;
        self
    }
    /// The flag of the argument: `wait-seconds` for `waitSeconds`.
    pub fn flag(&self) -> String {
        let mut flag = String::new();
        for c in self.name.chars() {
            if c.is_ascii_uppercase() {
                flag.push('-');
            }
            flag.push(c.to_ascii_lowercase());
        }
        flag
    }

    /// Whether `flag` is the long or the short flag of the argument. Each verb checks many arguments, so this
    /// comparison builds no strings.
    pub fn has_flag(&self, flag: &str) -> bool {
        let mut rest = flag.bytes();
        let is_equal = self.name.bytes().all(|byte| {
            let has_dash = !byte.is_ascii_uppercase() || rest.next() == Some(b'-');
            has_dash && rest.next() == Some(byte.to_ascii_lowercase())
        });
        is_equal && rest.next().is_none() || self.short == Some(flag)
    }
}

/// Whether the caller of an operation must be a known peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Auth {
    /// The caller must be a known peer.
    Required,
    /// Any caller is accepted, but a known peer gets more information.
    Optional,
    /// The caller is usually an agent's hook. The operation itself finds the session to which the hook belongs.
    Hook,
}

/// A rule: the code of an operation of the mesh.
pub type RuleFn = fn(&mut Mesh, &CallContext, &Args) -> Result<Outcome, Error>;

/// What runs an operation.
#[derive(Debug, Clone, Copy)]
pub enum Runner {
    /// A rule of the mesh.
    Rule(RuleFn),
    /// The broker.
    Broker(BrokerRequest),
}

/// The definition of an operation.
pub struct Op {
    /// The name of the method on the socket: a noun, or `noun.action`.
    pub name: &'static str,
    /// A description of the operation, in one line.
    pub summary: &'static str,
    /// The arguments, in the order in which the documentation lists them.
    pub args: &'static [Arg],
    /// Whether the caller must be a known peer.
    pub actor: Auth,
    /// The verb on the command line, such as `state set`, if there is one.
    pub verb: Option<&'static str>,
    /// The MCP tool of the operation and the action of this tool, if there are any.
    pub tool: Option<(&'static str, Option<&'static str>)>,
    /// Whether a client that has lost the connection may repeat a call without asking its user.
    pub repeatable: bool,
    /// How the broker and the clients handle calls of the operation.
    pub behavior: OpBehavior,
    /// What runs the operation.
    pub run: Runner,
}

impl std::fmt::Debug for Op {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Op({})", self.name)
    }
}

impl Op {
    /// The operation's idempotency key, if it has one. With this argument, a call can be repeated safely.
    pub fn idempotency_key(&self) -> Option<&'static Arg> {
        self.arg_with_role(ArgRole::IdempotencyKey)
    }

    /// The operation's argument with this role, if it has one.
    pub fn arg_with_role(&self, role: ArgRole) -> Option<&'static Arg> {
        self.args.iter().find(|arg| arg.role == role)
    }

    /// Whether callers of the operation wait in line. If they do, a repeated call must contain the time at which its
    /// caller began to wait.
    pub fn has_line(&self) -> bool {
        self.args.iter().any(|arg| arg.name == WAITING_SINCE)
    }

    /// The rule that runs the operation.
    ///
    /// # Errors
    /// If the broker runs the operation. To avoid this error, check [`Op::run`] before the call.
    pub fn rule(&self) -> Result<RuleFn, Error> {
        match self.run {
            Runner::Rule(rule) => Ok(rule),
            Runner::Broker(_) => {
                Err(Error::new(ErrorKind::Internal, format!("{} is not an operation of the mesh", self.name)))
            }
        }
    }

    /// Checks that all arguments are known and well-formed. An argument with the value null counts as absent.
    pub fn check(&self, mut given: Map<String, Value>) -> Result<Args, Error> {
        for (name, value) in &mut given {
            if value.is_null() {
                continue;
            }
            let Some(arg) = self.args.iter().find(|arg| arg.name == name) else {
                let known: Vec<_> = self.args.iter().map(|arg| arg.name).collect();
                let cure = if known.is_empty() { "no arguments".into() } else { known.join(", ") };
                let name: String = name.chars().take(40).collect();
                return Err(Error::usage(&name, format!("unknown argument; {} takes {cure}", self.name)));
            };
            arg.kind.coerce(value);
            arg.kind.check(arg.name, value)?;
        }
        for arg in self.args.iter().filter(|arg| arg.required) {
            if given.get(arg.name).is_none_or(Value::is_null) {
                return Err(Error::usage(arg.name, format!("missing; expected {}", arg.kind.want())));
            }
        }
        given.retain(|_, value| !value.is_null());
        Ok(Args(given))
    }
}

impl ArgKind {
    /// Describes the accepted values in words.
    pub fn want(&self) -> String {
        match *self {
            ArgKind::Text { min: 0, max } => format!("text of at most {max} bytes"),
            ArgKind::Text { min, max } => format!("text of {min} to {max} bytes"),
            ArgKind::Units { max } => format!("text of 1 to {max} characters"),
            ArgKind::Int { min, max: i64::MAX } => format!("a whole number of at least {min}"),
            ArgKind::Int { min, max } => format!("a whole number from {min} to {max}"),
            ArgKind::Flag => "true or false".into(),
            ArgKind::Choice(words) => format!("one of {}", words.join(", ")),
            ArgKind::Texts { items, max } => format!("a list of at most {items} texts, each of 1 to {max} bytes"),
            ArgKind::Object { max } => {
                format!("a JSON object of at most {max} bytes, nested at most {} levels deep", limits::DEPTH_MAX)
            }
        }
    }

    /// Converts a string to a value of this kind if the meaning is certain. Models often write `"5"` instead of 5,
    /// `"true"` instead of true, and JSON text instead of a list or an object.
    fn coerce(&self, value: &mut Value) {
        let Value::String(text) = &*value else { return };
        let text = text.trim();
        let meant = match self {
            ArgKind::Int { .. } => text.parse::<serde_json::Number>().ok().and_then(|n| whole(&n)).map(Value::from),
            ArgKind::Flag => text.to_ascii_lowercase().parse::<bool>().ok().map(Value::from),
            ArgKind::Texts { .. } => match serde_json::from_str(text) {
                Ok(Value::Array(list)) => Some(Value::Array(list)),
                // A string that contains a comma or a line break is not converted, because it may stand for several
                // items.
                _ => (!text.is_empty() && !text.contains([',', '\n'])).then(|| json!([text])),
            },
            ArgKind::Object { .. } => serde_json::from_str(text).ok().filter(Value::is_object),
            ArgKind::Text { .. } | ArgKind::Units { .. } | ArgKind::Choice(_) => None,
        };
        if let Some(meant) = meant {
            *value = meant;
        }
    }

    fn check(&self, name: &str, value: &Value) -> Result<(), Error> {
        let fits = match (*self, value) {
            (ArgKind::Text { min, max }, Value::String(text)) => (min..=max).contains(&text.len()),
            (ArgKind::Units { max }, Value::String(text)) => (1..=max).contains(&text.encode_utf16().count()),
            (ArgKind::Int { min, max }, Value::Number(n)) => whole(n).is_some_and(|n| (min..=max).contains(&n)),
            (ArgKind::Flag, Value::Bool(_)) => true,
            (ArgKind::Choice(words), Value::String(text)) => words.contains(&text.as_str()),
            (ArgKind::Texts { items, max }, Value::Array(list)) => {
                list.len() <= items
                    && list.iter().all(|item| item.as_str().is_some_and(|text| (1..=max).contains(&text.len())))
            }
            (ArgKind::Object { max }, Value::Object(_)) => {
                is_flat(value, limits::DEPTH_MAX) && json_length(value) <= max
            }
            _ => false,
        };
        if fits {
            return Ok(());
        }
        let got = match value {
            Value::String(text) if text.chars().count() <= 40 => format!("\"{text}\""),
            Value::String(text) => format!("text of {} bytes", text.len()),
            Value::Array(list) => format!("a list of length {}", list.len()),
            Value::Object(_) => "an object".into(),
            other => other.to_string(),
        };
        Err(Error::usage(name, format!("expected {}, got {got}", self.want())))
    }

    /// The JSON Schema for values of this kind.
    pub fn schema(&self) -> Value {
        match *self {
            ArgKind::Text { min, max } => json!({ "type": "string", "minLength": min, "maxLength": max }),
            ArgKind::Units { max } => json!({ "type": "string", "minLength": 1, "maxLength": max }),
            ArgKind::Int { min, max: i64::MAX } => json!({ "type": "integer", "minimum": min }),
            ArgKind::Int { min, max } => json!({ "type": "integer", "minimum": min, "maximum": max }),
            ArgKind::Flag => json!({ "type": "boolean" }),
            ArgKind::Choice(words) => json!({ "type": "string", "enum": words }),
            ArgKind::Texts { items, max } => {
                json!({ "type": "array", "maxItems": items, "items": { "type": "string", "minLength": 1, "maxLength": max } })
            }
            ArgKind::Object { .. } => json!({ "type": "object" }),
        }
    }
}

/// Whether a value is nested at most `depth` levels deep.
fn is_flat(value: &Value, depth: usize) -> bool {
    match value {
        Value::Array(list) => depth > 0 && list.iter().all(|item| is_flat(item, depth - 1)),
        Value::Object(map) => depth > 0 && map.values().all(|item| is_flat(item, depth - 1)),
        _ => true,
    }
}

/// Converts a JSON number to an integer if the number is whole. Some clients write 5 as `5.0`.
fn whole(n: &serde_json::Number) -> Option<i64> {
    n.as_i64().or_else(|| n.as_f64().filter(|f| f.fract() == 0.0 && f.abs() < 9e15).map(|f| f as i64))
}

/// Arguments that have passed the check of an operation.
#[derive(Debug, Clone, Default)]
pub struct Args(Map<String, Value>);

impl Args {
    /// Returns all arguments. [`Op::check`] may have converted some of them.
    pub fn into_map(self) -> Map<String, Value> {
        self.0
    }
    /// Replaces the value of an argument.
    pub(super) fn replace(&mut self, name: &str, value: Value) {
        self.0.insert(name.to_owned(), value);
    }
    /// The value of an argument, if the caller gave one.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name)
    }
    /// The value of a string argument, if the caller gave one.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).and_then(Value::as_str)
    }
    /// The value of a required text argument. [`Op::check`] ensures that the argument is present.
    pub fn word(&self, name: &str) -> &str {
        self.text(name).unwrap_or("")
    }
    /// The value of an argument that is a whole number, if the caller gave one.
    pub fn int(&self, name: &str) -> Option<i64> {
        match self.0.get(name) {
            Some(Value::Number(n)) => whole(n),
            _ => None,
        }
    }
    /// The value of a boolean argument; `None` if the caller did not give one.
    pub fn flag(&self, name: &str) -> Option<bool> {
        self.0.get(name).and_then(Value::as_bool)
    }
    /// The items of a list argument; empty if the caller did not give one.
    pub fn texts(&self, name: &str) -> Vec<&str> {
        let list = self.0.get(name).and_then(Value::as_array);
        list.map(|list| list.iter().filter_map(Value::as_str).collect()).unwrap_or_default()
    }
    /// The value of an object argument, if the caller gave one.
    pub fn object(&self, name: &str) -> Option<&Value> {
        self.0.get(name)
    }
}
