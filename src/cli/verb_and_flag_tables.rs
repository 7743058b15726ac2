//! The verbs and flags of the command line. Some come from the table of operations, and all others from the tables in
//! this file. The parser, the help, the man page, the README and the completions use all these tables.

use super::verb_behavior_table;
use crate::core::op_definition::{ArgKind, ArgRole};
use crate::core::{Arg, CliPlace, OPS};

/// Verbs that are not operations. Each has a name, the words after the name, and a sentence for the help.
pub const VERBS: &[(&str, &str, &str)] = &[
    (
        "start",
        "",
        "Run the broker in the foreground, or in the background with --detach; replace a running broker if its \
         settings differ",
    ),
    ("stop", "", "Stop the broker; if an open session needs the broker, the session starts it again"),
    ("restore", "BACKUP", "Replace the broker's database with a backup, and set the old database aside"),
    ("broadcast", "MESSAGE…", "Send a message to every online peer and to the human"),
    (
        "lock restore",
        "FILE",
        "Show what a command changed in a file that another peer had locked, and restore the previous content",
    ),
    (
        "shield",
        "-- COMMAND…",
        "Run a command so that it cannot write the files that other peers have locked in this work tree",
    ),
    (
        "state watch",
        "KEY",
        "Print an entry and every change to it; with --wait, stop at the first change or after S seconds",
    ),
    ("watch", "", "Watch peers, locks, messages and events live; press ? for the keys"),
    (
        "transcript",
        "PEER",
        "Show the last prompts and answers of a peer's session on this machine, without disturbing the session",
    ),
    ("web", "", "Open the live view in a browser on this machine, and print a link that works once"),
    ("clean", "", "Remove files that a crash left in the data directory, without stopping any process"),
    (
        "setup",
        "[AGENT…]",
        "Install the MCP server, hooks and slash commands for all agents on this machine, or only for those that you \
         name; with --remove, remove them",
    ),
    (
        "doctor",
        "",
        "Check the broker and the agents' settings, and say how to fix each problem; with --prove, test an agent's \
         hooks",
    ),
    (
        "hubs",
        "",
        "List the hubs that answer on the local network, and show whether each proves that it knows the shared secret",
    ),
    ("hook", "AGENT", "Handle an event from an agent's hook; agents run this"),
    (
        "guard",
        "install [HOOKSDIR]|remove",
        "Make git refuse commits, merges and pushes of files that another peer has locked; if the git hooks are \
         tracked by git, or shared by all your repositories, name the directory of the hooks",
    ),
    ("secret", "", "Generate a value for SLM_MESH_SHARED_SECRET, the secret that the machines of a mesh share"),
    (
        "pipe",
        "",
        "Connect standard input and output to the broker; for an ssh:// address, ssh runs this verb on the hub",
    ),
    ("version", "", "Print the version"),
    ("help", "[VERB or TOPIC]", "Show help for a verb or a topic"),
    ("mcp", "", "Serve MCP on standard input and output; agents start this"),
];

/// A flag that is not an argument of an operation.
#[derive(Debug)]
pub struct CliFlag {
    /// The flag's name, without dashes.
    pub name: &'static str,
    /// Other names of the flag. A name of one letter gets one dash.
    pub also: &'static [&'static str],
    /// The placeholder for the flag's value in usage lines; empty for a switch.
    pub value: &'static str,
    /// The verbs that accept the flag; empty if all verbs accept it.
    pub verbs: &'static [&'static str],
    /// The one-line description of the flag in the help and the man page.
    pub help: &'static str,
}

const fn flag(name: &'static str, verbs: &'static [&'static str], help: &'static str) -> CliFlag {
    CliFlag { name, also: &[], value: "", verbs, help }
}

/// All flags that are not arguments of an operation, in the order in which the documentation lists them.
pub const FLAGS: &[CliFlag] = &[
    flag("json", &[], "Print the answer as one line of JSON"),
    CliFlag {
        also: &["from", "peer-id", "peer"],
        value: "PEER",
        ..flag("as", &[], "Act as this peer, given by name, id or unique prefix")
    },
    CliFlag { also: &["h"], ..flag("help", &[], "Show help") },
    CliFlag { also: &["V"], ..flag("version", &[], "Print the version") },
    CliFlag {
        also: &["f"],
        ..flag(
            "follow",
            &["inbox", "log", "events"],
            "Keep printing new messages or events as they arrive, until interrupted",
        )
    },
    CliFlag { value: "NAME", ..flag("namespace", &["state watch"], "Namespace of the entry, \"default\" if omitted") },
    CliFlag {
        value: "S",
        ..flag(
            "wait",
            &["state watch"],
            "Stop at the first change; exit with status 4 if there is none within S seconds",
        )
    },
    CliFlag { value: "S", ..flag("wait", &["hubs"], "Collect answers for this many seconds, 1 to 60 (default 1)") },
    CliFlag { value: "N", ..flag("last", &["transcript"], "Show this many prompts and answers, 20 by default") },
    CliFlag {
        value: "TEXT",
        ..flag("grep", &["transcript"], "Show only prompts and answers that contain this text; case does not matter")
    },
    flag(
        "plain",
        &["watch"],
        "Print one line per event instead of the live view; this is the default if the output is not a terminal",
    ),
    flag("print", &["web"], "Print the link without opening a browser"),
    flag("detach", &["start"], "Run the broker in the background, and return when the broker is ready"),
    flag("new-log", &["start"], "On a hub, if etcd has lost the mesh: begin a new log in etcd with this hub's data"),
    flag("rejoin", &["start"], "On a hub: set this hub's database aside, and copy the database of the hub that leads"),
    flag("force", &["stop"], "End the broker's process if it does not answer"),
    flag("yes", &["lock restore"], "Restore the content without asking"),
    flag("force", &["lock restore"], "Replace the file even if it has changed again since the command ran"),
    CliFlag { value: "FILE", ..flag("file", &["shield"], "Also protect this file or folder") },
    flag("if-possible", &["shield"], "If the system does not support shields, run the command without one"),
    flag("as-daemon", &["start"], "Run in a new process session, as slm-mesh does when it starts a broker itself"),
    flag("dry-run", &["setup"], "Change nothing; only show what would be changed"),
    flag("remove", &["setup"], "Remove what setup installed"),
    flag("project", &["setup"], "Change the settings of the project in this directory, not your own settings"),
    flag("wake", &["setup"], "Let direct messages wake idle sessions of these agents"),
    flag("no-wake", &["setup"], "Do not let messages wake these agents"),
    flag(
        "shield",
        &["setup"],
        "Run these agents' shell commands in a shield, where they cannot write files that other peers have locked",
    ),
    flag("no-shield", &["setup"], "Run these agents' shell commands without a shield"),
    flag("wake", &["hook"], "Wait in the background for direct messages that may wake the idle agent"),
    CliFlag {
        value: "AGENT",
        ..flag("prove", &["doctor"], "Test this agent's hooks with messages and locks, in a separate mesh")
    },
    CliFlag {
        value: "NAME",
        ..flag("agent", &["mcp", "hook"], "Treat the client as this agent, whatever the client says about itself")
    },
    flag(
        "legacy",
        &["mcp"],
        "Refuse the MCP revision 2026-07-28, so that clients that need the older handshake can \
                              connect",
    ),
];

/// A flag as the documentation shows it.
#[derive(Debug, Clone)]
pub struct FlagHelp {
    /// The flag's name with dashes, such as `--ttl`.
    pub name: String,
    /// The flag's name and the placeholder for its value, such as `--ttl M`.
    pub usage: String,
    /// A line about what the flag does, what it accepts, and its other names.
    pub help: String,
}

impl CliFlag {
    /// Whether the flag has this name.
    pub fn is(&self, name: &str) -> bool {
        self.name == name || self.also.contains(&name)
    }

    fn help(&self) -> FlagHelp {
        let name = with_dashes(self.name);
        let also: Vec<String> = self.also.iter().map(|name| with_dashes(name)).collect();
        let also = if also.is_empty() { String::new() } else { format!(" (also {})", also.join(", ")) };
        FlagHelp {
            usage: format!("{name} {}", self.value).trim_end().into(),
            name,
            help: format!("{}{also}", self.help),
        }
    }
}

/// Adds dashes to a flag's name: one dash for a letter, two dashes for a word.
pub fn with_dashes(name: &str) -> String {
    format!("{}{name}", if name.len() == 1 { "-" } else { "--" })
}

/// Returns the flag for an operation's argument, such as `--ttl`.
pub fn flag_name(arg: &Arg) -> String {
    format!("--{}", arg.short.map_or_else(|| arg.flag(), str::to_owned))
}

/// The arguments of a verb's operation; empty if the verb is not an operation.
pub fn verb_args(verb: &str) -> &'static [Arg] {
    verb_behavior_table::of_verb(verb).map(|row| row.op.args).unwrap_or_default()
}

/// Whether a verb can run a command, which stands after `--`.
pub fn takes_command(verb: &str) -> bool {
    verb_behavior_table::of_verb(verb).is_some_and(|row| row.takes_command)
        || VERBS.iter().any(|(known, words, _)| *known == verb && words.starts_with("--"))
}

/// Whether a verb takes a text that may begin with a dash, such as a message.
pub fn takes_text(verb: &str) -> bool {
    let words = verb_args(verb).iter().filter(|arg| matches!(arg.place, CliPlace::Positional | CliPlace::Rest));
    words.into_iter().any(|arg| arg.role == ArgRole::Value && matches!(arg.kind, ArgKind::Text { .. }))
}

/// The flags that every verb accepts.
pub fn common_flags() -> Vec<FlagHelp> {
    FLAGS.iter().filter(|flag| flag.verbs.is_empty()).map(CliFlag::help).collect()
}

/// The flags of a verb, without the flags that every verb accepts.
pub fn verb_flags(verb: &str) -> Vec<FlagHelp> {
    let own = verb_args(verb).iter().filter(|arg| arg.place == CliPlace::Flag).map(arg_help);
    own.chain(FLAGS.iter().filter(|flag| flag.verbs.contains(&verb)).map(CliFlag::help)).collect()
}

fn arg_help(arg: &Arg) -> FlagHelp {
    let name = flag_name(arg);
    let value = if matches!(arg.kind, ArgKind::Flag) { String::new() } else { placeholder(arg) };
    let also = if arg.short.is_some() { format!("; also --{}", arg.flag()) } else { String::new() };
    let want = match arg.kind {
        ArgKind::Flag => also.trim_start_matches("; ").to_owned(),
        // The usage line already lists the possible values, so the help text does not repeat them.
        ArgKind::Choice(_) => also.trim_start_matches("; ").to_owned(),
        ArgKind::Texts { .. } => format!("comma-separated{also}"),
        kind => kind.want() + &also,
    };
    FlagHelp {
        usage: format!("{name} {value}").trim_end().into(),
        name,
        help: if want.is_empty() { arg.help.to_owned() } else { format!("{} ({want})", arg.help) },
    }
}

/// The placeholder for an argument's value in a usage line.
pub fn placeholder(arg: &Arg) -> String {
    if let Some(word) = arg.placeholder {
        return word.into();
    }
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

/// Whether the flag with this name takes a value; `None` if no verb has such a flag.
pub fn takes_value(name: &str) -> Option<bool> {
    let args = OPS.iter().filter(|op| op.verb.is_some()).flat_map(|op| op.args);
    let mut args = args.filter(|arg| arg.place == CliPlace::Flag);
    let arg = args.find(|arg| arg.has_flag(name));
    let other = FLAGS.iter().find(|flag| flag.is(name)).map(|flag| !flag.value.is_empty());
    arg.map(|arg| !matches!(arg.kind, ArgKind::Flag)).or(other)
}

/// All verbs, in the order in which the documentation lists them.
pub fn all_verbs() -> impl Iterator<Item = &'static str> {
    OPS.iter().filter_map(|op| op.verb).chain(VERBS.iter().map(|(verb, ..)| *verb))
}

/// The usage line of a verb.
pub fn usage_line(verb: &str) -> String {
    let mut parts = vec![verb.to_owned()];
    // Everything after `--` belongs to the command, so the flags come before `--`.
    let row = verb_behavior_table::of_verb(verb);
    let mut command = if row.is_some_and(|row| row.takes_command) { "[-- COMMAND…]" } else { "" };
    match VERBS.iter().find(|(known, ..)| *known == verb) {
        Some((_, words, _)) if words.starts_with("--") => command = words,
        Some((_, words, _)) => parts.extend(Some((*words).to_owned()).filter(|words| !words.is_empty())),
        None => {
            for arg in verb_args(verb).iter().filter(|arg| matches!(arg.place, CliPlace::Positional | CliPlace::Rest)) {
                let is_needed = arg.required || arg.place == CliPlace::Rest && row.is_some_and(|row| row.needs_file);
                parts.push(if is_needed { placeholder(arg) } else { format!("[{}]", placeholder(arg)) });
            }
        }
    }
    parts.extend(
        verb_flags(verb).iter().filter(|flag| flag.name != "--as-daemon").map(|flag| format!("[{}]", flag.usage)),
    );
    parts.extend(Some(command.to_owned()).filter(|command| !command.is_empty()));
    parts.join(" ")
}

/// Returns the known word that is closest to a misspelt word. The two words may differ by two letters, or by one letter
/// if the misspelt word has fewer than five letters.
pub fn closest_word<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let reach = if word.chars().count() < 5 { 1 } else { 2 };
    let near = known.map(|known| (edit_distance(&word.to_lowercase(), known), known)).filter(|(far, _)| *far <= reach);
    near.min().map(|(_, known)| known)
}

/// Returns the Damerau-Levenshtein distance: how many times a letter must be added, removed, changed, or swapped with
/// its neighbour to turn `a` into `b`.
fn edit_distance(a: &str, b: &str) -> usize {
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
    fn a_flag_takes_a_value_with_every_verb_or_with_none() {
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
    fn usage_lines_say_what_a_value_is() {
        let usage = "log [--with PEER] [--thread ID] [--search WORDS] [--grep TEXT] [--since TIME] [--project] ";
        assert!(usage_line("log").starts_with(usage), "{}", usage_line("log"));
        assert!(usage_line("peers").contains("[--after CURSOR]"), "{}", usage_line("peers"));
    }

    #[test]
    fn a_typo_finds_its_verb_and_another_word_does_not() {
        for (typed, want) in [
            ("lok", Some("lock")),
            ("statsu", Some("status")),
            ("Lock", Some("lock")),
            ("peer", Some("peers")),
            ("fly", None),
        ] {
            assert_eq!(closest_word(typed, ["lock", "status", "peers"].into_iter()), want, "{typed}");
        }
    }
}
