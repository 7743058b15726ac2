//! Runs `slm-mesh setup` on generated settings files of each format. The files must stay valid, and `--remove` must
//! restore every byte.

mod support;

use std::fmt::Write;
use std::fs;
use std::path::Path;
use support::home::Home;

/// The number of generated files for each format.
const N_FILES: usize = 120;
/// The maximum number of files that `setup` may leave unchanged because it can't edit them safely.
const LEFT_MAX: usize = N_FILES / 4;

/// A random number generator that returns the same numbers on every run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % n
    }

    fn one<'a>(&mut self, words: &[&'a str]) -> &'a str {
        words[self.below(words.len())]
    }
}

fn json_value(dice: &mut Dice, depth: usize, indent: &str) -> String {
    match dice.below(if depth > 2 { 4 } else { 6 }) {
        0 => dice.one(&["1.50", "-0", "1e9", "12345678901234567890"]).into(),
        1 => dice.one(&["\"\"", "\"\\u0041 // no comment\"", "\"{[,\"", "\"é\""]).into(),
        2 => dice.one(&["true", "null"]).into(),
        3 => dice.one(&["{}", "[ ]", "{\n}", "[]"]).into(),
        4 => format!("[{}, {}]", json_value(dice, depth + 1, indent), json_value(dice, depth + 1, indent)),
        _ => json_object(dice, depth + 1, &format!("{indent}  "), &["a", "b \\\" c", "mcpServers", "x"]),
    }
}

fn json_object(dice: &mut Dice, depth: usize, indent: &str, keys: &[&str]) -> String {
    let is_tall = dice.below(3) > 0;
    let mut text = String::from("{");
    let n = 1 + dice.below(3);
    for i in 0..n {
        if is_tall {
            let comment = dice.one(&["", "", " // why", " /* why */"]);
            let _ = write!(text, "{comment}\n{}{indent}", dice.one(&["", "\n"]));
        }
        let key = keys[(dice.below(keys.len()) + i) % keys.len()];
        let value = match key {
            "mcpServers" => json_object(dice, depth + 1, &format!("{indent}  "), &["other", "more"]),
            _ => json_value(dice, depth, indent),
        };
        let _ = write!(text, "\"{key}\"{}{value}", dice.one(&[":", ": ", " : "]));
        if i + 1 < n {
            text.push(',');
        } else if is_tall && dice.below(3) == 0 {
            text.push_str(dice.one(&[",", " ,", ", // last"]));
        }
    }
    if is_tall {
        let _ = write!(text, "\n{}", &indent[2..]);
    }
    text + "}"
}

fn json_file(dice: &mut Dice) -> String {
    let body = json_object(dice, 0, "  ", &["mcpServers", "theme", "deep"]);
    format!("{}{body}{}", dice.one(&["", "// mine\n", "/* mine\n */\n"]), dice.one(&["\n", "", "\n\n", "\n// end"]))
}

/// A TOML string that only looks like entries of slm-mesh.
const LIKE_OURS: &str = "\"\"\"\n[[hooks]]\ncommand = '/x/slm-mesh hook kimi'\n[mcp_servers.slm-mesh]\n\"\"\"";

fn toml_file(dice: &mut Dice) -> String {
    let mut text = String::from(dice.one(&["", "# mine\n", "\n"]));
    let servers = dice.below(6);
    let hooks = dice.below(6);
    text.push_str(["hooks = [{ event = 'Stop', command = 'x' }]\n", "hooks = [] # none\n", ""][hooks.min(2)]);
    match servers {
        0 => text.push_str("mcp_servers = { a = { command = \"x\" } } # inline\n"),
        1 => text.push_str("mcp_servers.a.command = 'x'\n"),
        _ => {}
    }
    for i in 0..dice.below(4) {
        let value = dice.one(&[
            "1",
            "\"a # b\"",
            "[1, 2,\n  3, # three\n]",
            "'''\nlong\n'''",
            "{ a = 1 }",
            "2026-01-01",
            LIKE_OURS,
        ]);
        let _ = writeln!(
            text,
            "{}k{i}{}{value}{}",
            dice.one(&["", "  "]),
            dice.one(&["=", " = "]),
            dice.one(&["", " # why"])
        );
    }
    for i in 0..dice.below(4) {
        let head = [format!("[t{i}]"), format!("[[list{i}]]"), format!("[ \"q.{i}\" . b ]")];
        let _ = writeln!(text, "{}{}", dice.one(&["", "\n", "\n# about it\n"]), head[dice.below(3)]);
        let _ = writeln!(text, "a = 1{}", dice.one(&["", " # one"]));
    }
    match servers {
        2 => text.push_str("[mcp_servers] # here\n"),
        _ if hooks == 2 => text.push_str("[[ hooks ]] # mine\nevent = 'Stop'\ncommand = 'y'\n\n# next\n[[ hooks ]]\n"),
        3 => text.push_str("\n[mcp_servers.other]\ncommand = \"x\"\n\n# below\n[mcp_servers.other.env]\nA = 'b'\n"),
        _ => {}
    }
    text.push_str(dice.one(&["", "# end\n", "\n\n"]));
    text
}

fn yaml_file(dice: &mut Dice) -> String {
    let mut text = String::from(dice.one(&["", "# mine\n", "\n"]));
    for i in 0..1 + dice.below(5) {
        let value = dice.one(&[
            " 1",
            " 'a: b'",
            " [1, 2] # why",
            "\n- a\n- b: c",
            "\n  x: 1\n  y: |\n    read: me",
            " >-\n  long\n  text",
            "",
        ]);
        let _ = writeln!(text, "{}{i}:{value}", dice.one(&["model", "auto-commits", "lint_cmd"]));
    }
    text.push_str(dice.one(&["", "# end\n", "\n"]));
    text
}

/// Sometimes changes all line ends to CRLF, and sometimes removes the line end of the last line.
fn dressed(dice: &mut Dice, text: String) -> String {
    match dice.below(5) {
        0 => text.replace('\n', "\r\n"),
        1 => text.trim_end().to_owned(),
        _ => text,
    }
}

/// Whether the file's text is valid in its format.
fn is_valid(path: &Path) -> bool {
    let text = fs::read_to_string(path).unwrap();
    match path.extension().unwrap().to_str().unwrap() {
        "json" => slm_mesh::agents::json_edit::parse(&text).is_ok(),
        "toml" => slm_mesh::agents::toml_entry::put(&text, "mcp_servers", "/x/slm-mesh").is_ok(),
        _ => slm_mesh::agents::yaml_entry::put(&text, "other", "/x").is_ok(),
    }
}

#[test]
fn generated_files_come_back_byte_for_byte() {
    let home = Home::new();
    let project = home.place.root.join("project");
    let paths = [".gemini/settings.json", ".codex/config.toml", ".aider.conf.yml"].map(|path| project.join(path));
    let agents = ["gemini", "codex", "aider", "--project"];
    let mut n_left = [0; 3];
    for seed in 0..N_FILES {
        let mut dice = Dice(seed as u64);
        let texts = [json_file(&mut dice), toml_file(&mut dice), yaml_file(&mut dice)];
        let texts = texts.map(|text| dressed(&mut dice, text));
        for (path, text) in paths.iter().zip(&texts) {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let (_, said) = home.setup(&agents);
        for (n, (path, text)) in paths.iter().zip(&texts).enumerate() {
            let with = fs::read_to_string(path).unwrap();
            n_left[n] += usize::from(with == *text);
            assert!(
                with == *text || with.contains("slm-mesh") && is_valid(path),
                "{seed}: {text}\nbecame\n{with}\n{said}"
            );
        }
        let (_, said) = home.setup(&[&agents[..], &["--remove"]].concat());
        for (path, text) in paths.iter().zip(&texts) {
            assert_eq!(fs::read_to_string(path).unwrap(), *text, "{seed}: {}: {said}", path.display());
        }
    }
    assert!(n_left.iter().all(|n| *n <= LEFT_MAX), "left alone: {n_left:?} of {N_FILES} in each format");
    assert_eq!(leftovers(&project), paths.len(), "nothing else stays");
}

#[test]
fn generated_files_with_hooks_in_toml_come_back_byte_for_byte() {
    let home = Home::new();
    let mut n_left = 0;
    for seed in 0..N_FILES {
        let mut dice = Dice(seed as u64);
        let text = toml_file(&mut dice);
        let text = dressed(&mut dice, text);
        let path = home.write(".kimi-code/config.toml", &text);
        let (_, said) = home.setup(&["kimi"]);
        let with = fs::read_to_string(&path).unwrap();
        n_left += usize::from(with == text);
        assert!(
            with == text || with.contains("slm-mesh hook kimi") && is_valid(&path),
            "{text}\nbecame\n{with}\n{said}"
        );
        // The user adds a line below the hooks, so `setup` can no longer remove the hooks by restoring the old text.
        let end = if text.contains("\r\n") { "\r\n" } else { "\n" };
        let gap = |text: &str| if text.is_empty() || text.ends_with('\n') { "" } else { end };
        let is_edited = seed % 2 == 0 && with != text;
        if is_edited {
            fs::write(&path, format!("{with}{}# later\n", gap(&with))).unwrap();
        }
        let (_, said) = home.setup(&["kimi", "--remove"]);
        let wanted = if is_edited { format!("{text}{}# later\n", gap(&text)) } else { text };
        assert_eq!(fs::read_to_string(&path).unwrap(), wanted, "{seed}: {with:?}: {said}");
    }
    assert!(n_left <= LEFT_MAX, "left alone: {n_left} of {N_FILES}");
}

fn leftovers(folder: &Path) -> usize {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.map(|path| if path.is_dir() { leftovers(&path) } else { 1 }).sum()
}

#[test]
fn a_symlink_stays_although_setup_created_the_file_behind_it() {
    let home = Home::new();
    std::fs::create_dir_all(home.home.join(".codex")).unwrap();
    std::fs::create_dir_all(home.home.join("dotfiles")).unwrap();
    let link = home.home.join(".codex/config.toml");
    std::os::unix::fs::symlink("../dotfiles/config.toml", &link).unwrap();
    home.ok(&["codex"]);
    assert!(home.home.join("dotfiles/config.toml").exists());
    home.ok(&["codex", "--remove"]);
    assert!(!home.home.join("dotfiles/config.toml").exists() && link.symlink_metadata().is_ok());
}

#[test]
fn disconnecting_a_project_keeps_the_lists_of_the_user() {
    let home = Home::new();
    home.ok(&["opencode", "--wake"]);
    let config = std::fs::read_to_string(home.place.dir.join("config")).unwrap();
    home.ok(&["opencode", "--project", "--remove"]);
    assert_eq!(std::fs::read_to_string(home.place.dir.join("config")).unwrap(), config);
    assert!(home.ok(&["opencode", "--remove"]).contains("idle sessions may be woken by mail: none"));
}

#[test]
fn an_agent_without_project_settings_is_not_set_up_in_a_project() {
    let home = Home::new();
    for agent in ["kimi", "cline", "openhands", "windsurf"] {
        let (status, said) = home.setup(&[agent, "--project"]);
        assert!(
            status == 1 && said.contains(&format!("for all your projects, run slm-mesh setup {agent}")),
            "{agent}: {said}"
        );
        assert!(!said.contains("note:"), "nothing changed, nothing to approve: {said}");
        let (status, said) = home.setup(&[agent, "--project", "--json"]);
        let answer: serde_json::Value = serde_json::from_str(&said).unwrap();
        assert_eq!((status, &answer["ok"], &answer["agents"][0]["approve"]), (1, &false.into(), &"".into()), "{said}");
        assert!(home.ok(&[agent, "--project", "--remove"]).contains("nothing to change"));
    }
    // kimi has no settings for a project. `setup --project` must set up the other agents anyway.
    home.fake("kimi", "");
    home.fake("codex", "");
    let said = home.ok(&["--project"]);
    assert!(said.contains("has no project settings") && said.contains(".codex/config.toml"), "{said}");
}
