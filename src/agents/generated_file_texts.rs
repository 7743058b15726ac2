//! The files that `setup` writes as a whole: slash commands, a plugin, a page of conventions. Each of these files
//! contains a mark. `setup` changes or removes only files that contain this mark.

use crate::known_agents::Agent;
use crate::known_agents::settings_file_types::{CommandStyle, OwnFile};
use serde_json::json;
use std::path::Path;

/// The name under which `setup` registers our MCP server.
pub const NAME: &str = "slm-mesh";
/// The words that show that `setup` wrote a file.
pub const MARK: &str = "written by slm-mesh setup";

/// The slash commands: name, description and text.
const SLASH_COMMANDS: &[(&str, &str, &str)] = &[
    ("mesh-peers", "Show which other agents work here and on which tasks", include_str!("skills/mesh-peers.md")),
    ("mesh-send", "Send a message to another agent", include_str!("skills/mesh-send.md")),
    (
        "mesh-lock",
        "Lock the files that you are about to change, or see who holds locks",
        include_str!("skills/mesh-lock.md"),
    ),
    (
        "mesh-status",
        "Show the state of the mesh, and whether mail is waiting for you",
        include_str!("skills/mesh-status.md"),
    ),
    ("mesh-sync", "Catch up on mail, events, locks and shared state", include_str!("skills/mesh-sync.md")),
];

/// The names of the slash commands, and the texts of their files.
pub fn slash_commands(style: CommandStyle) -> Vec<(&'static str, String)> {
    commands(style, Some(MARK))
}

/// The slash commands for a plugin. Their files do not contain the mark of `setup`, so `setup` does not remove them.
pub fn plugin_commands(style: CommandStyle) -> Vec<(&'static str, String)> {
    commands(style, None)
}

fn commands(style: CommandStyle, mark: Option<&str>) -> Vec<(&'static str, String)> {
    let comment = mark.map(|mark| format!("\n<!-- {mark} -->\n")).unwrap_or_default();
    let first = mark.map(|mark| format!("# {mark}\n")).unwrap_or_default();
    let file = |(name, about, text): &(&'static str, &str, &str)| {
        let text = match style {
            CommandStyle::MarkdownWithDescription => format!("---\ndescription: {about}\n---\n\n{text}{comment}"),
            CommandStyle::MarkdownWithName => {
                format!("---\nname: {name}\ndescription: {about}\n---\n\n{text}{comment}")
            }
            CommandStyle::Markdown => format!("{text}{comment}"),
            CommandStyle::Toml => format!("{first}description = {}\nprompt = '''\n{text}'''\n", json!(about)),
        };
        (*name, text)
    };
    SLASH_COMMANDS.iter().map(file).collect()
}

/// The text of a file that `setup` writes as a whole for an agent. It contains the path of our program and the agent's
/// id.
pub fn own_file_text(own: &OwnFile, agent: &Agent, program: &str) -> String {
    own.text.replace("\"{program}\"", &json!(program).to_string()).replace("{agent}", agent.id)
}

/// Reads the path of the program from a plugin file that `setup` has written; `None` if `text` contains no path.
pub fn plugin_program(text: &str) -> Option<String> {
    let line = text.lines().find_map(|line| line.strip_prefix("const program = "))?;
    serde_json::from_str(line.trim_end_matches(';')).ok()
}

/// Whether a path ends with the name of our program.
pub fn is_our_program(program: &str) -> bool {
    Path::new(program).file_name().is_some_and(|name| name == NAME)
}
