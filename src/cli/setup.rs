//! `setup` and `doctor`: what they did or found, as people and programs read it.

use super::say;
use crate::agents::ground::Ground;
use crate::agents::setup::{self, Step};
use crate::mesh::{Fault, Kind};
use serde_json::{Value, json};

/// What `setup` was asked for.
#[derive(Debug, Clone, Default)]
pub struct Asked {
    /// Agents by name; none for those that are here.
    pub agents: Vec<String>,
    /// Show, and change nothing.
    pub dry: bool,
    /// Take out instead of putting in.
    pub remove: bool,
    /// The project's files instead of the user's.
    pub project: bool,
}

/// Sets agents up, or takes us out of them; 1 if something is left for the user to do.
pub fn setup(asked: &Asked, json: bool) -> Result<u8, Fault> {
    let ground = Ground::find(asked.project, asked.dry)?;
    let rows = ground.rows(&asked.agents)?;
    if rows.is_empty() {
        let text = "no agent was found on PATH or in the home; name one, as in slm-mesh setup claude";
        return Err(Fault::new(Kind::NotFound, text));
    }
    let (mut found, mut is_open) = (Vec::new(), false);
    for row in rows {
        let steps = if asked.remove { setup::take(&ground, row) } else { setup::put(&ground, row) };
        is_open |= steps.iter().any(Step::is_open);
        let is_changed = steps.iter().any(|step| step.done != setup::SAME);
        let approve = if asked.remove || !is_changed { "" } else { row.approve };
        if json {
            let steps: Vec<Value> = steps.iter().map(Step::to_value).collect();
            found.push(json!({ "agent": row.name, "steps": steps, "approve": approve }));
            continue;
        }
        say(row.title)?;
        if steps.is_empty() {
            say("  has no such files")?;
        }
        for step in steps.iter() {
            say(&worded(step))?;
        }
        if !approve.is_empty() {
            say(&format!("  you: {approve}"))?;
        }
    }
    if json {
        say(&json!({ "ok": !is_open, "dryRun": asked.dry, "agents": found }).to_string())?;
    }
    Ok(u8::from(is_open))
}

fn worded(step: &Step) -> String {
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
