//! How agents write down their sessions: what one line of such a file says.

use serde_json::Value;

/// How an agent writes its transcripts. Each is a file of JSON lines that only grows.
#[derive(Debug, Clone, Copy)]
pub struct TranscriptFormat {
    /// What a line says; `None` if it holds neither a prompt nor words for the user.
    pub passage: fn(&Value) -> Option<Passage>,
}

/// Who speaks in a passage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speaker {
    /// The session's user.
    User,
    /// The agent itself.
    Agent,
}

/// What somebody said in a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Passage {
    /// Who said it.
    pub speaker: Speaker,
    /// The text, as it was said.
    pub text: String,
}

/// A passage; none without a text.
pub(super) fn passage(speaker: Speaker, text: String) -> Option<Passage> {
    (!text.trim().is_empty()).then_some(Passage { speaker, text })
}

/// The text of a message: the text itself, or its parts that are text, without thoughts and tool calls.
pub(super) fn text_of(content: &Value) -> String {
    let is_text = |part: &&Value| {
        let kind = part["type"].as_str().unwrap_or("text");
        part["thought"] != Value::Bool(true) && ["text", "input_text", "output_text"].contains(&kind)
    };
    match content {
        Value::String(text) => text.clone(),
        Value::Array(parts) => {
            let text = |part: &Value| part.as_str().or(part["text"].as_str()).map(str::to_owned);
            parts.iter().filter(is_text).filter_map(text).collect::<Vec<_>>().join("\n")
        }
        part => part["text"].as_str().unwrap_or("").to_owned(),
    }
}
