//! Tests that `slm-mesh setup` keeps what users have changed in hooks: their own commands, time limits and patterns.

mod support;

use serde_json::{Value, json};
use support::BIN;
use support::home::Home;

/// An agent, its file with hooks, and one of its events.
const AGENTS: &[(&str, &str, &str)] = &[
    ("codex", ".codex/hooks.json", "Stop"),
    ("qwen", ".qwen/settings.json", "Stop"),
    ("gemini", ".gemini/settings.json", "AfterAgent"),
];

/// The shell lines of all hooks for an event.
fn lines_of(settings: &Value, event: &str) -> Vec<String> {
    let groups = settings["hooks"][event].as_array().into_iter().flatten();
    let hooks = groups.flat_map(|group| group["hooks"].as_array().unwrap());
    hooks.map(|hook| hook["command"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_users_command_that_also_runs_us_stays() {
    for (agent, file, event) in AGENTS {
        for line in [
            format!("notify-send done; /old/slm-mesh hook {agent}"),
            format!("SLM_MESH_NAME=boss nice /old/slm-mesh hook {agent}"),
            format!("/old/slm-mesh hook {agent} | tee -a log"),
        ] {
            let home = Home::new();
            let mine = json!({ "hooks": { *event: [{ "hooks": [{ "type": "command", "command": line }] }] } });
            let text = format!("{mine:#}\n");
            home.write(file, &text);
            let said = home.ok(&[agent, "--remove"]);
            assert_eq!(home.read(file), text, "{said}");
            assert!(said.contains("a hook in this file runs slm-mesh together with a command of yours"), "{said}");

            home.ok(&[agent]);
            let with_new_path = line.replace("/old/slm-mesh", BIN);
            assert_eq!(lines_of(&home.value(file), event), [with_new_path.as_str()], "it is not run twice");
            let with = home.read(file);
            home.ok(&[agent]);
            assert_eq!(home.read(file), with, "the second time changes nothing");

            // After another edit by the user, `--remove` can't simply restore the old text.
            home.write(file, &with.replace("{\n  \"hooks\"", "{\n  \"new\": 1,\n  \"hooks\""));
            home.ok(&[agent, "--remove"]);
            let left = home.value(file);
            assert_eq!(lines_of(&left, event), [with_new_path.as_str()]);
            assert_eq!(left["hooks"].as_object().unwrap().len(), 1, "our own hooks are gone: {left}");
        }
    }
}

#[test]
fn a_users_command_in_toml_stays() {
    let home = Home::new();
    let mine = "[[hooks]]\nevent = \"Stop\"\ncommand = \"mine && /old/slm-mesh hook kimi\" # both\n";
    home.write(".kimi-code/config.toml", mine);
    home.ok(&["kimi", "--remove"]);
    assert_eq!(home.read(".kimi-code/config.toml"), mine);
    home.ok(&["kimi"]);
    let with = home.read(".kimi-code/config.toml");
    let new = mine.replace("/old/slm-mesh", BIN);
    assert!(with.starts_with(&new) && with.matches("event = \"Stop\"").count() == 1, "{with}");
    home.write(".kimi-code/config.toml", &format!("{with}# later\n"));
    home.ok(&["kimi", "--remove"]);
    assert_eq!(home.read(".kimi-code/config.toml"), format!("{new}# later\n"));
}

#[test]
fn doctor_does_not_run_a_users_command() {
    let home = Home::new();
    let ran = home.place.root.join("ran");
    let line = format!("touch '{}'; /old/slm-mesh hook codex", ran.display());
    let mine = json!({ "hooks": { "Stop": [{ "hooks": [{ "type": "command", "command": line }] }] } });
    home.write(".codex/hooks.json", &mine.to_string());
    home.ok(&["codex"]);
    let out = home.run(&["doctor"]);
    let said = String::from_utf8(out.stdout).unwrap();
    assert!(said.contains("hooks in ~/.codex/hooks.json run without an error") && !ran.exists(), "{said}");
    home.write(".codex/hooks.json", &home.read(".codex/hooks.json").replace(BIN, "/old/slm-mesh"));
    let said = String::from_utf8(home.run(&["doctor"]).stdout).unwrap();
    assert!(said.contains("names /old/slm-mesh, which is not an executable file") && !ran.exists(), "{said}");
}

#[test]
fn a_file_that_the_user_wrote_is_not_deleted_without_a_record() {
    let home = Home::new();
    home.write(".cursor/mcp.json", &format!("{{\"mcpServers\":{{\"slm-mesh\":{{\"command\":\"{BIN}\"}}}}}}\n"));
    home.ok(&["cursor", "--remove"]);
    assert_eq!(home.read(".cursor/mcp.json"), "{}\n");
    home.write(".cursor/mcp.json", &format!("{{\"mcpServers\":{{\"slm-mesh\":{{\"command\":\"{BIN}\"}}}}}}\n"));
    home.ok(&["cursor"]);
    home.ok(&["cursor", "--remove"]);
    assert_eq!(home.read(".cursor/mcp.json"), "{}\n");
}

#[test]
fn what_the_user_changed_in_our_hooks_stays() {
    let home = Home::new();
    home.ok(&["gemini", "kimi", "copilot"]);
    let mut changed = home.value(".gemini/settings.json");
    let group = &mut changed["hooks"]["BeforeTool"][0];
    group["matcher"] = json!("write_file");
    group["sequential"] = json!(true);
    group["hooks"][0]["timeout"] = json!(60_000);
    group["hooks"][0]["description"] = json!("mine");
    let text = format!("{changed:#}\n");
    home.write(".gemini/settings.json", &text);
    let kimi = home.read(".kimi-code/config.toml").replacen("timeout = 5", "timeout = 60 # slow", 1);
    home.write(".kimi-code/config.toml", &kimi);
    let copilot = home.read(".copilot/hooks/slm-mesh.json").replacen("\"timeoutSec\": 5", "\"timeoutSec\": 60", 1);
    home.write(".copilot/hooks/slm-mesh.json", &copilot);
    home.ok(&["gemini", "kimi", "copilot"]);
    assert_eq!(home.read(".gemini/settings.json"), text);
    assert_eq!(home.read(".kimi-code/config.toml"), kimi);
    assert_eq!(home.read(".copilot/hooks/slm-mesh.json"), copilot);

    // The program has moved, and the user has added an argument. Only the path changes.
    for (file, text) in [
        (".gemini/settings.json", text.replacen("hook gemini", "hook gemini --agent me", 1)),
        (".kimi-code/config.toml", kimi.replacen("hook kimi", "hook kimi --agent me", 1)),
        (".copilot/hooks/slm-mesh.json", copilot.replacen("hook copilot", "hook copilot --agent me", 1)),
    ] {
        home.write(file, &text.replace(BIN, "/old/slm-mesh"));
        home.ok(&["gemini", "kimi", "copilot"]);
        assert_eq!(home.read(file), text);
    }
    home.ok(&["gemini", "kimi", "copilot", "--remove"]);
    for file in [".gemini/settings.json", ".kimi-code/config.toml", ".copilot/hooks/slm-mesh.json"] {
        let left = std::fs::read_to_string(home.home.join(file)).unwrap_or_default();
        assert!(!left.contains("slm-mesh"), "{file}: {left}");
    }
}

#[test]
fn a_pattern_of_an_older_version_is_brought_up_to_date() {
    let home = Home::new();
    home.ok(&["gemini"]);
    let new = home.read(".gemini/settings.json");
    let old = new.replace("write_file|replace|run_shell_command|mcp_.*", "write_file|replace");
    assert_ne!(old, new);
    home.write(".gemini/settings.json", &old);
    home.ok(&["gemini"]);
    assert_eq!(home.read(".gemini/settings.json"), new);
}
