//! `slm-mesh setup` on typical configuration files. The agents are fake programs that only record their arguments.

mod support;

use serde_json::{Value, json};
use slm_mesh::known_agents::AGENTS;
use slm_mesh::known_agents::settings_file_types::{Scope, Writer};
use std::collections::BTreeMap;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use support::BIN;
use support::home::Home;

/// The bytes, mode and modification time of each file below a folder.
fn tree(dir: &Path) -> BTreeMap<PathBuf, (Vec<u8>, u32, std::time::SystemTime)> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(dir).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() && !path.is_symlink() {
            found.extend(tree(&path));
        } else {
            let meta = std::fs::metadata(&path).unwrap();
            found.insert(
                path.clone(),
                (std::fs::read(&path).unwrap(), meta.permissions().mode(), meta.modified().unwrap()),
            );
        }
    }
    found
}

/// The bytes and mode of each file below a folder.
fn bytes(dir: &Path) -> BTreeMap<PathBuf, (Vec<u8>, u32)> {
    tree(dir).into_iter().map(|(path, (bytes, mode, _))| (path, (bytes, mode))).collect()
}

/// The agents whose files `setup` writes itself. For other agents, `setup` runs a command of the agent's own.
fn edited() -> Vec<&'static str> {
    let edits = |agent: &&slm_mesh::known_agents::Agent| {
        let Scope { server, hooks, own_file, .. } = agent.files.user;
        (server.is_some() || hooks.is_some() || own_file.is_some())
            && server.is_none_or(|file| matches!(file.writer, Writer::Us))
    };
    AGENTS.iter().filter(edits).map(|agent| agent.id).collect()
}

#[test]
fn setup_and_remove_leave_no_trace_of_us() {
    let home = Home::new();
    home.write(
        ".cursor/mcp.json",
        "{\r\n\t\"mcpServers\": {\r\n\t\t\"other\": {\"command\": \"x\", \"args\": [1.50, \"\\u0041\"]}\r\n\t}\r\n}",
    );
    home.write(
        ".cursor/hooks.json",
        "{\n    \"version\": 1,\n    \"hooks\": {\"stop\": [{\"command\": \"theirs\"}]}\n}\n",
    );
    home.write(".gemini/settings.json", "{\"theme\":\"dark\",\"mcpServers\":{}}");
    home.write(".codeium/windsurf/mcp_config.json", "");
    home.write(".config/zed/settings.json", "{\n  \"a\": { \"b\": [] },\n  \"a\": 2\n}\n\n");
    home.write(".codex/config.toml", "model = \"x\" # no end of line");
    home.write(".codex/hooks.json", "{ }");
    home.write(".aider.conf.yml", "model: x\n");
    home.write(".config/opencode/opencode.jsonc", "{\n   \"$schema\": \"s\"\n}\n");
    let before = bytes(&home.home);
    home.ok(&edited());
    assert_eq!(home.value(".cursor/mcp.json")["mcpServers"]["slm-mesh"]["command"], json!(BIN));
    assert!(home.read(".cursor/mcp.json").contains(
        "\r\n\t\t\"other\": {\"command\": \"x\", \"args\": [1.50, \"\\u0041\"]},\r\n\t\t\"slm-mesh\": {\r\n\t\t\t"
    ));
    assert_eq!(home.value(".cursor/hooks.json")["hooks"]["stop"][0], json!({ "command": "theirs" }));
    assert_eq!(home.value(".config/opencode/opencode.jsonc")["mcp"]["slm-mesh"]["command"], json!([BIN, "mcp"]));
    assert_ne!(bytes(&home.home), before);

    let once = tree(&home.home);
    let said = home.ok(&edited());
    assert!(!said.contains("written"), "{said}");
    assert_eq!(tree(&home.home), once, "the second time writes nothing");

    home.ok(&[&edited()[..], &["--remove"]].concat());
    assert_eq!(bytes(&home.home), before);
    home.ok(&[&edited()[..], &["--remove"]].concat());
    assert_eq!(bytes(&home.home), before, "removed twice");
}

#[test]
fn what_changed_since_stays_when_we_go() {
    let home = Home::new();
    let original = "{\n  \"mcpServers\": {\n    \"a\": {}\n  }\n}\n";
    let file = home.write(".cursor/mcp.json", original);
    home.ok(&["cursor"]);
    let text = home.read(".cursor/mcp.json").replace("{\n  \"mcp", "{\n  \"new\": 1,\n  \"mcp");
    std::fs::write(&file, text).unwrap();
    home.ok(&["cursor", "--remove"]);
    assert_eq!(home.read(".cursor/mcp.json"), original.replace("{\n  \"mcp", "{\n  \"new\": 1,\n  \"mcp"));
    assert!(!home.home.join(".cursor/hooks.json").exists(), "what we created goes");
    assert!(!home.place.dir.join("setup.json").exists(), "nothing is remembered any more");
}

#[test]
fn a_dry_run_shows_and_writes_nothing() {
    let home = Home::new();
    home.write(".cursor/mcp.json", "{}\n");
    home.fake("claude", "exit 0");
    let before = tree(&home.home);
    let said = home.ok(&["--dry-run"]);
    assert!(said.contains("claude mcp add slm-mesh -s user -- ") && said.contains("+     \"slm-mesh\": {"), "{said}");
    assert_eq!(tree(&home.home), before);
    assert!(home.asked("claude").is_empty());
    home.ok(&["cursor"]);
    let before = tree(&home.home);
    let said = home.ok(&["cursor", "--remove", "--dry-run"]);
    assert!(said.contains("would"), "{said}");
    assert_eq!(tree(&home.home), before);
}

#[test]
fn a_file_that_is_not_valid_is_left_alone_and_the_text_to_paste_is_shown() {
    for text in ["{\n  'a': 1\n}\n", "{\n  \"a\": 1 \"b\": 2\n}\n", "\u{feff}{}", "{", "[]", "{\"mcpServers\": 3}"] {
        let home = Home::new();
        let file = home.write(".codeium/windsurf/mcp_config.json", text);
        let (status, said) = home.setup(&["windsurf"]);
        assert_eq!(status, 1, "{text}: {said}");
        assert!(said.contains("left alone") && said.contains("because") && said.contains("\"slm-mesh\": {"), "{said}");
        assert_eq!(std::fs::read_to_string(&file).unwrap(), text);
    }
}

#[test]
fn comments_in_a_file_stay() {
    let home = Home::new();
    let text = "// mine\n{\n  \"a\": 1, // one\n  /* two */ \"b\": [1, 2,],\n}\n";
    let file = home.write(".config/zed/settings.json", text);
    home.ok(&["zed"]);
    let with = std::fs::read_to_string(&file).unwrap();
    assert!(with.contains("// one") && with.contains("/* two */") && with.contains("\"slm-mesh\": {"), "{with}");
    std::fs::write(&file, with.replace("// mine", "// changed since")).unwrap();
    home.ok(&["zed", "--remove"]);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), text.replace("// mine", "// changed since"));
}

#[test]
fn a_symlink_stays_one_and_a_mode_is_kept() {
    let home = Home::new();
    let real = home.write("dotfiles/mcp.json", "{}\n");
    std::fs::set_permissions(&real, std::fs::Permissions::from_mode(0o640)).unwrap();
    std::fs::create_dir_all(home.home.join(".cursor")).unwrap();
    symlink("../dotfiles/mcp.json", home.home.join(".cursor/mcp.json")).unwrap();
    home.ok(&["cursor"]);
    assert!(home.home.join(".cursor/mcp.json").is_symlink());
    assert!(home.read("dotfiles/mcp.json").contains("slm-mesh"));
    assert_eq!(real.metadata().unwrap().permissions().mode() & 0o777, 0o640);
    home.ok(&["cursor", "--remove"]);
    assert_eq!(home.read("dotfiles/mcp.json"), "{}\n");
    assert!(home.home.join(".cursor/mcp.json").is_symlink());
}

#[test]
fn a_read_only_file_gets_a_sentence() {
    let home = Home::new();
    let file = home.write(".cursor/mcp.json", "{}\n");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o444)).unwrap();
    for args in [&["cursor", "--dry-run"][..], &["cursor"]] {
        let (status, said) = home.setup(args);
        assert_eq!(status, 1);
        assert!(said.contains("read-only") && said.contains("chmod u+w"), "{said}");
        assert_eq!(home.read(".cursor/mcp.json"), "{}\n");
    }

    // This file needs no change, so `setup` must succeed although it can't write the file.
    let mode = |file: &Path, mode| std::fs::set_permissions(file, std::fs::Permissions::from_mode(mode)).unwrap();
    mode(&file, 0o644);
    home.ok(&["cursor"]);
    let command = home.home.join(".cursor/commands/mesh-send.md");
    let with = home.read(".cursor/mcp.json");
    mode(&file, 0o444);
    mode(&command, 0o444);
    for args in [&["cursor"][..], &["cursor", "--dry-run"]] {
        let said = home.ok(args);
        assert!(!said.contains("written") && !said.contains("would"), "{said}");
    }
    for args in [&["cursor", "--remove", "--dry-run"][..], &["cursor", "--remove"]] {
        let (status, said) = home.setup(args);
        assert_eq!((status, said.matches("(chmod u+w), and run this command again").count()), (1, 2), "{said}");
    }
    assert!(home.read(".cursor/mcp.json") == with && command.exists());
}

#[test]
fn an_older_entry_of_ours_is_brought_up_to_date_in_its_place() {
    let home = Home::new();
    let old = json!({
        "mcpServers": { "slm-mesh": { "command": "/old/slm-mesh", "args": [], "env": { "A": "1" } }, "z": {} },
        "hooks": {
            "BeforeAgent": [{ "hooks": [
                { "type": "command", "command": "theirs" },
                { "type": "command", "command": "'/old place/slm-mesh' hook gemini", "timeout": 1 },
            ] }],
            "AfterTool": [
                { "matcher": "x", "hooks": [{ "type": "command", "command": "/old/slm-mesh hook gemini" }] },
                { "hooks": [{ "type": "command", "command": "/older/slm-mesh hook gemini" }] },
            ],
            "Notification": [{ "hooks": [{ "type": "command", "command": "/old/slm-mesh hook gemini" }] }],
        },
    });
    home.write(".gemini/settings.json", &format!("{old:#}\n"));
    home.ok(&["gemini"]);
    let new = home.value(".gemini/settings.json");
    let line = format!("{BIN} hook gemini");
    let ours = |limit: i64| json!({ "type": "command", "name": "slm-mesh", "command": line, "timeout": limit });
    assert_eq!(new["mcpServers"]["slm-mesh"], json!({ "command": BIN, "args": ["mcp"], "env": { "A": "1" } }));
    let theirs = json!({ "type": "command", "command": "theirs" });
    assert_eq!(new["hooks"]["BeforeAgent"], json!([{ "hooks": [theirs, ours(1)] }]));
    assert_eq!(new["hooks"]["AfterTool"], json!([{ "matcher": "x", "hooks": [ours(5000)] }]));
    assert!(new["hooks"].get("Notification").is_none());
    home.ok(&["gemini", "--remove"]);
    let left = home.value(".gemini/settings.json");
    assert_eq!(left["mcpServers"], json!({ "z": {} }));
    assert_eq!(left["hooks"]["BeforeAgent"], json!([{ "hooks": [theirs] }]));
    assert!(!left.to_string().contains("slm-mesh"), "{left}");
}

#[test]
fn the_arguments_that_the_user_added_stay() {
    let home = Home::new();
    home.write(
        ".cursor/mcp.json",
        r#"{"mcpServers": {"slm-mesh": {"command": "/old/slm-mesh", "args": ["mcp", "--legacy"]}}}"#,
    );
    home.write(
        ".config/opencode/opencode.json",
        r#"{"mcp": {"slm-mesh": {"command": ["/old/slm-mesh", "mcp", "--legacy"], "environment": {"A": "1"}}}}"#,
    );
    let codex = "[mcp_servers.slm-mesh]\ncommand = \"/old/slm-mesh\"\nargs = [\"mcp\", \"--legacy\"] # mine\n";
    home.write(".codex/config.toml", codex);
    home.ok(&["cursor", "opencode", "codex"]);
    let cursor = &home.value(".cursor/mcp.json")["mcpServers"]["slm-mesh"];
    assert_eq!(*cursor, json!({ "command": BIN, "args": ["mcp", "--legacy"] }));
    let opencode = &home.value(".config/opencode/opencode.json")["mcp"]["slm-mesh"];
    assert_eq!(opencode["command"], json!([BIN, "mcp", "--legacy"]));
    assert_eq!(opencode["environment"], json!({ "A": "1" }));
    assert_eq!(home.read(".codex/config.toml"), codex.replace("/old/slm-mesh", BIN));
}

#[test]
fn aiders_list_of_files_to_read_may_contain_ours() {
    let home = Home::new();
    let before = "read:\n  - CONVENTIONS.md\nmodel: x\n";
    home.write(".aider.conf.yml", before);
    let (status, said) = home.setup(&["aider"]);
    let item = said.split_once("add this item to the list under the key `read`: ").unwrap().1.lines().next().unwrap();
    assert_eq!(status, 1, "{said}");
    home.write(".aider.conf.yml", &before.replace("model", &format!("  - {item}\nmodel")));
    assert!(home.run(&["doctor"]).status.success());
    home.ok(&["aider"]);
    home.ok(&["aider", "--remove"]);
    assert_eq!(home.read(".aider.conf.yml"), before);

    // `setup` can't tell where this entry ends, so it asks the user to remove the entry.
    let odd = format!("read: [ # mine\n  {item} ]\n");
    home.write(".aider.conf.yml", &odd);
    let (status, said) = home.setup(&["aider", "--remove"]);
    assert!(status == 1 && said.contains("slm-mesh.md in a way that setup can't edit; remove this name"), "{said}");
    assert_eq!(home.read(".aider.conf.yml"), odd);
}

#[test]
fn hooks_in_toml_are_replaced_when_the_program_moves_from_a_path_with_a_blank() {
    let home = Home::new();
    let file = home.write(".kimi-code/config.toml", "");
    home.ok(&["kimi"]);
    let new = home.read(".kimi-code/config.toml");
    std::fs::write(&file, new.replace(&format!("\"{BIN} hook"), "\"'/old place/slm-mesh' hook")).unwrap();
    assert_ne!(home.read(".kimi-code/config.toml"), new);
    home.ok(&["kimi"]);
    assert_eq!(home.read(".kimi-code/config.toml"), new);
}

#[test]
fn what_the_user_must_approve_is_said() {
    let home = Home::new();
    assert!(home.ok(&["codex"]).contains("type /hooks"));
    assert!(!home.ok(&["codex"]).contains("type /hooks"), "nothing changed, nothing to approve");
    home.fake("claude", "");
    assert!(!home.ok(&["claude"]).contains(".mcp.json"), "a file that only a project has");
    assert!(home.ok(&["claude", "--project"]).contains("approve the server in .mcp.json"));
    assert!(home.ok(&["vibe"]).contains("add the server to ~/.vibe/config.toml"), "what setup does not edit");
    let (status, said) = home.setup(&["emacs"]);
    assert!(status == 2 && said.contains("claude, codex"), "{said}");
    let (status, said) = Home::new().setup(&[]);
    assert!(status == 1 && said.contains("no agent was found"), "{said}");
}

#[test]
fn the_projects_files_are_set_up_and_cleared() {
    let home = Home::new();
    let project = home.place.root.join("project");
    std::fs::write(project.join(".mcp.json"), "{\n  \"mcpServers\": {}\n}\n").unwrap();
    let before = bytes(&home.place.root);
    let all = ["claude", "codex", "copilot", "gemini", "opencode", "cursor", "vscode", "devin", "zed", "aider", "pi"];
    let args = [&all[..], &["--project"]].concat();
    home.ok(&args);
    for (path, word) in [
        (".mcp.json", "stdio"),
        (".claude/settings.json", "PreToolUse"),
        (".codex/config.toml", "mcp_servers"),
        (".codex/hooks.json", "hook codex"),
        (".gemini/settings.json", "BeforeTool"),
        (".cursor/mcp.json", "mcpServers"),
        (".cursor/hooks.json", "beforeSubmitPrompt"),
        (".vscode/mcp.json", "\"servers\""),
        (".github/hooks/slm-mesh.json", "hook vscode"),
        (".devin/hooks.v1.json", "hook devin"),
        ("opencode.json", "\"mcp\""),
        (".opencode/plugin/slm-mesh.js", "tool.execute.before"),
        (".aider.conf.yml", "read: "),
        (".pi/skills/slm-mesh/SKILL.md", "slm-mesh lock"),
        (".claude/commands/mesh-sync.md", "mesh_inbox"),
    ] {
        let text = std::fs::read_to_string(project.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
        assert!(text.contains(word), "{path}: {text}");
    }
    let once = tree(&home.place.root);
    home.ok(&args);
    assert_eq!(tree(&home.place.root), once);
    home.ok(&[&args[..], &["--remove"]].concat());
    assert_eq!(bytes(&home.place.root), before);
    assert_eq!(std::fs::read_dir(&project).unwrap().count(), 1, "no empty folders stay");
}

#[test]
fn files_of_others_with_our_names_are_theirs() {
    let home = Home::new();
    let file = home.write(".cursor/commands/mesh-send.md", "mine\n");
    let (status, said) = home.setup(&["cursor"]);
    assert!(status == 1 && said.contains("not one that setup has created"), "{said}");
    home.ok(&["cursor", "--remove"]);
    assert_eq!(std::fs::read_to_string(file).unwrap(), "mine\n");
    assert!(!home.home.join(".cursor/commands/mesh-lock.md").exists());
}

#[test]
fn json_tells_a_program_what_was_done() {
    let home = Home::new();
    let out = home.run(&["setup", "cursor", "--json"]);
    let value: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(value["ok"], json!(true));
    assert_eq!(value["agents"][0]["agent"], json!("cursor"));
    assert_eq!(value["agents"][0]["steps"][0]["done"], json!("written"));
}

#[test]
fn the_files_that_the_agents_read_are_written() {
    let home = Home::new();
    let moved = home.place.root.join("moved");
    for (variable, agent, file) in [
        ("XDG_CONFIG_HOME", "opencode", "opencode/opencode.json"),
        ("XDG_CONFIG_HOME", "zed", "zed/settings.json"),
        ("CODEX_HOME", "codex", "config.toml"),
        ("CLAUDE_CONFIG_DIR", "claude", "settings.json"),
        ("GEMINI_CLI_HOME", "gemini", ".gemini/settings.json"),
        ("COPILOT_HOME", "copilot", "mcp-config.json"),
        ("OPENCODE_CONFIG_DIR", "opencode", "opencode.json"),
        ("KILO_CONFIG_DIR", "kilo", "kilo.json"),
        ("KIMI_CODE_HOME", "kimi", "config.toml"),
        ("CLINE_DIR", "cline", "data/settings/cline_mcp_settings.json"),
        ("QWEN_HOME", "qwen", "settings.json"),
        ("FACTORY_HOME_OVERRIDE", "droid", ".factory/mcp.json"),
        ("OPENHANDS_PERSISTENCE_DIR", "openhands", "mcp.json"),
        ("PI_CODING_AGENT_DIR", "pi", "skills/slm-mesh/SKILL.md"),
    ] {
        let run = |args: &[&str]| {
            let mut command = home.place.command(args);
            command.env("PATH", "/usr/bin:/bin").env(variable, &moved).current_dir(home.place.root.join("project"));
            command.output().unwrap()
        };
        run(&["setup", agent]);
        let text = std::fs::read_to_string(moved.join(file)).unwrap_or_else(|error| panic!("{variable}: {error}"));
        assert!(text.contains("slm-mesh"), "{variable}: {text}");
        run(&["setup", agent, "--remove"]);
        assert!(!moved.join(file).exists(), "{variable}: {agent} stays");
    }
    assert!(!home.home.join(".config").exists() && !home.home.join(".codex").exists());
}

#[test]
fn an_agent_that_shares_a_file_keeps_its_entry() {
    let home = Home::new();
    let file = home.place.root.join("project/.mcp.json");
    home.ok(&["claude", "copilot", "--project"]);
    let both = std::fs::read_to_string(&file).unwrap();
    let said = home.ok(&["copilot", "--project", "--remove"]);
    assert!(said.contains("claude also uses this file"), "{said}");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), both);
    home.ok(&["claude", "--project", "--remove"]);
    assert!(!file.exists());
}

#[test]
fn an_entry_of_the_first_version_is_replaced_whole_and_comes_back() {
    let home = Home::new();
    let json =
        "{\n  \"mcpServers\": { \"slm-mesh\": { \"command\": \"npx\", \"args\": [\"slm-mesh\"], \"env\": {} } }\n}\n";
    let toml = "# mine\n[mcp_servers.slm-mesh]\ncommand = \"npx\" # old\nargs = [\"slm-mesh\"]\n";
    home.write(".cursor/mcp.json", json);
    home.write(".codex/config.toml", toml);
    home.ok(&["cursor", "codex"]);
    assert_eq!(home.value(".cursor/mcp.json")["mcpServers"]["slm-mesh"], json!({ "command": BIN, "args": ["mcp"] }));
    let new = home.read(".codex/config.toml");
    assert!(new.contains("args = [\"mcp\"]") && !new.contains("npx"), "{new}");
    home.ok(&["cursor", "codex", "--remove"]);
    assert_eq!((home.read(".cursor/mcp.json").as_str(), home.read(".codex/config.toml").as_str()), (json, toml));
}

#[test]
fn hooks_that_the_user_switched_off_are_reported() {
    let home = Home::new();
    home.write(".gemini/settings.json", "{ \"hooksConfig\": { \"enabled\": false } } // mine\n");
    home.write(".codex/config.toml", "[features]\nhooks = false\n");
    home.write("../project/.qwen/settings.json", "{ \"disableAllHooks\": true }\n");
    home.write("../project/.vscode/settings.json", "{ \"chat.useHooks\": false, }\n");
    let said = home.ok(&["gemini", "codex", "qwen", "vscode"]);
    for (file, key) in [("qwen", "disableAllHooks"), ("vscode", "chat.useHooks")] {
        let line =
            format!("{key} in {}/.{file}/settings.json switches hooks off", home.place.root.join("project").display());
        assert!(said.contains(&line), "{line}: {said}");
    }
    assert!(said.contains("hooksConfig.enabled in ~/.gemini/settings.json switches hooks off"), "{said}");
    assert!(said.contains("features.hooks in ~/.codex/config.toml switches hooks off"), "{said}");
}

#[test]
fn no_text_of_before_is_left_in_a_work_tree() {
    let home = Home::new();
    let project = home.place.root.join("project");
    std::fs::write(project.join(".mcp.json"), "{ \"mcpServers\": { \"x\": { \"env\": { \"KEY\": \"secret\" } } } }")
        .unwrap();
    home.ok(&["claude", "--project"]);
    let with_secret =
        tree(&project).into_iter().filter(|(_, (bytes, ..))| String::from_utf8_lossy(bytes).contains("secret"));
    assert_eq!(with_secret.map(|(path, _)| path).collect::<Vec<_>>(), [project.join(".mcp.json")]);
    let record = home.place.dir.join("setup.json").metadata().unwrap();
    assert_eq!(record.permissions().mode() & 0o077, 0, "the record is the user's alone");
}

#[test]
fn a_plugin_and_setup_do_not_do_things_twice() {
    let home = Home::new();
    home.write(".gemini/extensions/slm-mesh/gemini-extension.json", "{}");
    let entry = json!({ "mcpServers": { "slm-mesh": { "command": BIN } } });
    home.fake("claude", &format!("case \"$2\" in add) printf '%s' '{entry}' > \"$HOME/.claude.json\" ;; remove) rm \"$HOME/.claude.json\" ;; esac"));
    home.write(".claude/settings.json", "{\"enabledPlugins\": {\"slm-mesh@other\": false, \"slm-mesh-x@y\": true}}\n");
    // One plugin is disabled, and the other only has a similar name, so `setup` must still install its own hooks.
    home.ok(&["claude"]);
    assert!(home.read(".claude/settings.json").contains("hook"), "{}", home.read(".claude/settings.json"));
    let on = home.read(".claude/settings.json").replace("\"slm-mesh@other\": false", "\"slm-mesh@other\": true");
    home.write(".claude/settings.json", &on);
    let doctor = || String::from_utf8(home.run(&["doctor"]).stdout).unwrap();
    let said = doctor();
    assert!(said.contains("setup has also added the server and the hooks and the slash commands,"), "{said}");
    let said = home.ok(&["claude", "gemini"]);
    assert!(said.contains("everything would happen twice"), "{said}");
    let settings = home.value(".claude/settings.json");
    assert_eq!(settings, json!({ "enabledPlugins": { "slm-mesh@other": true, "slm-mesh-x@y": true } }));
    assert_eq!(home.asked("claude").last().map(String::as_str), Some("user"));
    assert!(!home.home.join(".claude.json").exists(), "the plugin has the server");
    assert!(!home.home.join(".gemini/settings.json").exists(), "the extension has the server");
    assert!(!home.home.join(".claude/commands/mesh-send.md").exists(), "the plugin has skills");
    let said = doctor();
    assert!(said.contains("provides the server, the hooks and the skills"), "{said}");
}

#[test]
fn the_files_of_a_plugin_come_from_the_agents_facts() {
    let home = Home::new();
    let files = |agent: &str| -> Value {
        let out = home.run(&["help", "plugin", agent]);
        serde_json::from_slice(&out.stdout).unwrap_or_else(|error| panic!("{agent}: {error}: {out:?}"))
    };
    for (agent, manifest) in [("claude", ".claude-plugin/plugin.json"), ("gemini", "gemini-extension.json")] {
        let files = files(agent);
        let parsed = |name: &str| serde_json::from_str::<Value>(files[name].as_str().unwrap()).unwrap();
        assert_eq!(parsed(manifest)["version"], json!(env!("CARGO_PKG_VERSION")), "{agent}");
        let hooks = parsed("hooks/hooks.json");
        assert!(hooks["hooks"]["SessionStart"][0]["hooks"][0]["command"].as_str().unwrap().contains("/bin/slm-mesh"));
        assert!(!files.to_string().contains("written by slm-mesh setup"), "{agent}: setup must not remove these");
        assert!(files["bin/slm-mesh"].as_str().unwrap().contains(env!("CARGO_PKG_VERSION")));
        // In YAML, `: ` and ` #` have a special meaning in text without quotes.
        let skills = files.as_object().unwrap().iter().filter(|(name, _)| name.ends_with("SKILL.md"));
        for (name, text) in skills {
            let about = text.as_str().unwrap().lines().find_map(|line| line.strip_prefix("description: ")).unwrap();
            assert!(!about.contains(": ") && !about.contains(" #"), "{name}: {about}");
        }
    }
    let refused = home.run(&["help", "plugin", "zed"]);
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
}
