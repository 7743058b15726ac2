//! One tool call: what it asks, whom to answer, and how its result looks.

use super::{Output, protocol_version};
use crate::base::error::Error;
use crate::core::Op;
use crate::sys;
use crate::wire::rpc;
use serde_json::{Map, Value, json};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How often a waiting call tells that it lives, when its client asked to hear of it.
pub const PROGRESS_EVERY: Duration = Duration::from_secs(10);

/// How often a job is sent again after its broker went away.
const TRIES_MAX: u32 = 3;

/// Whom to answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The client's request id.
    pub id: Value,
    /// Whether it spoke the modern era.
    pub modern: bool,
    /// The batch that it came in.
    pub batch: Option<Arc<Batch>>,
}

/// Gathers the answers of a batch into one line.
#[derive(Debug)]
pub struct Batch {
    answers: Mutex<(usize, Vec<Value>)>,
    out: Arc<Output>,
}

impl Batch {
    /// A batch that wants so many answers.
    pub fn new(n_wanted: usize, out: Arc<Output>) -> Batch {
        Batch { answers: Mutex::new((n_wanted, Vec::new())), out }
    }

    /// Adds an answer; the last one sends them all. True only if that went out whole: what waits for
    /// the others has not been shown to anybody.
    pub fn add(&self, answer: Value) -> bool {
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        answers.1.push(answer);
        self.send_if_full(&mut answers)
    }

    /// One answer less is due: its call was cancelled.
    pub fn skip(&self) {
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        answers.0 -= 1;
        self.send_if_full(&mut answers);
    }

    fn send_if_full(&self, answers: &mut (usize, Vec<Value>)) -> bool {
        let is_full = answers.1.len() == answers.0 && !answers.1.is_empty();
        is_full && self.out.line(&rpc::line(&Value::Array(std::mem::take(&mut answers.1))))
    }
}

/// A tool call on its way.
#[derive(Debug, Clone)]
pub struct Job {
    pub answer: Answer,
    pub op: &'static Op,
    pub arguments: Map<String, Value>,
    pub session: Option<String>,
    pub progress: Option<(Value, Instant, u64)>,
    pub began: Instant,
    pub tries: u32,
    pub sent: bool,
}

impl Job {
    /// A checked call.
    pub fn new(
        answer: Answer,
        op: &'static Op,
        mut arguments: Map<String, Value>,
        session: Option<String>,
        token: Option<Value>,
    ) -> Job {
        arguments.shift_remove("action");
        if op.name == "send" && !arguments.contains_key("key") {
            // So that it can be sent again after a broken connection without arriving twice.
            arguments.insert("key".into(), json!(format!("auto-{:032x}", sys::chance())));
        }
        absolute_paths(&mut arguments);
        let now = Instant::now();
        let progress = token.map(|token| (token, now + PROGRESS_EVERY, 0));
        Job { answer, op, arguments, session, progress, began: now, tries: 0, sent: false }
    }

    /// Whether it may wait in the broker for something to come.
    pub fn waits(&self) -> bool {
        self.arguments.get("waitSeconds").is_some_and(|seconds| *seconds != json!(0))
    }

    /// Whether it does no harm to send it again after a lost connection.
    pub fn may_repeat(&self) -> bool {
        let is_plain_set = self.op.name == "state.set" && !self.arguments.contains_key("expect");
        self.tries < TRIES_MAX && (!self.sent || self.op.repeatable || self.op.name == "send" || is_plain_set)
    }
}

/// Paths are absolute and normal before they leave: only here the working directory is known.
fn absolute_paths(arguments: &mut Map<String, Value>) {
    let absolute = |path: &str| Value::String(crate::sys::data_dir::absolute(path));
    if let Some(Value::String(path)) = arguments.get("filePath") {
        let path = absolute(path);
        arguments.insert("filePath".into(), path);
    }
    if let Some(Value::Array(list)) = arguments.get_mut("filePaths") {
        for item in list {
            if let Some(path) = item.as_str() {
                *item = absolute(path);
            }
        }
    }
}

/// The ids of the messages that an inbox answer carries, as `shown` wants them. Those that somebody
/// sent, listed with their receipts, are not read by that, not even when they went to the sender.
pub fn shown_items(value: &Value) -> Vec<String> {
    let is_open = |row: &&Value| row["receipt"] == json!("accepted") || row["receipt"] == json!("offered");
    let is_unread = |row: &&Value| is_open(row) && row.get("toName").is_none();
    let rows = value["messages"].as_array().map(Vec::as_slice).unwrap_or_default();
    let item = |row: &Value| match row["upto"].as_u64() {
        Some(upto) => format!("{}@{upto}", row["id"].as_str().unwrap_or("")),
        None => row["id"].as_str().unwrap_or("").to_owned(),
    };
    rows.iter().filter(is_unread).map(item).collect()
}

/// A tool's result as MCP has it: text alone, since clients differ on anything else.
pub fn tool_result(result: Result<Value, Error>, modern: bool) -> Value {
    let (text, is_error) = match result {
        Ok(value) => (value.to_string(), false),
        Err(error) => (error.to_value().to_string(), true),
    };
    let result = json!({ "content": [{ "type": "text", "text": text }], "isError": is_error });
    if modern { protocol_version::modern_result(result) } else { result }
}

/// Writes an answer; whether it went out whole.
pub fn finish(out: &Output, answer: &Answer, result: Result<Value, Error>) -> bool {
    let result = tool_result(result, answer.modern);
    match &answer.batch {
        Some(batch) => batch.add(json!({ "jsonrpc": "2.0", "id": answer.id, "result": result })),
        None => out.line(&rpc::answer(&answer.id, &result)),
    }
}
