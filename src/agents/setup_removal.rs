//! `slm-mesh setup --remove`: removes the entries and files that `setup` wrote. The records show where they are.
//!
//! **Invariant:** a file that has not been changed since set-up is restored byte for byte. If a file has been changed,
//! only our entries are removed from it. If `setup` wrote the whole file and it has been changed since, the file stays.

use super::edit_own_config_entries::Entries;
use super::generated_file_texts;
use super::json_edit;
use super::register_via_agent_command::{by_agent, unregister};
use super::safe_write;
use super::setup::{
    ATTEMPTS, EDITED, KEPT, SAME, SetupStep, changed_lines, contents, load_records, merged, text_without_us,
};
use super::setup_environment::{EditedFile, Environment};
use super::setup_records::{FileRecord, Records, real_path};
use crate::known_agents::Agent;
use std::path::{Path, PathBuf};

/// Why `setup` can't remove a hook of the user, and what the user can do.
const USERS_CALL: &str = "a hook in this file runs slm-mesh together with a command of yours; to end this, edit the \
                          hook and delete the words that run slm-mesh";

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
        if !files.iter().any(|file| real_path(&file.path) == real_path(&path)) {
            files.push(environment.recorded_file(agent, &path));
        }
    }
    for file in files {
        steps.push(restore_file(environment, &file, &environment.entries(agent, &own_file, &file)));
    }
    let own = scope.own_file.map(|own| environment.path(agent, own.path));
    let commands = environment.command_files(agent).into_iter().map(|(path, _)| path);
    let mut own: Vec<PathBuf> = own.into_iter().chain(commands).collect();
    let known: Vec<PathBuf> = own.iter().map(|path| real_path(path)).collect();
    own.extend(own_records.into_iter().map(|(path, _)| path).filter(|path| !known.contains(&real_path(path))));
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
    if known.as_ref().is_some_and(|known| is_of_other_scope(environment, known)) {
        return Ok(Some(step(SAME)));
    }
    if let Some(known) = known.as_ref().filter(|known| known.agents.iter().any(|id| id != entries.agent.id)) {
        return keep_for_others(environment, &mut records, file, entries, known, &text);
    }
    let left = match &known {
        Some(known) if known.has_text(&text) => known.before.clone(),
        known => text_without_us(known.as_ref(), entries, &text)?,
    };
    let step = |done| match &left {
        Some(left) if entries.has_users_call(left) => step(done).because(USERS_CALL),
        _ => step(done),
    };
    if left.as_ref() == Some(&text) {
        forget(environment, &mut records, path)?;
        return Ok(Some(step(SAME)));
    }
    safe_write::may_write(path)?;
    if environment.is_dry_run {
        let done = if left.is_none() { "would delete" } else { "would write" };
        let change = changed_lines(&text, left.as_deref().unwrap_or_default());
        return Ok(Some(SetupStep { change, ..step(done) }));
    }
    let done = match &left {
        None if safe_write::read(path)?.as_ref() == Some(&text) => {
            remove_file(path, known.is_some(), &top_folder(environment, entries.agent))?;
            "deleted"
        }
        None => return Ok(None),
        Some(left) if safe_write::replace(path, Some(&text), left)? => "taken out",
        Some(_) => return Ok(None),
    };
    records.forget(path)?;
    Ok(Some(step(done)))
}

/// Whether `setup` now removes the settings of one scope, but last wrote the file for another scope. The scope is the
/// user or a project. If the project is the home directory, one file may contain the user's settings and the project's
/// settings.
fn is_of_other_scope(environment: &Environment, known: &FileRecord) -> bool {
    known.project.as_deref() != environment.project()
}

/// Keeps the server entry in a file, because other agents read the same file and use the entry. Removes the hooks,
/// which belong to one agent. Returns `None` if another program changed the file during the attempt.
fn keep_for_others(
    environment: &Environment,
    records: &mut Records,
    file: &EditedFile,
    entries: &Entries,
    known: &FileRecord,
    text: &str,
) -> Result<Option<SetupStep>, String> {
    let others: Vec<String> = known.agents.iter().filter(|id| *id != entries.agent.id).cloned().collect();
    let why = format!("{} also uses this file", others.join(", "));
    let step = |done| SetupStep::new(contents(entries), environment.shown(&file.path), done).because(&why);
    let shape = known.before.as_ref().map(|before| json_edit::parse(before).unwrap_or_default());
    let left = if entries.hooks.is_some() {
        Entries { server: None, ..*entries }.remove_from(text, shape.as_ref())?
    } else {
        text.to_owned()
    };
    if left != text {
        safe_write::may_write(&file.path)?;
    }
    if environment.is_dry_run {
        let done = if left == text { KEPT } else { "would write" };
        return Ok(Some(SetupStep { change: changed_lines(text, &left), ..step(done) }));
    }
    // The record contains the text that `setup` wrote. If the user has changed the file, the new text contains these
    // changes, so it does not go into the record.
    let is_unchanged = known.has_text(text) && left != text;
    let (after, earlier) =
        if is_unchanged { (left.clone(), Some(text.to_owned())) } else { (known.after.clone(), known.earlier.clone()) };
    if others.len() < known.agents.len() || is_unchanged {
        records.set(&file.path, &FileRecord { agents: others, after, earlier, ..known.clone() })?;
    }
    if left == text {
        return Ok(Some(step(KEPT)));
    }
    Ok(safe_write::replace(&file.path, Some(text), &left)?.then(|| step("taken out")))
}

fn forget(environment: &Environment, records: &mut Records, path: &Path) -> Result<(), String> {
    if environment.is_dry_run { Ok(()) } else { records.forget(path) }
}

/// Removes a file. If `setup` has recorded the file, it has also recorded the folders that it created.
/// `remove_created_folders` removes these folders later. Without a record, as in a project that was moved, all folders
/// below `root` that become empty are removed.
fn remove_file(path: &Path, is_recorded: bool, root: &Path) -> Result<(), String> {
    safe_write::remove(path)?;
    let above = path.ancestors().skip(1).take_while(|folder| folder.starts_with(root) && *folder != root);
    for folder in above.filter(|_| !is_recorded) {
        // A folder that is not empty stays, so its parent folders stay too.
        if std::fs::remove_dir(folder).is_err() {
            break;
        }
    }
    Ok(())
}

/// Returns the folder at which the removal of empty folders stops. The returned folder itself is removed only by
/// `remove_created_folders`, if `setup` created the folder and it is empty.
fn top_folder(environment: &Environment, agent: &Agent) -> PathBuf {
    if environment.is_project { environment.directory.clone() } else { environment.settings_directory(agent) }
}

fn remove_own_file(environment: &Environment, root: &Path, path: &Path) -> SetupStep {
    let place = environment.shown(path);
    let removed = (|| {
        let mut records = load_records(environment)?;
        if records.get(path).is_some_and(|known| is_of_other_scope(environment, &known)) {
            return Ok(SAME);
        }
        let text = safe_write::read(path).ok().flatten().filter(|text| text.contains(generated_file_texts::MARK));
        let is_ours = text.is_some();
        if text.zip(records.get(path)).is_some_and(|(text, known)| !known.has_text(&text)) {
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
            remove_file(path, records.get(path).is_some(), root)?;
        }
        forget(environment, &mut records, path)?;
        Ok(if is_ours { "deleted" } else { SAME })
    })();
    match removed {
        Ok(done) => SetupStep::new("commands", place, done),
        Err(why) => SetupStep::left("commands", place, why, String::new()),
    }
}
