//! `setup` and `doctor`: print what they changed or found, for people and for programs.

use super::print_line;
use crate::agents::change_wake_and_shield_settings::{ChangedList, set_agents};
use crate::agents::prove_hooks;
use crate::agents::prove_hooks::not_proven;
use crate::agents::restart_shell_in_write_sandbox::SessionShield;
use crate::agents::setup::{self, SetupStep};
use crate::agents::setup_environment::Environment;
use crate::agents::setup_records::Records;
use crate::agents::setup_removal::take_out;
use crate::base::error::{Error, ErrorKind};
use crate::base::shell_wildcards::shell_quoted;
use crate::broker::startup;
use crate::doctor::project_setup_check::check_project;
use crate::doctor::{self, sandbox_support_check};
use crate::known_agents::{AGENTS, Agent, shieldable, wakeable};
use crate::sys::data_dir::DataDir;
use crate::sys::settings::{SHIELD, WAKE};
use serde_json::{Value, json};
use std::path::PathBuf;

/// The options of `setup`.
#[derive(Debug, Clone, Default)]
pub struct SetupOptions {
    /// The names of the agents; empty for all installed agents.
    pub agents: Vec<String>,
    /// Whether to show the changes without making them.
    pub dry: bool,
    /// Whether to remove the entries of slm-mesh instead of adding them.
    pub remove: bool,
    /// Whether to change the project's files instead of the user's files.
    pub project: bool,
    /// Whether messages are allowed to wake these agents from now on. `None` keeps the setting as it is.
    pub wake: Option<bool>,
    /// Whether the shell commands of these agents run in a shield from now on. `None` keeps the setting as it is.
    pub shield: Option<bool>,
}

/// Connects or disconnects agents. Returns 1 if some work is left for the user.
pub fn setup(options: &SetupOptions, json: bool) -> Result<u8, Error> {
    let mut environment = Environment::find(options.project, options.dry)?;
    refuse_home_as_project(&environment, options.remove)?;
    let find = if options.remove { Environment::agents_to_remove } else { Environment::agents };
    let agents = find(&environment, &options.agents)?;
    let (projects, vanished) =
        if options.remove && !options.project { projects_left(options)? } else { <_>::default() };
    let lists = save_lists(options, &mut environment, &agents)?;
    if agents.is_empty() && projects.is_empty() && vanished.is_empty() {
        let text = "no agent was found on PATH or in the home directory; name one, as in slm-mesh setup claude";
        return Err(Error::new(ErrorKind::NotFound, text));
    }
    let (mut found, mut is_open) = (Vec::new(), false);
    for agent in agents {
        let take_or_set = if options.remove { take_out } else { setup::set_up };
        let steps = take_or_set(&environment, agent);
        let off = if options.remove { Vec::new() } else { effects_of_switches(&environment, agent) };
        // Some agents read no project settings, so they can't be set up for a project. If the user named such an agent,
        // the user must set it up for all projects instead.
        let is_user_only = options.project && !options.remove && steps.is_empty();
        is_open |= steps.iter().any(SetupStep::is_open) || is_user_only && !options.agents.is_empty();
        let is_changed = steps.iter().any(SetupStep::is_change);
        let approve = if options.remove || is_user_only || !is_changed && !steps.is_empty() {
            ""
        } else {
            environment.approval_note(agent)
        };
        if json {
            let off: Vec<&String> = off.iter().map(|(switch, _)| switch).collect();
            let steps: Vec<Value> = steps.iter().map(SetupStep::to_value).collect();
            found.push(json!({ "agent": agent.id, "steps": steps, "approve": approve, "switchedOff": off }));
            continue;
        }
        print_line(agent.title)?;
        if is_user_only {
            let cure = format!("to set it up for all your projects, run slm-mesh setup {}", agent.id);
            print_line(&format!("  has no project settings; {cure}"))?;
        } else if steps.is_empty() {
            print_line("  nothing to change")?;
        }
        for step in steps.iter() {
            print_line(&format_step(step))?;
        }
        for (switch, effect) in &off {
            print_line(&format!("  note: {switch}, so {effect}"))?;
        }
        if !approve.is_empty() {
            print_line(&format!("  note: {approve}"))?;
        }
    }
    if json {
        let (wake, shield) = (&environment.wake, &environment.shield);
        let mut answer =
            json!({ "ok": !is_open, "dryRun": options.dry, "agents": found, "wake": wake, "shield": shield });
        if options.remove && !options.project {
            answer["projects"] = projects.iter().map(|project| project.to_string_lossy()).collect();
            answer["vanishedProjects"] = vanished.iter().map(|project| project.to_string_lossy()).collect();
        }
        let notes: Vec<&String> = lists.iter().filter_map(|(_, list)| list.note.as_ref()).collect();
        if !notes.is_empty() {
            answer["notes"] = json!(notes);
        }
        print_line(&answer.to_string())?;
    } else {
        print_projects_left(options, &projects)?;
        print_vanished_projects(options, &vanished)?;
        print_lists(&lists)?;
    }
    Ok(u8::from(is_open))
}

/// Refuses the home directory as a project, because several settings files of such a project are the user's own
/// settings files. Older versions accepted such a project, so its settings can still be removed.
fn refuse_home_as_project(environment: &Environment, is_removal: bool) -> Result<(), Error> {
    if !environment.is_project || !environment.is_home() {
        return Ok(());
    }
    if is_removal {
        let records = Records::load().map_err(|why| Error::new(ErrorKind::Storage, why))?;
        if records.has_project(&environment.directory) {
            return Ok(());
        }
    }
    let text = "--project: the working directory is your home directory, whose settings files are your own, not those \
                of a project; change to the folder of a project, or leave --project out";
    Err(Error::new(ErrorKind::Usage, text))
}

/// The settings with which the user has switched off an agent's hooks or our server, each with its effect.
fn effects_of_switches(environment: &Environment, agent: &Agent) -> Vec<(String, &'static str)> {
    let hooks = environment.switched_off_hooks(agent).into_iter().map(|switch| (switch, "hooks can't show mail"));
    let server = environment.switched_off_server(agent).into_iter();
    hooks.chain(server.map(|switch| (switch, "the agent has no mesh tools"))).collect()
}

fn print_lists(lists: &[(&str, ChangedList)]) -> Result<(), Error> {
    for (title, list) in lists {
        if list.is_changed {
            let named = if list.agents.is_empty() { "none".to_owned() } else { list.agents.join(", ") };
            print_line(&format!("{title}: {named}"))?;
        }
        if let Some(note) = &list.note {
            print_line(&format!("  note: {note}"))?;
        }
    }
    Ok(())
}

/// Returns the projects that still have settings of the chosen agents, and the projects that were moved or deleted. If
/// no agent was chosen, all agents count as chosen. A moved or deleted project is reported only once, and then
/// forgotten.
fn projects_left(options: &SetupOptions) -> Result<(Vec<PathBuf>, Vec<PathBuf>), Error> {
    let load = if options.dry { Records::load } else { Records::load_locked };
    let storage = |why| Error::new(ErrorKind::Storage, why);
    let mut records = load().map_err(storage)?;
    let chosen = |agent: &&Agent| options.agents.is_empty() || options.agents.iter().any(|id| id == agent.id);
    let ids: Vec<&str> = AGENTS.iter().filter(chosen).map(|agent| agent.id).collect();
    let found = (records.projects_of(&ids), records.vanished_projects_of(&ids));
    if !options.dry {
        records.forget_vanished(&ids).map_err(storage)?;
    }
    Ok(found)
}

/// Returns the command that removes the settings of a project.
fn project_removal(options: &SetupOptions) -> String {
    let names: String = options.agents.iter().map(|id| format!("{id} ")).collect();
    format!("slm-mesh setup {names}--remove --project")
}

/// Says how to remove the settings that are left in these projects. Without `--project`, `--remove` keeps them.
fn print_projects_left(options: &SetupOptions, projects: &[PathBuf]) -> Result<(), Error> {
    if projects.is_empty() {
        return Ok(());
    }
    print_line("The settings in these projects were kept. To remove them, run:")?;
    for project in projects {
        let folder = shell_quoted(&project.to_string_lossy());
        print_line(&format!("  cd {folder} && {}", project_removal(options)))?;
    }
    Ok(())
}

/// Lists the projects that were moved or deleted. If a project was moved, its settings moved with it, so `setup` can't
/// find them.
fn print_vanished_projects(options: &SetupOptions, projects: &[PathBuf]) -> Result<(), Error> {
    if projects.is_empty() {
        return Ok(());
    }
    let command = project_removal(options);
    print_line(&format!(
        "The following projects were moved or deleted. If a project was moved, run {command} in its new folder."
    ))?;
    for project in projects {
        print_line(&format!("  {}", project.display()))?;
    }
    Ok(())
}

/// Saves the user's choices in the settings that contain lists of agents. Returns each changed list with its title.
fn save_lists(
    options: &SetupOptions,
    environment: &mut Environment,
    chosen: &[&Agent],
) -> Result<Vec<(&'static str, ChangedList)>, Error> {
    if options.shield == Some(true) {
        sandbox_support_check::try_shield(&environment.program)
            .map_err(|why| Error::new(ErrorKind::Usage, format!("--shield: {why}")))?;
    }
    let wake = AgentList { setting: WAKE, choice: options.wake, able: wakeable(), flag: "--wake", done: "woken" };
    let shield =
        AgentList { setting: SHIELD, choice: options.shield, able: shieldable(), flag: "--shield", done: "shielded" };
    if options.shield == Some(false) && !options.dry {
        // Turns off the shield of every session. If an agent still uses the shield, its sessions turn it on again.
        SessionShield::lower_all(&DataDir::find()?);
    }
    let wake = wake.save(options, chosen, &mut environment.wake)?;
    let shield = shield.save(options, chosen, &mut environment.shield)?;
    let titles = ["Agents whose idle sessions may be woken by mail", "Agents whose shell commands run in a shield"];
    Ok(titles.into_iter().zip([wake, shield]).filter_map(|(title, list)| Some((title, list?))).collect())
}

/// A setting that contains a list of agents, and the change that the user wants.
struct AgentList {
    setting: &'static str,
    choice: Option<bool>,
    able: Vec<&'static str>,
    flag: &'static str,
    done: &'static str,
}

impl AgentList {
    /// Adds the chosen agents to the list, or removes them from it. Returns `None` if the user asks for neither.
    fn save(
        &self,
        options: &SetupOptions,
        chosen: &[&Agent],
        list: &mut Vec<String>,
    ) -> Result<Option<ChangedList>, Error> {
        // These lists of agents apply to all projects, so `--remove --project` does not change them.
        let is_disconnected = options.remove && !options.project;
        let Some(on) = self.choice.or(is_disconnected.then_some(false)) else { return Ok(None) };
        let agents: Vec<&str> = chosen.iter().map(|agent| agent.id).filter(|id| self.able.contains(id)).collect();
        if agents.is_empty() && self.choice == Some(true) {
            let (flag, done, able) = (self.flag, self.done, self.able.join(", "));
            return Err(Error::new(
                ErrorKind::Usage,
                format!("{flag}: none of the chosen agents can be {done}; name one of {able}"),
            ));
        }
        let changed = set_agents(self.setting, &agents, on, options.dry)?;
        list.retain(|word| !agents.contains(&word.as_str()));
        if on {
            list.extend(agents.iter().map(|agent| (*agent).to_owned()));
            list.sort();
        }
        Ok(Some(changed))
    }
}

fn format_step(step: &SetupStep) -> String {
    let mut text = format!("  {:<14} {:<13} {}", step.what, step.done, step.place);
    let indented = |text: &str| text.lines().map(|line| format!("\n      {line}")).collect::<String>();
    text.push_str(&indented(&step.change));
    if !step.why.is_empty() {
        text.push_str(&format!("\n    because {}", step.why));
    }
    if !step.paste.is_empty() {
        text.push_str(&format!("\n    to do it yourself, paste or run this:{}", indented(&step.paste)));
    }
    text
}

/// Returns a fault if a newer slm-mesh has written the database.
fn check_database_version() -> Option<doctor::Check> {
    let refused = startup::refuse_newer_database(&DataDir::find().ok()?).err()?;
    Some(doctor::Check::error("database", refused.text, "follow this advice"))
}

/// Checks the whole installation, or tests the hooks of one agent. Returns 1 if a check fails.
pub fn doctor(prove: Option<&str>, json: bool) -> Result<u8, Error> {
    if let Some(agent) = prove {
        return prove_hooks(agent, json);
    }
    let mut checks = doctor::check_mesh();
    checks.extend(check_database_version());
    checks.extend(super::git_guard::check_installed());
    let mut n_here = 0;
    // Without a home directory, the agents can't be checked, but the mesh can.
    match Environment::find(false, false) {
        Ok(environment) => {
            let here: Vec<_> = AGENTS.iter().filter(|agent| environment.is_installed(agent)).collect();
            checks.push(doctor::check_shield(&environment));
            checks.extend(here.iter().flat_map(|agent| doctor::check_agent(&environment, agent)));
            checks.extend(check_project(&environment));
            n_here = here.len();
        }
        Err(why) => checks.push(doctor::Check::agents_not_checked(&why)),
    }
    let n_faults = checks.iter().filter(|check| check.cure.is_some()).count();
    if json {
        let checks: Vec<Value> = checks.iter().map(doctor::Check::to_value).collect();
        print_line(
            &json!({ "ok": n_faults == 0, "version": env!("CARGO_PKG_VERSION"), "checks": checks }).to_string(),
        )?;
        return Ok(u8::from(n_faults > 0));
    }
    print_line(&format!("slm-mesh {}", env!("CARGO_PKG_VERSION")))?;
    for check in &checks {
        let mark = if check.cure.is_some() { "WRONG" } else { "ok" };
        print_line(&format!("  {mark:<6} {:<18} {}", check.about, check.found))?;
        if let Some(cure) = &check.cure {
            print_line(&format!("         fix: {cure}"))?;
        }
    }
    if n_here == 0 {
        print_line("  no agent was found on PATH or in the home directory")?;
    }
    print_line(&match n_faults {
        0 => "All is well.".into(),
        n => format!("{n} problem{} to fix.", if n == 1 { "" } else { "s" }),
    })?;
    Ok(u8::from(n_faults > 0))
}

fn prove_hooks(agent: &str, json: bool) -> Result<u8, Error> {
    let mut environment = Environment::find(false, false)?;
    let agent = environment.agents(&[agent.to_owned()])?[0];
    let (user, project) = (agent.files.user, agent.files.project);
    // If an agent has hooks only in projects, the hooks of this project are tested.
    environment.is_project = user.hooks.is_none() && user.own_file.is_none() && project.hooks.is_some();
    let proofs = prove_hooks::prove(&environment, agent)?;
    let is_whole = proofs.iter().all(|proof| proof.why.is_none());
    if json {
        let all: Vec<Value> = proofs
            .iter()
            .map(|proof| json!({ "claim": proof.claim, "proven": proof.why.is_none(), "why": proof.why }))
            .collect();
        print_line(
            &json!({ "ok": is_whole, "agent": agent.id, "proofs": all, "notProven": not_proven(agent) }).to_string(),
        )?;
        return Ok(u8::from(!is_whole));
    }
    print_line(&format!("{}, tested with the hooks in its settings:", agent.title))?;
    for proof in &proofs {
        print_line(&match &proof.why {
            None => format!("  proven  {}", proof.claim),
            Some(why) => format!("  WRONG   {}: {why}", proof.claim),
        })?;
    }
    for claim in not_proven(agent) {
        print_line(&format!("  not proven: {claim}"))?;
    }
    Ok(u8::from(!is_whole))
}
