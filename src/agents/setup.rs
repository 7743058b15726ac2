//! `slm-mesh setup`: registers the MCP server with the agents, adds our hooks and commands, and can remove all of them
//! again.
//!
//! **Invariant:** a file that can't be changed safely stays unchanged, and the user gets a text to paste. A file is
//! written only if its text changes, and a dry run writes nothing. `setup` keeps the user's changes in a file, even if
//! the file comes from an earlier `setup`.

use super::edit_own_config_entries::Entries;
use super::generated_file_texts;
use super::register_via_agent_command::{by_agent, register};
use super::setup_environment::{EditedFile, Environment};
use super::setup_records::{FileRecord, Records};
use super::setup_removal::take_out;
use super::{json_edit, marketplace_plugin_files, safe_write};
use crate::known_agents::Agent;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// How many attempts `setup` makes if another program keeps changing the file.
pub(super) const ATTEMPTS: usize = 5;

/// The result of `setup` for one file or registration.
#[derive(Debug, Clone, Default)]
pub struct SetupStep {
    /// What the step sets up, such as the server, hooks or commands.
    pub what: &'static str,
    /// The file that was changed, or the command that was run.
    pub place: String,
    /// What was done.
    pub done: &'static str,
    /// The reason for the result, if the result needs an explanation.
    pub why: String,
    /// The text to paste, or the command to run, if the user must act.
    pub paste: String,
    /// In a dry run, the lines that would change.
    pub change: String,
}

/// The result of a step that found nothing to change.
pub const SAME: &str = "as it was";
/// The result of a step that `setup` could not carry out, so the user must do it.
pub const LEFT: &str = "left alone";
/// The result of a step that keeps an entry or a file because another agent uses it, or because the user has changed
/// it.
pub(super) const KEPT: &str = "kept";
/// The reason why `setup` keeps a file that an earlier run wrote: the user has changed the file.
pub(super) const EDITED: &str = "you have changed this file since setup wrote it";
/// Why `setup` can't update a file that the user has edited, and what the user can do.
const TWO_TEXTS: &str = "this version of slm-mesh would write a different text; move your file away, run setup again, \
                         and make your changes in the new file";

impl SetupStep {
    pub(super) fn new(what: &'static str, place: String, done: &'static str) -> SetupStep {
        SetupStep { what, place, done, ..SetupStep::default() }
    }

    pub(super) fn left(what: &'static str, place: String, why: String, paste: String) -> SetupStep {
        SetupStep { what, place, done: LEFT, why, paste, change: String::new() }
    }

    pub(super) fn because(mut self, why: &str) -> SetupStep {
        why.clone_into(&mut self.why);
        self
    }

    /// Returns true if the step changed something, or if the user must make the change.
    pub fn is_change(&self) -> bool {
        ![SAME, KEPT].contains(&self.done)
    }

    /// Whether the user must do something.
    pub fn is_open(&self) -> bool {
        self.done == LEFT
    }

    /// The step as JSON, for programs.
    pub fn to_value(&self) -> Value {
        let mut value = json!({ "what": self.what, "place": self.place, "done": self.done });
        for (name, text) in [("why", &self.why), ("paste", &self.paste), ("change", &self.change)] {
            if !text.is_empty() {
                value[name] = json!(text);
            }
        }
        value
    }
}

/// Registers our server, hooks and commands with an agent.
pub fn set_up(environment: &Environment, agent: &'static Agent) -> Vec<SetupStep> {
    if let Some(place) = marketplace_plugin_files::installed(environment, agent) {
        let why = "the plugin already provides the server, hooks and skills; if setup also added them, everything \
                   would happen twice";
        let mut steps = vec![SetupStep::new("plugin", place, SAME).because(why)];
        steps.extend(take_out(environment, agent).into_iter().filter(|step| step.done != SAME));
        return steps;
    }
    let scope = environment.scope(agent);
    let own_file = environment.own_file(agent);
    let mut steps = Vec::new();
    if let Some(own) = scope.own_file {
        let text = generated_file_texts::own_file_text(&own, agent, &environment.program);
        steps.push(write_own_file(environment, agent, "own file", Path::new(&own_file), &text));
    }
    if let Some((server, command)) = scope.server.and_then(by_agent) {
        steps.push(register(environment, agent, &server, &command));
    }
    for file in environment.edited_files(agent) {
        steps.push(edit_file(environment, &file, &environment.entries(agent, &own_file, &file)));
    }
    let commands = environment.command_files(agent);
    let write = |(path, text): &(PathBuf, String)| write_own_file(environment, agent, "commands", path, text);
    steps.extend(merged(commands.iter().map(write).collect()));
    steps
}

/// Describes which kinds of entries slm-mesh has in a file.
pub(super) fn contents(entries: &Entries) -> &'static str {
    match (entries.server.is_some(), entries.hooks.is_some()) {
        (true, true) => "server, hooks",
        (true, false) => "server",
        _ => "hooks",
    }
}

/// Adds our entries to a file.
fn edit_file(environment: &Environment, file: &EditedFile, entries: &Entries) -> SetupStep {
    let what = contents(entries);
    let place = environment.shown(&file.path);
    for _ in 0..ATTEMPTS {
        match edit_file_once(environment, file, entries) {
            Ok(Some(step)) => return step,
            Ok(None) => {}
            Err(why) => {
                let text = safe_write::read(&file.path).ok().flatten().unwrap_or_default();
                return SetupStep::left(what, place, why, entries.to_paste(&text));
            }
        }
    }
    SetupStep::left(what, place, "another program keeps changing it".into(), entries.alone())
}

/// Makes one attempt to add our entries to a file. Returns `None` if another program changed the file during the
/// attempt.
fn edit_file_once(
    environment: &Environment,
    file: &EditedFile,
    entries: &Entries,
) -> Result<Option<SetupStep>, String> {
    let path = &file.path;
    let step = |done| SetupStep::new(contents(entries), environment.shown(path), done);
    let mut records = load_records(environment)?;
    let old = safe_write::read(path)?;
    let new = entries.put_into(old.as_deref().unwrap_or(""))?;
    let is_same = old.as_deref() == Some(&new);
    if !is_same {
        safe_write::may_write(path)?;
    }
    if environment.is_dry_run && !is_same {
        let change = changed_lines(old.as_deref().unwrap_or(""), &new);
        return Ok(Some(SetupStep { change, ..step("would write") }));
    }
    if !environment.is_dry_run {
        let record = new_record(environment, records.get(path), entries, old.as_ref(), &new);
        if old.is_none() || records.get(path).as_ref() != Some(&record) {
            records.set(path, &record)?;
        }
    }
    if is_same {
        return Ok(Some(step(SAME)));
    }
    let why = if entries.server.is_some() { entries.agent.files.why_edited } else { "" };
    Ok(safe_write::replace(path, old.as_deref(), &new)?.then(|| step("written").because(why)))
}

/// The record to keep for a file that `setup` is about to write.
fn new_record(
    environment: &Environment,
    known: Option<FileRecord>,
    entries: &Entries,
    old: Option<&String>,
    new: &str,
) -> FileRecord {
    let agents = with_agent(known.as_ref(), entries.agent);
    let before = match (&known, old) {
        (Some(known), Some(old)) if known.has_text(old) => known.before.clone(),
        (_, None) => None,
        // If our entries can't be removed, the record contains the whole text.
        (known, Some(old)) => text_without_us(known.as_ref(), entries, old).unwrap_or_else(|_| Some(old.clone())),
    };
    let project = environment.project().map(Path::to_path_buf);
    let earlier = old.filter(|old| *old != new && before.as_ref() != Some(*old)).cloned();
    FileRecord { before, after: new.to_owned(), earlier, agents, project, is_own: false }
}

/// The agents in a file's record, including `agent`, which is added if it is missing.
fn with_agent(known: Option<&FileRecord>, agent: &Agent) -> Vec<String> {
    let mut agents = known.map(|record| record.agents.clone()).unwrap_or_default();
    if !agents.iter().any(|id| id == agent.id) {
        agents.push(agent.id.to_owned());
    }
    agents
}

/// Returns the text without our entries. If our server entry has replaced an entry with the same name, that entry is
/// put back, because it may contain what the user wrote, such as a secret. Returns `None` if `setup` created the file
/// and the remaining text contains nothing that anybody else wrote.
///
/// # Errors
/// If our entries can't be removed safely; the error says why.
pub(super) fn text_without_us(
    known: Option<&FileRecord>,
    entries: &Entries,
    text: &str,
) -> Result<Option<String>, String> {
    let shape = known.and_then(shape_of);
    let mut bare = entries.remove_from(text, shape.as_ref())?;
    if let Some(before) = known.and_then(|record| record.before.as_ref()).filter(|_| bare != text) {
        bare = entries.put_back(&bare, before)?;
    }
    let was_new = known.map_or_else(|| entries.is_new_file(text), |record| record.before.is_none());
    Ok((bare == text || !was_new || !entries.is_frame(&bare)).then_some(bare))
}

/// The JSON value of the file's text before set-up. If that text is empty or invalid, the value is null, which callers
/// treat like an empty object.
fn shape_of(record: &FileRecord) -> Option<Value> {
    record.before.as_ref().map(|text| json_edit::parse(text).unwrap_or_default())
}

/// Loads the records. Also locks the records, unless this is a dry run, which changes nothing.
pub(super) fn load_records(environment: &Environment) -> Result<Records, String> {
    if environment.is_dry_run { Records::load() } else { Records::load_locked() }
}

/// Writes a file, such as a slash command, whose whole text comes from slm-mesh.
fn write_own_file(environment: &Environment, agent: &Agent, what: &'static str, path: &Path, text: &str) -> SetupStep {
    let place = environment.shown(path);
    match write_own_file_once(environment, agent, path, text) {
        Ok(KEPT) => SetupStep::new(what, place, KEPT).because(EDITED),
        Ok(done) => SetupStep::new(what, place, done),
        Err(why) => SetupStep::left(what, place, why, String::new()),
    }
}

fn write_own_file_once(
    environment: &Environment,
    agent: &Agent,
    path: &Path,
    text: &str,
) -> Result<&'static str, String> {
    let mut records = load_records(environment)?;
    let old = safe_write::read(path)?;
    if old.as_ref().is_some_and(|old| old != text && !old.contains(generated_file_texts::MARK)) {
        return Err("a file with this name already exists, and it is not one that setup has created".to_owned());
    }
    let known = records.get(path);
    let is_same = old.as_deref() == Some(text);
    if let (Some(known), Some(old), false) = (&known, &old, is_same)
        && !known.has_text(old)
    {
        return if known.after == text { Ok(KEPT) } else { Err(format!("{EDITED}, and {TWO_TEXTS}")) };
    }
    if !is_same {
        safe_write::may_write(path)?;
    }
    if environment.is_dry_run {
        return Ok(if is_same { SAME } else { "would write" });
    }
    let agents = with_agent(known.as_ref(), agent);
    let project = environment.project().map(Path::to_path_buf);
    let earlier = old.clone().filter(|_| !is_same);
    let record = FileRecord { before: None, after: text.to_owned(), earlier, agents, project, is_own: true };
    if old.is_none() || known.as_ref() != Some(&record) {
        records.set(path, &record)?;
    }
    if is_same {
        return Ok(SAME);
    }
    let is_written = safe_write::replace(path, old.as_deref(), text)?;
    is_written.then_some("written").ok_or_else(|| "another program changed this file; run setup again".to_owned())
}

/// Combines all steps that have the same result.
pub(super) fn merged(steps: Vec<SetupStep>) -> Vec<SetupStep> {
    let mut found: Vec<SetupStep> = Vec::new();
    for step in steps {
        match found.iter_mut().find(|known| (known.done, &known.why) == (step.done, &step.why)) {
            Some(known) => known.place = format!("{}, {}", known.place, step.place),
            None => found.push(step),
        }
    }
    found
}

/// The lines that differ: everything between the common beginning and the common end of the two texts.
pub(super) fn changed_lines(old: &str, new: &str) -> String {
    let (old, new): (Vec<&str>, Vec<&str>) = (old.lines().collect(), new.lines().collect());
    let head = old.iter().zip(&new).take_while(|(a, b)| a == b).count();
    let tail = old[head..].iter().rev().zip(new[head..].iter().rev()).take_while(|(a, b)| a == b).count();
    let removed = old[head..old.len() - tail].iter().map(|line| format!("- {line}"));
    let added = new[head..new.len() - tail].iter().map(|line| format!("+ {line}"));
    removed.chain(added).collect::<Vec<_>>().join("\n")
}
