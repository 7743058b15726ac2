//! `slm-mesh doctor`: checks the broker and each agent, and says how to fix each fault.
//!
//! **Invariant:** doctor tries a thing out before it reports that the thing works. It shows a process id only if the
//! kernel has identified the process. It leaves no files behind, and it does not start a broker.

pub mod broker_role_and_settings_check;
mod data_dir_check;
pub mod desktop_notification_check;
mod guest_hubs_check;
mod per_directory_mcp_override_check;
pub mod project_setup_check;
mod registered_server_check;
pub mod sandbox_support_check;
mod saved_mesh_clock_check;
mod standby_and_etcd_health_check;

use crate::agents::edit_own_config_entries::hook_program;
use crate::agents::generated_file_texts::MARK;
use crate::agents::prove_hooks::calls_in_file;
use crate::agents::setup_environment::{EditedFile, Environment, is_program, read_hooks};
use crate::agents::setup_records::Records;
use crate::agents::{generated_file_texts, marketplace_plugin_files, safe_write};
use crate::base::error::{Error, ErrorKind};
use crate::base::untrusted_text::line;
use crate::client::route_to_broker::Route;
use crate::client::{self, Client};
use crate::discovery;
use crate::known_agents::hook_dialect::ShellLines;
use crate::known_agents::{Agent, by_id};
use crate::sys::data_dir::DataDir;
use crate::sys::settings::Settings;
use crate::sys::{broker_startup_progress, typescript_broker};
use broker_role_and_settings_check::{OwnBroker, check_without_leader};
use data_dir_check::check_data_dir;
use desktop_notification_check::check_notifications;
use guest_hubs_check::check_hubs_of_guest;
use per_directory_mcp_override_check::check_directory_servers;
use registered_server_check::check_registration;
use sandbox_support_check::try_shield;
use saved_mesh_clock_check::check_clock;
use serde_json::{Value, json};
use standby_and_etcd_health_check::check_shared_log;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long the broker may take to answer before doctor reports it as hung.
pub const ANSWERS_WITHIN: Duration = Duration::from_secs(2);

/// How long to search the local network for hubs.
const HUBS_WITHIN: Duration = Duration::from_millis(300);

/// The result of one check.
#[derive(Debug, Clone)]
pub struct Check {
    /// What was checked, such as the broker or an agent.
    pub about: String,
    /// What the check found.
    pub found: String,
    /// How to fix the problem; `None` if all is well.
    pub cure: Option<String>,
}

impl Check {
    /// The result of a check that found no problem.
    pub fn well(about: &str, found: impl Into<String>) -> Check {
        Check { about: about.into(), found: found.into(), cure: None }
    }

    /// The result of a check that found a problem, and how to fix the problem.
    pub fn error(about: &str, found: impl Into<String>, cure: impl Into<String>) -> Check {
        Check { about: about.into(), found: found.into(), cure: Some(cure.into()) }
    }

    /// A result that says why the agents could not be checked.
    pub fn agents_not_checked(why: &Error) -> Check {
        let cure = "no agent was checked; do what the error says, and run slm-mesh doctor again";
        Check::error("agents", why.text.clone(), cure)
    }

    /// The result as JSON, for programs.
    pub fn to_value(&self) -> Value {
        json!({ "about": self.about, "ok": self.cure.is_none(), "found": self.found, "cure": self.cure })
    }
}

/// Checks the data directory, the settings, the broker, the hubs and the notifications, but not the agents.
pub fn check_mesh() -> Vec<Check> {
    let places = match DataDir::find() {
        Ok(places) => places,
        Err(error) => {
            return vec![Check::error("data directory", error.text, "correct the setting, as the message says")];
        }
    };
    let mut checks = check_data_dir(&places);
    checks.extend(check_clock(&places));
    let (settings, route) = (Settings::load(&places), Route::find(&places));
    checks.push(match (&settings, &route) {
        (Ok(_), Ok(_)) => Check::well("settings", "all settings are valid"),
        (Err(error), _) | (_, Err(error)) => Check::error(
            "settings",
            error.text.clone(),
            "correct the settings; to list all settings and the values that they accept, run slm-mesh help settings",
        ),
    });
    match (route, &settings) {
        (Ok(Route::Remote(target)), _) => checks.extend(check_hubs_of_guest(&target, &places)),
        (Ok(_), Ok(settings)) => checks.extend(check_broker(&places, settings)),
        // Clients do not connect to a broker if the settings are invalid, so the broker is not checked either.
        _ => {}
    }
    if let Ok(settings) = settings {
        checks.push(check_notifications(&settings));
        checks.push(check_hubs(&settings));
    }
    checks
}

/// Counts the hubs that answer on the local network. Finding no hub is not a fault, because most meshes are on one
/// machine.
fn check_hubs(settings: &Settings) -> Check {
    let about = "hubs on the LAN";
    if !settings.discovers() {
        return Check::well(about, "doctor did not search for hubs, because SLM_MESH_DISCOVERY is off");
    }
    let n_hubs =
        discovery::browse(HUBS_WITHIN).iter().filter(|found| found.kind == discovery::ServiceKind::Hub).count();
    Check::well(
        about,
        match n_hubs {
            0 => "no hub answers".into(),
            1 => "1 hub answers; to see it, run slm-mesh hubs".to_owned(),
            n => format!("{n} hubs answer; to list them, run slm-mesh hubs"),
        },
    )
}

fn check_broker(places: &DataDir, settings: &Settings) -> Vec<Check> {
    let about = "broker";
    let mut client = match Client::connect_to_running(places) {
        Ok(client) => client,
        Err(error) if error.kind == ErrorKind::NotFound => return vec![check_absent_broker(places)],
        Err(error) => return check_without_leader(&error, places, settings),
    };
    let process = match client.broker_pid() {
        Some(pid) => format!("PID {pid}"),
        None => "a process in another PID namespace or on another machine".into(),
    };
    let status = match ask_status(&mut client, &process, places, settings) {
        Ok(status) => status,
        Err(checks) => return checks,
    };
    let (theirs, ours) = (status["version"].as_str().unwrap_or("?"), env!("CARGO_PKG_VERSION"));
    let running = format!("version {theirs}, {process}, {} active peers", status["peers"]["active"]);
    let mut checks = vec![if theirs == ours {
        Check::well(about, running)
    } else {
        Check::error(
            about,
            format!("{running}; this program is version {ours}"),
            "run slm-mesh stop; sessions then start a broker of this program's version",
        )
    }];
    // The status may come from the leading hub on another machine, so this machine's own broker is asked too.
    let own = OwnBroker::ask(places);
    if let Some(own) = &own {
        checks.extend(own.check_settings(settings, places));
        checks.push(own.check_guests(settings));
    }
    let own_fault = own.as_ref().and_then(OwnBroker::check_hub);
    let has_own_fault = own_fault.is_some();
    checks.extend(own_fault);
    checks.extend(check_shared_log(&status["hubs"], has_own_fault));
    checks.extend(status["links"].as_array().into_iter().flatten().map(check_link));
    checks.push(check_lock(&mut client, places));
    checks.extend(own.map(|own| check_http(places, own.http_port())));
    checks
}

/// Asks the broker for its status. If that fails, returns checks that report the reason.
fn ask_status(client: &mut Client, process: &str, places: &DataDir, settings: &Settings) -> Result<Value, Vec<Check>> {
    let asked = client
        .set_receive_timeout(Some(ANSWERS_WITHIN))
        .map_err(|error| Error::new(ErrorKind::Gone, error.to_string()))
        .and_then(|()| client.call("status", &json!({})));
    let about = "broker";
    asked.map_err(|error| match error.kind {
        ErrorKind::TimedOut | ErrorKind::Gone => {
            let waited = ANSWERS_WITHIN.as_secs();
            let found = format!("the broker accepted a connection but did not answer in {waited} s ({process})");
            vec![Check::error(about, found, cure_of_stuck(client))]
        }
        // Either no hub leads, or this program's settings do not say where the leading hub is.
        ErrorKind::Standby => check_without_leader(&error, places, settings),
        _ => {
            let found = format!("the broker does not report its status ({process}): {}", error.text);
            vec![Check::error(about, found, "follow this advice")]
        }
    })
}

/// Checks a link to another mesh. The broker polls all its links, so this check only reads what the broker found.
fn check_link(link: &Value) -> Check {
    let about = format!("link {}", line(link["url"].as_str().unwrap_or("")));
    let text = |name: &str| link[name].as_str().map(line);
    if let Some(trouble) = text("trouble") {
        let cure = "check that the other mesh is running, and that SLM_MESH_PEER_URL and SLM_MESH_SHARED_SECRET are \
                    right; until the link works, messages to the other mesh wait";
        return Check::error(&about, trouble, cure);
    }
    if text("heardAt").is_none() {
        return Check::error(&about, "no connection has been made yet", "try again in a moment");
    }
    let n_refused = link["refused"].as_u64().unwrap_or(0);
    if n_refused == 0 {
        return Check::well(&about, format!("the other mesh answers and has {} peers", link["peers"]));
    }
    let messages = if n_refused == 1 { "message" } else { "messages" };
    let why = text("lastRefusal").unwrap_or_default();
    let found =
        format!("the other mesh answers, but has refused {n_refused} {messages}; the reason for the last one: {why}");
    Check::error(
        &about,
        found,
        "the senders were told; to see their refused messages, they can run slm-mesh inbox --filter sent",
    )
}

/// Says how to end a broker that does not answer. Suggests a command only if the kernel has identified the process.
fn cure_of_stuck(client: &Client) -> String {
    match client.broker_pid() {
        Some(_) => "run slm-mesh stop --force; the next session starts a new broker".into(),
        None => "end the broker where it runs: in its container or on its machine".into(),
    }
}

/// Checks what could prevent a broker from starting.
fn check_absent_broker(places: &DataDir) -> Check {
    let about = "broker";
    if let Some(pid) = typescript_broker::find(places) {
        let error = typescript_broker::error(places, pid);
        return Check::error(
            about,
            error.text,
            format!("end that broker (PID {pid}), or set SLM_MESH_DATA_DIR to another directory"),
        );
    }
    if let Some(starting) = broker_startup_progress::find(places) {
        return Check::error(about, starting.describe(), "wait until it is ready, and run slm-mesh doctor again");
    }
    match client::broker_lock_holder(places) {
        Some(pid) => {
            let found = format!("process {pid} holds the broker's lock, but clients can't connect to it");
            Check::error(about, found, "try again in a moment; if nothing changes, run slm-mesh stop --force")
        }
        None => Check::well(about, "no broker is running; the next session or verb starts one"),
    }
}

/// Takes a trial lock on a path that no agent uses, and releases this lock.
pub fn check_lock(client: &mut Client, places: &DataDir) -> Check {
    let about = "lock";
    let path = places.dir.join(format!("doctor-{}", std::process::id()));
    let params = json!({ "filePath": path.to_string_lossy(), "as": "human" });
    let tried = client.call("lock.lock", &params).and_then(|_| client.call("lock.unlock", &params));
    match tried {
        Ok(_) => Check::well(about, "a trial lock was taken and released"),
        Err(error) => Check::error(
            about,
            format!("a trial lock could not be taken and released: {}", error.text),
            "follow this advice",
        ),
    }
}

/// Checks that the port file contains the broker's HTTP port, and that the broker answers on this port.
pub fn check_http(places: &DataDir, port: u16) -> Check {
    let named = places.read(&places.port()).unwrap_or_default();
    let cure = "run slm-mesh stop; the next broker uses the port in SLM_MESH_PORT or, if that port is taken, one of \
                the next nine ports";
    if port == 0 {
        return Check::error("HTTP", "no port was free", cure);
    }
    if named.trim() != port.to_string() {
        let found = format!(
            "the broker uses port {port}, but the file \"port\" in the data directory says \"{}\"",
            named.trim()
        );
        return Check::error("HTTP", found, cure);
    }
    let asked = (|| {
        let mut stream = TcpStream::connect_timeout(&([127, 0, 0, 1], port).into(), ANSWERS_WITHIN)?;
        stream.set_read_timeout(Some(ANSWERS_WITHIN))?;
        write!(stream, "GET /health HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n")?;
        let mut head = [0; 12];
        stream.read_exact(&mut head)?;
        Ok::<bool, std::io::Error>(head.ends_with(b" 200"))
    })();
    match asked {
        Ok(true) => Check::well("HTTP", format!("port {port} answers")),
        Ok(false) => Check::error("HTTP", format!("port {port} answers, but not with status 200"), cure),
        Err(error) => Check::error("HTTP", format!("port {port} does not answer ({error})"), cure),
    }
}

/// Tries to run a command in a shield. Shields that do not work are a fault only if the user wants shields.
pub fn check_shield(environment: &Environment) -> Check {
    let about = "shield";
    let agents = environment.shield.join(", ");
    let shell = std::env::var("SHELL").unwrap_or_default();
    let unshielded = if shell.ends_with("/bash") { Vec::new() } else { agents_with_users_shell(environment) };
    if !unshielded.is_empty() {
        let found = format!(
            "shields need bash, but {} would run commands with the shell in $SHELL ({shell})",
            unshielded.join(", ")
        );
        return Check::error(
            about,
            found,
            "start these agents with SHELL=/bin/bash, or run slm-mesh setup --no-shield",
        );
    }
    match (try_shield(&environment.program), agents.is_empty()) {
        (Ok(()), true) => Check::well(
            about,
            "shields work: in a test, a shielded command could not write a protected file; to use shields, run \
             slm-mesh setup --shield",
        ),
        (Ok(()), false) => Check::well(
            about,
            format!(
                "shields work: in a test, a shielded command could not write a protected file; shields are switched on \
                 for {agents}"
            ),
        ),
        (Err(why), true) => Check::well(about, format!("not available here: {why}")),
        (Err(why), false) => {
            let cure = "allow users to create user namespaces (see the sysctl variables user.max_user_namespaces, \
                        kernel.unprivileged_userns_clone and kernel.apparmor_restrict_unprivileged_userns), or run \
                        slm-mesh setup --no-shield";
            Check::error(about, format!("commands of {agents} run without a shield: {why}"), cure)
        }
    }
}

/// The agents that run commands in the user's shell ($SHELL), and for which the user wants shields.
fn agents_with_users_shell(environment: &Environment) -> Vec<&str> {
    let lines = |id: &str| by_id(id).and_then(|agent| agent.dialect).and_then(|dialect| dialect.shell_lines);
    let has_users_shell = |id: &&str| matches!(lines(id), Some(ShellLines::BashEnvInUsersShell));
    environment.shield.iter().map(String::as_str).filter(has_users_shell).collect()
}

/// Checks an installed agent.
pub fn check_agent(environment: &Environment, agent: &'static Agent) -> Vec<Check> {
    let cure = format!("slm-mesh setup {}{}", agent.id, if environment.is_project { " --project" } else { "" });
    let mut checks = Vec::new();
    if !environment.is_project {
        checks.extend(check_directory_servers(environment, agent));
    }
    if let Some(place) = marketplace_plugin_files::installed(environment, agent) {
        checks.push(check_plugin(environment, agent, &place, &cure));
        return checks;
    }
    checks.extend(check_registration(environment, agent, &cure));
    checks.extend(check_hooks(environment, agent, &cure));
    for switch in environment.switched_off_hooks(agent) {
        let cure = "switch hooks on in this file; until then, the agent sees mail only when it calls mesh_inbox";
        checks.push(Check::error(&format!("{} hooks", agent.id), switch, cure));
    }
    let own = environment.scope(agent).own_file;
    let own = own.map(|own| {
        (environment.path(agent, own.path), generated_file_texts::own_file_text(&own, agent, &environment.program))
    });
    let own: Vec<_> = own.into_iter().collect();
    for (what, files) in [("own file", own), ("commands", environment.command_files(agent))] {
        checks.extend(check_own_files(&format!("{} {what}", agent.id), &files, &cure));
    }
    checks
}

/// Checks an agent that has our plugin. It is a fault if `setup` has also registered the server, the hooks or the
/// commands, because the plugin already provides them.
fn check_plugin(environment: &Environment, agent: &'static Agent, place: &str, cure: &str) -> Check {
    let about = format!("{} plugin", agent.id);
    let scope = environment.scope(agent);
    // If the file can't be read, doctor can't find out whether the server is registered twice.
    let server = scope.server.and_then(|server| environment.registered_program(agent, &server).ok()?);
    let has_hooks = scope.hooks.is_some_and(|hooks| {
        let path = environment.path(agent, hooks.path);
        let file = EditedFile { path: path.clone(), server: None, hooks: Some(hooks) };
        read_hooks(&path, &hooks)
            .is_some_and(|whole| !environment.entries(agent, "", &file).hooks_in(&whole, &hooks).is_empty())
    });
    let has_commands = environment.command_files(agent).iter().any(|file| is_current(file, None));
    let doubled = [(server.is_some(), "the server"), (has_hooks, "the hooks"), (has_commands, "the slash commands")];
    let doubled: Vec<&str> = doubled.iter().filter(|(is_doubled, _)| *is_doubled).map(|(_, what)| *what).collect();
    if doubled.is_empty() {
        let found =
            format!("the plugin is installed, according to {place}, and provides the server, the hooks and the skills");
        return Check::well(&about, found);
    }
    let found = format!(
        "the plugin is installed, according to {place}, but setup has also added {}, which the plugin already provides",
        doubled.join(" and ")
    );
    Check::error(&about, found, cure)
}

/// Whether a file that `setup` writes as a whole is up to date. A file that the user has edited counts as up to date if
/// it contained this version's text before the edit.
fn is_current((path, text): &(PathBuf, String), records: Option<&Records>) -> bool {
    let record = || records.and_then(|records| records.get(path));
    let is_edited = |old: &str| record().is_some_and(|record| record.after == *text && !record.has_text(old));
    let old = safe_write::read(path).ok().flatten();
    old.is_some_and(|old| old == *text || old.contains(MARK) && is_edited(&old))
}

/// Checks whether the files whose whole text comes from `setup` are up to date.
pub(super) fn check_own_files(about: &str, files: &[(PathBuf, String)], cure: &str) -> Option<Check> {
    // Without the records of `setup`, a file that the user has edited looks outdated, so it counts as a fault.
    let records = Records::load().ok();
    let n_current = files.iter().filter(|file| is_current(file, records.as_ref())).count();
    if n_current < files.len() {
        let found = format!("only {n_current} of {} files are up to date", files.len());
        return Some(Check::error(about, found, cure));
    }
    (!files.is_empty()).then(|| Check::well(about, "up to date"))
}

fn check_hooks(environment: &Environment, agent: &'static Agent, cure: &str) -> Option<Check> {
    let hooks = environment.scope(agent).hooks?;
    let about = format!("{} hooks", agent.id);
    let path = environment.path(agent, hooks.path);
    let shown = environment.shown(&path);
    let Some(whole) = read_hooks(&path, &hooks) else {
        let found = if path.exists() { "can't be read, or is not valid" } else { "is not there" };
        return Some(Check::error(&about, format!("{shown} {found}"), cure));
    };
    let file = EditedFile { path, server: None, hooks: Some(hooks) };
    let found = environment.entries(agent, "", &file).hooks_in(&whole, &hooks);
    let has_hook = |event: &str| found.iter().any(|(known, _)| *known == event);
    let missing: Vec<&str> = hooks.events.iter().map(|(event, _)| *event).filter(|event| !has_hook(event)).collect();
    let programs = found.iter().filter_map(|(_, hook)| hook_program(hook));
    let missing_program = programs.into_iter().find(|program| !is_program(Path::new(program)));
    Some(match missing_program {
        _ if !missing.is_empty() => {
            Check::error(&about, format!("{shown} has no slm-mesh hook for {}", missing.join(", ")), cure)
        }
        Some(program) => {
            Check::error(&about, format!("{shown} names {program}, which is not an executable file"), cure)
        }
        None => match try_hooks(environment, agent) {
            Ok(()) => Check::well(&about, format!("all {} hooks in {shown} run without an error", found.len())),
            Err(why) => Check::error(&about, format!("a hook in {shown} fails: {why}"), cure),
        },
    })
}

/// Runs each of our hooks in the agent's settings. Identical hooks are run only once.
fn try_hooks(environment: &Environment, agent: &'static Agent) -> Result<(), String> {
    let calls = calls_in_file(environment, agent).map_err(|error| error.text)?;
    let mut tried = Vec::new();
    for (_, call) in calls {
        if !tried.contains(&call) {
            call.try_run()?;
            tried.push(call);
        }
    }
    Ok(())
}
