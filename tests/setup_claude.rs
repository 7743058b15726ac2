//! `slm-mesh setup` for Claude Code. Setup lets Claude Code's own command change the settings file, unless the command
//! would make secrets visible. In these tests, a script stands in for this command. The script changes the file as
//! Claude Code 2.1.330 does.

mod support;

use serde_json::{Value, json};
use support::BIN;
use support::home::Home;

/// A script that stands in for `claude mcp`. It refuses a second entry. If the argument of `add-json` is `-`, the
/// script reads the entry from standard input. A shell line in `fails` can make it refuse certain entries.
fn fake_claude(home: &Home, fails: &str) {
    home.fake(
        "claude",
        &format!(
            r#"file="$HOME/.claude.json"
case "$2" in
    remove) printf '{{}}' > "$file"; exit ;;
    add) entry="{{\"command\": \"$7\"}}" ;;
    add-json) entry=$4; [ "$4" != - ] || entry=$(cat) ;;
esac
{fails}
grep -q slm-mesh "$file" && {{ echo "slm-mesh already exists" >&2; exit 1; }}
printf '{{"mcpServers": {{"slm-mesh": %s}}}}' "$entry" > "$file""#
        ),
    );
}

fn entry(home: &Home) -> Value {
    home.value(".claude.json")["mcpServers"]["slm-mesh"].clone()
}

fn write_entry(home: &Home, entry: &Value) {
    home.write(".claude.json", &json!({ "mcpServers": { "slm-mesh": entry } }).to_string());
}

#[test]
fn what_the_user_added_to_claudes_entry_survives_an_update() {
    let old = json!({
        "type": "stdio", "command": "/old/slm-mesh", "args": ["mcp", "--legacy"],
        "env": { "SLM_MESH_SHARED_SECRET": "it's hidden" }, "timeout": 5000,
    });
    let mut new = old.clone();
    new["command"] = json!(BIN);

    // In the second case, Claude Code is an older version, which can't read the entry from standard input.
    for fails in ["", "[ \"$4\" != - ] || exit 1"] {
        let home = Home::new();
        write_entry(&home, &old);
        fake_claude(&home, fails);
        let said = home.ok(&["claude", "--dry-run"]);
        assert!(said.contains("-   \"command\": \"/old/slm-mesh\"") && !said.contains("hidden"), "{said}");
        assert_eq!(entry(&home), old);
        let said = home.ok(&["claude"]);
        assert_eq!(entry(&home), new);
        assert!(!said.contains("hidden"), "{said}");
        assert!(!home.asked("claude").concat().contains("hidden"), "other users see arguments");
        let n_asked = home.asked("claude").len();
        home.ok(&["claude"]);
        assert_eq!(home.asked("claude").len(), n_asked, "the entry is right, so Claude Code is not asked again");
    }

    // If the user has added nothing to an entry, it contains no secret. So `setup` can pass the entry as an argument to
    // the older version of Claude Code.
    let home = Home::new();
    write_entry(&home, &json!({ "type": "stdio", "command": "/old/slm-mesh", "args": ["mcp"] }));
    fake_claude(&home, "[ \"$4\" != - ] || exit 1");
    home.ok(&["claude"]);
    assert!(entry(&home)["command"] == json!(BIN) && home.asked("claude").concat().contains("add-jsonslm-mesh{"));

    // An entry of slm-mesh 1.x starts a different program, so `setup` keeps no part of it.
    let home = Home::new();
    let first = json!({ "command": "npx", "args": ["slm-mesh"], "env": { "A": "1" } });
    write_entry(&home, &first);
    fake_claude(&home, "");
    home.ok(&["claude"]);
    assert_eq!(entry(&home), json!({ "type": "stdio", "command": BIN, "args": ["mcp"] }));

    // In the following cases, `claude mcp` refuses the new entry.
    for old in [old, first] {
        let home = Home::new();
        write_entry(&home, &old);
        fake_claude(&home, &format!("case $entry in *{BIN}*) echo 'no room' >&2; exit 1 ;; esac"));
        let (status, said) = home.setup(&["claude"]);
        assert!(status == 1 && said.contains("no room; the old entry was put back"), "{said}");
        assert!(said.contains("claude mcp remove slm-mesh -s user && claude mcp add-json slm-mesh '{"), "{said}");
        assert_eq!(entry(&home), old);
    }
}

#[test]
fn doctor_finds_an_entry_for_one_directory_that_hides_ours() {
    let home = Home::new();
    home.fake("claude", "");
    home.ok(&["claude"]);
    let ours = json!({ "command": BIN, "args": ["mcp"] });
    let first = json!({ "command": "npx", "args": ["slm-mesh@1"] });
    let [mine, old] = ["project", "an old project"].map(|name| home.place.root.join(name));
    std::fs::create_dir(&old).unwrap();
    let write_local = |entries: &[(&std::path::Path, &Value)]| {
        let local = entries
            .iter()
            .map(|(folder, entry)| (folder.display().to_string(), json!({ "mcpServers": { "slm-mesh": entry } })));
        let whole = json!({ "mcpServers": { "slm-mesh": ours }, "projects": local.collect::<serde_json::Map<_, _>>() });
        home.write(".claude.json", &whole.to_string());
    };
    let doctor = || {
        let out = home.run(&["doctor"]);
        (out.status.code(), String::from_utf8(out.stdout).unwrap())
    };
    write_local(&[(&mine, &ours), (&home.place.root.join("gone"), &first)]);
    let (status, said) = doctor();
    assert_eq!(status, Some(0), "{said}");
    write_local(&[(&mine, &ours), (&old, &first)]);
    let (status, said) = doctor();
    let cure = format!("fix: cd '{}' && claude mcp remove slm-mesh -s local\n", old.display());
    assert!(status == Some(1) && said.contains("starts another program, \"npx slm-mesh@1\""), "{said}");
    assert!(said.contains(&cure) && said.contains("1 problem to fix"), "{said}");
    write_local(&[(&old, &json!({ "command": "/gone/slm-mesh", "args": ["mcp"] }))]);
    assert!(doctor().1.contains("it starts \"/gone/slm-mesh mcp\", "));
}

#[test]
fn an_agents_own_command_registers_us() {
    let home = Home::new();
    let entry = json!({ "mcpServers": { "slm-mesh": { "command": BIN } } });
    home.fake("claude", &format!("case \"$2\" in add) printf '%s' '{entry}' > \"$HOME/.claude.json\" ;; remove) rm \"$HOME/.claude.json\" ;; esac"));
    home.fake("codex", "exit 0");
    let said = home.ok(&["claude", "codex"]);
    assert_eq!(home.asked("claude"), ["mcp", "add", "slm-mesh", "-s", "user", "--", BIN, "mcp"]);
    assert!(said.contains("codex mcp add, would remove the comments") && home.asked("codex").is_empty(), "{said}");
    assert!(home.read(".codex/config.toml").contains("[mcp_servers.slm-mesh]\ncommand = "));
    let hook = &home.value(".claude/settings.json")["hooks"]["Stop"][0]["hooks"][0];
    assert_eq!(*hook, json!({ "type": "command", "command": BIN, "args": ["hook", "claude"], "timeout": 5 }));
    home.ok(&["claude"]);
    assert_eq!(home.asked("claude").len(), 8, "it is registered, so it is not asked again");
    home.ok(&["claude", "--remove"]);
    assert_eq!(home.asked("claude")[8..], ["mcp", "remove", "slm-mesh", "-s", "user"]);
    assert!(!home.home.join(".claude/settings.json").exists() && !home.home.join(".claude/commands").exists());
}

#[test]
fn claudes_own_file_is_never_edited() {
    let home = Home::new();
    home.write(".claude.json", "{}");
    std::fs::create_dir_all(home.home.join(".claude")).unwrap();
    let (status, said) = home.setup(&[]);
    assert_eq!(status, 1);
    assert!(said.contains("Claude Code") && said.contains("claude mcp add slm-mesh"), "{said}");
    assert_eq!(home.read(".claude.json"), "{}");
    assert!(home.read(".claude/settings.json").contains("\"SessionStart\""));
}

#[test]
fn the_server_goes_from_each_directory_that_claude_has_used() {
    let home = Home::new();
    let entry = json!({ "mcpServers": { "slm-mesh": { "command": BIN, "args": ["mcp"] } } });
    let script = format!(
        "file=\"${{CLAUDE_CONFIG_DIR-$HOME}}/.claude.json\"
         case \"$2\" in add) printf '%s' '{entry}' > \"$file\" ;; remove) rm \"$file\" ;; esac"
    );
    home.fake("claude", &script);
    let setup_in = |folder: &str, args: &[&str]| {
        let mut command = home.place.command(&[&["setup"], args].concat());
        command.env("PATH", format!("{}:/usr/bin:/bin", home.bin.display())).env("CLAUDE_CONFIG_DIR", folder);
        let out = command.current_dir(home.place.root.join("project")).output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap()
    };
    let one = home.place.root.join("one");
    let two = home.place.root.join("project/a two");
    for folder in [&one, &two] {
        std::fs::create_dir(folder).unwrap();
    }
    let files = [home.home.join(".claude.json"), one.join(".claude.json"), two.join(".claude.json")];
    let set_up = || {
        setup_in(one.to_str().unwrap(), &["claude"]);
        setup_in("a two", &["claude"]);
        home.ok(&["claude"]);
        assert!(files.iter().all(|file| file.exists()));
    };
    set_up();
    let said = home.ok(&["--remove", "--dry-run"]);
    let line = format!("env 'CLAUDE_CONFIG_DIR={}' claude mcp remove slm-mesh -s user", two.display());
    assert!(said.contains(&line) && files.iter().all(|file| file.exists()), "{said}");
    let said = home.ok(&["--remove"]);
    assert!(said.contains(&line) && !files.iter().any(|file| file.exists()), "{said}");
    assert!(!home.place.dir.exists(), "no record stays");

    set_up();
    std::fs::remove_dir_all(&two).unwrap();
    let said = setup_in(one.to_str().unwrap(), &["claude", "--remove"]);
    assert!(said.contains("env -u CLAUDE_CONFIG_DIR claude mcp remove slm-mesh -s user"), "{said}");
    assert!(!files.iter().any(|file| file.exists()), "{said}");
}

#[test]
fn half_an_emoji_in_claudes_file_hides_nothing() {
    let home = Home::new();
    // Node.js writes such a text if it cuts a prompt in the middle of an emoji. Python stands in for Claude Code here,
    // because Python writes the same text.
    let history = r#"{"projects":{"/x":{"history":[{"display":"look \ud83d"}]}}}"#;
    for padding in [0, 17 << 20] {
        home.write(".claude.json", &format!("{}{history}", " ".repeat(padding)));
        home.fake("claude", CHANGE_ONLY_OUR_ENTRY);
        home.ok(&["claude"]);
        assert!(home.read(".claude.json").contains("look \\ud83d"));
        assert!(home.ok(&["claude"]).contains("as it was     ~/.claude.json"));
        let said = String::from_utf8(home.run(&["doctor"]).stdout).unwrap();
        assert!(said.contains("which starts and answers"), "{said}");
        home.ok(&["claude", "--remove"]);
        assert!(!home.read(".claude.json").contains("\"slm-mesh\""));
    }
}

/// Changes only our entry in Claude Code's file. Pads the file with spaces to its former size, so that a large file
/// stays large.
const CHANGE_ONLY_OUR_ENTRY: &str = r#"exec python3 -c '
import json, os, sys
path = os.environ["HOME"] + "/.claude.json"
text = open(path).read()
whole = json.loads(text)
servers = whole.setdefault("mcpServers", {})
if sys.argv[2] == "remove":
    del servers["slm-mesh"]
elif "slm-mesh" in servers:
    sys.exit("MCP server slm-mesh already exists in user config")
else:
    servers["slm-mesh"] = {"type": "stdio", "command": sys.argv[-2], "args": sys.argv[-1:]}
open(path, "w").write(json.dumps(whole).rjust(len(text)))
' "$@""#;

#[test]
fn a_file_of_claude_that_cannot_be_read_is_not_taken_for_an_empty_one() {
    let home = Home::new();
    home.fake("claude", "exit 1");
    home.write(".claude.json", "{ \"mcpServers\": { \"slm-mesh\": ");
    let why = "because setup can't see whether slm-mesh is registered in this file, because it is not valid JSON";
    for (args, command) in [
        (&["claude"][..], format!("claude mcp add slm-mesh -s user -- {BIN} mcp")),
        (&["claude", "--remove"], "claude mcp remove slm-mesh -s user".into()),
    ] {
        let (status, said) = home.setup(args);
        assert!(status == 1 && said.contains(why) && said.contains(&command), "{said}");
    }
    assert!(home.asked("claude").is_empty());
    home.setup(&["claude"]);
    let said = String::from_utf8(home.run(&["doctor"]).stdout).unwrap();
    assert!(said.contains("~/.claude.json can't be checked, because it is not valid JSON"), "{said}");
    assert!(said.contains("fix: correct this file, and run slm-mesh setup claude\n"), "{said}");
}
