//! Guesses which files a tool of another MCP server is about to write. The words in the tool's name show whether the
//! tool writes. The names of its arguments show which arguments are paths.
//!
//! **Invariant:** no files are reported for a tool that might only read, because a missed write is better than a denied
//! read.

use crate::base::limits;
use serde_json::Value;
use std::path::Path;

/// The separator that agents put between a server's name and a tool's name.
const SERVER_MARK: &str = "__";

/// Words in the name of a tool that writes files.
const WRITES: &[&str] = &[
    "write",
    "edit",
    "create",
    "replace",
    "insert",
    "delete",
    "remove",
    "move",
    "rename",
    "patch",
    "update",
    "append",
    "modify",
    "overwrite",
    "reformat",
    "truncate",
];
/// If a tool's name contains one of these words, the tool only reads, even if the name also contains a word for
/// writing.
const READS: &[&str] = &[
    "read", "get", "list", "find", "search", "view", "show", "describe", "fetch", "query", "preview", "check", "status",
];
/// These words mean that a tool only reads. But if `replace` follows in the name, as in `find_and_replace`, the tool
/// writes.
const LOOKS_FIRST: &[&str] = &["find", "search"];
/// Words in the name of a tool that creates or moves something other than a file.
const NO_FILES: &[&str] = &["directory", "folder", "branch", "issue", "memory", "comment", "release", "page", "task"];

/// Names of arguments that contain a path, or a list of paths.
pub const PATH_FIELDS: &[&str] = &[
    "path",
    "paths",
    "file",
    "files",
    "file_path",
    "filePath",
    "filepath",
    "filename",
    "fileName",
    "file_name",
    "relative_path",
    "relativePath",
    "absolute_path",
    "absolutePath",
    "target_file",
    "targetFile",
    "target_path",
    "targetPath",
    "notebook_path",
    "pathInProject",
    "path_in_project",
    "source",
    "destination",
    "source_path",
    "destination_path",
    "sourcePath",
    "destinationPath",
    "old_path",
    "new_path",
    "oldPath",
    "newPath",
    "uri",
];
/// Names of arguments that contain the folder to which paths are relative.
pub const BASE_FIELDS: &[&str] = &["projectPath", "project_path"];
/// If a tool has one of these arguments, its paths are not on this machine but, for example, on a website.
const ELSEWHERE: &[&str] = &["owner", "repo", "repository", "branch", "bucket", "host", "url", "project_id"];
/// Names of arguments that make a writing tool show its changes without writing them.
const DRY_RUNS: &[&str] = &["dryRun", "dry_run"];

/// The files that a call of another server's tool would write; empty if the tool only reads, or if it writes files on
/// another machine.
pub fn written_files(tool: &str, arguments: &Value) -> Vec<String> {
    let Some(arguments) = arguments.as_object().filter(|_| is_writing_tool(tool)) else { return Vec::new() };
    let is_elsewhere = ELSEWHERE.iter().any(|name| arguments.contains_key(*name));
    if is_elsewhere || DRY_RUNS.iter().any(|name| arguments.get(*name) == Some(&Value::Bool(true))) {
        return Vec::new();
    }
    let base = BASE_FIELDS.iter().find_map(|name| arguments.get(*name)?.as_str()).unwrap_or("");
    let mut found: Vec<String> = Vec::new();
    for name in PATH_FIELDS {
        match arguments.get(*name) {
            Some(Value::String(path)) => found.extend(local_path(base, path)),
            Some(Value::Array(list)) => {
                found.extend(list.iter().filter_map(Value::as_str).filter_map(|path| local_path(base, path)));
            }
            _ => {}
        }
    }
    found.sort();
    found.dedup();
    found
}

/// Whether the words of a tool's name show that the tool writes files.
fn is_writing_tool(tool: &str) -> bool {
    let own = tool.rsplit(SERVER_MARK).next().unwrap_or(tool).trim_start_matches('_');
    let words = words_of(own);
    let is_any = |list: &[&str], word: &String| list.contains(&word.as_str());
    let reads = |(n, word): (usize, &String)| {
        let then_replaces = words[n + 1..].iter().any(|next| next == "replace");
        is_any(READS, word) && !(is_any(LOOKS_FIRST, word) && then_replaces)
    };
    words.iter().any(|word| is_any(WRITES, word))
        && !words.iter().any(|word| is_any(NO_FILES, word))
        && !words.iter().enumerate().any(reads)
}

/// The words in a name, in lower case. `createNewFile`, `create_new_file` and `create-new-file` each contain three
/// words.
fn words_of(name: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut was_lower = false;
    for c in name.chars() {
        if !c.is_ascii_alphanumeric() || c.is_ascii_uppercase() && was_lower {
            words.push(String::new());
        }
        if let (true, Some(word)) = (c.is_ascii_alphanumeric(), words.last_mut()) {
            word.push(c.to_ascii_lowercase());
        }
        was_lower = c.is_ascii_lowercase();
    }
    words.retain(|word| !word.is_empty());
    words
}

/// The path of a file on this machine; `None` if the text is something else, such as a URL.
fn local_path(base: &str, text: &str) -> Option<String> {
    let path = text.strip_prefix("file://").unwrap_or(text);
    let is_path = !path.is_empty() && path.len() <= limits::PATH_MAX && !path.contains("://") && !path.contains('\n');
    is_path.then(|| match base {
        "" => path.to_owned(),
        // An absolute path stays as it is.
        base => Path::new(base).join(path).to_string_lossy().into_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn writing_tools_name_their_files() {
        for (tool, arguments, want) in [
            ("mcp__filesystem__write_file", json!({ "path": "/w/a", "content": "x" }), vec!["/w/a"]),
            ("filesystem_edit_file", json!({ "path": "a", "edits": [{ "oldText": "x" }] }), vec!["a"]),
            ("filesystem-move_file", json!({ "source": "/a", "destination": "/b" }), vec!["/a", "/b"]),
            ("mcp_filesystem_write_file", json!({ "path": "a" }), vec!["a"]),
            ("filesystem___write_file", json!({ "path": "a" }), vec!["a"]),
            (
                "mcp__serena__replace_symbol_body",
                json!({ "name_path": "A/b", "relative_path": "src/a.rs" }),
                vec!["src/a.rs"],
            ),
            ("mcp__serena__create_text_file", json!({ "relative_path": "n.py", "content": "path" }), vec!["n.py"]),
            (
                "mcp__jetbrains__replace_text_in_file",
                json!({ "pathInProject": "a.kt", "projectPath": "/p", "oldText": "x", "newText": "y" }),
                vec!["/p/a.kt"],
            ),
            ("mcp__jetbrains__create_new_file", json!({ "pathInProject": "b.kt", "text": "" }), vec!["b.kt"]),
            ("idea.createNewFile", json!({ "path": "file:///p/c.kt" }), vec!["/p/c.kt"]),
            ("mcp__x__find_and_replace", json!({ "files": ["a", "b"] }), vec!["a", "b"]),
            ("mcp__read-server__write_file", json!({ "path": "a" }), vec!["a"]),
        ] {
            assert_eq!(written_files(tool, &arguments), want, "{tool}");
        }
    }

    #[test]
    fn what_reads_or_writes_elsewhere_has_no_files() {
        for (tool, arguments) in [
            ("mcp__filesystem__read_text_file", json!({ "path": "/a" })),
            ("mcp__filesystem__list_directory", json!({ "path": "/a" })),
            ("mcp__filesystem__create_directory", json!({ "path": "/a" })),
            ("mcp__filesystem__edit_file", json!({ "path": "/a", "dryRun": true })),
            ("patch-server_read_file", json!({ "path": "/a" })),
            ("mcp__serena__find_symbol", json!({ "relative_path": "a.rs" })),
            ("mcp__serena__write_memory", json!({ "memory_file_name": "a", "path": "a" })),
            ("mcp__jetbrains__get_file_text_by_path", json!({ "pathInProject": "a" })),
            ("mcp__github__create_or_update_file", json!({ "owner": "o", "repo": "r", "path": "a", "branch": "main" })),
            ("mcp__web__update_site", json!({ "path": "https://example.org/a" })),
            ("mcp__slm-mesh__mesh_lock", json!({ "files": ["a"] })),
            ("Read", json!({ "file_path": "/a" })),
            ("mcp__x__write_file", json!({ "path": "" })),
            ("mcp__x__write_file", json!({ "path": 5 })),
            ("mcp__x__write_file", json!("path")),
            ("", json!({ "path": "a" })),
        ] {
            assert_eq!(written_files(tool, &arguments), Vec::<String>::new(), "{tool}");
        }
    }
}
