//! What flags there are: the operations' own, and a table of the others. The parser, the help, the
//! man page, the README's tables and the completions all read them here.

use crate::core::op::ArgKind;
use crate::core::{Arg, CliPlace, OPS, Op};

/// Verbs that are no operation, for help and completions: name, words, what it does.
pub const VERBS: &[(&str, &str, &str)] = &[
    ("start", "", "Run the broker here, or behind with --detach; with other settings the live one gives way"),
    ("stop", "", "End the broker in order; sessions stay and start it again when they are used"),
    ("broadcast", "MESSAGE…", "Send a message to every peer that is here, and to the human"),
    ("state watch", "KEY", "Print an entry and each change of it; with --wait end at the first, or after S seconds"),
    (
        "watch",
        "",
        "Look on: peers, locks, messages and events as they come, with keys to write to a peer or release a lock",
    ),
    (
        "web",
        "",
        "The same as a page in a browser on this machine: print a link that works once, and open it on a desktop",
    ),
    ("clean", "", "Remove what a crashed run left in the data directory; no process is touched"),
    (
        "setup",
        "[AGENT…]",
        "Connect the agents that are here, or those named: server, hooks and commands; or take all of it out again; \
         --wake lets mail wake idle sessions",
    ),
    (
        "doctor",
        "",
        "Look whether broker and agents are as they should be, with the cure for each error; or prove an agent's hooks",
    ),
    ("hubs", "", "List the hubs on the local network that answer in a second, or in S: all of it hearsay until proven"),
    ("hook", "AGENT", "Answer a hook of an agent: claude, codex, copilot, gemini, cursor, vscode, devin or opencode"),
    ("guard", "install|remove", "Have git refuse commits and pushes of files that somebody else has locked"),
    ("secret", "", "Print a good secret for SLM_MESH_SHARED_SECRET, by which machines of one mesh know each other"),
    ("pipe", "", "Carry lines between standard input and output and this machine's broker: what ssh:// runs on a hub"),
    ("version", "", "Print the version"),
    ("help", "[VERB or TOPIC]", "Explain a verb or a topic"),
    ("mcp", "", "Serve MCP on standard input and output; what an agent starts"),
];

/// A flag that is no argument of an operation.
#[derive(Debug)]
pub struct Flag {
    /// Its name, without dashes.
    pub name: &'static str,
    /// Other names under which it is taken; one letter takes one dash.
    pub also: &'static [&'static str],
    /// Its value as usage lines show it; empty for a switch.
    pub value: &'static str,
    /// The verbs that take it; none for all.
    pub verbs: &'static [&'static str],
    /// One line for help and man page.
    pub help: &'static str,
}

const fn flag(name: &'static str, verbs: &'static [&'static str], help: &'static str) -> Flag {
    Flag { name, also: &[], value: "", verbs, help }
}

/// All flags that are no argument of an operation, in the order of the documentation.
pub const FLAGS: &[Flag] = &[
    flag("json", &[], "Answer on one line, for programs"),
    Flag {
        also: &["from", "peer-id", "peer"],
        value: "PEER",
        ..flag("as", &[], "Act as this peer: its name, its id, or the start of either")
    },
    Flag { also: &["h"], ..flag("help", &[], "Explain the verb") },
    Flag { also: &["V"], ..flag("version", &[], "Print the version") },
    Flag {
        also: &["f"],
        ..flag("follow", &["inbox", "events"], "Go on and print each as it comes, until interrupted")
    },
    Flag {
        value: "TEXT",
        ..flag("namespace", &["state watch"], "The entry's namespace; default unless said otherwise")
    },
    Flag {
        value: "S",
        ..flag("wait", &["state watch"], "End at the first change; exit status 4 if none came in so many seconds")
    },
    Flag { value: "S", ..flag("wait", &["hubs"], "How many seconds to gather answers, from 1 to 60") },
    flag("plain", &["watch"], "Print a line for each event instead, as happens where there is no terminal"),
    flag("print", &["web"], "Only print the link"),
    flag("detach", &["start"], "Run it behind, and come back when it serves"),
    flag("as-daemon", &["start"], "How slm-mesh starts its own broker: in a session of its own"),
    flag("dry-run", &["setup"], "Show what would change, and change nothing"),
    flag("remove", &["setup"], "Take out what setup put in"),
    flag("project", &["setup"], "The files of the project in this directory instead of yours"),
    flag("wake", &["setup"], "Let direct mail wake idle sessions of these agents"),
    flag("no-wake", &["setup"], "Let no mail wake them any more"),
    flag("wake", &["hook"], "Wait behind an idle agent for direct mail that may wake it"),
    Flag {
        value: "AGENT",
        ..flag("prove", &["doctor"], "Play a round of mail and locks through this agent's hooks, in a mesh apart")
    },
    flag("legacy", &["mcp"], "Refuse the MCP revision of 2026-07-28, for clients that need the older handshake"),
];

/// A flag as the documentation shows it.
#[derive(Debug, Clone)]
pub struct Shown {
    /// As people type it: `--ttl`.
    pub name: String,
    /// The same with its value: `--ttl M`.
    pub usage: String,
    /// One line, with what is accepted and other names.
    pub help: String,
}

impl Flag {
    /// Whether this name means this flag.
    pub fn is(&self, name: &str) -> bool {
        self.name == name || self.also.contains(&name)
    }

    fn shown(&self) -> Shown {
        let name = dashed(self.name);
        let also: Vec<String> = self.also.iter().map(|name| dashed(name)).collect();
        let also = if also.is_empty() { String::new() } else { format!(" (also {})", also.join(", ")) };
        Shown { usage: format!("{name} {}", self.value).trim_end().into(), name, help: format!("{}{also}", self.help) }
    }
}

/// A flag with its dashes: one for a letter, two for a word.
pub fn dashed(name: &str) -> String {
    format!("{}{name}", if name.len() == 1 { "-" } else { "--" })
}

/// An operation's flag as people type it.
pub fn name(arg: &Arg) -> String {
    format!("--{}", arg.short.map_or_else(|| arg.flag(), str::to_owned))
}

/// The operation behind a verb; `broadcast` is a way to send.
pub fn operation(verb: &str) -> Option<&'static Op> {
    let verb = if verb == "broadcast" { "send" } else { verb };
    OPS.iter().copied().find(|op| op.verb == Some(verb))
}

/// Those that every verb takes.
pub fn common() -> Vec<Shown> {
    FLAGS.iter().filter(|flag| flag.verbs.is_empty()).map(Flag::shown).collect()
}

/// Those of a verb, without the common ones.
pub fn of(verb: &str) -> Vec<Shown> {
    let own = operation(verb).map(|op| op.args).unwrap_or_default();
    let own = own.iter().filter(|arg| arg.place == CliPlace::Flag).map(shown);
    own.chain(FLAGS.iter().filter(|flag| flag.verbs.contains(&verb)).map(Flag::shown)).collect()
}

fn shown(arg: &Arg) -> Shown {
    let name = name(arg);
    let value = if matches!(arg.kind, ArgKind::Flag) { String::new() } else { placeholder(arg) };
    let also = if arg.short.is_some() { format!("; also --{}", arg.flag()) } else { String::new() };
    let want = match arg.kind {
        ArgKind::Flag => format!("a switch{also}"),
        ArgKind::Texts { .. } => format!("a list with commas{also}"),
        kind => kind.want() + &also,
    };
    Shown { usage: format!("{name} {value}").trim_end().into(), name, help: format!("{} ({want})", arg.help) }
}

/// What stands for an argument's value in a usage line.
pub fn placeholder(arg: &Arg) -> String {
    match (arg.kind, arg.place) {
        (ArgKind::Texts { .. }, CliPlace::Rest) => "FILE…".into(),
        (_, CliPlace::Rest) => format!("{}…", arg.name.to_uppercase()),
        (_, CliPlace::Positional) => arg.name.to_uppercase(),
        (ArgKind::Int { .. }, _) if arg.name.ends_with("Minutes") => "M".into(),
        (ArgKind::Int { .. }, _) if arg.name.ends_with("Seconds") => "S".into(),
        (ArgKind::Int { .. }, _) => "N".into(),
        (ArgKind::Choice(words), _) => words.join("|"),
        _ => "TEXT".into(),
    }
}

/// Whether a flag of this name takes a value, for some verb; `None` if no verb knows it.
pub fn takes_value(name: &str) -> Option<bool> {
    let args = OPS.iter().filter(|op| op.verb.is_some()).flat_map(|op| op.args);
    let mut args = args.filter(|arg| arg.place == CliPlace::Flag);
    let arg = args.find(|arg| arg.flag() == name || arg.short == Some(name));
    let other = FLAGS.iter().find(|flag| flag.is(name)).map(|flag| !flag.value.is_empty());
    arg.map(|arg| !matches!(arg.kind, ArgKind::Flag)).or(other)
}

/// Every verb, of an operation or not, in the order of the documentation.
pub fn verbs() -> impl Iterator<Item = &'static str> {
    OPS.iter().filter_map(|op| op.verb).chain(VERBS.iter().map(|(verb, ..)| *verb))
}

/// A verb with its arguments, on one line.
pub fn usage(verb: &str) -> String {
    let mut parts = vec![verb.to_owned()];
    match VERBS.iter().find(|(known, ..)| *known == verb) {
        Some((_, words, _)) => parts.extend(Some((*words).to_owned()).filter(|words| !words.is_empty())),
        None => {
            let args = operation(verb).map(|op| op.args).unwrap_or_default();
            for arg in args.iter().filter(|arg| matches!(arg.place, CliPlace::Positional | CliPlace::Rest)) {
                let optional = !arg.required && (arg.place == CliPlace::Positional || verb == "lock list");
                parts.push(if optional { format!("[{}]", placeholder(arg)) } else { placeholder(arg) });
            }
        }
    }
    parts.extend(of(verb).iter().filter(|flag| flag.name != "--as-daemon").map(|flag| format!("[{}]", flag.usage)));
    if verb == "lock" {
        parts.push("[-- COMMAND…]".into());
    }
    parts.join(" ")
}

/// The word that was probably meant: the nearest one that is at most two letters away.
pub fn meant<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let reach = if word.chars().count() < 5 { 1 } else { 2 };
    let near = known.map(|known| (distance(&word.to_lowercase(), known), known)).filter(|(far, _)| *far <= reach);
    near.min().map(|(_, known)| known)
}

/// How many letters must be added, removed, changed, or swapped with their neighbour.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().take(40).collect(), b.chars().collect());
    let mut rows: Vec<Vec<usize>> = vec![(0..=b.len()).collect()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let changed = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut least = changed.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                least = least.min(rows[i - 2][j - 2] + 1);
            }
            row.push(least);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_takes_a_value_with_every_verb_or_with_none() {
        let args = OPS.iter().filter(|op| op.verb.is_some()).flat_map(|op| op.args);
        for arg in args.filter(|arg| arg.place == CliPlace::Flag) {
            let takes = Some(!matches!(arg.kind, ArgKind::Flag));
            assert_eq!(takes_value(&arg.flag()), takes, "{}", arg.name);
            assert!(arg.short.is_none_or(|short| takes_value(short) == takes), "{}", arg.name);
        }
        for flag in FLAGS {
            for name in flag.also.iter().chain([&flag.name]) {
                assert_eq!(takes_value(name), Some(!flag.value.is_empty()), "{name}");
            }
        }
    }

    #[test]
    fn a_slip_of_the_fingers_is_understood_and_another_word_is_not() {
        for (typed, want) in [
            ("lok", Some("lock")),
            ("statsu", Some("status")),
            ("Lock", Some("lock")),
            ("peer", Some("peers")),
            ("fly", None),
        ] {
            assert_eq!(meant(typed, ["lock", "status", "peers"].into_iter()), want, "{typed}");
        }
    }
}
