//! Generates the help, the man page and the README's tables from the tables of verbs, flags and settings.

use super::args::is_file_list;
use super::help_topics::{self, TOPICS};
use super::print_text;
use super::verb_and_flag_tables::{self, VERBS, placeholder, usage_line};
use crate::agents::{marketplace_plugin_files, setup_environment};
use crate::base::error;
use crate::base::error::{Error, ErrorKind};
use crate::base::limits;
use crate::core::mcp_tools::{TOOLS, name};
use crate::core::{Arg, CliPlace, OPS};
use crate::known_agents;
use crate::sys::settings::SETTINGS;

/// Prints the help for a topic, or the overview if the topic is empty.
pub fn print_help(topic: &str, json: bool) -> Result<u8, Error> {
    print_text("text", help(topic)?.trim_end(), json)
}

fn help(topic: &str) -> Result<String, Error> {
    Ok(match topic {
        "" => overview(),
        "protocol" => format!("{}{}", help_topics::text(topic).unwrap_or_default(), method_list()),
        "settings" => settings_help(),
        "man" => man_page(),
        "readme" => readme_tables(),
        "completions bash" => include_str!("completions/slm-mesh.bash").to_owned(),
        "completions zsh" => include_str!("completions/_slm-mesh").to_owned(),
        "completions fish" => include_str!("completions/slm-mesh.fish").to_owned(),
        "launchd" => launchd_agent(&setup_environment::own_path()?),
        _ if topic.starts_with("plugin ") => plugin_files(&topic["plugin ".len()..])?,
        _ => match help_topics::text(topic) {
            Some(text) => text.to_owned(),
            None => verb_help(topic)?,
        },
    })
}

/// Returns a launchd property list that starts the broker of a hub on macOS.
fn launchd_agent(program: &str) -> String {
    let escaped = program.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    include_str!("launchd.plist").replace("@PROGRAM@", &escaped)
}

/// Returns the files of an agent's plugin as JSON, for people who package the plugin.
fn plugin_files(agent: &str) -> Result<String, Error> {
    let files = known_agents::by_id(agent).and_then(marketplace_plugin_files::files_as_json);
    let files =
        files.ok_or_else(|| Error::usage("help plugin", format!("expected an agent that has plugins, got {agent}")))?;
    Ok(files.to_string())
}

/// Returns all verbs, each with the summary that the help shows.
pub fn verb_summaries() -> impl Iterator<Item = (&'static str, &'static str)> {
    let verbs = OPS.iter().filter_map(|op| op.verb.map(|verb| (verb, op.summary)));
    verbs.chain(VERBS.iter().map(|(verb, _, about)| (*verb, *about)))
}

fn overview() -> String {
    let mut text = String::from(
        "slm-mesh lets coding agents find each other, exchange messages, share state, and lock the files that they \
         edit.\n\nUsage: slm-mesh [VERB] [ARGUMENTS] [--json] [--as PEER]\n\n",
    );
    for (verb, about) in verb_summaries() {
        text.push_str(&format!("  {verb:<14} {about}\n"));
    }
    text.push_str("\nWithout a verb, slm-mesh serves MCP; on a terminal, it shows the state of the mesh instead.\n");
    text.push_str("Read more with slm-mesh help VERB, man slm-mesh, or slm-mesh help TOPIC:\n\n");
    for (topic, about, _) in TOPICS {
        text.push_str(&format!("  {topic:<14} {about}\n"));
    }
    text.push_str(&format!(
        "\nExit status: {}\n",
        exit_statuses().iter().map(|(n, means)| format!("{n} {means}")).collect::<Vec<_>>().join("; ")
    ));
    text
}

/// Returns all exit statuses, each with its meaning.
fn exit_statuses() -> Vec<(u8, String)> {
    let mut rows: Vec<(u8, String)> = vec![(0, "done".into())];
    for row in error::CODES {
        match rows.iter_mut().find(|(n, _)| *n == row.exit) {
            Some((_, means)) => means.push_str(&format!(", {}", row.means)),
            None => rows.push((row.exit, row.means.into())),
        }
    }
    rows
}

fn verb_help(topic: &str) -> Result<String, Error> {
    let fits = |verb: &str| verb == topic || verb.starts_with(&format!("{topic} "));
    let mut text = String::new();
    for (verb, about) in verb_summaries().filter(|(verb, _)| fits(verb)) {
        text.push_str(&format!("slm-mesh {}\n  {about}\n", usage_line(verb)));
        let args = verb_and_flag_tables::verb_args(verb);
        let is_word = |place: CliPlace| place == CliPlace::Positional || place == CliPlace::Rest;
        // The verb `broadcast` always sends to everyone, so its help shows no argument for the recipient.
        for arg in args.iter().filter(|arg| is_word(arg.place) && (verb, arg.name) != ("broadcast", "to")) {
            let want = if is_file_list(arg) { format!("at most {}", limits::PATHS_MAX) } else { arg.kind.want() };
            text.push_str(&help_row(&placeholder(arg), &format!("{} ({want})", arg.help)));
        }
        for flag in verb_and_flag_tables::verb_flags(verb) {
            text.push_str(&help_row(&flag.usage, &flag.help));
        }
    }
    if text.is_empty() {
        let guess = verb_and_flag_tables::closest_word(
            topic,
            verb_and_flag_tables::all_verbs().filter_map(|verb| verb.split(' ').next()).chain(help_topics::names()),
        );
        let guess = guess.map(|word| format!("did you mean {word}? ")).unwrap_or_default();
        return Err(Error::new(
            ErrorKind::Usage,
            format!("there is no help on {topic}; {guess}run slm-mesh help to list the verbs and topics"),
        ));
    }
    text.push_str("Flags of every verb\n");
    for flag in verb_and_flag_tables::common_flags() {
        text.push_str(&help_row(&flag.usage, &flag.help));
    }
    Ok(text)
}

/// Formats the help row of a flag or an argument. A long name gets a line of its own.
fn help_row(name: &str, about: &str) -> String {
    const WIDTH: usize = 16;
    let gap = if name.chars().count() > WIDTH { format!("\n    {:WIDTH$}", "") } else { String::new() };
    format!("    {name:<WIDTH$}{gap} {about}\n")
}

fn settings_help() -> String {
    let mut text = String::from(
        "Set these in the environment, or in the `config` file in the data directory, one NAME=value per line.\n\n",
    );
    text.push_str("SLM_MESH_DATA_DIR\n    The data directory, as an absolute path (default ~/.slm-mesh)\n");
    for setting in SETTINGS {
        let default = if setting.default.is_empty() { "unset" } else { setting.default };
        text.push_str(&format!("{}\n    {} ({}; default {default})\n", setting.name, setting.help, setting.want()));
    }
    text
}

fn method_list() -> String {
    let arg_names = |args: &[Arg]| -> String {
        let name = |arg: &Arg| if arg.required { format!(" {}", arg.name) } else { format!(" [{}]", arg.name) };
        args.iter().map(name).collect()
    };
    OPS.iter().map(|op| format!("{}{}\n    {}\n", op.name, arg_names(op.args), op.summary)).collect()
}

/// Returns the tables that the README contains between its markers.
pub fn readme_tables() -> String {
    let mut text = String::from("| tool | what it does |\n| --- | --- |\n");
    for tool in TOOLS {
        let first = tool.about.split(". ").next().unwrap_or("").trim_end_matches('.');
        text.push_str(&format!("| `{}` | {first} |\n", name(tool)));
    }
    text.push_str("\n| verb | what it does |\n| --- | --- |\n");
    for (verb, about) in verb_summaries() {
        text.push_str(&format!("| `{}` | {about} |\n", usage_line(verb).replace('|', "\\|")));
    }
    text
}

/// Escapes text for roff, in which a leading dot, a backslash and a hyphen have special meanings.
fn roff(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-").replace('…', "...").replace('~', "\\(ti");
    if text.starts_with(['.', '\'']) { format!("\\&{text}") } else { text }
}

/// The man page.
pub fn man_page() -> String {
    let mut page = String::from(include_str!("man/head.man"));
    page.push_str(".SH COMMANDS\nEvery command takes these flags:\n");
    for flag in verb_and_flag_tables::common_flags() {
        page.push_str(&format!(".TP\n.B {}\n{}.\n", roff(&flag.usage), roff(&flag.help)));
    }
    page.push_str(".PP\nThe commands:\n");
    for (verb, about) in verb_summaries() {
        page.push_str(&format!(".TP\n.B {}\n{}.\n", roff(&usage_line(verb)), roff(about)));
        for flag in verb_and_flag_tables::verb_flags(verb) {
            page.push_str(&format!(".RS\n.TP\n.B {}\n{}.\n.RE\n", roff(&flag.name), roff(&flag.help)));
        }
    }
    page.push_str(
        ".SH ENVIRONMENT\nSettings come from the environment, or from the file\n.I config\n\
         in the data directory, one\n.RI NAME= value\nper line.\n",
    );
    page.push_str(".TP\n.B SLM_MESH_DATA_DIR\nThe data directory, as an absolute path (default \\(ti/.slm\\-mesh).\n");
    for setting in SETTINGS {
        let default = if setting.default.is_empty() { "unset" } else { setting.default };
        page.push_str(&format!(
            ".TP\n.B {}\n{} ({}; default {}).\n",
            setting.name,
            roff(setting.help),
            roff(&setting.want()),
            roff(default)
        ));
    }
    page.push_str(".TP\n.B NO_COLOR\nIf set, output has no colour.\n.SH EXIT STATUS\n");
    for (n, means) in exit_statuses() {
        page.push_str(&format!(".TP\n.B {n}\n{}.\n", roff(&means)));
    }
    page.push_str("With\n.BR \"lock ... \\-\\- COMMAND\" ,\nthe exit status is the command's own.\n");
    page.push_str(include_str!("man/tail.man"));
    page
}
