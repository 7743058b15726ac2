//! Tests the hooks of all agents with random input, and the text that hooks show to a model.
//!
//! The event and the file names must come from the hook's input. A peer's words must stay inside quotes.

use crate::choices::Choices;
use serde_json::{Value, json};
use slm_mesh::agents::hook_input::{HookEvent, HookInput, understand};
use slm_mesh::agents::hook_input_fields::NEEDED_FIELDS;
use slm_mesh::agents::hook_stdin::extract_needed_json_fields::read_object;
use slm_mesh::agents::hook_text;
use slm_mesh::known_agents::AGENTS;
use slm_mesh::known_agents::hook_dialect::Dialect;
use slm_mesh::sys::path_normalization;

/// The first byte chooses an agent, and the other bytes are the input of its hook.
pub fn check(data: &[u8]) {
    let mut choices = Choices(data);
    let dialects: Vec<&Dialect> = AGENTS.iter().filter_map(|agent| agent.dialect.as_ref()).collect();
    let dialect = dialects[choices.below(dialects.len())];
    check_words(choices.0);
    check_reader(choices.0);
    let Ok(input) = serde_json::from_slice::<Value>(choices.0) else { return };
    let Some(hook) = understand(dialect, &input) else { return };
    if let HookEvent::Edit(files) = &hook.event {
        check_files(&input, &hook, files);
    }
    check_answers(dialect, &hook);
}

/// Checks that the reader returns only objects, and that it reads a valid object as any other JSON parser would.
fn check_reader(bytes: &[u8]) {
    let needed = &NEEDED_FIELDS;
    let read = |bytes: &[u8]| read_object(&mut &*bytes, needed);
    let found = read(bytes);
    assert!(found.as_ref().is_none_or(Value::is_object), "{found:?}");
    let Ok(value @ Value::Object(_)) = serde_json::from_slice::<Value>(bytes) else { return };
    let text = value.to_string();
    if needed.embedded.iter().all(|name| !value[*name].is_string()) && !text.contains(&"[".repeat(25)) {
        assert_eq!(read(text.as_bytes()), Some(value), "{text}");
    }
}

fn check_files(input: &Value, hook: &HookInput, files: &[String]) {
    assert!(!files.is_empty(), "an edit of nothing");
    let mut texts = Vec::new();
    collect(input, &mut texts);
    for file in files {
        assert!(texts.iter().any(|text| text.contains(file.as_str())), "{file:?} stands nowhere in the input");
        let whole = path_normalization::absolute_in(&hook.directory, file);
        assert!(whole.starts_with('/'), "{file:?} in {:?} became {whole:?}", hook.directory);
        assert_eq!(slm_mesh::base::path_overlap::normal(&whole), whole, "{file:?} in {:?}", hook.directory);
    }
}

/// Collects all strings in an input. If such a string contains JSON, also collects the strings in this JSON.
fn collect(value: &Value, texts: &mut Vec<String>) {
    match value {
        Value::String(text) => {
            texts.push(text.clone());
            if let Ok(inner @ (Value::Object(_) | Value::Array(_) | Value::String(_))) = serde_json::from_str(text) {
                collect(&inner, texts);
            }
        }
        Value::Array(list) => list.iter().for_each(|item| collect(item, texts)),
        Value::Object(map) => map.values().for_each(|item| collect(item, texts)),
        _ => {}
    }
}

fn check_answers(dialect: &Dialect, hook: &HookInput) {
    let text = "quoted \"words\"\nand a line\u{2028}";
    for answer in [(dialect.show)(&hook.call, text), (dialect.deny)(&hook.call, text), (dialect.go_on)(text)] {
        let line = answer.to_string();
        assert!(answer.is_object() && !line.contains('\n'), "{line}");
        assert_eq!(serde_json::from_str::<Value>(&line).ok(), Some(answer));
    }
}

/// Gives a peer a random text as its name, its summary and its message. Then checks what hooks print about this peer.
fn check_words(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let message = json!({ "id": "m", "fromName": text, "group": text, "payload": text, "createdAt": text });
    let value = json!({ "you": { "name": "me" }, "messages": [message, message], "remaining": 3 });
    let mail = hook_text::mail(&value);
    for line in mail.text.split('\n').filter(|line| !line.is_empty() || !text.is_empty()) {
        let ours = ["Mesh mail from other agents", "From ", "(cut here;", "3 more unread", "4 more unread"];
        let is_quoted = line.starts_with("> ");
        assert!(is_quoted || ours.iter().any(|start| line.starts_with(start)), "{line:?} stands outside the quotes");
        assert!(!line.contains(|c: char| c.is_control()), "{line:?}");
    }
    let n_shown = mail.text.lines().filter(|line| line.starts_with("From ")).count();
    assert_eq!(mail.shown.len(), n_shown, "exactly what the text shows counts as read");
    let near = json!({ "name": text, "summary": text, "filePath": text, "holder": text, "reason": text });
    let around = json!({ "you": { "name": text }, "peers": [near], "locks": [near], "messages": [] });
    assert_eq!(hook_text::beginning(&around).text.split('\n').count(), 3);
}
