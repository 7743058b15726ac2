//! Tests the records that `slm-mesh setup` keeps of the files that it has changed. From these records, `--remove` must
//! restore all files, even if two runs overlap, or if files have been moved.

mod support;

use std::collections::BTreeMap;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use support::home::Home;

/// The bytes of each file below a folder. Folders are also listed; their paths end with a slash.
fn everything(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() && !path.is_symlink() {
            found.extend(everything(&path));
            found.insert(path.join(""), Vec::new());
        } else {
            found.insert(path.clone(), std::fs::read(&path).unwrap());
        }
    }
    found
}

#[test]
fn runs_at_the_same_time_lose_no_record() {
    let home = Home::new();
    // To restore these files, `setup` needs its record, because different old texts lead to the same new text.
    let agents = ["gemini", "qwen", "cursor", "windsurf", "droid", "zed"];
    home.write(".gemini/settings.json", "{\"theme\":\"dark\",\"mcpServers\":{}}");
    home.write(".qwen/settings.json", "{\"mcpServers\":{}, \"hooks\": {}}");
    home.write(".cursor/mcp.json", "{ \"mcpServers\" : { } }");
    home.write(".codeium/windsurf/mcp_config.json", "");
    home.write(".config/zed/settings.json", "{ }\n\n");
    let before = everything(&home.home);
    for flag in [None, Some("--remove")] {
        std::thread::scope(|scope| {
            for agent in agents {
                let args: Vec<&str> = [agent].into_iter().chain(flag).collect();
                let home = &home;
                scope.spawn(move || home.ok(&args));
            }
        });
        if flag.is_none() {
            let text = std::fs::read_to_string(home.place.dir.join("setup.json")).unwrap();
            let records: serde_json::Value = serde_json::from_str(&text).unwrap();
            for file in [".gemini/settings.json", ".qwen/settings.json", ".cursor/mcp.json", ".cursor/hooks.json"] {
                let path = home.home.join(file);
                assert!(records[path.to_str().unwrap()].is_object(), "{file} in {text}");
            }
        }
    }
    let after = everything(&home.home);
    let files = |tree: &BTreeMap<PathBuf, Vec<u8>>| {
        let text = |(path, bytes): (&PathBuf, &Vec<u8>)| (path.clone(), String::from_utf8_lossy(bytes).into_owned());
        tree.iter().map(text).filter(|(path, _)| !path.to_string_lossy().ends_with('/')).collect::<Vec<_>>()
    };
    assert_eq!(files(&after), files(&before));
    assert!(!home.place.dir.join("setup.json").exists() && !home.place.dir.join("setup.lock").exists());
}

#[test]
fn a_config_behind_a_symlink_keeps_its_link() {
    let home = Home::new();
    std::fs::create_dir_all(&home.place.dir).unwrap();
    let (config, real) = (home.place.dir.join("config"), home.place.root.join("dotfiles-config"));
    for mine in ["SLM_MESH_RATE=50\n", ""] {
        std::fs::write(&real, mine).unwrap();
        let _ = std::fs::remove_file(&config);
        symlink(&real, &config).unwrap();
        home.fake("claude", "");
        home.ok(&["claude", "--wake"]);
        assert_eq!(std::fs::read_to_string(&real).unwrap(), format!("{mine}SLM_MESH_WAKE=claude\n"));
        home.ok(&["claude", "--remove"]);
        assert_eq!(std::fs::read_to_string(&real).unwrap(), mine);
        assert!(config.is_symlink(), "with {mine:?} in the file");
    }
}

#[test]
fn a_config_keeps_its_line_ends() {
    let home = Home::new();
    std::fs::create_dir_all(&home.place.dir).unwrap();
    let config = home.place.dir.join("config");
    home.fake("claude", "");
    let read = || std::fs::read_to_string(&config).unwrap();
    for (mine, end) in [("# mine\r\nSLM_MESH_RATE=50\r\n", "\r\n"), ("SLM_MESH_RATE=50\n\n# mine\n", "\n")] {
        std::fs::write(&config, mine).unwrap();
        home.ok(&["claude", "--wake"]);
        assert_eq!(read(), format!("{mine}SLM_MESH_WAKE=claude{end}"));
        home.ok(&["claude", "--remove"]);
        assert_eq!(read(), mine);
    }
    std::fs::write(&config, "SLM_MESH_WAKE=claude\r\n# mine").unwrap();
    home.ok(&["claude", "--no-wake"]);
    assert_eq!(read(), "# mine");
    home.ok(&["claude", "--wake"]);
    assert_eq!(read(), "# mine\nSLM_MESH_WAKE=claude\n");
}

#[test]
fn what_setup_wrote_goes_even_if_the_agent_looks_elsewhere_now() {
    let home = Home::new();
    std::fs::create_dir_all(&home.home).unwrap();
    let before = everything(&home.home);
    let setup_with = |variable: &str, folder: &str, args: &[&str]| {
        let mut command = home.place.command(&[&["setup"], args].concat());
        let out = command.env("PATH", &home.bin).env(variable, home.home.join(folder)).output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    };
    setup_with("CODEX_HOME", "moved/codex", &["codex"]);
    setup_with("OPENCODE_CONFIG_DIR", "moved/oc", &["opencode"]);
    assert!(home.read("moved/codex/config.toml").contains("slm-mesh"));
    assert!(home.home.join("moved/oc/plugin/slm-mesh.js").exists());
    home.ok(&["--remove"]);
    assert_eq!(everything(&home.home), before, "no agent is installed, but setup remembers what it wrote");

    // `setup` changes `opencode.jsonc`. Then `opencode.json` appears, and OpenCode prefers this file.
    let theirs = home.write(".config/opencode/opencode.jsonc", "{\n   \"$schema\": \"s\"\n}\n");
    let before = everything(&home.home);
    home.ok(&["opencode"]);
    let newer = home.write(".config/opencode/opencode.json", "{}\n");
    home.ok(&["opencode", "--remove"]);
    assert_eq!(std::fs::read_to_string(&newer).unwrap(), "{}\n");
    std::fs::remove_file(newer).unwrap();
    assert_eq!(everything(&home.home), before, "{}", theirs.display());
    assert!(!home.place.dir.join("setup.json").exists());
}

#[test]
fn remove_names_the_projects_that_keep_settings() {
    let home = Home::new();
    let project = home.place.root.join("project").canonicalize().unwrap();
    home.ok(&["claude", "cursor", "--project"]);
    let said = home.ok(&["--remove"]);
    let command = format!("cd {} && slm-mesh setup --remove --project", project.display());
    assert!(said.contains(&command), "{said}");
    let said = home.ok(&["cursor", "--remove"]);
    assert!(said.contains("slm-mesh setup cursor --remove --project"), "{said}");
    let out = home.run(&["setup", "--remove", "--json"]);
    let answer: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(answer["projects"], serde_json::json!([project]));
    home.ok(&["--remove", "--project"]);
    assert_eq!(everything(&project), BTreeMap::new());
    let (status, said) = home.setup(&["--remove"]);
    assert!(status == 1 && said.contains("no agent was found"), "{said}");
}

#[test]
fn a_project_that_was_moved_or_deleted_can_be_cleared() {
    let home = Home::new();
    let root = home.place.root.canonicalize().unwrap();
    let (project, moved) = (root.join("project"), root.join("moved"));
    let remove_in = |folder: &Path, args: &[&str]| {
        let mut command = home.place.command(&[&["setup", "--remove"], args].concat());
        let out = command.env("PATH", &home.bin).current_dir(folder).output().unwrap();
        (out.status.code().unwrap(), String::from_utf8(out.stdout).unwrap() + &String::from_utf8_lossy(&out.stderr))
    };
    let name = format!("If a project was moved, run slm-mesh setup --remove --project in its new folder.\n  {}\n", {
        project.display()
    });
    let records = home.place.dir.join("setup.json");
    let agents = ["claude", "codex", "cursor", "opencode", "aider", "pi", "--project"];

    home.ok(&agents);
    std::fs::rename(&project, &moved).unwrap();
    let (status, said) = remove_in(&root, &["--dry-run"]);
    assert!(status == 0 && said.contains(&name) && records.exists(), "{said}");
    let (status, said) = remove_in(&moved, &["--project"]);
    assert_eq!((status, everything(&moved)), (0, BTreeMap::new()), "{said}");
    let (status, said) = remove_in(&root, &[]);
    assert!(status == 0 && said.contains(&name), "{said}");
    assert!(!records.exists(), "what is gone need not be remembered");
    let (status, said) = remove_in(&root, &[]);
    assert!(status == 1 && said.contains("no agent was found"), "{said}");

    std::fs::create_dir(&project).unwrap();
    home.ok(&agents);
    std::fs::remove_dir_all(&project).unwrap();
    assert!(remove_in(&root, &["codex"]).1.contains("run slm-mesh setup codex --remove --project in its new folder"));
    assert!(records.exists(), "other agents used this project, too");
    let (status, said) = remove_in(&root, &[]);
    assert!(status == 0 && said.contains(&name) && !records.exists(), "{said}");
}

#[test]
fn a_command_that_the_user_changed_stays() {
    let home = Home::new();
    home.ok(&["cursor"]);
    let [mine, old] = ["mesh-send", "mesh-lock"].map(|name| format!(".cursor/commands/{name}.md"));
    let theirs = home.read(&mine) + "Be polite.\n";
    home.write(&mine, &theirs);
    for args in [&["cursor"][..], &["cursor", "--dry-run"]] {
        let said = home.ok(args);
        assert!(said.contains("kept          ~/.cursor/commands/mesh-send.md"), "{said}");
        assert!(said.contains("because you have changed this file") && !said.contains("note:"), "{said}");
    }
    assert!(home.run(&["doctor"]).status.success());

    // The test changes the record, as if an earlier version of slm-mesh had written a different text into the command
    // file.
    let records = home.place.dir.join("setup.json");
    let text = std::fs::read_to_string(&records).unwrap();
    std::fs::write(&records, text.replace("Send a message", "Send some message")).unwrap();
    let (status, said) = home.setup(&["cursor"]);
    assert!(status == 1 && said.contains("would write a different text; move your file away"), "{said}");
    assert!(!home.run(&["doctor"]).status.success());
    std::fs::write(&records, text).unwrap();

    for args in [&["cursor", "--remove", "--dry-run"][..], &["cursor", "--remove"], &["cursor", "--remove"]] {
        let (status, said) = home.setup(args);
        assert!(status == 1 && said.contains("remove the words \"written by slm-mesh setup\""), "{said}");
        assert_eq!(home.read(&mine), theirs);
    }
    assert!(!home.home.join(old).exists());
    home.write(&mine, &theirs.replace("written by slm-mesh setup", "mine"));
    home.ok(&["cursor", "--remove"]);
    assert!(home.home.join(mine).exists() && !records.exists());
}

#[test]
fn folders_that_setup_created_go_with_its_files() {
    let home = Home::new();
    std::fs::create_dir_all(home.home.join(".qwen")).unwrap();
    let before = everything(&home.home);
    let agents = ["pi", "cursor", "codex", "opencode", "qwen", "kimi"];
    home.ok(&agents);
    home.write(".kimi-code/sessions.json", "theirs");
    for agent in agents {
        home.ok(&[agent, "--remove"]);
    }
    let mut after = everything(&home.home);
    after.retain(|path, _| !path.to_string_lossy().contains("kimi"));
    assert_eq!(after, before);
    assert_eq!(home.read(".kimi-code/sessions.json"), "theirs");
    assert!(!home.place.dir.exists(), "nor is there a data directory, because there was none before");
}

/// A second path of the program, as after an update by a package manager.
fn second_program(home: &Home) -> PathBuf {
    let folder = home.place.root.join("bin2");
    std::fs::create_dir_all(&folder).unwrap();
    symlink(support::BIN, folder.join("slm-mesh")).unwrap();
    folder
}

/// Runs `setup` with the program at its second path, and then puts the old text of a file back. `setup` records each
/// file before it writes the file. So this is the state after a run that could not write the file.
fn fail_to_update(home: &Home, program: &Path, agent: &str, file: &str) {
    let old = home.read(file);
    let mut command = home.place.command(&["setup", agent]);
    let path = format!("{}:{}:/usr/bin:/bin", program.display(), home.bin.display());
    let out = command.env("PATH", path).current_dir(home.place.root.join("project")).output().unwrap();
    assert!(out.status.success() && home.read(file) != old, "{out:?}");
    home.write(file, &old);
}

#[test]
fn an_entry_that_setup_replaced_comes_back_although_the_file_has_changed() {
    let home = Home::new();
    let entry = "{\"command\":\"npx\",\"args\":[\"-y\",\"slm-mesh\",\"mcp\"],\"env\":{\"KEY\":\"s3cret\"}}";
    let json = format!("{{\"mcpServers\":{{\"slm-mesh\":{entry}}},\"theme\":\"dark\"}}\n");
    let toml = "[mcp_servers.slm-mesh]\ncommand = \"npx\"\n[mcp_servers.slm-mesh.env]\nKEY = \"s3cret\"\n";
    home.write(".gemini/settings.json", &json);
    home.write(".codex/config.toml", toml);
    home.ok(&["gemini", "codex"]);
    // In the second round, `setup` runs again after the edit, and records what it finds.
    for is_repeated in [false, true] {
        home.write(".gemini/settings.json", &home.read(".gemini/settings.json").replace("dark", "light"));
        home.write(".codex/config.toml", &(home.read(".codex/config.toml") + "\n[projects.\"/x\"]\na = 1\n"));
        if is_repeated {
            home.ok(&["gemini", "codex"]);
        }
        home.ok(&["gemini", "codex", "--remove"]);
        assert_eq!(home.read(".gemini/settings.json"), json.replace("dark", "light"));
        let left = home.read(".codex/config.toml");
        assert!(left.contains("npx") && left.contains("s3cret") && left.contains("[projects"), "{left}");
        home.write(".gemini/settings.json", &json);
        home.write(".codex/config.toml", toml);
        home.ok(&["gemini", "codex"]);
    }
}

#[test]
fn a_write_that_failed_loses_nothing() {
    let home = Home::new();
    let program = second_program(&home);
    let before = "{\"mcpServers\":{\"slm-mesh\":{\"command\":\"npx\",\"env\":{\"A\":\"s3cret\"}}} }\n";
    home.write(".cursor/mcp.json", before);
    home.ok(&["cursor"]);
    fail_to_update(&home, &program, "cursor", ".cursor/mcp.json");
    home.ok(&["cursor"]);
    fail_to_update(&home, &program, "cursor", ".cursor/mcp.json");
    home.ok(&["cursor", "--remove"]);
    assert_eq!(home.read(".cursor/mcp.json"), before);
}

#[test]
fn a_file_of_our_own_is_brought_up_to_date_after_a_write_that_failed() {
    let home = Home::new();
    let (program, file) = (second_program(&home), ".config/opencode/plugin/slm-mesh.js");
    home.ok(&["opencode"]);
    fail_to_update(&home, &program, "opencode", file);
    let doctor = |path: &Path| {
        let mut command = home.place.command(&["doctor"]);
        let path = format!("{}:{}:/usr/bin:/bin", path.display(), home.bin.display());
        let out = command.env("PATH", path).current_dir(home.place.root.join("project")).output().unwrap();
        String::from_utf8(out.stdout).unwrap()
    };
    let said = doctor(&program);
    assert!(said.contains("only 0 of 1 files are up to date"), "{said}");

    let old = home.read(file);
    let mut command = home.place.command(&["setup", "opencode"]);
    let out = command.env("PATH", format!("{}:/usr/bin:/bin", program.display())).output().unwrap();
    assert!(out.status.success() && home.read(file) != old, "{out:?}");
    assert!(!doctor(&program).contains("files are up to date"));
    home.write(file, &old);
    home.ok(&["opencode", "--remove"]);
    assert!(!home.home.join(file).exists());
}

#[test]
fn a_large_file_does_not_make_the_records_unreadable() {
    let home = Home::new();
    let text = format!("{{\n  \"x\": \"{}\"\n}}\n", "a".repeat(8_700_000));
    home.write(".cursor/mcp.json", &text);
    home.ok(&["cursor"]);
    home.ok(&["codex"]);
    home.ok(&["cursor", "codex", "--remove"]);
    assert!(home.read(".cursor/mcp.json") == text && !home.home.join(".codex").exists());
}

#[test]
fn folders_that_the_user_had_stay() {
    let home = Home::new();
    for folder in [".gemini/commands", ".codex/skills", ".config/opencode/plugin"] {
        std::fs::create_dir_all(home.home.join(folder)).unwrap();
    }
    let before = everything(&home.home);
    home.ok(&["gemini", "codex", "opencode"]);
    home.ok(&["gemini", "codex", "opencode", "--remove"]);
    assert_eq!(everything(&home.home), before);
}

#[test]
fn an_empty_data_directory_that_the_user_had_stays() {
    let home = Home::new();
    std::fs::create_dir_all(&home.place.dir).unwrap();
    home.ok(&["cursor"]);
    home.ok(&["cursor", "--remove"]);
    assert_eq!(everything(&home.place.dir), BTreeMap::new());
    assert!(home.place.dir.exists());
}

#[test]
fn folders_behind_a_dangling_link_go_again() {
    let home = Home::new();
    std::fs::create_dir_all(home.home.join(".codex")).unwrap();
    symlink("../dot/codex/config.toml", home.home.join(".codex/config.toml")).unwrap();
    home.ok(&["codex"]);
    assert!(home.read("dot/codex/config.toml").contains("slm-mesh"));
    home.ok(&["codex", "--remove"]);
    assert!(!home.home.join("dot").exists() && home.home.join(".codex/config.toml").is_symlink());
}

#[test]
fn two_agents_with_one_file_leave_it_as_it_was() {
    for order in [["gemini", "qwen"], ["qwen", "gemini"]] {
        for is_edited in [false, true] {
            let home = Home::new();
            let before = "{\"theme\": \"dark\"}\n";
            home.write(".gemini/settings.json", before);
            std::fs::create_dir_all(home.home.join(".qwen")).unwrap();
            symlink("../.gemini/settings.json", home.home.join(".qwen/settings.json")).unwrap();
            home.ok(&["gemini"]);
            home.ok(&["qwen"]);
            let with = home.read(".gemini/settings.json");
            home.ok(&["gemini", "qwen"]);
            assert_eq!(home.read(".gemini/settings.json"), with, "the second time changes nothing");
            if is_edited {
                home.write(".gemini/settings.json", &with.replace("dark", "light"));
            }
            let said = home.ok(&[order[0], "--remove"]);
            assert!(said.contains(&format!("because {} also uses this file", order[1])), "{said}");
            let left = home.read(".gemini/settings.json");
            assert!(left.contains("mcpServers") && !left.contains(&format!("hook {}", order[0])), "{left}");
            home.ok(&[order[1], "--remove"]);
            let wanted = if is_edited { before.replace("dark", "light") } else { before.to_owned() };
            assert_eq!(home.read(".gemini/settings.json"), wanted);
        }
    }
}

#[test]
fn the_home_directory_is_no_project() {
    let home = Home::new();
    home.ok(&["cursor"]);
    let (before, records) = (everything(&home.home), home.place.dir.join("setup.json"));
    let run = |args: &[&str]| {
        let mut command = home.place.command(&[&["setup"], args].concat());
        let out = command.env("PATH", &home.bin).current_dir(&home.home).output().unwrap();
        (out.status.code().unwrap(), String::from_utf8(out.stdout).unwrap() + &String::from_utf8_lossy(&out.stderr))
    };
    for args in [&["cursor", "--project"][..], &["cursor", "--remove", "--project"], &["--remove", "--project"]] {
        let (status, said) = run(args);
        assert!(status == 2 && said.contains("the working directory is your home directory"), "{args:?}: {said}");
        assert_eq!(everything(&home.home), before, "{args:?}");
    }

    // An older version has set up the home directory as a project. `setup` must still remove the file of the older
    // version, and keep the user's files.
    home.ok(&["claude", "--project"]);
    let project = home.place.root.join("project").canonicalize().unwrap();
    let text = std::fs::read_to_string(&records).unwrap();
    let real_home = home.home.canonicalize().unwrap();
    std::fs::write(&records, text.replace(project.to_str().unwrap(), real_home.to_str().unwrap())).unwrap();
    std::fs::rename(project.join(".mcp.json"), home.home.join(".mcp.json")).unwrap();
    let (status, said) = run(&["--remove", "--project"]);
    assert_eq!((status, everything(&home.home)), (0, before), "{said}");
}
