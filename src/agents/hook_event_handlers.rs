//! Handles the events that hooks report. Each handler calls the broker. The hook's output then contains the broker's
//! answer, and names the held files that have changed on this machine.

use super::export_session_id;
use super::files_git_would_replace;
use super::held_files::command_overwrite_report::{ChangeReport, own_news_text};
use super::held_files::{CommandNote, HeldFiles, LockedPath, OwnMoment, ToolRun, hashed};
use super::hook_input::{HookEvent, HookInput};
use super::hook_text::{self, MailText};
use super::restart_shell_in_write_sandbox::{BASH_ENV, SessionShield};
use crate::base::error::{Error, ErrorKind};
use crate::base::limits;
use crate::client::Client;
use crate::known_agents::hook_dialect::{Dialect, FILES_CHANGED, MAIL_CAME, ShellLines};
use crate::sys::read_git_files::{self, KnownTree};
use serde_json::{Value, json};
use std::path::Path;

/// How long an alert about a waiting agent is kept, in minutes. An older alert would no longer help the user.
const WAIT_ALERT_MINUTES: i64 = 60;

/// The output of a hook, and the mail that is marked as read after the output has been printed.
pub(super) struct HookReply {
    pub text: String,
    pub shown: Value,
}

/// The context of a hook: the event, and the records of held files on this machine.
pub(super) struct HookWork<'a> {
    pub dialect: &'a Dialect,
    /// The shield of the session, if the user wants one.
    pub shield: Option<SessionShield>,
    pub hook: HookInput,
    /// The input as the agent wrote it, without the values that were too long to keep.
    pub input: &'a Value,
    pub run: ToolRun,
    pub held: HeldFiles,
    /// The variables that the session's shell commands need for a shield.
    pub shell_variables: Vec<(&'static str, String)>,
    /// The note that was written before the tool ran.
    pub note: Option<CommandNote>,
    /// The reports on held files that changed while commands of this session ran.
    pub reports: Vec<ChangeReport>,
}

impl HookWork<'_> {
    /// When the session starts, sets up its shell so that the shell checks, before each command, whether the command
    /// needs a shield. Returns the environment variables that the shell needs for this check. When the session ends,
    /// turns the shield off.
    pub fn prepare_shell(&self) -> Vec<(&'static str, String)> {
        let Some(shield) = &self.shield else { return Vec::new() };
        let own_path = crate::sys::own_path();
        match (&self.hook.event, self.dialect.shell_lines, own_path.to_str()) {
            (HookEvent::Start, Some(ShellLines::File(name)), Some(program)) => {
                if let Some(file) = std::env::var_os(name) {
                    shield.add_line(Path::new(&file), program);
                }
            }
            (HookEvent::Start, Some(ShellLines::BashEnv | ShellLines::BashEnvInUsersShell), Some(program)) => {
                return shield.write_bash_env(program).map(|file| (BASH_ENV, file)).into_iter().collect();
            }
            (HookEvent::End, ..) => shield.lower(),
            _ => {}
        }
        Vec::new()
    }

    /// A key that identifies the event. Two hooks that report the same event get the same input, so they have the same
    /// key. The broker answers only one of the two hooks.
    fn event_key(&self) -> Value {
        json!(hashed(&self.input.to_string()))
    }

    /// Whether the agent ignores what its hook prints for this event.
    fn is_unheard(&self) -> bool {
        self.dialect.unheard.contains(&self.hook.call.kind)
    }

    /// Checks whether locked files of other peers have changed since a command began.
    pub fn compare_held_files(&mut self) {
        match &self.hook.event {
            HookEvent::AfterTool => {
                let (note, changed) = self.held.after_tool(&self.run);
                self.reports.extend(ChangeReport::new(note.as_ref(), changed));
                self.note = note;
            }
            HookEvent::Prompt => self.compare_leftovers(),
            // A command in the background can still write files. While such a command runs, the files are not compared.
            HookEvent::Stop { running, .. } if running.is_empty() => self.compare_leftovers(),
            HookEvent::End => self.compare_leftovers(),
            _ => {}
        }
    }

    fn compare_leftovers(&mut self) {
        let changes = self.held.after_turn(&self.hook.session);
        self.reports.extend(changes.into_iter().filter_map(|(note, files)| ChangeReport::new(Some(&note), files)));
        self.held.remove_old();
    }

    /// Notifies the holders of files that commands of this session may have changed.
    fn send_reports(&self, client: &mut Client, facts: &Value) {
        for report in &self.reports {
            report.send(&self.held, facts, &mut |params| client.call("hook.changed", params));
        }
    }

    /// If there are reports, replaces the broker's error with an answer that shows only the reports. No later hook
    /// could make the reports again, because the notes on which they are based are gone.
    pub fn or_reports<E>(&self, answer: Result<Option<HookReply>, E>) -> Result<Option<HookReply>, E> {
        if answer.is_ok() || self.reports.is_empty() {
            return answer;
        }
        match &self.hook.event {
            HookEvent::Stop { can_go_on: true, .. } => Ok(answer_stop(self, &Value::Null)),
            // The agent reads no text at these events.
            HookEvent::Stop { .. } | HookEvent::End => answer,
            _ => Ok(self.show(&Value::Null, MailText::default())),
        }
    }

    /// Makes an answer that shows the model its mail, the reports, and changes to the session's own files. Returns
    /// `None` if there is nothing to show.
    fn show(&self, value: &Value, mail: MailText) -> Option<HookReply> {
        self.show_with(value, mail, None)
    }

    /// Like [`HookWork::show`], with an extra field for the agent's program. The model does not see this field.
    fn show_with(&self, value: &Value, mail: MailText, field: Option<(&str, Value)>) -> Option<HookReply> {
        let locks = LockedPath::list(&value["own"]);
        let edit = CommandNote { named: self.run.named.clone(), ..CommandNote::default() };
        let moment = match &self.note {
            Some(note) => OwnMoment::AfterWrite(note),
            None if self.run.writes => OwnMoment::AfterWrite(&edit),
            None => OwnMoment::Between,
        };
        let me = value["you"]["id"].as_str().unwrap_or_default();
        let news = self.held.own_news(me, &locks, &moment, &self.hook.session);
        let reports = self.reports.iter().map(ChangeReport::text);
        let parts: Vec<String> = reports.chain([own_news_text(&news), mail.text]).collect();
        let parts: Vec<&str> = parts.iter().map(String::as_str).filter(|part| !part.is_empty()).collect();
        if parts.is_empty() && field.is_none() {
            return None;
        }
        let mut answer =
            if parts.is_empty() { json!({}) } else { (self.dialect.show)(&self.hook.call, &parts.join("\n\n")) };
        if let Some((name, value)) = field {
            answer[name] = value;
        }
        Some(HookReply { text: answer.to_string(), shown: read_mail(value, &mail.shown) })
    }
}

/// Calls the broker to handle an event of a hook. Returns the hook's output in the format of the agent.
pub(super) fn ask_broker(
    work: &HookWork<'_>,
    client: &mut Client,
    mut facts: Value,
) -> Result<Option<HookReply>, Error> {
    let hook = &work.hook;
    match &hook.event {
        HookEvent::Edit(_) | HookEvent::Command(_) => ask_to_write(work, client, facts),
        HookEvent::MeshCall(call) => {
            (facts["operation"], facts["arguments"]) = (json!(call.operation), call.arguments.clone());
            client.call("hook.announce", &facts).map(|_| None)
        }
        HookEvent::End => {
            work.send_reports(client, &facts);
            facts["leave"] = json!(true);
            client.call("hook.turn_end", &facts).map(|_| None)
        }
        HookEvent::Waits(why) => {
            facts["event"] = work.event_key();
            alert_user(client, facts, why).map(|()| None)
        }
        // Without the subagent's id, a call of `hook.turn_end` would end the whole turn, so no call is made. The
        // subagent's locks are kept until the turn ends.
        HookEvent::SubagentStop if hook.subagent.is_none() => Ok(None),
        HookEvent::SubagentStop => {
            facts["subagent"] = json!(hook.subagent);
            client.call("hook.turn_end", &facts).map(|_| None)
        }
        HookEvent::Stop { can_go_on, running } => {
            work.send_reports(client, &facts);
            facts["running"] = json!(running);
            let answer = end_turn(work, client, facts, *can_go_on);
            work.or_reports(answer)
        }
        HookEvent::Start | HookEvent::AfterTool if work.is_unheard() => {
            work.send_reports(client, &facts);
            facts["peek"] = json!(true);
            client.call("hook.mail", &facts).map(|_| None)
        }
        HookEvent::Start => {
            facts["withNeighbours"] = json!(true);
            facts["event"] = work.event_key();
            let value = client.call("hook.mail", &facts)?;
            let id = value["you"]["id"].as_str().unwrap_or_default();
            let fields =
                export_session_id::hand_out(work.dialect.shell_environment, work.input, id, &work.shell_variables);
            Ok(work.show_with(&value, hook_text::beginning(&value), fields))
        }
        HookEvent::Prompt | HookEvent::AfterTool => {
            facts["withOwnLocks"] = json!(true);
            let answer = client.call("hook.mail", &facts);
            facts["withOwnLocks"] = Value::Null;
            facts["userPrompted"] = Value::Null;
            work.send_reports(client, &facts);
            work.or_reports(answer.map(|value| work.show(&value, hook_text::mail(&value))))
        }
    }
}

/// Sends an alert to `human`, the person who uses this machine. The alert says that an agent is waiting for its user.
fn alert_user(client: &mut Client, mut facts: Value, why: &str) -> Result<(), Error> {
    facts["peek"] = json!(true);
    let answer = client.call("hook.mail", &facts)?;
    if answer["repeated"] == json!(true) {
        return Ok(());
    }
    let you = &answer["you"]["id"];
    let text = if why.is_empty() { "waits for you".to_owned() } else { format!("waits for you: {why}") };
    let alert =
        json!({ "as": you, "to": "human", "type": "alert", "message": text, "expiresMinutes": WAIT_ALERT_MINUTES });
    client.call("send", &alert).map(|_| ())
}

/// Locks the files that a tool is about to write, or denies the tool call. If the tool runs a command, also records the
/// state of the files that other peers hold, and turns the shield on if there are any such files.
fn ask_to_write(work: &HookWork<'_>, client: &mut Client, mut facts: Value) -> Result<Option<HookReply>, Error> {
    facts["subagent"] = json!(work.hook.subagent);
    facts["withLocks"] = json!(true);
    let mut files = work.run.named.clone();
    if !work.run.maybe_written.is_empty() {
        name_files(&mut facts, &[]);
        let answer = client.call("hook.edit", &facts)?;
        let held = work.held.protected_paths(&others_locks(client, &answer, &facts)?);
        // Other peers hold these files, so the broker denies the call, unless the peers have just released their locks.
        // The call requests all its locks together, so that a denied command locks nothing.
        files.extend(files_git_would_replace::replaced(&work.run.maybe_written, &held));
    }
    match lock_files(&files, client, &mut facts) {
        Err(error) if error.kind == ErrorKind::Held => {
            let text = (work.dialect.deny)(&work.hook.call, &hook_text::denial(&error)).to_string();
            Ok(Some(HookReply { text, shown: Value::Null }))
        }
        Err(error) => Err(error),
        Ok(answer) => {
            work.held.before_tool(&answer, &work.run);
            if let (Some(shield), Some(_)) = (&work.shield, &work.run.command) {
                let has_others = answer["others"].as_array().is_some_and(|others| !others.is_empty());
                let peer = answer["you"]["id"].as_str().filter(|_| has_others);
                peer.map_or_else(|| shield.lower(), |peer| shield.raise(peer));
            }
            Ok(None)
        }
    }
}

/// Returns the locks of other peers in the work tree, from the answer to `hook.edit`. This answer lists at most
/// `WATCHED_FILES_MAX` locks, because hooks watch only that many. If the answer is full, asks the broker for all locks,
/// because a git command may replace any held file.
fn others_locks(client: &mut Client, answer: &Value, facts: &Value) -> Result<Vec<LockedPath>, Error> {
    let watched = LockedPath::list(&answer["others"]);
    if watched.len() < limits::WATCHED_FILES_MAX {
        return Ok(watched);
    }
    let mut params = json!({
        "as": answer["you"]["id"], "project": facts["project"], "repo": facts["repo"], "gitRoot": facts["gitRoot"],
        "keyedCalls": facts["keyedCalls"],
    });
    let mut all = Vec::new();
    loop {
        let page = client.call("lock.others", &params)?;
        all.extend(LockedPath::list(&page["locks"]));
        if !page["next"].is_string() {
            return Ok(all);
        }
        params["after"] = page["next"].clone();
    }
}

/// Locks files. One call to the broker locks as many files as the broker accepts. If several calls are necessary, all
/// files are checked before the first file is locked.
fn lock_files(files: &[String], client: &mut Client, facts: &mut Value) -> Result<Value, Error> {
    // A text that is longer than `PATH_MAX` can't be the path of a file, so it is left out.
    let files: Vec<String> = files.iter().filter(|path| path.len() <= limits::PATH_MAX).cloned().collect();
    let parts: Vec<&[String]> =
        if files.is_empty() { vec![&[]] } else { files.chunks(limits::EDIT_FILES_MAX).collect() };
    let passes: &[bool] = if parts.len() > 1 { &[true, false] } else { &[false] };
    let mut answer = Value::Null;
    for only_checks in passes {
        facts["checkOnly"] = json!(only_checks);
        for part in &parts {
            name_files(facts, part);
            answer = client.call("hook.edit", facts)?;
        }
    }
    Ok(answer)
}

/// Adds to `facts` the files of a call and the work trees that contain these files. The work trees are added because
/// the session itself may work in a different work tree.
fn name_files(facts: &mut Value, files: &[String]) {
    let known = KnownTree::of(&facts["gitRoot"], &facts["repo"]);
    let (roots, repos) = read_git_files::work_trees(files.iter().map(String::as_str), known);
    (facts["files"], facts["gitRoots"], facts["repos"]) = (json!(files), json!(roots), json!(repos));
}

/// Ends the turn. If the agent can continue, also fetches the direct mail that is waiting.
fn end_turn(
    work: &HookWork<'_>,
    client: &mut Client,
    mut facts: Value,
    can_go_on: bool,
) -> Result<Option<HookReply>, Error> {
    client.call("hook.turn_end", &facts)?;
    if !can_go_on {
        return Ok(None);
    }
    facts["running"] = Value::Null;
    facts["direct"] = json!(true);
    facts["peek"] = json!(work.dialect.reason_is_prompt);
    client.call("hook.mail", &facts).map(|value| answer_stop(work, &value))
}

/// Makes the agent continue if direct mail is waiting, or if a command changed a file that another agent has locked.
fn answer_stop(work: &HookWork<'_>, value: &Value) -> Option<HookReply> {
    let dialect = work.dialect;
    let mail = hook_text::mail(value);
    if dialect.reason_is_prompt {
        let has_changed = work.reports.iter().any(ChangeReport::blames_session);
        let reasons = [(has_changed, FILES_CHANGED), (!mail.text.is_empty(), MAIL_CAME)];
        let reasons: Vec<&str> = reasons.iter().filter(|(holds, _)| *holds).map(|(_, reason)| *reason).collect();
        let text = || (dialect.go_on)(&reasons.join(" ")).to_string();
        return (!reasons.is_empty()).then(|| HookReply { text: text(), shown: Value::Null });
    }
    let reports = work.reports.iter().map(ChangeReport::text);
    let parts: Vec<String> = reports.chain([mail.text]).filter(|part| !part.is_empty()).collect();
    let text = || (dialect.go_on)(&parts.join("\n\n")).to_string();
    (!parts.is_empty()).then(|| HookReply { text: text(), shown: read_mail(value, &mail.shown) })
}

/// The arguments of `inbox.mark_read` for the mail that an answer shows.
fn read_mail(value: &Value, shown: &[String]) -> Value {
    json!({ "as": value["you"]["id"], "items": shown })
}
