//! Rules for the source tree: imports, the use of crates, the length of files and functions, and what must not be
//! committed. These tests read the files of the project.

mod parts;
mod source;

use source::{Source, check, files_ending, root, sources};
use std::fs;

/// For each folder of `src`, the folders that it may import. The layers are `main → cli → doctor → agents, mcp →
/// client, broker → wire → core → store`. `discovery` and `sys`, which talk to the system, are beside them.
const ROOMS: &[(&str, &[&str])] = &[
    ("base", &[]),
    ("store", &["base"]),
    ("core", &["base", "store"]),
    ("wire", &["base"]),
    ("known_agents", &["base"]),
    ("sys", &["known_agents", "base"]),
    ("remote", &["wire", "base", "sys"]),
    ("replication", &["base", "sys"]),
    ("discovery", &["base", "sys"]),
    ("broker", &["remote", "replication", "discovery", "wire", "core", "store", "base", "sys"]),
    ("client", &["remote", "discovery", "wire", "core", "base", "sys"]),
    ("mcp", &["known_agents", "client", "broker", "wire", "core", "base", "sys"]),
    ("shell_writes", &["base"]),
    ("agents", &["known_agents", "shell_writes", "client", "discovery", "wire", "core", "base", "sys"]),
    ("doctor", &["known_agents", "agents", "client", "discovery", "core", "base", "sys"]),
    (
        "cli",
        &["known_agents", "doctor", "agents", "mcp", "client", "broker", "discovery", "wire", "core", "base", "sys"],
    ),
    ("main", &["cli"]),
    ("lib", &[]),
];

/// For each crate, the paths below `src` in which it may be used.
const HOMES: &[(&str, &[&str])] = &[
    ("rusqlite", &["store/"]),
    ("dlmalloc", &["main.rs"]),
    ("serde_json", &[""]),
    ("mio", &["broker/", "remote/"]),
    ("ureq", &["broker/links_to_other_meshes", "replication/etcd/"]),
    ("base64", &["replication/etcd/", "broker/leadership/"]),
    ("rustls", &["replication/etcd/tls"]),
    ("tungstenite", &["remote/"]),
    ("snow", &["remote/"]),
    ("tiny_http", &["broker/http/", "broker/legacy_http"]),
    ("httparse", &["broker/http/", "broker/legacy_http"]),
    ("subtle", &["broker/http/", "broker/legacy_http", "broker/web/"]),
    ("getrandom", &["sys/", "broker/startup"]),
    ("rustix", &["sys/", "broker/startup", "discovery/"]),
    ("nix", &["sys/"]),
    ("proc_pidinfo", &["sys/process/"]),
    ("signal_hook", &["sys/", "broker/startup"]),
    ("lexopt", &["cli/"]),
    ("memchr", &["core/mail/search_terms", "wire/", "agents/hook_stdin/"]),
    ("humantime", &["base/time"]),
    ("libmdns", &["discovery/announce_hub_by_mdns"]),
    ("if_addrs", &["discovery/addresses"]),
    ("jsonc_parser", &["agents/json_edit"]),
    ("toml_edit", &["agents/layout_preserving_toml_edit", "agents/toml_entry", "agents/toml_hooks"]),
];

/// Names that pure code must not contain: they belong to clocks, sockets, threads, random numbers or the environment.
const IMPURE: &[&str] = &[
    "std::net",
    "std::thread",
    "std::env",
    "std::process",
    "std::os",
    "std::sync",
    "SystemTime::now",
    "Instant::now",
    "UnixStream",
    "TcpStream",
    "thread::spawn",
];

const FILE_LINES_MAX: usize = 500;
const FUNCTION_LINES_MAX: usize = 70;
const COLUMNS_MAX: usize = 160;

/// The paths after `crate::` in a line. A group `{a, b}` gives one path for each item. A group inside a group is not
/// supported: it can give wrong paths, and paths after it can be missing.
fn crate_paths(line: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (at, _) in line.match_indices("crate::") {
        if line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_') {
            continue;
        }
        let rest = &line[at + "crate::".len()..];
        let is_path = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
        let head: String = rest.chars().take_while(|c| is_path(*c)).collect();
        match rest[head.len()..].strip_prefix('{') {
            Some(group) => {
                let group = group.split('}').next().unwrap_or("");
                found.extend(group.split(',').map(|word| format!("{head}{}", word.trim())));
            }
            None => found.push(head),
        }
    }
    found
}

/// Whether a line uses this crate, as in `rusqlite::` or `use rusqlite;`.
fn names_crate(line: &str, name: &str) -> bool {
    line.match_indices(name).any(|(at, _)| {
        let free = !line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':' || c == '.');
        let rest = &line[at + name.len()..];
        free && (rest.starts_with("::") || line.trim_start() == format!("use {name};"))
    })
}

#[test]
fn imports_go_in_one_direction() {
    let mut breaches = Vec::new();
    for source in sources(&["src"]) {
        let room = source.room().unwrap();
        let Some((_, allowed)) = ROOMS.iter().find(|(name, _)| *name == room) else {
            breaches.push(format!("{}: this folder has no rule; add it to ROOMS in tests/tidy", source.path));
            continue;
        };
        for (n, line) in source.code() {
            for path in crate_paths(line) {
                let target = path.split("::").next().unwrap_or("").to_owned();
                let is_room = ROOMS.iter().any(|(name, _)| *name == target);
                if is_room && target != room && !allowed.contains(&target.as_str()) {
                    breaches.push(format!("{}:{n}: {room} imports {target}", source.path));
                }
            }
        }
    }
    check("imports go cli → agents, mcp → client, broker → wire → core → store", &breaches);
}

#[test]
fn main_only_calls_the_cli() {
    let main = Source::read(root(), &root().join("src/main.rs"));
    assert!(main.lines.len() < 20, "main.rs has {} lines; move code to src/cli", main.lines.len());
    let names: Vec<&str> = main.code().flat_map(|(_, line)| line.split("slm_mesh::").skip(1)).collect();
    assert!(
        !names.is_empty() && names.iter().all(|rest| rest.starts_with("cli::")),
        "main.rs may use only slm_mesh::cli: {names:?}"
    );
}

#[test]
fn each_outside_crate_has_one_home() {
    let mut breaches = Vec::new();
    let mut used = Vec::new();
    for source in sources(&["src"]) {
        let inside = source.inside().unwrap();
        for (name, homes) in HOMES {
            let Some((n, _)) = source.code().find(|(_, line)| names_crate(line, name)) else { continue };
            used.push(*name);
            if !homes.iter().any(|home| inside.starts_with(home)) {
                breaches.push(format!("{}:{n}: {name} may be used only in {}", source.path, homes.join(" and ")));
            }
        }
    }
    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let section = manifest.split("[dependencies]").nth(1).unwrap().split("\n[").next().unwrap();
    let entries = section.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once(" = "));
    let listed: Vec<String> = entries.map(|(name, _)| name.trim().replace('-', "_")).collect();
    assert!(listed.len() > 5, "the dependencies in Cargo.toml were not found: {listed:?}");
    for name in &listed {
        if !HOMES.iter().any(|(known, _)| known == name) {
            breaches
                .push(format!("Cargo.toml: HOMES in tests/tidy does not say where {name} may be used; add it there"));
        } else if !used.contains(&name.as_str()) {
            breaches.push(format!("Cargo.toml: {name} is not used"));
        }
    }
    check("use each external crate only where HOMES in tests/tidy allows it", &breaches);
}

#[test]
fn the_rules_use_no_clock_socket_thread_or_randomness() {
    let mut breaches = Vec::new();
    for source in sources(&["src/base", "src/core", "src/store", "src/wire"]) {
        for (n, line) in source.code() {
            let words = IMPURE.iter().filter(|word| line.contains(*word));
            breaches.extend(words.map(|word| format!("{}:{n}: {word}", source.path)));
        }
    }
    check(
        "base, core, store and wire get time and randomness as arguments, and use no sockets, threads or processes",
        &breaches,
    );
}

#[test]
fn files_functions_and_lines_are_short_enough_to_read() {
    let mut breaches = Vec::new();
    for source in sources(&["src", "tests"]) {
        if source.lines.len() > FILE_LINES_MAX {
            breaches.push(format!("{}: {} lines, but the limit is {FILE_LINES_MAX}", source.path, source.lines.len()));
        }
        for (n, line) in source.lines.iter().enumerate() {
            let n_columns = line.chars().count();
            if n_columns > COLUMNS_MAX {
                breaches.push(format!(
                    "{}:{}: {n_columns} columns, but the limit is {COLUMNS_MAX}",
                    source.path,
                    n + 1
                ));
            }
        }
        for (n, name, length) in functions(&source.lines) {
            if length > FUNCTION_LINES_MAX {
                breaches.push(format!(
                    "{}:{n}: {name} has {length} lines, but the limit is {FUNCTION_LINES_MAX}",
                    source.path
                ));
            }
        }
    }
    check("files, functions and lines must be short enough to read", &breaches);
}

/// All functions, each with its first line, its name and its length. A function ends at the first closing brace with
/// the same indent, because rustfmt puts it there.
fn functions(lines: &[String]) -> Vec<(usize, String, usize)> {
    let mut found = Vec::new();
    for (n, line) in lines.iter().enumerate() {
        let text = line.trim_start();
        let indent = line.len() - text.len();
        let plain = ["pub ", "pub(crate) ", "pub(super) ", "const "]
            .iter()
            .fold(text, |text, word| text.trim_start_matches(word));
        // A method without a body, as in a trait, ends with a semicolon.
        let Some(rest) = plain.strip_prefix("fn ").filter(|_| !line.ends_with(';')) else { continue };
        let name: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        let end = format!("{}}}", " ".repeat(indent));
        let length = if line.ends_with('}') { Some(0) } else { lines[n..].iter().position(|line| *line == end) };
        let length = length.unwrap_or_else(|| panic!("fn {name}: its end was not found; run cargo fmt first"));
        found.push((n + 1, name, length + 1));
    }
    found
}

#[test]
fn files_of_the_web_page_are_short_enough_to_read() {
    let found = files_ending(&["src"], &["js", "css", "html"]);
    assert!(found.len() > 5, "the files of the web page were not found");
    let too_long = found.iter().map(|path| Source::read(root(), path)).filter(|file| file.lines.len() > FILE_LINES_MAX);
    let breaches: Vec<String> = too_long.map(|file| format!("{}: {} lines", file.path, file.lines.len())).collect();
    check(&format!("a file may have at most {FILE_LINES_MAX} lines"), &breaches);
}

#[test]
fn every_file_says_what_it_is_for() {
    let silent =
        |source: &Source| !source.lines.first().is_some_and(|line| line.starts_with("//! ") && line.len() > 20);
    let breaches: Vec<String> =
        sources(&["src", "tests"]).into_iter().filter(silent).map(|source| source.path).collect();
    check("begin every file with a //! comment that says what the file is for", &breaches);
}

#[test]
fn no_unfinished_work_is_committed() {
    // Each word is in two parts. Otherwise, this file would contain the forbidden words.
    let words = [
        ["TO", "DO"],
        ["FIX", "ME"],
        ["XX", "X:"],
        ["dbg", "!("],
        ["to", "do!("],
        ["unimpl", "emented!("],
        ["#[ig", "nore"],
        ["#[should_", "panic"],
    ];
    let words: Vec<String> = words.iter().map(|parts| parts.concat()).collect();
    let mut breaches = Vec::new();
    for source in sources(&["src", "tests"]) {
        for (n, line) in source.lines.iter().enumerate() {
            let hits = words.iter().filter(|word| line.contains(word.as_str()));
            breaches.extend(hits.map(|word| format!("{}:{}: {word}", source.path, n + 1)));
        }
    }
    check("no marks of unfinished work: finish it, or open an issue", &breaches);
}

#[test]
fn the_program_has_no_unwrap_and_no_unsafe_code() {
    let mut breaches = Vec::new();
    for source in sources(&["src"]) {
        for (n, line) in source.code() {
            let hits = [".unwrap()", ".unwrap_err()", "unsafe {", "unsafe fn", "unsafe impl", "static mut"];
            breaches.extend(
                hits.iter().filter(|word| line.contains(*word)).map(|word| format!("{}:{n}: {word}", source.path)),
            );
        }
    }
    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    if !manifest.contains("unsafe_code = \"forbid\"") {
        breaches.push("Cargo.toml: unsafe_code is not forbidden".into());
    }
    check("use expect with the reason instead of unwrap, and no unsafe code", &breaches);
}

#[test]
fn a_thread_that_cannot_be_started_is_an_error_and_no_panic() {
    let mut breaches = Vec::new();
    for source in sources(&["src"]) {
        for (n, line) in
            source.code().filter(|(_, line)| line.contains("thread::spawn(") || line.contains("scope.spawn("))
        {
            breaches.push(format!("{}:{n}: {}", source.path, line.trim()));
        }
    }
    check("start threads with sys::threads or std::thread::Builder, because std::thread::spawn panics", &breaches);
}

#[test]
fn every_ignored_error_has_a_reason() {
    let mut breaches = Vec::new();
    for source in sources(&["src"]) {
        for (n, line) in source.code().filter(|(_, line)| line.contains("let _ = ")) {
            let above = source.lines[..n - 1].iter().rev().take(4);
            let is_explained = line.contains("//") || above.clone().any(|line| line.trim_start().starts_with("//"));
            if !is_explained {
                breaches.push(format!("{}:{n}: {}", source.path, line.trim()));
            }
        }
    }
    check("an ignored error needs a comment with the reason", &breaches);
}

#[test]
fn only_the_core_decides_by_the_name_of_an_operation() {
    let mut breaches = Vec::new();
    for source in sources(&["src"]).iter().filter(|source| source.room() != Some("core")) {
        let decides = |line: &str| {
            ["op.name == \"", "op.name != \"", "match op.name", ".contains(&op.name)"]
                .iter()
                .any(|way| line.contains(way))
        };
        let places = source.code().filter(|(_, line)| decides(line));
        breaches.extend(places.map(|(n, line)| format!("{}:{n}: {}", source.path, line.trim())));
    }
    check(
        "put what differs between operations into a field of Op or Arg, or into a table keyed by the operation",
        &breaches,
    );
}
