//! `slm-mesh setup --remove`: removes the entries and files that `setup` wrote. The records show where they are.
//!
//! **Invariant:** a file that has not been changed since set-up is restored byte for byte. If a file has been changed,
//! only our entries are removed from it. A file that `setup` wrote as a whole stays if it has been changed.

use super::config_entries::Entries;
use super::generated_file_texts;
use super::register_via_agent_command::{by_agent, unregister};
use super::safe_write;
use super::setup::{
    ATTEMPTS, EDITED, KEPT, SAME, SetupStep, changed_lines, contents, load_records, merged, text_without_us,
};
use super::setup_environment::{EditedFile, Environment};
use super::setup_records::{FileRecord, Records};
use crate::known_agents::Agent;
use std::path::{Path, PathBuf};

/// Removes every entry of slm-mesh from an agent's files.
pub fn take_out(environment: &Environment, agent: &'static Agent) -> Vec<SetupStep> {
    let scope = environment.scope(agent);
    let own_file = environment.own_file(agent);
    let mut steps = Vec::new();
    if let Some((server, command)) = scope.server.and_then(by_agent) {
        steps.extend(unregister(environment, agent, &server, &command));
    }
    // If the records can't be read, the steps below fail too, and report why.
    let records = Records::load().map(|records| records.files_of(agent.id, environment.project())).unwrap_or_default();
    let (own_records, edited): (Vec<_>, Vec<_>) = records.into_iter().partition(|(_, record)| record.is_own);
    let mut files = environment.edited_files(agent);
    for (path, _) in edited {
        if !files.iter().any(|file| file.path == path) {
            files.push(environment.recorded_file(agent, &path));
        }
    }
    for file in files {
        steps.push(restore_file(environment, &file, &environment.entries(agent, &own_file, &file)));
    }
    let own = scope.own_file.map(|own| environment.path(agent, own.path));
    let commands = environment.command_files(agent).into_iter().map(|(path, _)| path);
    let mut own: Vec<PathBuf> = own.into_iter().chain(commands).collect();
    own.extend(own_records.into_iter().map(|(path, _)| path).filter(|path| !own.contains(path)).collect::<Vec<_>>());
    let root = top_folder(environment, agent);
    steps.extend(merged(own.iter().map(|path| remove_own_file(environment, &root, path)).collect()));
    if !environment.is_dry_run {
        // Errors are ignored, because the settings have been removed even if an empty folder stays.
        let _ = Records::load_locked().and_then(|mut records| records.remove_created_folders());
    }
    steps
}

/// Removes our entries from a file. If the file has not been changed since set-up, restores the text from before
/// set-up.
fn restore_file(environment: &Environment, file: &EditedFile, entries: &Entries) -> SetupStep {
    let what = contents(entries);
    let place = environment.shown(&file.path);
    for _ in 0..ATTEMPTS {
        match restore_file_once(environment, file, entries) {
            Ok(Some(step)) => return step,
            Ok(None) => {}
            Err(why) => {
                let text = safe_write::read(&file.path).ok().flatten().unwrap_or_default();
                let names_us = text.contains(generated_file_texts::NAME);
                return if names_us {
                    SetupStep::left(what, place, why, String::new())
                } else {
                    SetupStep::new(what, place, SAME)
                };
            }
        }
    }
    SetupStep::left(what, place, "another program keeps changing it".into(), String::new())
}

/// Makes one attempt to remove our entries from a file. Returns `None` if another program changed the file during the
/// attempt.
fn restore_file_once(
    environment: &Environment,
    file: &EditedFile,
    entries: &Entries,
) -> Result<Option<SetupStep>, String> {
    let path = &file.path;
    let step = |done| SetupStep::new(contents(entries), environment.shown(path), done);
    let mut records = load_records(environment)?;
    let known = records.get(path);
    let Some(text) = safe_write::read(path)? else {
        forget(environment, &mut records, path)?;
        return Ok(Some(step(SAME)));
    };
    if let Some(known) = known.as_ref().filter(|known| known.agents.iter().any(|id| id != entries.agent.id)) {
        return keep_for_others(environment, &mut records, file, entries, known).map(Some);
    }
    let left = match &known {
        Some(known) if known.after == text => known.before.clone(),
        known => text_without_us(known.as_ref(), entries, &text)?,
    };
    if left.as_ref() == Some(&text) {
        forget(environment, &mut records, path)?;
        return Ok(Some(step(SAME)));
    }
    safe_write::may_write(path)?;
    if environment.is_dry_run {
        let done = if left.is_none() { "would delete" } else { "would write" };
        return Ok(Some(SetupStep { change: changed_lines(&text, &left.unwrap_or_default()), ..step(done) }));
    }
    let done = match left {
        None if safe_write::read(path)?.as_ref() == Some(&text) => {
            safe_write::remove(path, &top_folder(environment, entries.agent))?;
            "deleted"
        }
        None => return Ok(None),
        Some(left) if safe_write::replace(path, Some(&text), &left)? => "taken out",
        Some(_) => return Ok(None),
    };
    records.forget(path)?;
    Ok(Some(step(done)))
}

/// Keeps the entries in a file that other agents read too, and records that this agent no longer uses them.
fn keep_for_others(
    environment: &Environment,
    records: &mut Records,
    file: &EditedFile,
    entries: &Entries,
    known: &FileRecord,
) -> Result<SetupStep, String> {
    let others: Vec<String> = known.agents.iter().filter(|id| *id != entries.agent.id).cloned().collect();
    let why = format!("{} also uses this file", others.join(", "));
    if !environment.is_dry_run && others.len() < known.agents.len() {
        records.set(&file.path, &FileRecord { agents: others, ..known.clone() })?;
    }
    Ok(SetupStep::new(contents(entries), environment.shown(&file.path), KEPT).because(&why))
}

fn forget(environment: &Environment, records: &mut Records, path: &Path) -> Result<(), String> {
    if environment.is_dry_run { Ok(()) } else { records.forget(path) }
}

/// Returns the folder at which the removal of empty folders stops. When a file is removed, the folders above it that
/// become empty are removed too, but only those below the returned folder. The returned folder itself is removed only
/// by `remove_created_folders`, if `setup` created the folder and it is empty.
fn top_folder(environment: &Environment, agent: &Agent) -> PathBuf {
    if environment.is_project { environment.directory.clone() } else { environment.settings_directory(agent) }
}

fn remove_own_file(environment: &Environment, root: &Path, path: &Path) -> SetupStep {
    let place = environment.shown(path);
    let removed = (|| {
        let mut records = load_records(environment)?;
        let text = safe_write::read(path).ok().flatten().filter(|text| text.contains(generated_file_texts::MARK));
        let is_ours = text.is_some();
        if text.zip(records.get(path)).is_some_and(|(text, known)| known.after != text) {
            let mark = generated_file_texts::MARK;
            return Err(format!("{EDITED}; delete the file, or keep it and remove the words \"{mark}\" from it"));
        }
        if is_ours {
            safe_write::may_write(path)?;
        }
        if is_ours && environment.is_dry_run {
            return Ok("would delete");
        }
        if is_ours {
            safe_write::remove(path, root)?;
        }
        forget(environment, &mut records, path)?;
        Ok(if is_ours { "deleted" } else { SAME })
    })();
    match removed {
        Ok(done) => SetupStep::new("commands", place, done),
        Err(why) => SetupStep::left("commands", place, why, String::new()),
    }
}
