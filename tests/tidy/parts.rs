//! Boundaries between the parts of the program: who may call which methods of the store, and which fields must be
//! private. In addition, no two types may have the same name.

use crate::source::{Source, check, files_ending, root, sources};
use std::collections::{BTreeMap, BTreeSet};

/// The parts of the core and of the broker. Each row has the part's file, and the name of a struct whose fields only this
/// part may use.
const PARTS: &[(&str, &str)] = &[
    ("core/peers/mod.rs", "Peers"),
    ("core/locks/table.rs", "Locks"),
    ("core/mail/mod.rs", "Mail"),
    ("core/event_journal.rs", "Journal"),
    ("core/shared_key_value_entries.rs", "SharedEntries"),
    ("core/federation/mod.rs", "Federation"),
    ("core/rate_limit.rs", "RateLimiter"),
    ("core/channels.rs", "Channels"),
    ("core/waiting_calls.rs", "Waiting"),
    ("broker/clients/mod.rs", "Clients"),
    ("broker/answer_parsed_http_requests.rs", "HttpRequests"),
    ("broker/web/event_stream.rs", "PageStreams"),
    ("broker/links_to_other_meshes.rs", "MeshLinks"),
    ("broker/admit_guests_and_announce_hub.rs", "RemoteListener"),
    ("broker/desktop_notifications.rs", "Notifications"),
    ("broker/checkpoint_thread.rs", "CheckpointThread"),
    ("broker/decide_when_to_shut_down.rs", "ShutdownDecision"),
    ("broker/process_exits.rs", "ProcessExits"),
    ("broker/startup/runtime_files_watch.rs", "RuntimeFiles"),
];

#[test]
fn each_part_of_the_core_and_the_broker_keeps_its_fields_private() {
    let mut breaches = Vec::new();
    for (path, name) in PARTS {
        let source = Source::read(root(), &root().join("src").join(path));
        let start = format!(" struct {name} {{");
        let begin = source
            .lines
            .iter()
            .position(|line| line.starts_with("pub") && line.ends_with(&start))
            .unwrap_or_else(|| panic!("{path}: no {name}"));
        // In a file beside a `mod.rs`, `pub(super)` makes a field visible in this folder only.
        let is_own_file = !path.ends_with("mod.rs") && path.matches('/').count() > 1;
        for line in source.lines[begin + 1..].iter().take_while(|line| *line != "}") {
            let field = line.trim_start();
            if field.starts_with("pub") && !(is_own_file && field.starts_with("pub(super)")) {
                breaches.push(format!("{path}: {name}: {field}"));
            }
        }
    }
    check("keep these fields private, because other parts must use methods", &breaches);
}

/// The files of the store that contain questions about the mesh. Each row has a file, and the only part of the core
/// that may ask its questions.
const STORE_QUESTIONS: &[(&str, &str)] = &[
    ("peers", "core/peers/"),
    ("returnable_name_takeovers", "core/peers/"),
    ("locks", "core/locks/"),
    ("messages", "core/mail/"),
    ("message_scan", "core/mail/"),
    ("wakeup_attempts", "core/mail/"),
    ("channel_members", "core/channels.rs"),
    ("events", "core/event_journal.rs"),
    ("key_value_entries", "core/shared_key_value_entries.rs"),
];

#[test]
fn each_question_to_the_store_is_asked_by_the_part_that_owns_it() {
    let program = sources(&["src"]);
    let mut breaches = Vec::new();
    for (file, part) in STORE_QUESTIONS {
        let store = program.iter().find(|source| source.inside() == Some(&format!("store/{file}.rs"))).unwrap();
        let questions = methods_of_store(store);
        assert!(questions.len() > 2, "the methods of store/{file}.rs were not found: {questions:?}");
        for source in program.iter().filter(|source| source.room() != Some("store")) {
            let inside = source.inside().unwrap();
            // A call may be split between lines, so all lines are joined.
            let code: String = source.code().map(|(_, line)| line.trim()).collect();
            for question in &questions {
                let is_asked = ["store.", "store()."].iter().any(|of| code.contains(&format!("{of}{question}(")));
                if is_asked && !inside.starts_with(part) {
                    breaches.push(format!("{}: calls {question} of store/{file}.rs", source.path));
                }
            }
        }
    }
    check("let only the part of the core that owns a file of the store call the methods of that file", &breaches);
}

/// The names of the public methods of `Store` that a file declares. The methods of rows are in other `impl` blocks, and
/// are left out because any part may call them.
fn methods_of_store(source: &Source) -> Vec<&str> {
    let block = source.code().skip_while(|(_, line)| *line != "impl Store {").take_while(|(_, line)| *line != "}");
    let declared = block.filter_map(|(_, line)| line.strip_prefix("    pub fn "));
    declared.filter_map(|rest| Some(rest.split_once('(')?.0)).collect()
}

#[test]
fn only_operations_receive_the_whole_mesh() {
    let mut breaches = Vec::new();
    for source in sources(&["src/core"]) {
        let code: Vec<_> = source.code().collect();
        let text: String = code.iter().map(|(_, line)| format!("{line}\n")).collect();
        for (n, _) in code.iter().filter(|(_, line)| line.contains("fn ")) {
            let after = code.iter().skip_while(|(at, _)| at < n).map(|(_, line)| *line);
            let signature: String = after.take(12).collect::<String>().split('{').next().unwrap_or("").to_owned();
            let name = signature.split("fn ").nth(1).and_then(|rest| rest.split(['(', '<']).next()).unwrap_or("");
            let takes_mesh =
                ["mesh: &mut Mesh", "mesh: &Mesh,", "mesh: &Mesh)"].iter().any(|way| signature.contains(way));
            if takes_mesh && !text.contains(&format!("Runner::Rule({name})")) {
                breaches.push(format!("{}:{n}: {name}", source.path));
            }
        }
    }
    check("pass to a rule only the parts of the mesh that it needs", &breaches);
}

/// The files that run calls, timed work and the end of a turn. Only their private code has the whole mesh.
const DISPATCH: &[&str] = &["run_call_in_savepoint.rs", "timed_work.rs", "commit_or_roll_back_turn.rs"];

#[test]
fn methods_of_the_whole_mesh_are_for_the_broker() {
    let mut breaches = Vec::new();
    for source in sources(&["src/core"]) {
        let mut is_mesh = false;
        for (n, line) in source.code() {
            is_mesh = if line.starts_with("impl ") { line == "impl Mesh {" } else { is_mesh };
            let is_private = line.starts_with("    fn ") || line.starts_with("    pub(");
            // Such a method only returns references to some parts.
            let returns_parts = line.ends_with("Parts<'_> {");
            let is_dispatch = DISPATCH.iter().any(|file| source.path.ends_with(file));
            if is_mesh && is_private && line.contains("fn ") && !returns_parts && !is_dispatch {
                breaches.push(format!("{}:{n}: {}", source.path, line.trim()));
            }
        }
    }
    check("make this a function of the parts that it needs, because it is not called by the broker", &breaches);
}

/// The files that change a database: its rows while the broker runs, its tables, and the copy of a damaged database.
const WRITERS: &[&str] = &["store/record_and_apply_row_writes.rs", "store/schema.rs", "store/salvage.rs"];

#[test]
fn only_these_files_change_a_database() {
    let mut breaches = Vec::new();
    for source in sources(&["src"]).iter().filter(|source| !WRITERS.contains(&source.inside().unwrap())) {
        for (n, line) in source.code() {
            let changes = ["cached(sql)?.execute(", "?.insert(", "raw_execute(", "execute_batch(", "db.execute("];
            if changes.iter().any(|way| line.contains(way)) {
                breaches.push(format!("{}:{n}: {}", source.path, line.trim()));
            }
        }
    }
    check(
        "change rows only through Store::write, write_row! and update_row!, so that each change can be recorded",
        &breaches,
    );
}

#[test]
fn each_public_type_has_a_name_of_its_own() {
    let (mut homes, mut public) = (BTreeMap::<String, Vec<String>>::new(), BTreeSet::new());
    for source in sources(&["src"]) {
        for (n, line) in source.code() {
            public.extend(public_type(line));
            // An indented line may be a type of a trait, such as `type Error`.
            let private = || public_type(&format!("pub {line}")).filter(|_| !line.starts_with(' '));
            if let Some(name) = public_type(line).or_else(private) {
                homes.entry(name).or_default().push(format!("{}:{n}", source.path));
            }
        }
    }
    assert!(public.len() > 100, "only {} public types were found", public.len());
    let twice = homes.iter().filter(|(name, places)| public.contains(*name) && places.len() > 1);
    let breaches: Vec<String> = twice.map(|(name, places)| format!("{name}: {}", places.join(", "))).collect();
    check("give a public type a name that no other type has", &breaches);
}

#[test]
fn a_row_with_several_columns_is_read_by_their_names() {
    let by_position = |line: &str| (1..9).any(|n| line.contains(&format!("row.get({n})")));
    let mut breaches = Vec::new();
    for source in sources(&["src/store"]) {
        let lines = source.code().filter(|(_, line)| by_position(line));
        breaches.extend(lines.map(|(n, line)| format!("{}:{n}: {}", source.path, line.trim())));
    }
    check("read columns by name", &breaches);
}

#[test]
fn every_operation_is_in_the_list() {
    let list = Source::read(root(), &root().join("src/core/mod.rs")).lines.concat();
    let mut breaches = Vec::new();
    for source in sources(&["src"]) {
        for (n, line) in source.code() {
            let Some((name, _)) = line.strip_prefix("pub static ").and_then(|rest| rest.split_once(": Op = ")) else {
                continue;
            };
            if !list.contains(&format!("::{name},")) {
                breaches.push(format!("{}:{n}: {name}", source.path));
            }
        }
    }
    check("add each operation to OPS or HTTP_OPS in src/core/mod.rs", &breaches);
}

#[test]
fn no_code_recognises_a_certain_operation() {
    let mut breaches = Vec::new();
    for source in sources(&["src"]) {
        for (n, line) in source.code() {
            let compares = ["op.name ==", "op.name !=", "op.verb ==", "op.verb !="]
                .iter()
                .any(|way| line.split(way).nth(1).is_some_and(|other| other.trim_start().starts_with(['"', '&'])));
            let is_constant = |name: &str| name.len() > 1 && name.chars().all(|c| c.is_ascii_uppercase() || c == '_');
            let points = line.split("ptr::eq(").nth(1).is_some_and(|rest| {
                rest.split(')').next().unwrap_or("").split(|c: char| !c.is_alphanumeric() && c != '_').any(is_constant)
            });
            if compares || points {
                breaches.push(format!("{}:{n}: {}", source.path, line.trim()));
            }
        }
    }
    check("let the operation declare in OpBehavior what is special about it", &breaches);
}

/// The name of the type that a line declares with `pub` or `pub(…)`.
fn public_type(line: &str) -> Option<String> {
    let rest = line.trim_start().strip_prefix("pub")?;
    let rest = if rest.starts_with('(') { rest.split_once(") ")?.1 } else { rest.trim_start() };
    let (kind, rest) = rest.split_once(' ')?;
    let name: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    // In a macro, the name is a variable such as `$name`, so no name is found here.
    (["struct", "enum", "trait", "type"].contains(&kind) && !name.is_empty()).then_some(name)
}

/// Words that earlier versions of the code used with unusual meanings. No file name may contain them again.
const PRIVATE_WORDS: &[&str] = &[
    "seat", "letter", "wish", "desk", "outlet", "ear", "ears", "far", "lan", "ground", "knock", "porter", "ring",
    "bell", "places", "birth", "pests",
];

#[test]
fn file_names_use_common_words() {
    let found = files_ending(&["src", "tests", "python"], &["rs", "py", "sh", "js", "txt", "sql"]);
    let mut breaches = Vec::new();
    for path in found {
        let path = path.strip_prefix(root()).unwrap();
        let text = path.with_extension("").to_string_lossy().into_owned();
        let words = text.split(|c: char| !c.is_ascii_alphanumeric());
        let hits = words.filter(|word| PRIVATE_WORDS.iter().any(|known| word == known || *word == format!("{known}s")));
        breaches.extend(hits.map(|word| format!("{}: {word}", path.display())));
    }
    check("name files with common words, which a new reader would guess", &breaches);
}

#[test]
fn no_rule_fails_as_if_the_broker_were_gone() {
    let mut breaches = Vec::new();
    for source in sources(&["src/core"]) {
        for (n, line) in source.code() {
            if ["ErrorKind::Gone", "ErrorKind::Standby"].iter().any(|kind| line.contains(kind)) {
                breaches.push(format!("{}:{n}: {line}", source.path));
            }
        }
    }
    check("use another kind, because a client repeats a call that fails with one of these kinds", &breaches);
}
