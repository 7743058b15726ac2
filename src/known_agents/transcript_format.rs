//! The formats in which agents write transcripts of their sessions.

use serde_json::Value;

/// How an agent writes its transcripts. A transcript is a file of JSON lines, to which the agent only appends.
#[derive(Debug, Clone, Copy)]
pub struct TranscriptFormat {
    /// Reads a line. Returns `None` if the line is neither a prompt nor an answer to the user.
    pub passage: fn(&Value) -> Option<Passage>,
}

/// Who said a passage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speaker {
    /// The user of the session.
    User,
    /// The agent itself.
    Agent,
}

/// Something that the user or the agent said in a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Passage {
    /// Who said the text.
    pub speaker: Speaker,
    /// The text, word for word.
    pub text: String,
}

/// Makes a passage; `None` if the text is empty.
pub(super) fn passage(speaker: Speaker, text: String) -> Option<Passage> {
    (!text.trim().is_empty()).then_some(Passage { speaker, text })
}

/// Returns the text of a message, without thoughts and tool calls. The content is either a string or a list of parts.
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
