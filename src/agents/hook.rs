//! `slm-mesh hook AGENT`: reads the input of one hook and prints one answer, within a time limit.
//!
//! **Invariant:** a mesh that is down, slow or wrong never stops an agent's work. A hook always succeeds, and prints
//! nothing unless it has something useful to say.

use super::edited_paths;
use super::export_session_id;
use super::held_files::change_report::{ChangeReport, own_news_text};
use super::held_files::{CommandNote, HeldFiles, LockedPath, OwnMoment, ToolRun, hashed};
use super::hook_input::{HookEvent, HookInput, understand};
use super::hook_stdin::read_input;
use super::session_shield::{BASH_ENV, SessionShield};
use super::shell_tool_writes;
use super::{hook_text, replaced_by_git};
use crate::base::error::{Error, ErrorKind};
use crate::base::ids::session_key;
use crate::base::{limits, time, untrusted_text};
use crate::client::{Client, remote};
use crate::core::mail::wakeups::is_wakeup_sentence;
use crate::known_agents::hook_dialect::{Dialect, FILES_CHANGED, MAIL_CAME, ShellLines};
use crate::known_agents::{Agent, by_id};
use crate::sys::data_dir::DataDir;
use crate::sys::git;
use crate::sys::path_normalization;
use crate::sys::settings::Settings;
use serde_json::{Value, json};
use std::io::Write;
use std::path::Path;
use std::time::Duration;

/// Maximum size of the log to which hooks append, in bytes. A hook that fails every time must not fill the disk.
const LOG_MAX: u64 = 1 << 20;

/// An agent that has hooks.
#[derive(Debug, Clone, Copy)]
pub struct HookAgent {
    /// The agent.
    pub agent: &'static Agent,
    /// The format of the input and output of the agent's hooks.
    pub dialect: &'static Dialect,
}

/// The agent with this id, if the agent has hooks.
pub fn hook_agent(id: &str) -> Option<HookAgent> {
    let agent = by_id(id)?;
    agent.dialect.as_ref().map(|dialect| HookAgent { agent, dialect })
}

/// Answers one hook. This always succeeds, because an empty output is a valid answer in every dialect. If another agent
/// uses this agent's dialect, `name` names that other agent.
pub fn answer_hook(agent: &str, name: Option<&str>) -> u8 {
    run_guarded(agent, |agent, input| {
        if let Some(answer) = answer_of(agent, name, input)? {
            deliver(answer);
        }
        Ok(0)
    })
}

/// Runs one hook with its input. A failure does not stop the agent.
pub fn run_guarded(agent: &str, run: impl FnOnce(HookAgent, &Value) -> Result<u8, String>) -> u8 {
    let known = hook_agent(agent).ok_or_else(|| format!("slm-mesh knows no agent called {agent} that has hooks"));
    let run = |agent: HookAgent| {
        let input = read_input().inspect_err(|why| warn_user(agent.dialect, why))?;
        run(agent, &input)
    };
    known.and_then(run).unwrap_or_else(|why| {
        // Agents do not show the standard error of a hook that succeeds, so the error also goes into the log.
        let line = format!("slm-mesh hook {}: {why}", agent.chars().take(40).collect::<String>());
        crate::sys::print_error(&line);
        append_to_log(&line);
        0
    })
}

/// Appends a line to the broker's log, if the log exists and is short.
fn append_to_log(line: &str) {
    let Ok(places) = DataDir::find() else { return };
    let is_short = places.log().metadata().is_ok_and(|log| log.len() < LOG_MAX);
    let log = std::fs::OpenOptions::new().append(true).open(places.log());
    if let (true, Ok(mut log)) = (is_short, log) {
        // A failure to write the log must not stop the agent's work.
        let _ = writeln!(log, "{} {}", time::iso(crate::sys::wall_ms()), untrusted_text::line(line));
    }
}

/// Tells the user that a hook could not check anything.
fn warn_user(dialect: &Dialect, why: &str) {
    if let Some(warn) = dialect.warn {
        // If the agent is gone, nobody needs the warning.
        let _ = print(&warn(&format!("slm-mesh: a hook could not check whether a file is locked: {why}")).to_string());
    }
}

/// The output of a hook, and the mail that counts as read once the output is printed.
struct HookReply {
    text: String,
    shown: Value,
}

/// The context of a hook: the event, and the records of held files on this machine.
struct HookWork<'a> {
    dialect: &'a Dialect,
    /// The shield of the session, if the user wants one.
    shield: Option<SessionShield>,
    hook: HookInput,
    /// The input as the agent wrote it, without the values that were too long to keep.
    input: &'a Value,
    run: ToolRun,
    held: HeldFiles,
    /// The variables that the session's shell commands need for a shield.
    shell_variables: Vec<(&'static str, String)>,
    /// The note that was written before the tool ran.
    note: Option<CommandNote>,
    /// Reports on held files that changed while commands of this session ran.
    reports: Vec<ChangeReport>,
}

fn answer_of(
    agent: HookAgent,
    name: Option<&str>,
    input: &Value,
) -> Result<Option<(HookReply, Option<Client>)>, String> {
    let Some(hook) = understand(agent.dialect, input) else { return Ok(None) };
    if matches!(hook.event, HookEvent::MeshCall(_)) && agent.agent.identity.calls_name_session() {
        return Ok(None);
    }
    let places = DataDir::find().map_err(|error| error.text)?;
    let settings = Settings::load(&places).map_err(|error| error.text)?;
    if matches!(hook.event, HookEvent::Waits(_)) && !settings.notifies() {
        // The user wants no notifications, so no alert is sent.
        return Ok(None);
    }
    let mut work = HookWork {
        dialect: agent.dialect,
        shield: settings.shields(agent.agent.id).then(|| SessionShield::new(&places, &hook.session)),
        run: tool_run(&hook, input),
        held: HeldFiles::new(&places),
        hook,
        input,
        shell_variables: Vec::new(),
        note: None,
        reports: Vec::new(),
    };
    work.shell_variables = work.prepare_shell();
    // Comparing files needs no broker, so it comes before the call to the broker, which may be slow or gone.
    work.compare_held_files();
    let mut client = match connect(&places, &work) {
        Ok(Some(client)) => client,
        Ok(None) => return Ok(None),
        Err(_) if !work.reports.is_empty() => return Ok(work.show(&Value::Null, "").map(|reply| (reply, None))),
        Err(why) => return Err(why),
    };
    // If the broker hangs, the agent waits at most this long.
    let budget = Duration::from_millis(settings.int("SLM_MESH_HOOK_BUDGET_MS") as u64);
    client.set_receive_timeout(Some(budget)).map_err(|error| error.to_string())?;
    let mut facts = session_facts(agent.agent, &work.hook);
    if let Some(name) = name {
        let known = by_id(name).map_or((name, name), |agent| (agent.kind, agent.short_name));
        (facts["agent"], facts["shortName"], facts["sharedHooks"]) = (json!(known.0), json!(known.1), json!(false));
    }
    facts["transcript"] = match &work.hook.transcript {
        _ if !settings.reads_transcripts() => json!(""),
        path => json!(path),
    };
    let prompt = ["prompt", "initial_prompt"].iter().find_map(|name| input[*name].as_str());
    if matches!(work.hook.event, HookEvent::Start | HookEvent::Prompt)
        && prompt.is_some_and(|prompt| !is_wakeup_sentence(prompt))
    {
        facts["userPrompted"] = json!(true);
    }
    let begins = matches!(
        work.hook.event,
        HookEvent::Start | HookEvent::Prompt | HookEvent::Edit(_) | HookEvent::Command(_) | HookEvent::MeshCall(_)
    );
    facts["mayBeLate"] = json!(!begins);
    let answer = ask_broker(&work, &mut client, facts).map_err(|error| error.text)?;
    Ok(answer.map(|answer| (answer, Some(client))))
}

/// The tool call that a hook reports, with the files that the call is known to write.
fn tool_run(hook: &HookInput, input: &Value) -> ToolRun {
    let mut run = ToolRun { session: hook.session.clone(), ..ToolRun::default() };
    if !matches!(hook.event, HookEvent::Edit(_) | HookEvent::Command(_) | HookEvent::AfterTool) {
        return run;
    }
    run.key = edited_paths::call_key(input);
    run.writes = edited_paths::writes(input);
    run.named = match &hook.event {
        HookEvent::Command(commands) => {
            let first = commands.first().and_then(|command| command.lines().find(|line| !line.trim().is_empty()));
            run.command = Some(first.unwrap_or_default().chars().take(COMMAND_LINE_MAX).collect());
            let session_directory = path_normalization::absolute_in("", &hook.directory);
            let directory = shell_tool_writes::directory(input)
                .map_or(session_directory.clone(), |given| path_normalization::absolute_in(&session_directory, &given));
            let (named, maybe_written) = shell_tool_writes::writes(commands, &directory);
            run.maybe_written = maybe_written;
            named
        }
        HookEvent::Edit(files) => files.clone(),
        _ => edited_paths::edited_files(input),
    };
    run.named.iter_mut().for_each(|file| *file = path_normalization::absolute_in(&hook.directory, file));
    run
}

/// Reports keep at most this many characters of a command's first line.
const COMMAND_LINE_MAX: usize = 500;

impl HookWork<'_> {
    /// When the session starts, makes its shell check before each command whether the command needs a shield. When the
    /// session ends, turns the shield off. Returns the variables that the shell needs for the check.
    fn prepare_shell(&self) -> Vec<(&'static str, String)> {
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

    /// Identifies the event by the input of its hook. If two hooks report the same event, the broker answers only one
    /// of them.
    fn event_key(&self) -> Value {
        json!(hashed(&self.input.to_string()))
    }

    /// Whether the agent ignores what its hook prints for this event.
    fn is_unheard(&self) -> bool {
        self.dialect.unheard.contains(&self.hook.call.kind)
    }

    /// Compares the state of files that other peers hold with the state that was noted before a command.
    fn compare_held_files(&mut self) {
        match &self.hook.event {
            HookEvent::AfterTool => {
                let (note, changed) = self.held.after_tool(&self.run);
                self.reports.extend(ChangeReport::new(note.as_ref(), changed));
                self.note = note;
            }
            HookEvent::Prompt => self.compare_leftovers(),
            // Background commands may still write files. If any are running, a later hook compares the files.
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

    /// The answer that shows mail, reports, and changes of the session's own files to the model; `None` if there is
    /// nothing to show.
    fn show(&self, value: &Value, mail: &str) -> Option<HookReply> {
        self.show_with(value, mail, None)
    }

    /// Like [`HookWork::show`], with an extra field that the agent itself reads.
    fn show_with(&self, value: &Value, mail: &str, field: Option<(&str, Value)>) -> Option<HookReply> {
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
        let parts: Vec<String> = reports.chain([own_news_text(&news), mail.to_owned()]).collect();
        let parts: Vec<&str> = parts.iter().map(String::as_str).filter(|part| !part.is_empty()).collect();
        if parts.is_empty() && field.is_none() {
            return None;
        }
        let mut answer =
            if parts.is_empty() { json!({}) } else { (self.dialect.show)(&self.hook.call, &parts.join("\n\n")) };
        if let Some((name, value)) = field {
            answer[name] = value;
        }
        Some(HookReply { text: answer.to_string(), shown: shown_mail(value) })
    }
}

/// Connects to the broker. Only a new session, a prompt, an edit, or a command that is known to write a file may start
/// a broker. Other events matter only if a broker is running.
fn connect(places: &DataDir, work: &HookWork<'_>) -> Result<Option<Client>, String> {
    if remote::is_marked_silent(places) {
        return Err("the hub did not answer a moment ago; hooks try it again after half a minute".into());
    }
    match &work.hook.event {
        // A command that is not known to write a file starts no broker, because without a broker there are no locks.
        HookEvent::Command(_) if work.run.named.is_empty() => Ok(Client::connect(places).ok()),
        HookEvent::Start | HookEvent::Prompt | HookEvent::Edit(_) | HookEvent::Command(_) => {
            Client::connect_or_start(places).map(Some).map_err(|error| error.text)
        }
        _ => Client::connect(places).map(Some).map_err(|error| error.to_string()),
    }
}

/// The facts by which the broker finds the session: the agent, the agent's key for the session, and the directory.
pub fn session_facts(agent: &Agent, hook: &HookInput) -> Value {
    let git = git::facts(Path::new(&hook.directory));
    let dialect = agent.dialect.as_ref();
    json!({
        "shortName": agent.short_name, "sharedHooks": dialect.is_some_and(|dialect| dialect.is_shared),
        "continues": hook.continues, "keyedCalls": agent.identity.has_many_sessions,
        "agent": agent.kind, "session": session_key(&hook.session),
        "project": hook.directory, "gitRoot": git.root, "gitBranch": git.branch, "repo": git.repo,
    })
}

/// Sends an alert to `human`, the person who uses this machine, because an agent is waiting for its user.
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

/// After this many minutes, the alert no longer helps the user.
const WAIT_ALERT_MINUTES: i64 = 60;

/// Calls the broker for the event, and puts the answer into the agent's dialect.
fn ask_broker(work: &HookWork<'_>, client: &mut Client, mut facts: Value) -> Result<Option<HookReply>, Error> {
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
        // Without the subagent's id, this call would end the whole turn. So the subagent's locks are kept until the
        // turn ends.
        HookEvent::SubagentStop if hook.subagent.is_none() => Ok(None),
        HookEvent::SubagentStop => {
            facts["subagent"] = json!(hook.subagent);
            client.call("hook.turn_end", &facts).map(|_| None)
        }
        HookEvent::Stop { can_go_on, running } => {
            work.send_reports(client, &facts);
            facts["running"] = json!(running);
            client.call("hook.turn_end", &facts)?;
            facts["running"] = Value::Null;
            if *can_go_on { answer_stop(work, client, facts) } else { Ok(None) }
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
            Ok(work.show_with(&value, &hook_text::beginning(&value), fields))
        }
        HookEvent::Prompt | HookEvent::AfterTool => {
            facts["withOwnLocks"] = json!(true);
            let answer = client.call("hook.mail", &facts);
            let value = match answer {
                // The changes that a command made are reported even if the broker fails.
                Err(_) if !work.reports.is_empty() => Value::Null,
                answer => answer?,
            };
            facts["withOwnLocks"] = Value::Null;
            facts["userPrompted"] = Value::Null;
            work.send_reports(client, &facts);
            Ok(work.show(&value, &hook_text::mail(&value)))
        }
    }
}

/// Takes the locks for a tool that writes files, or denies the tool call. If the tool may write further files, also
/// notes the files that other peers hold.
fn ask_to_write(work: &HookWork<'_>, client: &mut Client, mut facts: Value) -> Result<Option<HookReply>, Error> {
    facts["subagent"] = json!(work.hook.subagent);
    facts["withLocks"] = json!(true);
    let answer = lock_files(work, client, &mut facts).and_then(|answer| {
        let held = work.held.protected_paths(&LockedPath::list(&answer["others"]));
        let replaced = replaced_by_git::replaced(&work.run.maybe_written, &held);
        if replaced.is_empty() {
            return Ok(answer);
        }
        // This call fails and names the holder, unless the holder has just released the files.
        facts["files"] = json!(replaced);
        client.call("hook.edit", &facts)
    });
    match answer {
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

/// Locks the files that a tool names, as many per call as the broker accepts.
fn lock_files(work: &HookWork<'_>, client: &mut Client, facts: &mut Value) -> Result<Value, Error> {
    // A longer text is not the path of a file.
    let named: Vec<&String> = work.run.named.iter().filter(|path| path.len() <= limits::PATH_MAX).collect();
    let (first, rest) = named.split_at(named.len().min(limits::EDIT_FILES_MAX));
    facts["files"] = json!(first);
    let mut answer = client.call("hook.edit", facts)?;
    for part in rest.chunks(limits::EDIT_FILES_MAX) {
        facts["files"] = json!(part);
        answer = client.call("hook.edit", facts)?;
    }
    Ok(answer)
}

/// Makes the agent continue if direct mail waits, or if a command changed a file that another agent has locked.
fn answer_stop(work: &HookWork<'_>, client: &mut Client, mut facts: Value) -> Result<Option<HookReply>, Error> {
    let dialect = work.dialect;
    facts["direct"] = json!(true);
    facts["peek"] = json!(dialect.reason_is_prompt);
    let value = client.call("hook.mail", &facts)?;
    let mail = hook_text::mail(&value);
    if dialect.reason_is_prompt {
        let has_changed = work.reports.iter().any(ChangeReport::blames_session);
        let reasons = [(has_changed, FILES_CHANGED), (!mail.is_empty(), MAIL_CAME)];
        let reasons: Vec<&str> = reasons.iter().filter(|(holds, _)| *holds).map(|(_, reason)| *reason).collect();
        let text = || (dialect.go_on)(&reasons.join(" ")).to_string();
        return Ok((!reasons.is_empty()).then(|| HookReply { text: text(), shown: Value::Null }));
    }
    let reports = work.reports.iter().map(ChangeReport::text);
    let parts: Vec<String> = reports.chain([mail]).filter(|part| !part.is_empty()).collect();
    let text = || (dialect.go_on)(&parts.join("\n\n")).to_string();
    Ok((!parts.is_empty()).then(|| HookReply { text: text(), shown: shown_mail(&value) }))
}

/// The receipt for the mail that is shown in an answer.
fn shown_mail(value: &Value) -> Value {
    json!({ "as": value["you"]["id"], "items": hook_text::shown(value) })
}

/// Prints a line. Returns whether the whole line was written.
pub fn print(text: &str) -> bool {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}").and_then(|()| out.flush()).is_ok()
}

/// Prints the answer. The mail in the answer counts as read once the whole answer has been printed.
fn deliver((answer, client): (HookReply, Option<Client>)) {
    let has_mail = answer.shown["items"].as_array().is_some_and(|items| !items.is_empty());
    if print(&answer.text)
        && has_mail
        && let Some(mut client) = client
    {
        // If the broker is gone, the mail is offered again later. Mail that is shown twice is better than mail that is
        // never shown.
        let _ = client.call("inbox.mark_read", &answer.shown);
    }
}
