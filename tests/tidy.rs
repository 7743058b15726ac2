//! The rules of the tree, read from the sources: which way imports flow, where each outside crate
//! lives, how long things may be, and what does not land. A rule that matters is here, and not in a
//! reviewer's head.

use std::fs;
use std::path::{Path, PathBuf};

/// For each room the rooms that it may look into. Floors go `main → cli → agents, mcp →
/// client, broker → wire → mesh → store`; `lan` and `world` are the impure leaves beside them.
const ROOMS: &[(&str, &[&str])] = &[
    ("base", &[]),
    ("store", &["base"]),
    ("core", &["base", "store"]),
    ("wire", &["base"]),
    ("sys", &["base"]),
    ("remote", &["wire", "base"]),
    ("discovery", &["base", "sys"]),
    ("broker", &["remote", "discovery", "wire", "core", "store", "base", "sys"]),
    ("client", &["remote", "discovery", "wire", "core", "base", "sys"]),
    ("mcp", &["client", "broker", "wire", "core", "base", "sys"]),
    ("agents", &["client", "discovery", "wire", "core", "base", "sys"]),
    ("cli", &["agents", "mcp", "client", "broker", "discovery", "wire", "core", "base", "sys"]),
    ("main", &["cli"]),
    ("lib", &[]),
];

/// Each outside crate with the places that may name it: a prefix of the path below `src`.
const HOMES: &[(&str, &[&str])] = &[
    ("rusqlite", &["store/"]),
    ("serde_json", &[""]),
    ("mio", &["broker/", "remote/"]),
    ("ureq", &["broker/mesh_links"]),
    ("tungstenite", &["remote/"]),
    ("hmac", &["remote/"]),
    ("sha2", &["remote/"]),
    ("tiny_http", &["broker/http/", "broker/legacy_http"]),
    ("httparse", &["broker/http/", "broker/legacy_http"]),
    ("subtle", &["broker/http/", "broker/legacy_http", "broker/web/"]),
    ("getrandom", &["sys/", "broker/startup"]),
    ("rustix", &["sys/", "broker/startup", "discovery/"]),
    ("signal_hook", &["sys/", "broker/startup"]),
    ("lexopt", &["cli/"]),
    ("humantime", &["base/time"]),
    ("libmdns", &["discovery/mdns_process"]),
    ("if_addrs", &["discovery/addresses"]),
];

/// What a pure room never touches: clocks, sockets, threads, chance, the environment.
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

/// A source file: its path below the project, its text, and where its unit tests begin.
struct Source {
    path: String,
    lines: Vec<String>,
    n_code: usize,
}

impl Source {
    fn read(root: &Path, path: &Path) -> Source {
        let lines: Vec<String> = fs::read_to_string(path).unwrap().lines().map(str::to_owned).collect();
        let n_code = lines.iter().position(|line| line.trim() == "#[cfg(test)]").unwrap_or(lines.len());
        Source { path: path.strip_prefix(root).unwrap().to_string_lossy().into_owned(), lines, n_code }
    }

    /// Lines of the program itself with their numbers: without comments, and without unit tests.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let lines = self.lines[..self.n_code].iter().enumerate();
        lines.map(|(n, line)| (n + 1, line.as_str())).filter(|(_, line)| !line.trim_start().starts_with("//"))
    }

    /// The path below `src`, if it is there.
    fn inside(&self) -> Option<&str> {
        self.path.strip_prefix("src/")
    }

    /// Its room: the folder or the file right below `src`.
    fn room(&self) -> Option<&str> {
        let first = self.inside()?.split('/').next()?;
        Some(first.strip_suffix(".rs").unwrap_or(first))
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All sources in these folders.
fn files(folders: &[&str]) -> Vec<PathBuf> {
    let mut open: Vec<PathBuf> = folders.iter().map(|folder| root().join(folder)).collect();
    let mut found = Vec::new();
    while let Some(path) = open.pop() {
        if path.is_dir() {
            open.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn sources(folders: &[&str]) -> Vec<Source> {
    let found: Vec<Source> = files(folders).iter().map(|path| Source::read(root(), path)).collect();
    assert!(found.len() > 5, "no sources in {folders:?}");
    found
}

/// All breaches at once, so that one run shows what there is to mend.
fn check(rule: &str, breaches: &[String]) {
    assert!(breaches.is_empty(), "{rule}\n  {}", breaches.join("\n  "));
}

/// The words after each `crate::`, with a group `{a, b}` taken apart; nested groups as far as their
/// first word, which is what the rules ask for.
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

/// Whether a line names an outside crate: `rusqlite::`, or `use rusqlite as …`.
fn names_crate(line: &str, name: &str) -> bool {
    line.match_indices(name).any(|(at, _)| {
        let free = !line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':' || c == '.');
        let rest = &line[at + name.len()..];
        free && (rest.starts_with("::") || line.trim_start() == format!("use {name};"))
    })
}

#[test]
fn imports_flow_down_the_floors_only() {
    let mut breaches = Vec::new();
    for source in sources(&["src"]) {
        let room = source.room().unwrap();
        let Some((_, allowed)) = ROOMS.iter().find(|(name, _)| *name == room) else {
            breaches.push(format!("{}: a room that no floor knows; give it one in tests/tidy.rs", source.path));
            continue;
        };
        for (n, line) in source.code() {
            for path in crate_paths(line) {
                let target = path.split("::").next().unwrap_or("").to_owned();
                let is_room = ROOMS.iter().any(|(name, _)| *name == target);
                if is_room && target != room && !allowed.contains(&target.as_str()) {
                    breaches.push(format!("{}:{n}: {room} looks into {target}", source.path));
                }
            }
        }
    }
    check(
        "imports flow cli → agents, mcp → client, broker → wire → mesh → store; world is read by the upper ones",
        &breaches,
    );
}

#[test]
fn main_is_arguments_in_and_status_out() {
    let main = Source::read(root(), &root().join("src/main.rs"));
    assert!(main.lines.len() < 20, "main.rs has {} lines: what does it do there?", main.lines.len());
    let names: Vec<&str> = main.code().flat_map(|(_, line)| line.split("slm_mesh::").skip(1)).collect();
    assert!(
        !names.is_empty() && names.iter().all(|rest| rest.starts_with("cli::")),
        "main goes through cli: {names:?}"
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
                breaches.push(format!("{}:{n}: {name} lives in {}", source.path, homes.join(" and ")));
            }
        }
    }
    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let section = manifest.split("[dependencies]").nth(1).unwrap().split("\n[").next().unwrap();
    let entries = section.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once(" = "));
    let listed: Vec<String> = entries.map(|(name, _)| name.trim().replace('-', "_")).collect();
    assert!(listed.len() > 5, "no dependencies read: {listed:?}");
    for name in &listed {
        if !HOMES.iter().any(|(known, _)| known == name) {
            breaches.push(format!("Cargo.toml: {name} has no home; give it one in tests/tidy.rs"));
        } else if !used.contains(&name.as_str()) {
            breaches.push(format!("Cargo.toml: {name} is not used"));
        }
    }
    check("each outside crate has one home, serde_json apart", &breaches);
}

#[test]
fn the_rules_know_no_clock_socket_thread_or_chance() {
    let mut breaches = Vec::new();
    for source in sources(&["src/base", "src/core", "src/store", "src/wire"]) {
        for (n, line) in source.code() {
            let words = IMPURE.iter().filter(|word| line.contains(*word));
            breaches.extend(words.map(|word| format!("{}:{n}: {word}", source.path)));
        }
    }
    check("mesh, store and wire are told the time and chance, and send nothing", &breaches);
}

#[test]
fn files_functions_and_lines_are_short_enough_to_read() {
    let mut breaches = Vec::new();
    for source in sources(&["src", "tests"]) {
        if source.lines.len() > FILE_LINES_MAX {
            breaches.push(format!("{}: {} lines, {FILE_LINES_MAX} is the limit", source.path, source.lines.len()));
        }
        for (n, line) in source.lines.iter().enumerate() {
            let n_columns = line.chars().count();
            if n_columns > COLUMNS_MAX {
                breaches.push(format!("{}:{}: {n_columns} columns, {COLUMNS_MAX} is the limit", source.path, n + 1));
            }
        }
        for (n, name, length) in functions(&source.lines) {
            if length > FUNCTION_LINES_MAX {
                breaches
                    .push(format!("{}:{n}: {name} has {length} lines, {FUNCTION_LINES_MAX} is the limit", source.path));
            }
        }
    }
    check("a function fits a screen, a file a reader's patience", &breaches);
}

/// Functions with their line, name and length: from `fn` to the bracket at the same indent, which is
/// where the formatter puts it.
fn functions(lines: &[String]) -> Vec<(usize, String, usize)> {
    let mut found = Vec::new();
    for (n, line) in lines.iter().enumerate() {
        let text = line.trim_start();
        let indent = line.len() - text.len();
        let plain = ["pub ", "pub(crate) ", "pub(super) ", "const "]
            .iter()
            .fold(text, |text, word| text.trim_start_matches(word));
        let Some(rest) = plain.strip_prefix("fn ") else { continue };
        let name: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        let end = format!("{}}}", " ".repeat(indent));
        let length = if line.ends_with('}') { Some(0) } else { lines[n..].iter().position(|line| *line == end) };
        let length = length.unwrap_or_else(|| panic!("fn {name}: no end found; is the tree formatted?"));
        found.push((n + 1, name, length + 1));
    }
    found
}

#[test]
fn every_file_says_what_it_is_for() {
    let silent =
        |source: &Source| !source.lines.first().is_some_and(|line| line.starts_with("//! ") && line.len() > 20);
    let breaches: Vec<String> =
        sources(&["src", "tests"]).into_iter().filter(silent).map(|source| source.path).collect();
    check("a file opens with //! and what it is for", &breaches);
}

#[test]
fn nothing_lands_that_is_not_done() {
    // Put together here, so that this file may pass its own rule.
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
    check("do it or file it", &breaches);
}

#[test]
fn the_program_neither_unwraps_nor_goes_behind_the_compilers_back() {
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
    check("a broken promise of ours is an expect that says the promise", &breaches);
}

#[test]
fn what_is_swallowed_is_explained() {
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
    check("an error that is dropped has a reason beside it", &breaches);
}

/// Files outside the core that still decide by an operation's name, with the number of places. Add none.
const DECIDE_BY_OPERATION: &[(&str, usize)] =
    &[("broker/clients.rs", 2), ("mcp/broker_client.rs", 1), ("mcp/mod.rs", 1), ("mcp/pending_call.rs", 3)];

#[test]
fn only_the_core_decides_by_the_name_of_an_operation() {
    let mut breaches = Vec::new();
    for source in sources(&["src"]) {
        let inside = source.inside().unwrap();
        if source.room() == Some("core") {
            continue;
        }
        let decides = |line: &str| {
            ["op.name == \"", "op.name != \"", "match op.name", ".contains(&op.name)"]
                .iter()
                .any(|way| line.contains(way))
        };
        let places: Vec<usize> = source.code().filter(|(_, line)| decides(line)).map(|(n, _)| n).collect();
        let allowed = DECIDE_BY_OPERATION.iter().find(|(path, _)| *path == inside).map_or(0, |(_, n)| *n);
        if places.len() != allowed {
            breaches.push(format!("{}: lines {places:?}, {allowed} are known", source.path));
        }
    }
    check("what differs between operations is a field of Op, of Arg, or of a table keyed by the operation", &breaches);
}
