//! Files that are ours alone: slash commands, OpenCode's plugin, the conventions for an agent without
//! MCP. Each says who wrote it, and only one that does is ever changed or removed.

use super::configs::{Own, SKILLS, Skills, Style};
use serde_json::json;
use std::path::Path;

/// The name under which we are registered.
pub const NAME: &str = "slm-mesh";
/// By this a file is known as ours.
pub const MARK: &str = "written by slm-mesh setup";

/// The slash commands in an agent's manner: their paths, and their texts.
pub fn skills(skills: &Skills) -> Vec<(String, String)> {
    let file = |(name, about, text): &(&str, &str, &str)| {
        let path = skills.path.replace("{name}", name);
        let mark = format!("\n<!-- {MARK} -->\n");
        let dressed = match skills.style {
            Style::Headed => format!("---\ndescription: {about}\n---\n\n{text}{mark}"),
            Style::Skill => format!("---\nname: {name}\ndescription: {about}\n---\n\n{text}{mark}"),
            Style::Bare => format!("{text}{mark}"),
            Style::Toml => format!("# {MARK}\ndescription = {}\nprompt = '''\n{text}'''\n", json!(about)),
        };
        (path, dressed)
    };
    SKILLS.iter().map(file).collect()
}

/// The text of a file of ours.
pub fn text(own: Own, program: &str) -> String {
    match own {
        Own::Plugin => include_str!("skills/opencode.js").replace("\"{program}\"", &json!(program).to_string()),
        Own::Conventions => format!("{}\n<!-- {MARK} -->\n", include_str!("skills/conventions.md")),
    }
}

/// The program that a plugin runs.
pub fn plugin_program(text: &str) -> Option<String> {
    let line = text.lines().find_map(|line| line.strip_prefix("const program = "))?;
    serde_json::from_str(line.trim_end_matches(';')).ok()
}

/// Whether a program is one of ours.
pub fn is_us(program: &str) -> bool {
    Path::new(program).file_name().is_some_and(|name| name == NAME)
}
