//! Tests patches in the format of `apply_patch`, which several agents use. A patch is an argument of a tool, or a part
//! of a shell command.

use super::support::Place;
use super::{at, claude_shape, told, with};
use serde_json::{Value, json};
use std::fs;

/// Runs Codex's hook before a tool call, and returns its output.
fn before(place: &Place, tool: &str, arguments: Value) -> String {
    let input = with(claude_shape("s1", "PreToolUse"), json!({ "tool_name": tool, "tool_input": arguments }));
    told(place, "codex", &at(place, input)).to_string()
}

/// A test directory in which another peer has locked the files `a.rs` and `src/c.rs`.
fn held() -> Place {
    let place = Place::new();
    fs::create_dir(place.root.join("src")).unwrap();
    ["a.rs", "src/c.rs"].iter().for_each(|file| fs::write(place.root.join(file), "1\n").unwrap());
    place.ok(&["lock", "a.rs", "src/c.rs", "--reason", "mine"]);
    place
}

#[test]
fn a_patch_in_a_command_is_one_of_the_things_that_the_command_writes() {
    let place = held();
    let apply = |mark: &str, name: &str| {
        format!("apply_patch <<'EOF'\n*** Begin Patch\n*** {mark} File: {name}\n@@\n-1\n+2\n*** End Patch\nEOF")
    };
    let long = apply("Update", "a.rs").replace("+2\n", &"+2\n".repeat(100_000));
    let src = place.root.join("src");
    for (tool, arguments, held) in [
        ("Bash", json!({ "command": format!("sed -i s/1/2/ a.rs; {}", apply("Add", "new.rs")) }), "a.rs"),
        ("exec_command", json!({ "cmd": apply("Update", "c.rs"), "workdir": src }), "src/c.rs"),
        ("Bash", json!({ "command": format!("cd src && {}", apply("Update", "c.rs")) }), "src/c.rs"),
        ("shell", json!({ "command": ["bash", "-lc", apply("Delete", "src/c.rs")] }), "src/c.rs"),
        ("shell", json!({ "command": ["apply_patch", apply("Update", "a.rs")] }), "a.rs"),
        ("Bash", json!({ "command": long }), "a.rs"),
    ] {
        let denied = before(&place, tool, arguments.clone());
        assert!(
            denied.contains("\"deny\"") && denied.contains(&format!("{held} is locked")),
            "{arguments:.200}: {denied}"
        );
    }
    // This command only writes the patch into `notes.md`. It does not apply the patch to `a.rs`.
    let note = apply("Update", "a.rs").replace("apply_patch", "cat > notes.md");
    assert_eq!(before(&place, "Bash", json!({ "command": note })), "null");
    let locks: Vec<Value> = place.json(&["lock", "list"])["locks"].as_array().unwrap().clone();
    let mut files: Vec<&str> = locks.iter().map(|lock| lock["filePath"].as_str().unwrap()).collect();
    files.sort();
    let expected = ["a.rs", "notes.md", "src/c.rs"].map(|file| place.root.join(file).display().to_string());
    assert_eq!(files, expected, "the denied commands and the note lock no other file");
}

#[test]
fn every_header_that_an_agent_accepts_names_a_file() {
    let place = held();
    let long = "+x\n".repeat(800_000);
    for patch in [
        "*** Begin Patch\n  *** Update File: a.rs \n@@\n-1\n+2\n*** End Patch".to_owned(),
        "*** Begin Patch\n*** Update File:a.rs\n@@\n-1\n+2\n*** End Patch".to_owned(),
        "*** Begin Patch\r\n*** Update File: b.rs\r\n\t*** Move to: a.rs\r\n*** End Patch".to_owned(),
        format!("*** Begin Patch\n*** Add File: b.rs\n{long}\t *** Delete File:a.rs\n*** End Patch"),
    ] {
        let heredoc = format!("apply_patch <<'EOF'\n{patch}\nEOF");
        for (tool, text) in [("apply_patch", &patch), ("Bash", &heredoc)] {
            let denied = before(&place, tool, json!({ "command": text }));
            assert!(denied.contains("\"deny\"") && denied.contains("a.rs is locked"), "{tool} {patch:.99}: {denied}");
        }
    }
}
