//! Documentation made from the tables: help, man page, completions, and the README's tables.

use super::flags::{self, VERBS, placeholder, usage};
use super::help_topics::{self, TOPICS};
use super::say;
use crate::base::error;
use crate::base::error::{Error, ErrorKind};
use crate::core::tools::{TOOLS, name};
use crate::core::{CliPlace, OPS, Op};
use crate::sys::settings::SETTINGS;

/// Prints the help on a topic; without one, the overview.
pub fn help(topic: &str) -> Result<u8, Error> {
    let text = match topic {
        "" => overview(),
        "protocol" => format!("{}{}", help_topics::text(topic).unwrap_or_default(), methods()),
        "settings" => settings(),
        "man" => man(),
        "readme" => readme(),
        "completions bash" => bash(),
        "completions zsh" => zsh(),
        "completions fish" => fish(),
        _ => match help_topics::text(topic) {
            Some(text) => text.to_owned(),
            None => return verb_help(topic),
        },
    };
    say(text.trim_end())
}

/// Each verb with what it does.
fn rows() -> impl Iterator<Item = (&'static str, &'static str)> {
    let verbs = OPS.iter().filter_map(|op| op.verb.map(|verb| (verb, op.summary)));
    verbs.chain(VERBS.iter().map(|(verb, _, about)| (*verb, *about)))
}

fn overview() -> String {
    let mut text = String::from(
        "slm-mesh: coding agents find each other, talk, share state and lock files\n\nUsage: slm-mesh [VERB] [ARGUMENTS] [--json] [--as PEER]\n\n",
    );
    for (verb, about) in rows() {
        text.push_str(&format!("  {verb:<14} {about}\n"));
    }
    text.push_str("\nWithout arguments: the MCP session, or on a terminal a greeting.\n");
    text.push_str("More: slm-mesh help VERB; man slm-mesh; and slm-mesh help of\n\n");
    for (topic, about, _) in TOPICS {
        text.push_str(&format!("  {topic:<14} {about}\n"));
    }
    text.push_str(&format!(
        "\nExit status: {}\n",
        exits().iter().map(|(n, means)| format!("{n} {means}")).collect::<Vec<_>>().join("; ")
    ));
    text
}

/// Each exit status with what it tells, in order.
fn exits() -> Vec<(u8, String)> {
    let mut rows: Vec<(u8, String)> = vec![(0, "done".into())];
    for row in error::CODES {
        match rows.iter_mut().find(|(n, _)| *n == row.exit) {
            Some((_, means)) => means.push_str(&format!(", {}", row.means)),
            None => rows.push((row.exit, row.means.into())),
        }
    }
    rows
}

fn verb_help(topic: &str) -> Result<u8, Error> {
    let fits = |verb: &str| verb == topic || verb.starts_with(&format!("{topic} "));
    let mut text = String::new();
    for (verb, about) in rows().filter(|(verb, _)| fits(verb)) {
        text.push_str(&format!("slm-mesh {}\n  {about}\n", usage(verb)));
        let args = flags::operation(verb).map(|op| op.args).unwrap_or_default();
        let is_word = |place: CliPlace| place == CliPlace::Positional || place == CliPlace::Rest;
        // To whom a broadcast goes is not its user's to say.
        for arg in args.iter().filter(|arg| is_word(arg.place) && (verb, arg.name) != ("broadcast", "to")) {
            let want = if arg.name == "filePaths" { "64 at most".into() } else { arg.kind.want() };
            text.push_str(&format!("    {:<14} {} ({want})\n", placeholder(arg), arg.help));
        }
        for flag in flags::of(verb) {
            text.push_str(&format!("    {:<14} {}\n", flag.usage, flag.help));
        }
    }
    if text.is_empty() {
        let meant =
            flags::meant(topic, flags::verbs().filter_map(|verb| verb.split(' ').next()).chain(help_topics::names()));
        let meant = meant.map(|word| format!("did you mean {word}? ")).unwrap_or_default();
        return Err(Error::new(
            ErrorKind::Usage,
            format!("no help on {topic}; {meant}slm-mesh help lists verbs and topics"),
        ));
    }
    text.push_str("Every verb takes\n");
    for flag in flags::common() {
        text.push_str(&format!("    {:<14} {}\n", flag.usage, flag.help));
    }
    say(text.trim_end())
}

fn settings() -> String {
    let mut text = String::from(
        "From the environment, else from the file config in the data directory (NAME=value, a line each).\n\n",
    );
    text.push_str("SLM_MESH_DATA_DIR\n    The data directory, from the root; ~/.slm-mesh unless set\n");
    for setting in SETTINGS {
        let default = if setting.default.is_empty() { "unset" } else { setting.default };
        text.push_str(&format!("{}\n    {} ({}; default {default})\n", setting.name, setting.help, setting.want()));
    }
    text
}

fn methods() -> String {
    let args = |op: &Op| {
        op.args
            .iter()
            .map(|arg| if arg.required { arg.name.to_owned() } else { format!("[{}]", arg.name) })
            .collect::<Vec<_>>()
            .join(" ")
    };
    OPS.iter().map(|op| format!("{} {}\n    {}\n", op.name, args(op), op.summary)).collect()
}

/// The tables of the README, between its markers.
pub fn readme() -> String {
    let mut text = String::from("| tool | what it does |\n| --- | --- |\n");
    for tool in TOOLS {
        let first = tool.about.split(". ").next().unwrap_or("").trim_end_matches('.');
        text.push_str(&format!("| `{}` | {first} |\n", name(tool)));
    }
    text.push_str("\n| verb | what it does |\n| --- | --- |\n");
    for (verb, about) in rows() {
        text.push_str(&format!("| `{}` | {about} |\n", usage(verb).replace('|', "\\|")));
    }
    text
}

/// Text for roff: a leading dot, a backslash and a plain hyphen mean something there.
fn roff(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-").replace('…', "...").replace('~', "\\(ti");
    if text.starts_with(['.', '\'']) { format!("\\&{text}") } else { text }
}

/// The man page.
pub fn man() -> String {
    let mut page = String::from(include_str!("man/head.man"));
    page.push_str(".SH COMMANDS\nEvery command takes\n");
    for flag in flags::common() {
        page.push_str(&format!(".TP\n.B {}\n{}.\n", roff(&flag.usage), roff(&flag.help)));
    }
    page.push_str(".PP\nThe commands:\n");
    for (verb, about) in rows() {
        page.push_str(&format!(".TP\n.B {}\n{}.\n", roff(&usage(verb)), roff(about)));
        for flag in flags::of(verb) {
            page.push_str(&format!(".RS\n.TP\n.B {}\n{}.\n.RE\n", roff(&flag.name), roff(&flag.help)));
        }
    }
    page.push_str(
        ".SH ENVIRONMENT\nA setting that the environment does not give comes from the file\n.I config\n\
         in the data directory, a line\n.RI NAME= value\neach.\n",
    );
    page.push_str(".TP\n.B SLM_MESH_DATA_DIR\nThe data directory, from the root; \\(ti/.slm\\-mesh unless set.\n");
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
    page.push_str(".TP\n.B NO_COLOR\nIf set, nothing is coloured.\n.SH EXIT STATUS\n");
    for (n, means) in exits() {
        page.push_str(&format!(".TP\n.B {n}\n{}.\n", roff(&means)));
    }
    page.push_str("With\n.B lock ... \\-\\- COMMAND\nthe exit status is the command's own.\n");
    page.push_str(include_str!("man/tail.man"));
    page
}

/// Words that may follow, by first word: for completions.
fn words() -> Vec<(String, Vec<String>)> {
    let mut found: Vec<(String, Vec<String>)> = Vec::new();
    for verb in flags::verbs() {
        let (first, second) = verb.split_once(' ').unwrap_or((verb, ""));
        if !found.iter().any(|(known, _)| known == first) {
            found.push((first.to_owned(), vec!["--json".into(), "--as".into(), "--help".into()]));
        }
        let Some((_, next)) = found.iter_mut().find(|(known, _)| known == first) else { continue };
        next.extend(Some(second.to_owned()).filter(|word| !word.is_empty()));
        next.extend(flags::of(verb).into_iter().map(|flag| flag.name));
    }
    for (_, next) in &mut found {
        next.sort();
        next.dedup();
    }
    found
}

fn bash() -> String {
    let mut text = String::from(
        "# bash completion for slm-mesh\n_slm_mesh() {\n    local cur=${COMP_WORDS[COMP_CWORD]} verb=${COMP_WORDS[1]}\n    COMPREPLY=()\n",
    );
    let firsts: Vec<String> = words().into_iter().map(|(verb, _)| verb).collect();
    text.push_str(&format!("    if [ \"$COMP_CWORD\" -eq 1 ]; then\n\
         \x20       mapfile -t COMPREPLY < <(compgen -W '{} --help --version --json' -- \"$cur\")\n        return\n    fi\n", firsts.join(" ")));
    text.push_str("    local words=\n    case $verb in\n");
    for (verb, next) in words() {
        text.push_str(&format!("        {verb}) words='{}' ;;\n", next.join(" ")));
    }
    text.push_str(
        "    esac\n    mapfile -t COMPREPLY < <(compgen -W \"$words\" -- \"$cur\")\n    case $verb in\n\
         \x20       lock|unlock) mapfile -t -O \"${#COMPREPLY[@]}\" COMPREPLY < <(compgen -f -- \"$cur\") ;;\n\
         \x20   esac\n}\ncomplete -o filenames -F _slm_mesh slm-mesh\n",
    );
    text
}

fn zsh() -> String {
    let mut text = String::from("#compdef slm-mesh\nlocal -a verbs\nverbs=(\n");
    let about = |first: &str| {
        let fits = |verb: &str| verb == first || verb.starts_with(&format!("{first} "));
        rows().find(|(verb, _)| fits(verb)).map_or("", |(_, about)| about)
    };
    for (verb, _) in words() {
        text.push_str(&format!("  '{verb}:{}'\n", about(&verb).replace('\'', "").replace(':', ",")));
    }
    text.push_str(")\nif (( CURRENT == 2 )); then\n  _describe verb verbs\n  return\nfi\ncase $words[2] in\n");
    for (verb, next) in words() {
        let files = if ["lock", "unlock"].contains(&verb.as_str()) { " ; _files" } else { "" };
        text.push_str(&format!("  {verb}) compadd -- {}{files} ;;\n", next.join(" ")));
    }
    text.push_str("esac\n");
    text
}

fn fish() -> String {
    let mut text = String::from("# fish completion for slm-mesh\ncomplete -c slm-mesh -f\n");
    for (verb, next) in words() {
        text.push_str(&format!("complete -c slm-mesh -n __fish_use_subcommand -a {verb}\n"));
        let (flags, subs): (Vec<_>, Vec<_>) = next.into_iter().partition(|word| word.starts_with("--"));
        for sub in subs {
            text.push_str(&format!("complete -c slm-mesh -n '__fish_seen_subcommand_from {verb}' -a {sub}\n"));
        }
        for flag in flags {
            text.push_str(&format!(
                "complete -c slm-mesh -n '__fish_seen_subcommand_from {verb}' -l {}\n",
                flag.trim_start_matches("--")
            ));
        }
        if ["lock", "unlock"].contains(&verb.as_str()) {
            text.push_str(&format!("complete -c slm-mesh -n '__fish_seen_subcommand_from {verb}' -F\n"));
        }
    }
    text
}
