//! The definition of an operation: one value from which the socket method, the MCP tool and its schema, the verb, its
//! help, the man page and the README's tables are all derived.
//!
//! **Invariant:** an operation's function sees only [`Args`] that [`Op::check`] let through.

use crate::base::error::Error;
use crate::base::limits;
use crate::core::{CallContext, Mesh, Outcome};
use serde_json::{Map, Value, json};

/// The kinds of values that an argument may have.
#[allow(missing_docs)] // each variant's line names its bounds
#[derive(Debug, Clone, Copy)]
pub enum ArgKind {
    /// A string of `min` to `max` UTF-8 bytes.
    Text { min: usize, max: usize },
    /// A string of 1 to `max` UTF-16 units, as JavaScript clients count.
    Units { max: usize },
    /// A whole number.
    Int { min: i64, max: i64 },
    /// True or false.
    Flag,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// Up to `items` strings of 1 to `max` bytes each.
    Texts { items: usize, max: usize },
    /// Any JSON object of at most `max` bytes, not too deep.
    Object { max: usize },
}

/// How the command line takes an argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CliPlace {
    /// As `--kebab-name VALUE`.
    Flag,
    /// By its position, without a name.
    Positional,
    /// All remaining words.
    Rest,
    /// Not at all, because only programs send it.
    Hidden,
}

/// A special meaning of an argument for clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ArgRole {
    /// Nothing beyond its value.
    Value,
    /// A path, which a client makes absolute.
    Path,
    /// A key that makes the call repeatable; a client invents one if the user gives none.
    IdempotencyKey,
}

/// One argument.
#[derive(Debug, Clone, Copy)]
pub struct Arg {
    /// Its name on the socket and in MCP, camelCase.
    pub name: &'static str,
    /// The kind of its value.
    pub kind: ArgKind,
    /// Whether a call without it is refused.
    pub required: bool,
    /// One line for schema, help and man page.
    pub help: &'static str,
    /// How a verb takes it.
    pub place: CliPlace,
    /// A shorter flag for the command line, without dashes.
    pub short: Option<&'static str>,
    /// Whether the MCP tool offers it. Other arguments are for people and hooks.
    pub tool: bool,
    /// Its special meaning for clients.
    pub role: ArgRole,
}

impl Arg {
    /// An optional argument, taken as a flag.
    pub const fn new(name: &'static str, kind: ArgKind, help: &'static str) -> Arg {
        Arg { name, kind, required: false, help, place: CliPlace::Flag, short: None, tool: true, role: ArgRole::Value }
    }
    /// How long a call may wait for something, in seconds.
    pub const fn wait_seconds(help: &'static str) -> Arg {
        Arg::new("waitSeconds", ArgKind::Int { min: 0, max: limits::WAIT_SECONDS_MAX }, help)
    }
    /// The same, required.
    pub const fn required(mut self) -> Arg {
        self.required = true;
        self
    }
    /// The same, taken from the command line as `place` says.
    pub const fn at(mut self, place: CliPlace) -> Arg {
        self.place = place;
        self
    }
    /// The same with a shorter flag.
    pub const fn short(mut self, flag: &'static str) -> Arg {
        self.short = Some(flag);
        self
    }
    /// The same, kept out of the MCP tool.
    pub const fn not_in_tool(mut self) -> Arg {
        self.tool = false;
        self
    }
    /// The same as a path, which clients make absolute.
    pub const fn path(mut self) -> Arg {
        self.role = ArgRole::Path;
        self
    }
    /// The same as the key that makes the call repeatable.
    pub const fn idempotency_key(mut self) -> Arg {
        self.role = ArgRole::IdempotencyKey;
        self
    }
    /// `waitSeconds` as `wait-seconds`.
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
}

/// Whether a call needs a known caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Auth {
    /// The caller must be a known peer.
    Required,
    /// Anybody may call; a known peer gets a fuller answer.
    Optional,
    /// The caller is an agent's hook, and the rule itself finds the session.
    Hook,
}

/// An operation of the mesh.
pub struct Op {
    /// Its method on the socket: a noun, or `noun.action`.
    pub name: &'static str,
    /// One line: what it does.
    pub summary: &'static str,
    /// Its arguments, in the order of the documentation.
    pub args: &'static [Arg],
    /// Whether a caller must be known.
    pub actor: Auth,
    /// Its verb, if it has one: `state set`.
    pub verb: Option<&'static str>,
    /// Its MCP tool and action, if it has them.
    pub tool: Option<(&'static str, Option<&'static str>)>,
    /// Whether a client may repeat it after a lost connection without asking.
    pub repeatable: bool,
    /// The rule.
    pub run: fn(&mut Mesh, &CallContext, &Args) -> Result<Outcome, Error>,
}

impl std::fmt::Debug for Op {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Op({})", self.name)
    }
}

impl Op {
    /// The idempotency key of this operation, if it has one: the argument that makes a call repeatable.
    pub fn idempotency_key(&self) -> Option<&'static Arg> {
        self.args.iter().find(|arg| arg.role == ArgRole::IdempotencyKey)
    }

    /// Checks that all arguments are known and well-formed; null counts as absent.
    pub fn check(&self, mut given: Map<String, Value>) -> Result<Args, Error> {
        for (name, value) in &mut given {
            if value.is_null() {
                continue;
            }
            let Some(arg) = self.args.iter().find(|arg| arg.name == name) else {
                let known: Vec<_> = self.args.iter().map(|arg| arg.name).collect();
                let cure = if known.is_empty() { "none".into() } else { known.join(", ") };
                let name: String = name.chars().take(40).collect();
                return Err(Error::usage(&name, format!("unknown argument; {} takes {cure}", self.name)));
            };
            arg.kind.coerce(value);
            arg.kind.check(arg.name, value)?;
        }
        for arg in self.args.iter().filter(|arg| arg.required) {
            if given.get(arg.name).is_none_or(Value::is_null) {
                return Err(Error::usage(arg.name, format!("missing; want {}", arg.kind.want())));
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
            ArgKind::Int { min, max: i64::MAX } => format!("a whole number from {min}"),
            ArgKind::Int { min, max } => format!("a whole number from {min} to {max}"),
            ArgKind::Flag => "true or false".into(),
            ArgKind::Choice(words) => format!("one of {}", words.join(", ")),
            ArgKind::Texts { items, max } => format!("a list of at most {items} texts of 1 to {max} bytes"),
            ArgKind::Object { max } => {
                format!("a JSON object of at most {max} bytes, nested at most {} deep", limits::DEPTH_MAX)
            }
        }
    }

    /// Converts a text to a value of this kind if its meaning is certain: models write `"5"` for 5, `"true"` for
    /// true, and a list or an object as JSON text.
    fn coerce(&self, value: &mut Value) {
        let Value::String(text) = &*value else { return };
        let text = text.trim();
        let meant = match self {
            ArgKind::Int { .. } => text.parse::<serde_json::Number>().ok().and_then(|n| whole(&n)).map(Value::from),
            ArgKind::Flag => text.to_ascii_lowercase().parse::<bool>().ok().map(Value::from),
            ArgKind::Texts { .. } => match serde_json::from_str(text) {
                Ok(Value::Array(list)) => Some(Value::Array(list)),
                // A text with a comma might mean several items.
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
                is_flat(value, limits::DEPTH_MAX) && value.to_string().len() <= max
            }
            _ => false,
        };
        if fits {
            return Ok(());
        }
        let got = match value {
            Value::String(text) if text.chars().count() <= 40 => format!("\"{text}\""),
            Value::String(text) => format!("a text of {} bytes", text.len()),
            Value::Array(list) => format!("a list of {}", list.len()),
            Value::Object(_) => "an object".into(),
            other => other.to_string(),
        };
        Err(Error::usage(name, format!("want {}, got {got}", self.want())))
    }

    /// The JSON Schema of one argument.
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

/// Whether a value is nested at most this deep.
fn is_flat(value: &Value, depth: usize) -> bool {
    match value {
        Value::Array(list) => depth > 0 && list.iter().all(|item| is_flat(item, depth - 1)),
        Value::Object(map) => depth > 0 && map.values().all(|item| is_flat(item, depth - 1)),
        _ => true,
    }
}

/// A JSON number that is whole, also when a client wrote it as `5.0`.
fn whole(n: &serde_json::Number) -> Option<i64> {
    n.as_i64().or_else(|| n.as_f64().filter(|f| f.fract() == 0.0 && f.abs() < 9e15).map(|f| f as i64))
}

/// Arguments that have passed an operation's check.
#[derive(Debug, Clone, Default)]
pub struct Args(Map<String, Value>);

impl Args {
    /// All of them, as they were given or coerced.
    pub fn into_map(self) -> Map<String, Value> {
        self.0
    }
    /// The value of an argument, if given.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name)
    }
    /// A text, if given.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).and_then(Value::as_str)
    }
    /// A text that is required, or "" (which [`Op::check`] rules out).
    pub fn word(&self, name: &str) -> &str {
        self.text(name).unwrap_or("")
    }
    /// A whole number, if given.
    pub fn int(&self, name: &str) -> Option<i64> {
        match self.0.get(name) {
            Some(Value::Number(n)) => whole(n),
            _ => None,
        }
    }
    /// A flag; absent is `None`.
    pub fn flag(&self, name: &str) -> Option<bool> {
        self.0.get(name).and_then(Value::as_bool)
    }
    /// A list of texts; absent is empty.
    pub fn texts(&self, name: &str) -> Vec<&str> {
        let list = self.0.get(name).and_then(Value::as_array);
        list.map(|list| list.iter().filter_map(Value::as_str).collect()).unwrap_or_default()
    }
    /// An object, if given.
    pub fn object(&self, name: &str) -> Option<&Value> {
        self.0.get(name)
    }
}
