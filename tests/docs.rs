//! Checks that the documentation is up to date and well-formed. (tests/examples.rs runs its examples.)

mod support;

use std::path::Path;
use std::process::Command;
use support::{BIN, Place, project};

fn help(topic: &[&str]) -> String {
    let args: Vec<&str> = ["help"].iter().chain(topic).copied().collect();
    Place::new().ok(&args)
}

fn read(path: &str) -> String {
    std::fs::read_to_string(project().join(path)).unwrap()
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
fn mandoc_prints_no_warning() {
    let page = project().join("man/slm-mesh.1");
    let Ok(out) = Command::new("mandoc").args(["-T", "lint", "-W", "warning"]).arg(page).output() else {
        assert!(std::env::var_os("SLM_MESH_TEST_ALL").is_none(), "mandoc is missing");
        eprintln!("skipped: mandoc_prints_no_warning: there is no mandoc");
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
fn every_topic_has_help_and_is_in_the_overview() {
    let overview = help(&[]);
    for (topic, about, _) in slm_mesh::cli::help_topics::TOPICS {
        assert!(help(&[topic]).len() > 300 && overview.contains(about), "{topic}");
    }
    for topic in ["lock", "state", "start", "state watch"] {
        assert!(help(&[topic]).len() > 40, "{topic}");
    }
    let place = Place::new();
    assert_eq!(place.run(&["help", "nonsense"]).status.code(), Some(2));
}

#[test]
fn help_names_only_topics_that_exist() {
    let pages = slm_mesh::cli::help_topics::TOPICS.iter().map(|(_, _, text)| (*text).to_owned());
    for text in pages.chain([read("README.md"), help(&["man"]).replace("\\-", "-")]) {
        for rest in text.split("slm-mesh help ").skip(1) {
            let word = rest.split(|c: char| !c.is_ascii_lowercase()).next().unwrap();
            let is_made = ["readme", "man", ""].contains(&word);
            assert!(is_made || Place::new().run(&["help", word]).status.success(), "slm-mesh help {word}");
        }
    }
}

#[test]
fn the_help_becomes_pages_that_load_nothing() {
    let Ok(made) = Command::new("python3").arg(project().join(".ci/package/html")).args(["--program", BIN]).output()
    else {
        eprintln!("skipped: the_help_becomes_pages_that_load_nothing: there is no python3");
        return;
    };
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let topics = slm_mesh::cli::help_topics::TOPICS.iter().map(|(topic, ..)| *topic);
    for name in topics.chain(["index"]) {
        let page = read(&format!("target/html/{name}.html"));
        assert!(page.contains("<pre>") && !page.contains("<script") && !page.contains("src="), "{name}");
    }
    let page = read("target/html/locks.html");
    assert!(
        page.contains("<p>A lock gives one peer the sole right to change some files, for a limited"),
        "prose flows"
    );
    assert!(page.contains("\n  $ slm-mesh lock list\n  FILE         LOCKED BY"), "an example stays as it is");
}

#[test]
fn nothing_here_names_the_machine_it_was_made_on() {
    let out = Command::new("git").args(["ls-files"]).current_dir(project()).output();
    let Some(files) = out.ok().filter(|out| out.status.success()) else {
        eprintln!("skipped: nothing_here_names_the_machine_it_was_made_on: not a git checkout");
        return;
    };
    // No file may contain the path of this project or of the home directory. Short paths are not checked, because they
    // may be part of an example.
    let home = std::env::var("HOME").unwrap_or_default();
    let own = [project().display().to_string(), home].map(|path| path + "/");
    let own: Vec<&String> =
        own.iter().filter(|path| path.matches('/').count() > 2 || path.starts_with("/root")).collect();
    for file in String::from_utf8_lossy(&files.stdout)
        .lines()
        .filter(|file| Path::new(file).extension().is_some_and(|end| end != "jsonl"))
    {
        let text = std::fs::read(project().join(file)).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        for path in &own {
            assert!(!text.contains(path.as_str()), "{file} names {path}");
        }
    }
}

#[test]
fn contributing_names_files_and_functions_that_exist() {
    let text = read("CONTRIBUTING.md");
    let outside_blocks: String = text.split("```").step_by(2).collect();
    let (mut path, mut source, mut n_functions) = (String::new(), String::new(), 0);
    for code in outside_blocks.split('`').skip(1).step_by(2) {
        if ["src/", "tests/", "python/", "man/"].iter().any(|folder| code.starts_with(folder)) && !code.contains('*') {
            assert!(project().join(code).exists(), "CONTRIBUTING.md names {code}, which does not exist");
            (path, source) = (code.to_owned(), std::fs::read_to_string(project().join(code)).unwrap_or_default());
        } else if let Some(function) = code.strip_suffix("()") {
            n_functions += 1;
            let exists =
                [format!("fn {function}("), format!("fn {function}<")].iter().any(|start| source.contains(start));
            assert!(exists, "CONTRIBUTING.md names {function}() in {path}, which has no such function");
        }
    }
    assert!(n_functions > 20, "{n_functions}");
}
