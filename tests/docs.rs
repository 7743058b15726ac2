//! What the documentation says is fresh, and runs as written.

mod support;

use std::path::Path;
use std::process::{Command, Stdio};
use support::{BIN, Place, project};

fn help(topic: &[&str]) -> String {
    let args: Vec<&str> = ["help"].iter().chain(topic).copied().collect();
    Place::new().ok(&args)
}

fn read(path: &str) -> String {
    std::fs::read_to_string(project().join(path)).unwrap()
}

/// The blocks of a Markdown text that are marked `sh`.
fn blocks(text: &str) -> Vec<&str> {
    text.split("```sh\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect()
}

/// A place with a broker on, a README.md to lock, and the program on its PATH.
fn run_lines(lines: &[&str]) {
    let place = Place::new();
    let bin = place.root.join("bin");
    std::fs::create_dir_all(&bin).unwrap();
    std::os::unix::fs::symlink(BIN, bin.join("slm-mesh")).unwrap();
    std::fs::write(place.root.join("README.md"), "").unwrap();
    std::fs::write(place.root.join("notes.txt"), "").unwrap();
    place.ok(&["start", "--detach"]);
    for line in lines {
        let mut shell = Command::new("sh");
        shell.args(["-c", line]).current_dir(&place.root).env_clear().env("HOME", &place.root).stdin(Stdio::null());
        shell.env("PATH", format!("{}:{}", bin.display(), std::env::var("PATH").unwrap()));
        let out = shell.env("SLM_MESH_DATA_DIR", &place.dir).envs(place.env.iter().cloned()).output().unwrap();
        let said = String::from_utf8_lossy(&out.stderr);
        assert!(out.status.success(), "{line}: {:?}\n{said}", out.status);
    }
}

#[test]
fn the_man_page_is_made_from_the_tables() {
    let fresh = help(&["man"]) == read("man/slm-mesh.1");
    assert!(fresh, "man/slm-mesh.1 is stale: slm-mesh help man > man/slm-mesh.1");
}

#[test]
fn the_readme_shows_the_tables() {
    let readme = read("README.md");
    let shown = readme.split("<!-- tables: slm-mesh help readme -->\n").nth(1).unwrap();
    let shown = shown.split("<!-- end of tables -->").next().unwrap();
    assert_eq!(shown, help(&["readme"]), "README.md is stale: put the output of slm-mesh help readme there");
}

#[test]
fn the_readme_opens_with_the_two_commands() {
    let readme = read("README.md");
    let first: Vec<&str> = blocks(&readme)[0].lines().map(|line| line.split_whitespace().next().unwrap()).collect();
    assert_eq!(first, ["make", "make"]);
    let makefile = read("Makefile");
    assert!(makefile.contains("\ndemo:\n") && makefile.contains("\ntest:\n"));
}

#[test]
fn the_verbs_of_the_readme_run_as_written() {
    let readme = read("README.md");
    let lines: Vec<&str> =
        blocks(&readme)[1..].iter().flat_map(|block| block.lines()).filter(|line| !line.is_empty()).collect();
    assert!(lines.len() > 5);
    run_lines(&lines);
}

#[test]
fn the_hooks_of_the_readme_are_json_that_names_a_dialect_of_ours() {
    let readme = read("README.md");
    let shown = readme.split("```json\n").nth(1).unwrap().split("```").next().unwrap();
    let hooks: serde_json::Value = serde_json::from_str(shown).unwrap();
    let place = Place::new();
    for (event, entries) in hooks["hooks"].as_object().unwrap() {
        let hook = &entries[0]["hooks"][0];
        assert_eq!((hook["command"].as_str(), hook["args"][0].as_str()), (Some("slm-mesh"), Some("hook")), "{event}");
        place.ok(&["hook", hook["args"][1].as_str().unwrap()]);
    }
}

#[test]
fn the_examples_of_the_man_page_run_as_written() {
    let page = read("man/slm-mesh.1");
    let examples = page.split(".SH EXAMPLES\n.nf\n").nth(1).unwrap().split(".fi").next().unwrap().replace("\\-", "-");
    let lines: Vec<&str> = examples.lines().collect();
    assert!(lines.len() > 8);
    run_lines(&lines);
}

#[test]
fn mandoc_finds_nothing_to_warn_of() {
    let page = project().join("man/slm-mesh.1");
    let Ok(out) = Command::new("mandoc").args(["-T", "lint", "-W", "warning"]).arg(page).output() else {
        assert!(std::env::var_os("SLM_MESH_TEST_ALL").is_none(), "mandoc is missing");
        eprintln!("skipped: mandoc_finds_nothing_to_warn_of: there is no mandoc");
        return;
    };
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stdout));
}

#[test]
fn completions_are_valid_shell() {
    for (shell, check) in [("bash", vec!["-n"]), ("zsh", vec!["-n"]), ("fish", vec!["--no-execute"])] {
        let file = std::env::temp_dir().join(format!("slm-mesh-completion-{}.{shell}", std::process::id()));
        std::fs::write(&file, help(&["completions", shell])).unwrap();
        let checked = Command::new(shell).args(&check).arg(&file).output();
        std::fs::remove_file(&file).unwrap();
        match checked {
            Ok(out) => assert!(out.status.success(), "{shell}: {}", String::from_utf8_lossy(&out.stderr)),
            Err(_) if std::env::var_os("SLM_MESH_TEST_ALL").is_some() => panic!("{shell} is missing"),
            Err(_) => eprintln!("skipped: completions_are_valid_shell: there is no {shell}"),
        }
    }
}

#[test]
fn every_topic_has_its_help() {
    for topic in ["", "agents", "locks", "messages", "settings", "protocol", "lock", "state", "start", "state watch"] {
        assert!(help(&[topic]).len() > 40, "{topic}");
    }
    let place = Place::new();
    assert_eq!(place.run(&["help", "nonsense"]).status.code(), Some(2));
}

#[test]
fn nothing_here_names_the_machine_it_was_made_on() {
    let out = Command::new("git").args(["ls-files"]).current_dir(project()).output();
    let Some(files) = out.ok().filter(|out| out.status.success()) else {
        eprintln!("skipped: nothing_here_names_the_machine_it_was_made_on: not a git checkout");
        return;
    };
    for file in String::from_utf8_lossy(&files.stdout)
        .lines()
        .filter(|file| Path::new(file).extension().is_some_and(|end| end != "jsonl"))
    {
        let text = std::fs::read(project().join(file)).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        for path in ["/root/", "/work/main", "/work/shared"] {
            assert!(!text.contains(path) || file == "tests/docs.rs", "{file} names {path}");
        }
    }
}
