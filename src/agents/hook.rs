//! `slm-mesh hook AGENT`: reads the input of one hook and prints one answer, within a time limit.
//!
//! **Invariant:** a mesh that is down, slow or wrong never stops an agent's work. A hook always succeeds, and prints
//! nothing unless it has something useful to say.

use super::edited_paths;
use super::held_files::{HeldFiles, ToolRun};
use super::hook_event_handlers::{HookReply, HookWork, ask_broker};
use super::hook_input::{HookEvent, HookInput, understand};
use super::hook_stdin::read_input;
use super::restart_shell_in_write_sandbox::SessionShield;
use super::shell_tool_writes;
use crate::base::error::{Error, ErrorKind};
use crate::base::id_types::session_key;
use crate::base::{time_format, untrusted_text};
use crate::client::{Client, route_to_broker};
use crate::core::mail::wakeups::is_wakeup_sentence;
use crate::known_agents::hook_dialect::Dialect;
use crate::known_agents::{Agent, by_id};
use crate::sys::data_dir::DataDir;
use crate::sys::path_normalization;
use crate::sys::read_git_files;
use crate::sys::settings::Settings;
use serde_json::{Value, json};
use std::io::Write;
use std::path::Path;
use std::time::Duration;

/// Maximum size, in bytes, of a log to which hooks append. Without this limit, a hook that always fails would fill the
/// disk.
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

/// Answers one hook. This always succeeds, because an empty output is a valid answer for every agent. If `name` is
/// given, the hook belongs to an agent of that name, which uses the hook format of `agent`.
pub fn answer_hook(agent: &str, name: Option<&str>) -> u8 {
    run_guarded(agent, |agent, input| {
        if let Some(answer) = answer_of(agent, name, input)? {
            deliver(answer);
        }
        Ok(0)
    })
}

/// Runs one hook with its input. An error is logged, but does not stop the agent.
pub fn run_guarded(agent: &str, run: impl FnOnce(HookAgent, &Value) -> Result<u8, String>) -> u8 {
    let known = hook_agent(agent).ok_or_else(|| format!("slm-mesh has no hooks for an agent called {agent}"));
    let run = |agent: HookAgent| {
        let input = read_input().inspect_err(|why| {
            warn_user(agent.dialect, &format!("a hook could not check whether a file is locked: {why}"));
        })?;
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
    let is_short = places.log().metadata().is_ok_and(|log| log.is_file() && log.len() < LOG_MAX);
    if is_short && let Ok(mut log) = std::fs::OpenOptions::new().append(true).open(places.log()) {
        // A failure to write the log must not stop the agent's work.
        let _ = writeln!(log, "{} {}", time_format::iso(crate::sys::wall_ms()), untrusted_text::line(line));
    }
}

/// If the agent can show a warning, warns the user about a tool call that the mesh does not protect.
fn warn_user(dialect: &Dialect, what: &str) {
    if let Some(warn) = dialect.warn {
        // If the agent is gone, the warning is not needed.
        let _ = print(&warn(&format!("slm-mesh: {what}")).to_string());
    }
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
    // The files are compared before the broker is called. The comparison needs no broker, and the broker may be slow or
    // gone.
    work.compare_held_files();
    // Limits how long the agent waits if the broker hangs.
    let budget = Duration::from_millis(settings.int("SLM_MESH_HOOK_BUDGET_MS") as u64);
    let mut client = match connect(&places, &work, budget) {
        Ok(Some(client)) => client,
        Ok(None) => return Ok(None),
        Err(why) => return Ok(work.or_reports(Err(why))?.map(|reply| (reply, None))),
    };
    client.set_receive_timeout(Some(budget)).map_err(|error| error.to_string())?;
    let mut facts = session_facts(agent.agent, &work.hook, &settings);
    if let Some(name) = name {
        let known = by_id(name).map_or((name, name), |agent| (agent.kind, agent.short_name));
        (facts["agent"], facts["shortName"], facts["sharedHooks"]) = (json!(known.0), json!(known.1), json!(false));
    }
    if settings.reads_transcripts() {
        facts["transcript"] = json!(work.hook.transcript);
    } else {
        facts["hidesTranscript"] = json!(true);
    }
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
    let answer = ask(&places, &work, &mut client, facts, budget).inspect_err(|error| {
        // The broker has checked the other peers' locks. But the agent goes on without a lock of its own, so another
        // agent may write the same files.
        if error.kind == ErrorKind::Full && !work.run.named.is_empty() {
            warn_user(agent.dialect, &format!("the files of a tool call were not locked: {error}"));
        }
    });
    let answer = answer.map_err(|error| error.text)?;
    Ok(answer.map(|answer| (answer, Some(client))))
}

/// Asks the broker. If the broker ends while it checks an edit or a command, asks the next broker. If the check were
/// skipped, the agent could write a file that another agent has locked.
fn ask(
    places: &DataDir,
    work: &HookWork<'_>,
    client: &mut Client,
    facts: Value,
    budget: Duration,
) -> Result<Option<HookReply>, Error> {
    let is_check = matches!(work.hook.event, HookEvent::Edit(_) | HookEvent::Command(_));
    let same_facts = is_check.then(|| facts.clone());
    let answer = ask_broker(work, client, facts);
    let (Err(error), Some(facts)) = (&answer, same_facts) else { return answer };
    if error.kind != ErrorKind::Gone {
        return answer;
    }
    let Ok(Some(next)) = connect(places, work, budget) else { return answer };
    *client = next;
    // If this fails, the call fails too.
    let _ = client.set_receive_timeout(Some(budget));
    ask_broker(work, client, facts)
}

/// Returns the tool call that a hook reports. The result lists the files that the call certainly writes, and also the
/// files that a command might write.
fn tool_run(hook: &HookInput, input: &Value) -> ToolRun {
    let mut run = ToolRun { session: hook.session.clone(), ..ToolRun::default() };
    if !matches!(hook.event, HookEvent::Edit(_) | HookEvent::Command(_) | HookEvent::AfterTool) {
        return run;
    }
    run.key = edited_paths::call_key(input);
    run.writes = edited_paths::writes(input);
    let absolute = |file: &String| path_normalization::absolute_in(&hook.directory, file);
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
        HookEvent::Edit(files) => files.iter().map(absolute).collect(),
        _ => edited_paths::edited_files(input).iter().map(absolute).collect(),
    };
    run
}

/// A report shows at most this many characters of a command's first line.
const COMMAND_LINE_MAX: usize = 500;

/// Connects to the broker. Only a new session, a prompt, an edit or a command may start a broker. Other events matter
/// only if a broker is running.
fn connect(places: &DataDir, work: &HookWork<'_>, budget: Duration) -> Result<Option<Client>, String> {
    if route_to_broker::is_marked_silent(places) {
        return Err("the hub did not answer a moment ago, so hooks do not call it for half a minute".into());
    }
    let start = || Client::connect_or_start_within(places, Some(budget));
    match &work.hook.event {
        // If a command is not known to write a file, only existing locks matter. All locks are in the database, so a
        // broker is not necessary as long as there is no database.
        HookEvent::Command(_) if work.run.named.is_empty() && !places.database().exists() => {
            Ok(Client::connect(places).ok())
        }
        HookEvent::Command(_) if work.run.named.is_empty() => Ok(start().ok()),
        HookEvent::Start | HookEvent::Prompt | HookEvent::Edit(_) | HookEvent::Command(_) => {
            start().map(Some).map_err(|error| error.text)
        }
        _ => Client::connect(places).map(Some).map_err(|error| error.to_string()),
    }
}

/// The data by which the broker identifies the session: the agent, the agent's key for the session, and the directory.
/// A new session gets the name that is in the settings.
pub fn session_facts(agent: &Agent, hook: &HookInput, settings: &Settings) -> Value {
    // The paths of locks contain no symlinks. So the path of the work tree's root must not contain symlinks, either.
    let directory = path_normalization::absolute_in("", &hook.directory);
    let git = read_git_files::facts(Path::new(directory.trim_end_matches('/')));
    let dialect = agent.dialect.as_ref();
    json!({
        "name": settings.session_name(), "shortName": agent.short_name,
        "sharedHooks": dialect.is_some_and(|dialect| dialect.is_shared),
        "continues": hook.continues, "keyedCalls": agent.identity.has_many_sessions,
        "agent": agent.kind, "session": session_key(&hook.session),
        "project": hook.directory, "gitRoot": git.root, "gitBranch": git.branch, "repo": git.repo,
    })
}

/// Prints a line. Returns whether the whole line was written.
pub fn print(text: &str) -> bool {
    let mut out = std::io::stdout().lock();
    // With `writeln!`, the end of a long line would be a second write, for which the agent would have to wake up again.
    out.write_all([text, "\n"].concat().as_bytes()).and_then(|()| out.flush()).is_ok()
}

/// Prints the answer. After the whole answer has been printed, the mail in the answer is marked as read.
fn deliver((answer, client): (HookReply, Option<Client>)) {
    let has_mail = answer.shown["items"].as_array().is_some_and(|items| !items.is_empty());
    if print(&answer.text)
        && has_mail
        && let Some(mut client) = client
    {
        // If the broker is gone, the mail is offered again later. Mail that is shown twice is better than mail that is
        // never shown.
        let _ = client.report("inbox.mark_read", &answer.shown);
    }
}
