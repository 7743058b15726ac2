//! `transcript`: prints the end of a peer's session, from the transcript that the peer's agent keeps.

use super::{actor_params, load_environment, print_line, render};
use crate::base::error::Error;
use crate::base::untrusted_text;
use crate::client::Client;
use crate::known_agents::transcript_format::Speaker;
use crate::mcp::peer_transcript::{DatedPassage, LastPassages, PassageFilter, last_passages};
use crate::sys::file_tail::READ_MAX;
use serde_json::{Value, json};

/// The number of passages to print if the user gives no number.
pub const LAST_DEFAULT: usize = 20;
/// Maximum number of passages that the user can request.
pub const LAST_MAX: i64 = 1000;
/// Maximum number of characters to print from one passage.
const PASSAGE_CHARS: usize = 4000;

/// Which passages of a transcript to print.
#[derive(Debug, Clone)]
pub struct TranscriptOptions {
    /// The peer's name.
    pub peer: String,
    /// The number of passages to print, counted from the end of the transcript.
    pub last: usize,
    /// If set, only passages that contain this text are printed.
    pub grep: Option<String>,
}

/// Prints the last passages of a peer's transcript.
pub fn print_transcript(options: &TranscriptOptions, json: bool) -> Result<u8, Error> {
    let (places, settings) = load_environment()?;
    let mut params = actor_params(&settings);
    params.insert("detail".into(), json!(options.peer));
    let answer = Client::connect_or_start(&places)?.call("peers", &Value::Object(params))?;
    let filter = PassageFilter { per_speaker: options.last, total: options.last, grep: options.grep.as_deref() };
    let found = last_passages(&answer, &filter)?;
    let name = answer["peers"][0]["name"].as_str().unwrap_or("");
    if json {
        let rows: Vec<Value> = found.passages.iter().map(row).collect();
        let value = json!({ "ok": true, "peer": name, "passages": rows, "more": found.more });
        return print_line(&render::json_line(&value));
    }
    print_line(&text(&untrusted_text::shown_name(name), options, &found))
}

fn row(one: &DatedPassage) -> Value {
    let speaker = match one.passage.speaker {
        Speaker::User => "user",
        Speaker::Agent => "agent",
    };
    json!({ "at": one.at, "speaker": speaker, "text": one.passage.text })
}

fn text(name: &str, options: &TranscriptOptions, found: &LastPassages) -> String {
    if found.passages.is_empty() {
        let what = if options.grep.is_some() { "does not contain this text" } else { "contains no prompts or answers" };
        let part = format!("the last {} MiB of it", READ_MAX >> 20);
        let part = if found.more { part.as_str() } else { "it" };
        return format!("{name} has a transcript; {part} {what}.");
    }
    let passages: Vec<String> = found.passages.iter().map(|one| passage_text(name, one)).collect();
    passages.join("\n\n")
}

fn passage_text(name: &str, one: &DatedPassage) -> String {
    let speaker = match one.passage.speaker {
        Speaker::User => format!("to {name}"),
        Speaker::Agent => name.to_owned(),
    };
    let (quoted, n_quoted) = untrusted_text::quoted_lines(&one.passage.text, PASSAGE_CHARS);
    let is_whole = n_quoted == one.passage.text.len();
    let cut = if is_whole { "" } else { "\n> …" };
    let head = format!("{}  {speaker}", untrusted_text::line(&one.at));
    format!("{}\n{quoted}{cut}", head.trim_start())
}
