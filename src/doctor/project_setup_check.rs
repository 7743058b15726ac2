//! Checks the settings of slm-mesh in the working directory. `setup --project` may have written these settings here, or
//! they may have come with the repository.
//!
//! **Invariant:** doctor runs the programs in a project's settings only if `setup` wrote exactly these settings on this
//! machine. Any other settings in a work tree may come from anybody.

use super::registered_server_check::find_registered;
use super::{Check, check_agent, check_own_files};
use crate::agents::edit_own_config_entries::hook_program;
use crate::agents::generated_file_texts::{self, MARK, NAME};
use crate::agents::safe_write;
use crate::agents::setup_environment::{EditedFile, Environment, find_on_path, is_program, read_hooks};
use crate::agents::setup_records::{FileRecord, Records, real_path};
use crate::known_agents::settings_file_types::EntryShape;
use crate::known_agents::{AGENTS, Agent};
use std::path::{Path, PathBuf};

/// Checks the project in the working directory. Returns no checks if the project contains no settings that slm-mesh
/// wrote.
pub fn check_project(environment: &Environment) -> Vec<Check> {
    let environment = Environment { is_project: true, ..environment.clone() };
    if environment.is_home() {
        // In the home directory, the project's files are the user's files, which are checked in any case.
        return Vec::new();
    }
    // Without the records, it is unknown what `setup` wrote, so no program is run.
    let records = Records::load().ok();
    let mut checks = Vec::new();
    for agent in AGENTS {
        let recorded = records.as_ref().map(|records| records.files_of(agent.id, environment.project()));
        let recorded = recorded.unwrap_or_default();
        checks.extend(if !recorded.is_empty() && are_unchanged(&environment, agent, &recorded) {
            check_agent(&environment, agent)
        } else {
            let is_checked = |path: &Path| records.as_ref().is_some_and(|records| records.get(path).is_some());
            read_only_checks(&environment, agent, !recorded.is_empty(), is_checked)
        });
    }
    for check in &mut checks {
        check.about.push_str(" (project)");
    }
    checks
}

/// Returns true if no file that contains the path of a program has changed since `setup` wrote the file.
fn are_unchanged(environment: &Environment, agent: &Agent, recorded: &[(PathBuf, FileRecord)]) -> bool {
    let own = environment.scope(agent).own_file.map(|own| environment.path(agent, own.path));
    let mut files = environment.edited_files(agent).into_iter().map(|file| file.path).chain(own);
    let text_of = |path: &Path| safe_write::read(path).ok().flatten();
    files.all(|path| {
        recorded
            .iter()
            .any(|(known, record)| *known == real_path(&path) && text_of(&path) == Some(record.after.clone()))
    })
}

/// Checks an agent's files without running a program. `is_set_up` is true if `setup` has set up the agent here. If it
/// is false, a missing entry is not a fault, and the agent is skipped if one of its files is already checked for
/// another agent.
fn read_only_checks(
    environment: &Environment,
    agent: &'static Agent,
    is_set_up: bool,
    is_checked: impl Fn(&Path) -> bool,
) -> Vec<Check> {
    if !is_set_up && environment.edited_files(agent).iter().any(|file| is_checked(&file.path)) {
        return Vec::new();
    }
    let cure = format!("slm-mesh setup {} --project", agent.id);
    let mut checks: Vec<Check> = check_server(environment, agent, is_set_up, &cure).into_iter().collect();
    checks.extend(check_hooks(environment, agent, is_set_up, &cure));
    let own = environment.scope(agent).own_file.map(|own| environment.path(agent, own.path));
    let text = own.as_deref().and_then(|path| safe_write::read(path).ok().flatten());
    if let (Some(path), Some(text)) = (own, text.filter(|text| text.contains(MARK)))
        && let Some(program) = generated_file_texts::plugin_program(&text)
    {
        let about = format!("{} own file", agent.id);
        checks.push(check_program(&about, &environment.shown(&path), &program, &cure));
    }
    if is_set_up {
        checks.extend(check_own_files(&format!("{} commands", agent.id), &environment.command_files(agent), &cure));
    }
    checks
}

fn check_server(environment: &Environment, agent: &Agent, is_set_up: bool, cure: &str) -> Option<Check> {
    let server = environment.scope(agent).server.filter(|server| server.entry != EntryShape::YamlLine)?;
    let about = format!("{} server", agent.id);
    let shown = environment.shown(&environment.server_path(agent, &server));
    // A project's file that can't be read is a fault only if `setup` has added something to the file.
    if !is_set_up && environment.registered_server(agent, &server).is_err() {
        return None;
    }
    match find_registered(environment, agent, &server, cure) {
        Err(fault) => Some(fault),
        Ok(Some(found)) => Some(check_program(&about, &shown, &found.program, cure)),
        Ok(None) => is_set_up.then(|| Check::error(&about, format!("{NAME} is not registered in {shown}"), cure)),
    }
}

fn check_hooks(environment: &Environment, agent: &'static Agent, is_set_up: bool, cure: &str) -> Option<Check> {
    let hooks = environment.scope(agent).hooks?;
    let about = format!("{} hooks", agent.id);
    let path = environment.path(agent, hooks.path);
    let shown = environment.shown(&path);
    let whole = read_hooks(&path, &hooks).unwrap_or_default();
    let file = EditedFile { path, server: None, hooks: Some(hooks) };
    let found = environment.entries(agent, "", &file).hooks_in(&whole, &hooks);
    if found.is_empty() && !is_set_up {
        return None;
    }
    let has_hook = |event: &str| found.iter().any(|(known, _)| *known == event);
    let missing: Vec<&str> = hooks.events.iter().map(|(event, _)| *event).filter(|event| !has_hook(event)).collect();
    if !missing.is_empty() {
        return Some(Check::error(&about, format!("{shown} has no slm-mesh hook for {}", missing.join(", ")), cure));
    }
    let programs: Vec<String> = found.iter().filter_map(|(_, hook)| hook_program(hook)).collect();
    let wrong = programs.iter().find(|program| !exists(program));
    Some(check_program(&about, &shown, wrong.or(programs.first())?, cure))
}

fn exists(program: &str) -> bool {
    if program.contains('/') { is_program(Path::new(program)) } else { find_on_path(program).is_some() }
}

fn check_program(about: &str, shown: &str, program: &str, cure: &str) -> Check {
    if exists(program) {
        let found = format!(
            "{shown} names {program}; doctor did not run this program, because setup did not write the file's \
             present content"
        );
        return Check::well(about, found);
    }
    Check::error(about, format!("{shown} names {program}, which is not an executable file"), cure)
}
