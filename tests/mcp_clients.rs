//! Runs the official MCP client libraries against slm-mesh. As `tests/clients/scenario.*` describes, two sessions find
//! each other, exchange messages, share state and lock the same file.

mod clients;
mod support;

use std::path::Path;
use std::process::Command;
use support::{BIN, Place};

/// Runs a script with a new mesh. If the script does not print "passed", the test fails and shows its output.
fn play(interpreter: &Path, script: &Path, arguments: &[&str]) {
    let place = Place::new();
    let mut command = Command::new(interpreter);
    command.arg(script).arg(BIN).args(arguments).env_clear().envs(place.env.iter().cloned());
    command.env("PATH", std::env::var("PATH").unwrap()).env("HOME", place.root.join("home"));
    command.env("SLM_MESH_DATA_DIR", &place.dir).env("PYTHONDONTWRITEBYTECODE", "1");
    let out = command.current_dir(&place.root).output().unwrap();
    let said = String::from_utf8_lossy(&out.stdout);
    assert!(
        out.status.success() && said.trim_end().ends_with("passed"),
        "{} {arguments:?}: {:?}\n{said}\n{}",
        script.display(),
        out.status,
        String::from_utf8_lossy(&out.stderr)
    );
}

/// Runs a script once for each way to connect. The scripts run at the same time, because they mostly wait.
fn play_all(interpreter: &Path, script: &Path, ways: &[&[&str]]) {
    std::thread::scope(|scope| {
        for arguments in ways {
            scope.spawn(|| play(interpreter, script, arguments));
        }
    });
}

#[test]
fn python_1_works_together() {
    if let Some(python) = clients::python("python_1_works_together", "mcp1") {
        play_all(&python, &clients::here().join("python_v1.py"), &[&[]]);
    }
}

#[test]
fn python_2_works_together_in_both_eras() {
    if let Some(python) = clients::python("python_2_works_together_in_both_eras", "mcp2") {
        let ways: &[&[&str]] = &[&["auto"], &["legacy"], &["2026-07-28"]];
        play_all(&python, &clients::here().join("python_v2.py"), ways);
    }
}

#[test]
fn node_1_works_together() {
    if let Some(dir) = clients::node("node_1_works_together") {
        play_all(Path::new("node"), &dir.join("node_v1.mjs"), &[&[]]);
    }
}

#[test]
fn node_2_works_together_in_both_eras() {
    if let Some(dir) = clients::node("node_2_works_together_in_both_eras") {
        let ways: &[&[&str]] = &[&["default"], &["auto"], &["2026-07-28"]];
        play_all(Path::new("node"), &dir.join("node_v2.mjs"), ways);
    }
}
