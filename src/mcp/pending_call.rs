//! A tool call, from its request to its answer.

use super::protocol_version::ProtocolVersion;
use super::stdout_writer::StdoutWriter;
use crate::base::domain_enums::MessageState;
use crate::base::error::Error;
use crate::base::json_text::{json_length, json_text, push_quoted_json, visible_json_length};
use crate::base::{limits, untrusted_text};
use crate::core::Op;
use crate::core::op_behavior::RowStream;
use crate::core::op_definition::{ArgRole, WAITING_SINCE};
use crate::sys;
use crate::wire::rpc;
use serde_json::{Map, Value, json};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How often a waiting call reports progress, if its client wants reports.
pub const PROGRESS_EVERY: Duration = Duration::from_secs(10);

/// Maximum number of times that a call is sent again after the connection was lost.
const TRIES_MAX: u32 = 3;

/// Where the answer to a request is written, and in which form.
#[derive(Debug, Clone)]
pub struct ReplyTarget {
    /// The client's request id.
    pub id: Value,
    /// The revision of MCP that the request uses.
    pub version: ProtocolVersion,
    /// The batch that contains the request.
    pub batch: Option<Arc<BatchReply>>,
}

impl ReplyTarget {
    /// Writes a tool's result. Returns whether the whole result was written.
    pub fn reply(&self, out: &StdoutWriter, result: Result<Value, Error>) -> bool {
        let (text, is_error) = result_text(result);
        self.reply_with_text(out, &text, is_error)
    }

    /// Writes the JSON text of a broker's result, without parsing the text. Returns whether the whole result was
    /// written.
    pub fn pass_on(&self, out: &StdoutWriter, json: String) -> bool {
        self.reply_with_text(out, &untrusted_text::visible_json(json), false)
    }

    fn reply_with_text(&self, out: &StdoutWriter, text: &str, is_error: bool) -> bool {
        match &self.batch {
            Some(batch) => {
                let result = complete_tool_result(text, is_error, self.version);
                batch.add(json!({ "jsonrpc": "2.0", "id": self.id, "result": result }))
            }
            None if self.version.is_modern() => {
                out.write_line(&rpc::response(&self.id, &complete_tool_result(text, is_error, self.version)))
            }
            None => out.write_line(&tool_result_line(&self.id, text, is_error)),
        }
    }
}

/// Collects the answers to a batch of requests, and writes them as one line.
#[derive(Debug)]
pub struct BatchReply {
    gathered: Mutex<Gathered>,
    out: Arc<StdoutWriter>,
}

#[derive(Debug)]
struct Gathered {
    n_wanted: usize,
    answers: Vec<Value>,
    /// Lines that report the mail in the answers as read. They must not be sent before the answers are written.
    reports: Vec<String>,
}

impl BatchReply {
    /// Makes the reply to a batch of this many requests.
    pub fn new(n_wanted: usize, out: Arc<StdoutWriter>) -> BatchReply {
        BatchReply { gathered: Mutex::new(Gathered { n_wanted, answers: Vec::new(), reports: Vec::new() }), out }
    }

    /// Adds an answer. The last answer completes the batch, which is then written as one line. Returns true only if the
    /// whole line was written.
    pub fn add(&self, answer: Value) -> bool {
        let mut gathered = self.gathered.lock().unwrap_or_else(PoisonError::into_inner);
        gathered.answers.push(answer);
        self.send_if_complete(&mut gathered)
    }

    /// Reduces the number of expected answers by one, because a call was cancelled. Returns true if this completed the
    /// batch and the other answers were written.
    pub fn expect_one_less(&self) -> bool {
        let mut gathered = self.gathered.lock().unwrap_or_else(PoisonError::into_inner);
        gathered.n_wanted -= 1;
        self.send_if_complete(&mut gathered)
    }

    /// Stores a line that reports the mail in one of the answers as read.
    pub fn add_report(&self, line: String) {
        self.gathered.lock().unwrap_or_else(PoisonError::into_inner).reports.push(line);
    }

    /// Removes and returns the lines that mark mail as read. The caller must send them only after the answers have been
    /// written.
    pub fn take_reports(&self) -> Vec<String> {
        std::mem::take(&mut self.gathered.lock().unwrap_or_else(PoisonError::into_inner).reports)
    }

    fn send_if_complete(&self, gathered: &mut Gathered) -> bool {
        let is_complete = gathered.answers.len() == gathered.n_wanted && !gathered.answers.is_empty();
        is_complete && self.out.write_line(&rpc::to_line(&Value::Array(std::mem::take(&mut gathered.answers))))
    }
}

/// The progress reports that a client wants for one call.
#[derive(Debug, Clone)]
pub struct ProgressReports {
    token: Value,
    /// When the next report is due.
    pub next_at: Instant,
    n_sent: u64,
}

/// A tool call in progress.
#[derive(Debug, Clone)]
pub struct PendingCall {
    /// Where the answer goes.
    pub target: ReplyTarget,
    /// The operation that the call runs.
    pub op: &'static Op,
    /// The operation's arguments.
    pub arguments: Map<String, Value>,
    /// The client's key for the thread (conversation) that made the call; empty if the client has no threads.
    pub thread: String,
    /// The progress reports that the client wants.
    pub progress: Option<ProgressReports>,
    /// When the call arrived.
    pub began: Instant,
    /// When the call arrived, in ms since the epoch.
    arrived_at: i64,
    /// How many times the call has been sent again.
    pub tries: u32,
    /// Whether a broker may have read the call.
    pub was_sent: bool,
}

impl PendingCall {
    /// Makes a call. The caller must already have checked the arguments against the operation.
    pub fn new(target: ReplyTarget, op: &'static Op, mut arguments: Map<String, Value>, thread: String) -> PendingCall {
        if let Some(key) = op.idempotency_key().filter(|key| !arguments.contains_key(key.name)) {
            // With a key, the call runs only once, even if it is sent again after a lost connection.
            arguments.insert(key.name.into(), json!(format!("auto-{:032x}", sys::random_u128())));
        }
        if let Some(start) = op.arg_with_role(ArgRole::PartStart) {
            arguments.entry(start.name).or_insert(json!(0));
        }
        PendingCall {
            target,
            op,
            arguments,
            thread,
            progress: None,
            began: Instant::now(),
            arrived_at: sys::wall_ms(),
            tries: 0,
            was_sent: false,
        }
    }

    /// Lets the call send progress reports while it waits. Each report contains the client's token.
    pub fn report_progress(&mut self, token: Value) {
        self.progress = Some(ProgressReports { token, next_at: self.began + PROGRESS_EVERY, n_sent: 0 });
    }

    /// Returns the progress report that is due now; `None` if none is due.
    pub fn due_report(&mut self, now: Instant) -> Option<String> {
        let seconds = self.began.elapsed().as_secs();
        let reports = self.progress.as_mut().filter(|reports| reports.next_at <= now)?;
        (reports.next_at, reports.n_sent) = (now + PROGRESS_EVERY, reports.n_sent + 1);
        // MCP demands that progress grows with each report.
        let progress = seconds.max(reports.n_sent);
        let params = json!({ "progressToken": reports.token, "progress": progress, "message": "waiting" });
        Some(rpc::notification("notifications/progress", &params))
    }

    /// Whether the call may wait in the broker for something to happen.
    pub fn may_wait(&self) -> bool {
        self.arguments.get("waitSeconds").is_some_and(|seconds| *seconds != json!(0))
    }

    /// Whether the call waits for events but has no cursor. If such a call is sent again after a lost connection, it
    /// needs a cursor, so that it misses no event.
    pub fn lacks_cursor(&self) -> bool {
        let is_given = |name: &&str| self.arguments.get(*name).is_some_and(|value| !value.is_null());
        self.reads_events() && self.may_wait() && !["after", "since"].iter().any(is_given)
    }

    /// Whether the session must parse this answer, because it may contain unread messages, a new peer for the session,
    /// a transcript to read, or an event that is too long. All other answers are passed on unparsed.
    pub fn must_parse(&self, answer: &str) -> bool {
        self.arguments.contains_key("detail")
            || rpc::may_have_field(answer, "messages")
            || rpc::may_have_field(answer, "you")
            || self.has_long_event(answer)
    }

    /// Whether the broker's answer to this call contains an event that is too long for a tool result.
    pub fn has_long_event(&self, answer: &str) -> bool {
        self.reads_events() && untrusted_text::visible_length(answer) > limits::RESULT_MAX
    }

    /// If this call reads events, removes each payload that is too long for a tool result. A note in its place says how
    /// to see the payload.
    pub fn leave_out_long_payloads(&self, answer: &mut Value) {
        let events = answer.get_mut("events").and_then(Value::as_array_mut);
        for row in events.filter(|_| self.reads_events()).into_iter().flatten() {
            if visible_json_length(row) > limits::PAGE_MAX {
                let after = row["seq"].as_i64().unwrap_or(0) - 1;
                let note = format!(
                    "too long for a tool result; to see it, run slm-mesh events --after {after} --limit 1 --json"
                );
                row["payload"] = json!({ "note": note, "bytes": json_length(&row["payload"]) });
            }
        }
    }

    fn reads_events(&self) -> bool {
        self.op.behavior.stream == Some(RowStream::Events)
    }

    /// Makes a repetition of this call ask only for events after the event `seq`.
    pub fn continue_after(&mut self, seq: i64) {
        self.arguments.insert("after".into(), json!(seq));
    }

    /// Returns the request that sends this call to the broker on behalf of `peer`. `request` is the number of the
    /// request.
    pub fn to_line(&self, request: u64, peer: &str) -> String {
        let mut params = self.arguments.clone();
        params.insert("as".into(), json!(peer));
        if let Some(seconds) = params.get("waitSeconds").and_then(Value::as_u64).filter(|_| self.was_sent) {
            // After a lost connection, the call waits only for the time that remains, and keeps its place in the queue.
            params.insert("waitSeconds".into(), json!(seconds.saturating_sub(self.began.elapsed().as_secs())));
            if self.op.has_line() {
                params.insert(WAITING_SINCE.into(), json!(self.arrived_at));
            }
        }
        rpc::request(&json!(request), self.op.name, &Value::Object(params))
    }

    /// Whether the call can safely be sent again after a lost connection.
    pub fn may_repeat(&self) -> bool {
        let is_harmless = self.op.repeatable || self.op.idempotency_key().is_some();
        self.tries < TRIES_MAX && (!self.was_sent || is_harmless)
    }
}

/// Returns the ids of the unread messages in an inbox reply, in the form that `inbox.mark_read` expects. Messages in a
/// list of sent mail are not included, not even a message that the sender sent to itself.
pub fn shown_items(value: &Value) -> Vec<String> {
    let state = |row: &Value| row["receipt"].as_str().and_then(MessageState::from_word);
    let is_open = |row: &&Value| state(row).is_some_and(MessageState::is_unread);
    let is_unread = |row: &&Value| is_open(row) && row.get("toName").is_none();
    let rows = value["messages"].as_array().map(Vec::as_slice).unwrap_or_default();
    let item = |row: &Value| match row["partEnd"].as_u64() {
        Some(end) => format!("{}@{end}", row["id"].as_str().unwrap_or("")),
        None => row["id"].as_str().unwrap_or("").to_owned(),
    };
    rows.iter().filter(is_unread).map(item).collect()
}

/// Returns a tool's result in MCP's form. The result contains only text, because clients differ in how they treat other
/// content. Texts from peers stay inside JSON strings, where the model sees every character.
pub fn tool_result(result: Result<Value, Error>, version: ProtocolVersion) -> Value {
    let (text, is_error) = result_text(result);
    complete_tool_result(&text, is_error, version)
}

fn complete_tool_result(text: &str, is_error: bool, version: ProtocolVersion) -> Value {
    version.complete_result(json!({ "content": [{ "type": "text", "text": text }], "isError": is_error }))
}

/// Returns the line that answers a tool call. Works only for revisions of MCP that add no fields to a result. The
/// result equals [`tool_result`], but the line is built directly, because each layer of JSON would copy the text.
fn tool_result_line(id: &Value, text: &str, is_error: bool) -> String {
    let id = json_text(id);
    let mut line =
        ["{\"jsonrpc\":\"2.0\",\"id\":", &id, ",\"result\":{\"content\":[{\"type\":\"text\",\"text\":"].concat();
    push_quoted_json(&mut line, text);
    line.push_str(if is_error { "}],\"isError\":true}}\n" } else { "}],\"isError\":false}}\n" });
    line
}

/// Returns the JSON text of a result, and whether it is an error.
fn result_text(result: Result<Value, Error>) -> (String, bool) {
    let (value, is_error) = match result {
        Ok(value) => (value, false),
        Err(error) => (error.to_value(), true),
    };
    (untrusted_text::visible_json(json_text(&value)), is_error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core;

    #[test]
    fn the_line_of_a_result_equals_the_formatted_value() {
        let peers_text = json!({ "message": "say \"hi\" \\ \u{202e}\n\u{7f}", "from": "ä" });
        let refused = Error::usage("key", "expected a \"text\"");
        for result in [Ok(peers_text), Err(refused)] {
            let value = tool_result(result.clone(), ProtocolVersion::V2025_11_25);
            let (text, is_error) = result_text(result);
            assert_eq!(tool_result_line(&json!("a\"1"), &text, is_error), rpc::response(&json!("a\"1"), &value));
        }
    }

    #[test]
    fn a_change_that_may_have_taken_effect_is_not_repeated() {
        for (operation, is_repeated) in
            [("state.set", false), ("state.delete", false), ("send", true), ("state.get", true), ("lock.lock", true)]
        {
            let target = ReplyTarget { id: json!(1), version: ProtocolVersion::V2025_11_25, batch: None };
            let op = core::op(operation).unwrap();
            let mut call = PendingCall::new(target, op, Map::new(), String::new());
            assert!(call.may_repeat(), "no broker has read {operation} yet");
            call.was_sent = true;
            assert_eq!(call.may_repeat(), is_repeated, "{operation}");
        }
    }
}
