//! `setup` and `doctor`: print what they changed or found, for people and for programs.

use super::print_line;
use crate::agents::configs::{ROWS, Row};
use crate::agents::environment::Ground;
use crate::agents::prove::NOT_PROVEN;
use crate::agents::setup::{self, Step};
use crate::agents::{doctor, prove, wake};
use crate::base::error::{Error, ErrorKind};
use crate::sys::settings::WAKABLE;
use serde_json::{Value, json};

/// The options of `setup`.
#[derive(Debug, Clone, Default)]
pub struct SetupOptions {
    /// The agents by name; empty means the installed ones.
    pub agents: Vec<String>,
    /// Show what would change, and change nothing.
    pub dry: bool,
    /// Remove instead of install.
    pub remove: bool,
    /// Change the project's files instead of the user's.
    pub project: bool,
    /// Whether messages may wake these agents from now on; `None` keeps the setting.
    pub wake: Option<bool>,
}

/// Connects agents, or disconnects them. Returns 1 if something is left for the user to do.
pub fn setup(options: &SetupOptions, json: bool) -> Result<u8, Error> {
    let mut ground = Ground::find(options.project, options.dry)?;
    let rows = ground.rows(&options.agents)?;
    let woken = save_wake_setting(options, &mut ground, &rows)?;
    if rows.is_empty() {
        let text = "no agent was found on PATH or in the home directory; name one, as in slm-mesh setup claude";
        return Err(Error::new(ErrorKind::NotFound, text));
    }
    let (mut found, mut is_open) = (Vec::new(), false);
    for row in rows {
        let steps = if options.remove { setup::take(&ground, row) } else { setup::put(&ground, row) };
        is_open |= steps.iter().any(Step::is_open);
        let is_changed = steps.iter().any(|step| step.done != setup::SAME);
        let approve = if options.remove || !is_changed { "" } else { row.approve };
        if json {
            let steps: Vec<Value> = steps.iter().map(Step::to_value).collect();
            found.push(json!({ "agent": row.name, "steps": steps, "approve": approve }));
            continue;
        }
        print_line(row.title)?;
        if steps.is_empty() {
            print_line("  nothing to change")?;
        }
        for step in steps.iter() {
            print_line(&format_step(step))?;
        }
        if !approve.is_empty() {
            print_line(&format!("  you: {approve}"))?;
        }
    }
    if json {
        let wake = &ground.wake;
        print_line(&json!({ "ok": !is_open, "dryRun": options.dry, "agents": found, "wake": wake }).to_string())?;
    } else if woken {
        let who = if ground.wake.is_empty() { "nobody".to_owned() } else { ground.wake.join(", ") };
        print_line(&format!("Mail may wake idle sessions of: {who}"))?;
    }
    Ok(u8::from(is_open))
}

/// Saves whether messages may wake these agents, and returns whether that changed anything.
fn save_wake_setting(options: &SetupOptions, ground: &mut Ground, rows: &[&Row]) -> Result<bool, Error> {
    let Some(on) = options.wake.or(options.remove.then_some(false)) else { return Ok(false) };
    let agents: Vec<&str> = rows.iter().map(|row| row.name).filter(|name| WAKABLE.contains(name)).collect();
    if agents.is_empty() && options.wake == Some(true) {
        let text = format!("--wake: none of these can be woken; only {} can", WAKABLE.join(", "));
        return Err(Error::new(ErrorKind::Usage, text));
    }
    let is_changed = wake::allow(&agents, on, options.dry)?;
    ground.wake.retain(|word| !agents.contains(&word.as_str()));
    if on {
        ground.wake.extend(agents.iter().map(|agent| (*agent).to_owned()));
        ground.wake.sort();
    }
    Ok(is_changed)
}

fn format_step(step: &Step) -> String {
    let mut text = format!("  {:<14} {:<13} {}", step.what, step.done, step.place);
    let indented = |text: &str| text.lines().map(|line| format!("\n      {line}")).collect::<String>();
    text.push_str(&indented(&step.change));
    if !step.why.is_empty() {
        text.push_str(&format!("\n    because {}", step.why));
    }
    if !step.paste.is_empty() {
        text.push_str(&format!("\n    do it yourself:{}", indented(&step.paste)));
    }
    text
}

/// Checks everything, or proves an agent's hooks. Returns 1 if something is wrong.
pub fn doctor(prove: Option<&str>, json: bool) -> Result<u8, Error> {
    if let Some(agent) = prove {
        return prove_hooks(agent, json);
    }
    let mut checks = doctor::mesh();
    let mut n_here = 0;
    // Without a home directory, the mesh itself can still be checked.
    match Ground::find(false, false) {
        Ok(ground) => {
            let here: Vec<_> = ROWS.iter().filter(|row| ground.is_here(row)).collect();
            checks.extend(here.iter().flat_map(|row| doctor::agent(&ground, row)));
            n_here = here.len();
        }
        Err(why) => checks.push(doctor::Check::unseen(&why)),
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
    let mut ground = Ground::find(false, false)?;
    let row = ground.rows(&[agent.to_owned()])?[0];
    // Some agents have hooks only in the project's files.
    ground.project = row.user.hooks.is_none() && row.user.own.is_none() && row.project.hooks.is_some();
    let proofs = prove::prove(&ground, row)?;
    let is_whole = proofs.iter().all(|proof| proof.why.is_none());
    if json {
        let all: Vec<Value> = proofs
            .iter()
            .map(|proof| json!({ "claim": proof.claim, "proven": proof.why.is_none(), "why": proof.why }))
            .collect();
        print_line(&json!({ "ok": is_whole, "agent": row.name, "proofs": all, "notProven": NOT_PROVEN }).to_string())?;
        return Ok(u8::from(!is_whole));
    }
    print_line(&format!("{}, through the hooks in its settings:", row.title))?;
    for proof in &proofs {
        print_line(&match &proof.why {
            None => format!("  proven  {}", proof.claim),
            Some(why) => format!("  WRONG   {}: {why}", proof.claim),
        })?;
    }
    for claim in NOT_PROVEN {
        print_line(&format!("  not proven: {claim}"))?;
    }
    Ok(u8::from(!is_whole))
}
