//! Tests the problems that `slm-mesh doctor` finds, the repairs that it suggests, and its proof that an agent's hooks
//! work.

mod support;

use serde_json::{Value, json};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use support::BIN;
use support::home::Home;

fn doctor(home: &Home, args: &[&str]) -> (i32, String) {
    let out = home.run(&[&["doctor"], args].concat());
    (out.status.code().unwrap(), String::from_utf8(out.stdout).unwrap() + &String::from_utf8_lossy(&out.stderr))
}

/// The errors that `slm-mesh doctor` reports. Each error is a pair of a subject and a suggested repair.
fn errors(home: &Home) -> Vec<(String, String)> {
    let (status, said) = doctor(home, &["--json"]);
    let value: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(value["ok"], json!(status == 0), "{said}");
    let word = |value: &Value| value.as_str().unwrap().to_owned();
    let wrong = value["checks"].as_array().unwrap().iter().filter(|check| check["ok"] == json!(false));
    wrong.map(|check| (word(&check["about"]), word(&check["cure"]))).collect()
}

fn mode(path: &std::path::Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn after_setup_all_is_well() {
    let home = Home::new();
    home.ok(&["codex", "cursor", "opencode", "gemini", "copilot", "windsurf"]);
    let (status, said) = doctor(&home, &[]);
    assert_eq!(status, 0, "{said}");
    assert!(said.contains("no broker is running") && said.contains("All is well."), "{said}");
    assert!(!home.place.dir.join("mesh.sock").exists(), "doctor starts no broker");
    home.place.ok(&["start", "--detach"]);
    let (status, said) = doctor(&home, &[]);
    assert_eq!(status, 0, "{said}");
    assert!(said.contains("answers") && said.contains(env!("CARGO_PKG_VERSION")), "{said}");
}

#[test]
fn each_fault_of_the_mesh_has_its_cure() {
    let home = Home::new();
    home.place.ok(&["start", "--detach"]);
    mode(&home.place.dir, 0o755);
    mode(&home.place.dir.join("broker.token"), 0o644);
    std::fs::write(home.place.dir.join("port"), "1").unwrap();
    let found = errors(&home);
    let cures: Vec<&str> = found.iter().map(|(_, cure)| cure.split(' ').next().unwrap()).collect();
    assert_eq!(cures, ["chmod", "chmod", "run"], "{found:?}");
    std::fs::write(home.place.dir.join("config"), "SLM_MESH_RATE=7\n").unwrap();
    assert!(errors(&home).iter().any(|(about, cure)| about == "settings" && cure.contains("start --detach")));
    std::fs::write(home.place.dir.join("config"), "SLM_MESH_RATE=x\n").unwrap();
    let found = errors(&home);
    assert!(found.iter().any(|(about, cure)| about == "settings" && cure.contains("help settings")), "{found:?}");
    assert!(!found.iter().any(|(about, _)| about == "broker"), "one fault has one cure: {found:?}");
}

#[test]
fn a_data_directory_that_cannot_be_created_is_a_fault() {
    let home = Home::new();
    let (dir, target) = (home.place.dir.clone(), home.place.root.join("a disk/mesh"));
    std::fs::remove_dir_all(&dir).ok();
    std::os::unix::fs::symlink(&target, &dir).unwrap();
    assert!(!home.place.run(&["start", "--detach"]).status.success());
    let cure = format!(
        "create the link's target (mkdir -p '{}'), or remove the link (rm {})",
        target.display(),
        dir.display()
    );
    assert_eq!(errors(&home), [("data directory".to_owned(), cure)]);
    // Doctor suggests creating this directory. Once the directory exists, doctor must report no error.
    std::fs::create_dir_all(&target).unwrap();
    home.place.ok(&["start", "--detach"]);
    assert_eq!(errors(&home), []);
}

#[test]
fn a_switch_in_the_home_directory_is_one_fault() {
    let home = Home::new();
    home.ok(&["qwen"]);
    let mut settings = home.value(".qwen/settings.json");
    settings["disableAllHooks"] = json!(true);
    home.write(".qwen/settings.json", &settings.to_string());
    let out = home.place.command(&["doctor", "--json"]).current_dir(&home.home).output().unwrap();
    let said = String::from_utf8(out.stdout).unwrap();
    assert_eq!(said.matches("disableAllHooks in ").count(), 1, "{said}");
}

#[test]
fn a_shell_without_a_hubs_settings_is_not_told_to_cut_its_guests_off() {
    let mut home = Home::new();
    let shell = home.place.env.clone();
    let hub = [("SLM_MESH_HOST", "0.0.0.0"), ("SLM_MESH_SHARED_SECRET", "correct horse battery staple")];
    home.place.env.extend(hub.map(|(name, value)| (name.into(), value.into())));
    home.place.ok(&["start", "--detach"]);
    assert_eq!(errors(&home), []);
    let (_, said) = doctor(&home, &[]);
    assert!(said.contains("the broker serves them at 0.0.0.0:"), "{said}");
    assert!(home.place.ok(&["status"]).contains("other machines are served at 0.0.0.0:"));
    home.place.env = shell;
    let (_, said) = doctor(&home, &[]);
    for words in
        ["different values for SLM_MESH_HOST, SLM_MESH_SHARED_SECRET", "stop serving other machines", "mesh/config"]
    {
        assert!(said.contains(words), "{words}: {said}");
    }
    assert!(!said.contains("start --detach"), "{said}");
}

#[test]
fn settings_that_contradict_each_other_are_the_fault_and_no_shield_needs_them() {
    let mut home = Home::new();
    home.place = home.place.with("SLM_MESH_HOST", "127.0.0.1:24101");
    let found = errors(&home);
    assert!(matches!(&found[..], [(about, _)] if about == "settings"), "{found:?}");
    assert!(doctor(&home, &[]).1.contains("set SLM_MESH_WS_PORT=24101 instead"));
    home.place.env.retain(|(name, _)| name != "SLM_MESH_HOST");
    home.place = home.place.with("SLM_MESH_ROLE", "client");
    let (_, said) = doctor(&home, &[]);
    let shield = said.lines().find(|line| line.contains("shield")).unwrap();
    assert!(!shield.contains("SLM_MESH") && !shield.contains("hub"), "{said}");
}

#[test]
fn a_shield_that_the_users_shell_cannot_enter_is_a_fault() {
    for (shell, agents, is_wrong) in [
        ("/usr/bin/zsh", "opencode", true),
        ("/bin/bash", "opencode", false),
        ("/usr/bin/zsh", "claude,droid", false),
        ("/usr/bin/zsh", "", false),
    ] {
        let mut home = Home::new();
        home.place = home.place.with("SHELL", shell).with("SLM_MESH_SHIELD", agents);
        let found = errors(&home);
        let is_about = |(about, cure): &(String, String)| about == "shield" && cure.contains("SHELL=/bin/bash");
        assert_eq!(found.iter().any(is_about), is_wrong, "{shell}, {agents}: {found:?}");
    }
}

#[test]
fn each_fault_of_an_agent_has_its_cure() {
    let home = Home::new();
    std::fs::create_dir_all(home.home.join(".cursor")).unwrap();
    let all = ["cursor server", "cursor hooks", "cursor commands"];
    let found = errors(&home);
    assert_eq!(found.iter().map(|(about, _)| about.as_str()).collect::<Vec<_>>(), all);
    assert!(found.iter().all(|(_, cure)| cure == "slm-mesh setup cursor"));
    home.ok(&["cursor"]);
    assert_eq!(errors(&home), []);

    let moved = home.read(".cursor/mcp.json").replace("/slm-mesh", "/gone/slm-mesh");
    home.write(".cursor/mcp.json", &moved);
    let hooks = home.read(".cursor/hooks.json");
    home.write(".cursor/hooks.json", &hooks.replace("/slm-mesh hook", "/gone/slm-mesh hook"));
    let (_, said) = doctor(&home, &[]);
    assert!(said.contains("/gone/slm-mesh mcp\", but it can't be run"), "{said}");
    assert!(said.contains("/gone/slm-mesh, which is not an executable file"), "{said}");
    home.write(".cursor/hooks.json", &hooks.replace("\"stop\"", "\"stopp\""));
    assert!(doctor(&home, &[]).1.contains("no slm-mesh hook for stop"));
    home.write(".cursor/hooks.json", "{");
    assert!(doctor(&home, &[]).1.contains("can't be read, or is not valid"));
}

#[test]
fn the_project_in_the_working_directory_is_checked_too() {
    let home = Home::new();
    home.ok(&["claude", "cursor", "--project"]);
    let project = home.place.root.join("project");
    let (status, said) = doctor(&home, &[]);
    assert!(status == 0 && said.contains("claude hooks (project)") && said.contains("run without an error"), "{said}");
    assert!(!said.contains("did not run"), "a file that agents share is checked once: {said}");

    let settings = project.join(".claude/settings.json");
    let good = std::fs::read_to_string(&settings).unwrap();
    std::fs::write(&settings, good.replace("/slm-mesh", "/gone/slm-mesh")).unwrap();
    let wrong = [("claude hooks (project)".to_owned(), "slm-mesh setup claude --project".to_owned())];
    assert_eq!(errors(&home), wrong);
    std::fs::write(&settings, good.replace("\"Stop\"", "\"Stopp\"")).unwrap();
    assert_eq!(errors(&home), wrong);

    // The settings of a project may come from somebody else. So doctor runs a command from the settings only if
    // `slm-mesh setup` wrote it.
    let ran = home.place.root.join("ran");
    home.fake("slm-mesh", &format!("touch '{}'", ran.display()));
    let fake = home.bin.join("slm-mesh");
    std::fs::write(&settings, good.replace(support::BIN, fake.to_str().unwrap())).unwrap();
    for is_remembered in [true, false] {
        if !is_remembered {
            std::fs::remove_file(home.place.dir.join("setup.json")).unwrap();
        }
        let (status, said) = doctor(&home, &[]);
        assert!(status == 0 && said.contains("did not run this program, because setup did not write"), "{said}");
        assert!(!ran.exists() && home.asked("slm-mesh").is_empty(), "{said}");
    }
}

#[test]
fn a_pipe_in_place_of_a_settings_file_keeps_nobody_waiting() {
    let home = Home::new();
    let pipe = home.home.join(".cursor/mcp.json");
    std::fs::create_dir_all(pipe.parent().unwrap()).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let (status, said) = home.setup(&["cursor", "--dry-run"]);
    assert!(status == 1 && said.contains("it is not a regular file"), "{said}");
    assert!(errors(&home).iter().any(|(about, _)| about == "cursor server"));
}

#[test]
fn doctor_starts_what_an_agent_would_start() {
    let home = Home::new();
    home.ok(&["cursor", "codex"]);
    let own = support::BIN;
    let answer = r#"{"jsonrpc":"2.0","id":1,"result":{"serverInfo":{"name":"slm-mesh","version":"0.0.1"}}}"#;
    home.fake("slm-mesh", &format!("[ \"$1\" = mcp ] || exit 3; echo '{answer}'; cat >/dev/null"));
    let fake = home.bin.join("slm-mesh").display().to_string();
    for (file, old, new, about, found) in [
        (".cursor/mcp.json", "\"mcp\"", "\"slm-mesh\"", "cursor server", "does not answer as an MCP server"),
        (".codex/config.toml", "\"mcp\"", "\"slm-mesh\"", "codex server", "does not answer as an MCP server"),
        (".cursor/mcp.json", own, &fake, "cursor server", "it is version 0.0.1"),
        (".codex/config.toml", own, &fake, "codex server", "it is version 0.0.1"),
        (".cursor/hooks.json", own, &fake, "cursor hooks", "ended with exit status: 3"),
        (".codex/hooks.json", own, &fake, "codex hooks", "ended with exit status: 3"),
    ] {
        let good = home.read(file);
        let bad = good.replace(old, new);
        assert_ne!(bad, good);
        home.write(file, &bad);
        let (_, said) = doctor(&home, &[]);
        let wrong: Vec<&str> = said.lines().filter(|line| line.contains("WRONG")).collect();
        assert!(wrong.len() == 1 && wrong[0].contains(about) && wrong[0].contains(found), "{file}: {said}");
        home.write(file, &good);
    }
    home.write(".cursor/mcp.json", &home.read(".cursor/mcp.json").replace(own, "slm-mesh"));
    home.fake("slm-mesh", &format!("exec '{own}' \"$@\""));
    assert_eq!(errors(&home), [], "a name on PATH is what the agent starts, too");
    assert!(!home.place.dir.join("mesh.sock").exists(), "no trial reaches the user's mesh");
}

#[test]
fn a_server_that_npx_or_uvx_runs_is_no_fault() {
    let home = Home::new();
    home.ok(&["cursor"]);
    // No package is downloaded for a check.
    for program in ["npx", "uvx"] {
        home.fake(program, "exit 1");
    }
    let own_version = concat!("slm-mesh==", env!("CARGO_PKG_VERSION"));
    for (is_right, program, args) in [
        (true, "npx", &["-y", "slm-mesh", "mcp"][..]),
        (true, "/usr/local/bin/npx", &["slm-mesh@latest", "mcp", "--legacy"]),
        (true, "uvx", &["slm-mesh", "mcp"]),
        (true, "uvx", &["--from", own_version, "slm-mesh", "mcp"]),
        (false, "npx", &["-y", "slm-mesh@1.4.0", "mcp"]),
        (false, "npx", &["-y", "slm-mesh"]),
        (false, "npx", &["-y", "slm-mesh-fork", "mcp"]),
        (false, "node", &["slm-mesh", "mcp"]),
    ] {
        let whole = json!({ "mcpServers": { "slm-mesh": { "command": program, "args": args } } });
        home.write(".cursor/mcp.json", &whole.to_string());
        let (_, said) = doctor(&home, &[]);
        assert_eq!(
            said.contains("which doctor does not run; sessions would start faster if you registered"),
            is_right,
            "{said}"
        );
        assert_eq!(said.contains("registers another program as slm-mesh"), !is_right, "{said}");
        assert_eq!(errors(&home).is_empty(), is_right, "{program} {args:?}");
        assert!(home.asked("npx").is_empty() && home.asked("uvx").is_empty());
    }
}

#[test]
fn a_server_that_the_user_switched_off_is_reported() {
    let home = Home::new();
    let of_json = |file: &str, path: &[&str], value: Value| {
        let mut whole = home.value(file);
        *path.iter().fold(&mut whole, |inner, key| &mut inner[*key]) = value;
        home.write(file, &whole.to_string());
    };
    let agents = ["codex", "opencode", "cline", "zed", "gemini"];
    home.ok(&agents);
    assert_eq!(errors(&home), []);
    let toml = home.read(".codex/config.toml");
    home.write(
        ".codex/config.toml",
        &toml.replace("[mcp_servers.slm-mesh]\n", "[mcp_servers.slm-mesh]\nenabled = false\n"),
    );
    of_json(".config/opencode/opencode.json", &["mcp", "slm-mesh", "enabled"], json!(false));
    of_json(".cline/data/settings/cline_mcp_settings.json", &["mcpServers", "slm-mesh", "disabled"], json!(true));
    of_json(".config/zed/settings.json", &["context_servers", "slm-mesh", "enabled"], json!(false));
    of_json(".gemini/settings.json", &["mcp"], json!({ "excluded": ["slm-mesh"], "allowed": [] }));
    let found = errors(&home);
    for agent in agents {
        let is_it = |(about, cure): &&(String, String)| {
            *about == format!("{agent} server") && cure.starts_with("switch the server on in this file")
        };
        assert_eq!(found.iter().filter(is_it).count(), 1, "{agent}: {found:?}");
    }
    assert_eq!(found.len(), agents.len(), "{found:?}");
    let said = home.ok(&agents);
    let note = "note: mcp.excluded in ~/.gemini/settings.json switches the server off, so the agent has no mesh tools";
    assert!(said.contains(note) && said.matches("switches the server off").count() == agents.len(), "{said}");
    of_json(".gemini/settings.json", &["mcp"], json!({ "allowed": ["other"] }));
    assert!(doctor(&home, &[]).1.contains("mcp.allowed in ~/.gemini/settings.json switches the server off"));
}

#[test]
fn files_that_root_has_left_behind_are_found() {
    use std::os::unix::fs::{MetadataExt, chown};
    let home = Home::new();
    home.place.ok(&["start", "--detach"]);
    if std::fs::metadata(&home.place.dir).unwrap().uid() != 0 {
        eprintln!("skipped: owners: only root can give a file away");
        return;
    }
    chown(home.place.dir.join("broker.clock"), Some(12345), None).unwrap();
    let found = errors(&home);
    assert!(found.len() == 1 && found[0].0 == "owners" && found[0].1.starts_with("sudo chown -R 0 "), "{found:?}");
}

#[test]
fn a_file_that_cannot_be_used_is_named_by_every_call_and_found() {
    for (name, kind) in [
        ("broker.lock", "folder"),
        ("start.lock", "folder"),
        ("broker.log", "folder"),
        ("broker.token", "folder"),
        ("broker.log", "pipe"),
        ("config", "pipe"),
    ] {
        let home = Home::new();
        std::fs::create_dir_all(&home.place.dir).unwrap();
        mode(&home.place.dir, 0o700);
        let path = home.place.dir.join(name);
        match kind {
            "folder" => std::fs::create_dir(&path).unwrap(),
            _ => assert!(Command::new("mkfifo").args(["-m", "600"]).arg(&path).status().unwrap().success()),
        }
        let verb = home.place.command(&[]);
        let mut command = Command::new("timeout");
        command.args(["20", BIN, "state", "get", "key"]).env_clear();
        let out = command.envs(verb.get_envs().filter_map(|(name, value)| Some((name, value?)))).output().unwrap();
        let said = String::from_utf8_lossy(&out.stderr);
        assert!(said.contains(path.to_str().unwrap()), "a {kind} {name}: {out:?}");
        if name != "broker.token" && name != "config" {
            assert_eq!(errors(&home)[0].0, "files", "a {kind} {name}");
        }
    }
    let home = Home::new();
    home.place.ok(&["peers"]);
    mode(&home.place.dir.join("start.lock"), 0o400);
    let start_lock = home.place.dir.join("start.lock");
    assert_eq!(errors(&home), [("files".to_owned(), format!("chmod 600 {}", start_lock.display()))]);
}

#[test]
fn what_keeps_every_broker_from_starting_is_found() {
    for (name, kind) in
        [("broker.numbers", "folder"), ("broker.numbers", "link"), ("mesh.sock/file", "folder"), ("peers", "file")]
    {
        let home = Home::new();
        let path = home.place.dir.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        mode(&home.place.dir, 0o700);
        match kind {
            "folder" => std::fs::create_dir(&path).unwrap(),
            "link" => std::os::unix::fs::symlink("/nowhere/numbers", &path).unwrap(),
            _ => std::fs::write(&path, "").unwrap(),
        }
        assert!(!home.place.run(&["state", "set", "key", "value"]).status.success(), "a {kind} {name}");
        let found = errors(&home);
        assert_eq!(found[0].0, "files", "a {kind} {name}: {found:?}");
        assert!(Command::new("sh").args(["-c", &found[0].1]).status().unwrap().success(), "{found:?}");
        home.place.ok(&["state", "set", "key", "value"]);
    }
    let home = Home::new();
    home.place.ok(&["peers"]);
    home.place.ok(&["stop"]);
    let database = home.place.dir.join("broker.db");
    rusqlite::Connection::open(&database).unwrap().execute_batch("PRAGMA user_version = 99").unwrap();
    assert!(!home.place.run(&["peers"]).status.success());
    let found = errors(&home);
    assert!(found.len() == 1 && found[0].0 == "database", "{found:?}");
    assert!(doctor(&home, &[]).1.contains("written by a newer slm-mesh"));
}

#[test]
fn the_hooks_of_each_agent_are_proven_as_its_file_has_them() {
    let with_hooks = slm_mesh::known_agents::AGENTS.iter().filter(|agent| agent.dialect.is_some());
    for agent in with_hooks.map(|agent| agent.id) {
        let home = Home::new();
        home.setup(if agent == "vscode" { &["vscode", "--project"] } else { std::slice::from_ref(&agent) });
        let (status, said) = doctor(&home, &["--prove", agent]);
        assert_eq!(status, 0, "{agent}: {said}");
        assert_eq!(said.matches("  proven  ").count(), 7, "{agent}: {said}");
        assert!(said.contains(" runs these hooks"), "{said}");
        assert!(!home.place.dir.join("mesh.sock").exists(), "{agent}: the user's mesh was not touched");
    }
}

#[test]
fn what_does_not_hold_is_not_proven() {
    let home = Home::new();
    let (status, said) = doctor(&home, &["--prove", "codex"]);
    assert!(status == 1 && said.contains("slm-mesh setup codex"), "{said}");
    let (status, said) = doctor(&home, &["--prove", "zed"]);
    assert!(status == 1 && said.contains("no hooks to test"), "{said}");
    assert_eq!(doctor(&home, &["--prove", "emacs"]).0, 2);

    home.ok(&["codex"]);
    let hooks = home.read(".codex/hooks.json");
    home.write(".codex/hooks.json", &hooks.replace("PreToolUse", "PreCompact"));
    let (status, said) = doctor(&home, &["--prove", "codex"]);
    assert!(
        status == 1
            && said.contains("WRONG   if another peer has locked a file")
            && said.contains("no slm-mesh hook for PreToolUse"),
        "{said}"
    );
    let fake = home.bin.join("slm-mesh");
    support::put_program(&fake, b"#!/bin/sh\necho deny\n");
    home.write(".codex/hooks.json", &hooks.replace(support::BIN, fake.to_str().unwrap()));
    let (status, said) = doctor(&home, &["--prove", "codex"]);
    assert!(status == 1 && said.contains("not JSON") && !said.contains("  proven  "), "{said}");
}
