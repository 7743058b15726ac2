//! Checks that each known agent has a file, a row in the README, and recorded inputs of its hooks.

use slm_mesh::known_agents::all_input_fields::ALL_INPUT_FIELDS;
use slm_mesh::known_agents::hook_dialect::HookKind;
use slm_mesh::known_agents::support_table::{Evidence, Support};
use slm_mesh::known_agents::wakeup_means::Means;
use slm_mesh::known_agents::{AGENTS, Agent, by_client_name, by_environment, by_id, by_kind, by_process, by_program};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn names(folder: &str) -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let mut names: Vec<String> =
        fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn the_readme_has_a_row_for_each_agent() {
    let readme = read("README.md");
    let head = format!("| agent | {} |", Support::HEADS.join(" | "));
    let table: Vec<&str> = readme.lines().skip_while(|line| *line != head).skip(2).collect();
    let table: Vec<&str> = table.into_iter().take_while(|line| line.starts_with('|')).collect();
    let wanted: Vec<String> = AGENTS.iter().map(Agent::readme_row).collect();
    assert_eq!(table, wanted, "the table in README.md; it should be\n{}\n", wanted.join("\n"));
}

#[test]
fn the_help_names_each_agent_that_setup_connects() {
    let help = read("src/cli/help_topics/agents.txt");
    let sentence =
        help.split("`setup` knows ").nth(1).unwrap().split("\n\n").next().unwrap().split(". ").next().unwrap();
    let named: BTreeSet<&str> = sentence.split([',', ' ', '\n']).filter(|word| !["", "and"].contains(word)).collect();
    let connected = AGENTS.iter().filter(|agent| agent.support.set_up != Evidence::No);
    assert_eq!(named, connected.map(|agent| agent.id).collect(), "src/cli/help_topics/agents.txt");
}

#[test]
fn each_agent_has_a_file_in_the_list() {
    let helpers = [
        "recognition_rule_types.rs",
        "all_input_fields.rs",
        "hook_dialect.rs",
        "mod.rs",
        "settings_file_types.rs",
        "support_table.rs",
        "transcript_format.rs",
        "wakeup_means.rs",
    ];
    let files = names("src/known_agents");
    let files: Vec<&String> =
        files.iter().filter(|name| name.ends_with(".rs") && !helpers.contains(&name.as_str())).collect();
    assert_eq!(files.len(), AGENTS.len(), "each file is named in AGENTS: {files:?}");
}

#[test]
fn no_two_agents_are_mixed_up() {
    let mut ids = BTreeSet::new();
    for agent in AGENTS {
        assert!(ids.insert(agent.id), "{} is there twice", agent.id);
        assert!(std::ptr::eq(by_id(agent.id).unwrap(), agent));
        assert!(by_kind(agent.kind).is_some());
        for name in agent.identity.client_names {
            assert_eq!(by_client_name(name).unwrap().id, agent.id, "{name}");
        }
        for name in agent.identity.environment {
            assert_eq!(by_environment(|known| known == *name).unwrap().id, agent.id, "{name}");
        }
        if let Some(name) = agent.identity.session_variable {
            assert!(!agent.identity.client_names.is_empty(), "{name} is used only with a client's name");
        }
    }
}

#[test]
fn processes_show_their_agent() {
    let kind = |words: &[&str]| {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        by_process(&words).map(|agent| agent.kind)
    };
    assert_eq!(kind(&["claude", "claude"]), Some("claude-code"));
    assert_eq!(kind(&["node", "/usr/lib/node_modules/@google/gemini-cli/dist/index.js"]), Some("gemini"));
    assert_eq!(kind(&["codex-tui"]), Some("codex"));
    assert_eq!(kind(&["bash", "-c", "make"]), None);
}

/// npm and pip install an agent as a script and a link. The link has the agent's name and leads to the script. The
/// interpreter's arguments contain the path of the link, not that of the script, so slm-mesh must recognize the agent
/// by the link.
#[test]
fn an_agent_that_an_interpreter_runs_is_known_by_its_link() {
    let id = |words: &[&str]| {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        by_program(&words).map(|agent| agent.id)
    };
    assert_eq!(id(&["node", "node", "/usr/bin/gemini", "-p", "hi"]), Some("gemini"));
    assert_eq!(id(&["mainthread", "node", "--no-warnings", "/p/node_modules/.bin/copilot"]), Some("copilot"));
    assert_eq!(id(&["python3.12", "python3", "/home/me/.local/bin/aider"]), Some("aider"));
    assert_eq!(id(&["mainthread", "/p/copilot-linux-x64/copilot", "-p", "now"]), Some("copilot"));
    assert_eq!(id(&["vim", "vim", "/src/gemini"]), None);
    assert_eq!(id(&["node", "node", "/src/gemini/test.js"]), None);
    assert_eq!(id(&["node", "node", "server.js", "/usr/bin/gemini"]), None);
}

/// The MCP server, the hooks and the process of an agent must have the same agent type. Otherwise, one session would
/// become two peers.
#[test]
fn an_agent_has_one_type() {
    for (client, process) in
        [("gemini-cli-mcp-client", "gemini"), ("codex-mcp-client", "codex"), ("opencode", "opencode")]
    {
        let by_name = by_client_name(client).unwrap();
        assert_eq!(by_process(&[process.to_owned()]).unwrap().kind, by_name.kind);
    }
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn no_other_code_names_an_agent() {
    let mut names = BTreeSet::new();
    for agent in AGENTS {
        names.extend([agent.id, agent.kind]);
        names.extend(agent.identity.client_names);
        names.extend(agent.identity.environment);
        names.extend(agent.identity.session_variable);
    }
    // These two names of agents also have an ordinary meaning in the code: the cursor of a list, and the shell's
    // `continue`.
    names.remove("cursor");
    names.remove("continue");
    let mut files = Vec::new();
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut files);
    // The HTTP routes of slm-mesh 1.x accept a fixed list of agent types, so their code may contain names of agents.
    let is_exempt = |path: &PathBuf| {
        let path = path.to_string_lossy();
        ["/known_agents/", "/broker/legacy_http/", "_tests.rs"].iter().any(|part| path.contains(part))
    };
    let mut breaches = Vec::new();
    for path in files.iter().filter(|path| !is_exempt(path)) {
        let text = fs::read_to_string(path).unwrap();
        let code = text.split("#[cfg(test)]").next().unwrap();
        for line in code.lines().filter(|line| !line.trim_start().starts_with("//")) {
            let named = names.iter().find(|name| line.contains(&format!("\"{name}\"")));
            breaches.extend(named.map(|name| format!("{}: {name}: {}", path.display(), line.trim())));
        }
    }
    assert!(breaches.is_empty(), "facts of an agent belong into src/known_agents:\n{}", breaches.join("\n"));
}

#[test]
fn the_readers_of_hook_inputs_name_no_field() {
    let words = ALL_INPUT_FIELDS.lists().concat();
    assert!(words.len() > 30, "{words:?}");
    for file in ["hook_input.rs", "hook_input_fields.rs", "edited_paths.rs", "shell_tool_writes.rs"] {
        let text = read(&format!("src/agents/{file}"));
        let code = text.split("#[cfg(test)]").next().unwrap();
        for line in code.lines().filter(|line| !line.trim_start().starts_with("//")) {
            let named = words.iter().find(|word| line.contains(&format!("\"{word}\"")));
            assert_eq!(named, None, "src/agents/{file}: names of fields belong into src/known_agents: {}", line.trim());
        }
    }
}

#[test]
fn hooks_that_are_set_up_are_understood() {
    for agent in AGENTS {
        let files = [agent.files.user.hooks, agent.files.project.hooks];
        for hooks in files.into_iter().flatten() {
            let dialect = agent.dialect.unwrap_or_else(|| panic!("{} has hooks and no dialect", agent.id));
            for (event, _) in hooks.events {
                assert!(dialect.events.iter().any(|(known, _)| known == event), "{}: {event}", agent.id);
            }
            let script = dialect.proof;
            for event in [script.prompt, script.edit, script.tool, script.stop] {
                assert!(hooks.events.iter().any(|(known, _)| *known == event), "{}: {event} is not set up", agent.id);
            }
            let has = |kind: HookKind| hooks.events.iter().any(|(event, _)| dialect.events.contains(&(*event, kind)));
            assert!(has(HookKind::Start) && has(HookKind::Stop), "{}", agent.id);
        }
    }
}

#[test]
fn what_was_run_has_recorded_inputs() {
    let recorded = names("tests/data/hooks");
    for agent in AGENTS.iter().filter(|agent| agent.support.mail_at_prompt == Evidence::Run) {
        for event in [agent.dialect.unwrap().proof.prompt, agent.dialect.unwrap().proof.edit] {
            let name = format!("{}-{event}.json", agent.id);
            assert!(recorded.contains(&name), "tests/data/hooks/{name} is missing");
        }
    }
    for name in recorded {
        let id = name.split('-').next().unwrap();
        assert!(by_id(id).is_some_and(|agent| agent.dialect.is_some()), "{name}: no agent {id} has hooks");
    }
}

#[test]
fn what_the_readme_claims_agrees_with_the_facts() {
    for agent in AGENTS {
        let support = agent.support;
        let works = |evidence: Evidence| evidence != Evidence::No;
        assert_eq!(works(support.wakes_idle), !agent.wakeups.is_empty(), "{}: wakes idle", agent.id);
        assert_eq!(works(support.edit_denied), agent.dialect.is_some(), "{}: edit denied", agent.id);
        assert_eq!(works(support.mail_at_prompt), agent.dialect.is_some(), "{}: mail at prompt", agent.id);
        let has_shell_lines = agent.dialect.is_some_and(|dialect| dialect.shell_lines.is_some());
        assert_eq!(works(support.shell.shielded), has_shell_lines, "{}: shielded", agent.id);
        let is_set_up = agent.files.user.server.is_some() || agent.files.user.own_file.is_some();
        assert_eq!(works(support.set_up), is_set_up, "{}: set up", agent.id);
        let waits_in_hook = agent.wakeups.iter().any(|wakeup| matches!(wakeup.means, Means::BackgroundHook { .. }));
        let has_wake_event = agent.files.user.hooks.is_some_and(|hooks| hooks.wake_event.is_some());
        let has_plugin = agent.files.user.own_file.is_some_and(|own| own.runs_hooks);
        assert_eq!(waits_in_hook, has_wake_event || has_plugin, "{}: the hook that waits", agent.id);
    }
}

/// Some agents do not send a session id with their MCP calls. The hooks of these agents must see the calls of
/// slm-mesh's own tools, so that the hooks can tell the mesh which session makes each call.
#[test]
fn hooks_of_agents_whose_calls_name_no_session_see_our_own_tools() {
    for agent in AGENTS.iter().filter(|agent| !agent.identity.calls_name_session()) {
        for scope in [&agent.files.user, &agent.files.project] {
            for (event, matcher) in scope.hooks.iter().flat_map(|hooks| hooks.events) {
                assert!(!matcher.contains("(?!slm-mesh"), "{}: {event} leaves them out", agent.id);
            }
        }
    }
}
