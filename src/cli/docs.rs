//! Documentation made from the tables: help, man page, completions, and the README's tables.

use super::args::VERBS;
use super::flags::{self, placeholder, usage};
use super::say;
use crate::mesh::tools::{TOOLS, name};
use crate::mesh::{Fault, Kind, OPS, Op, Place, fault};
use crate::world::settings::SETTINGS;

const AGENTS: &str = "\
  slm-mesh setup                the agents that are here: server, hooks and slash commands
  slm-mesh setup codex cursor   these
  slm-mesh setup --dry-run      what would change
  slm-mesh setup --project      the files of the project in this directory instead of yours
  slm-mesh setup --remove       takes all of it out again
  slm-mesh setup --wake         mail to one agent alone may wake its idle session: claude, codex, opencode

It knows claude, codex, copilot, gemini, opencode, cursor, vscode, devin, windsurf, zed and aider,
registers through an agent's own command where that is on PATH, and keeps what was in a file before
beside it. A file with comments is left alone: it prints what to paste. Any other agent starts
`slm-mesh mcp` (its absolute path, where PATH is short) as an MCP server on standard input and output.";

const LOCKS: &str = "\
A lock is a lease on a file, a folder (ends in /) or a glob (quote it: 'src/auth/**').

  slm-mesh lock src/auth.rs --reason refactor      ten minutes, or --ttl M
  slm-mesh lock src/auth.rs --wait 60              wait in line, first come first served
  slm-mesh lock Cargo.lock -- cargo update         held while the command runs, then free
  slm-mesh lock list                               who holds what, and who waits
  slm-mesh unlock src/auth.rs

Locking again what an agent holds renews it; a person's second lock of the same file is refused
unless --renew says that it is meant. Every grant has a token that only grows: a program that
writes somewhere under a lock can show it, and the older one loses. When a session ends its locks
fall at once; when it crashes, after five seconds. --steal takes a lock away; its holder is told.
A lock keeps out those who ask. It does not keep a program from writing that does not ask.";

const MESSAGES: &str = "\
  slm-mesh send claude-api 'the schema changed'    to one peer: name, id, or the start of either
  slm-mesh send repo 'I rebase now'                to a group: repo, directory, agent:codex, all
  git diff | slm-mesh send codex-api -             text from standard input
  slm-mesh inbox --wait 60                         yours, oldest first; exit status 4 if none came
  slm-mesh inbox --filter sent                     how far yours got

A message is accepted (stored), offered (handed to its recipient), read (written out whole), acked
(answered, or acknowledged), or expired; one to a peer of a linked mesh is forwarded or refused there.
It waits in the mailbox of a peer that is away, 7 days at most. What was offered but not written out whole is offered again. A verb run inside an agent's
shell acts as that agent; elsewhere you are the human, whom agents reach as `human`.";

const MACHINES: &str = "\
One machine is the hub; the others are its guests and run no broker of their own. The settings go into
the file config of each data directory (~/.slm-mesh/config), so that agents, hooks and verbs find them.

  on the hub    SLM_MESH_HOST=0.0.0.0             or :: or one address of it
  on a guest    SLM_MESH_HOST=hub.local           its name or address
  on both       SLM_MESH_SHARED_SECRET=…          what slm-mesh secret prints; at least 8 characters

A guest that has the secret and no SLM_MESH_HOST looks on the local network when a session starts, and
joins the hub that proves the secret: the one it knew, else the first by name. Its verbs and hooks follow.
slm-mesh hubs shows what is there and what was joined, and leaves a hub that is gone.
SLM_MESH_DISCOVERY=off looks for none.

  slm-mesh start --detach                         on the hub; a running broker gives way
  slm-mesh peers                                  on a guest: who is there

Ports: 7899 for HTTP, 7900 for sessions and verbs (SLM_MESH_PORT, SLM_MESH_WS_PORT); the hub's firewall
must let them in. Between our own programs the secret never crosses the wire, each frame is sealed, and
nothing is encrypted: whoever reads along on the network reads along. Older clients send the secret
itself as a bearer token over HTTP; SLM_MESH_BEARER=off refuses them.

  SLM_MESH_HOST=ssh://ada@hub:22                  through ssh: encrypted, no open port, no secret; a key or
                                                  an agent must let ssh in without a password
  WireGuard                                       the hub's address inside the tunnel, on both sides

Two meshes that stay two, each with its own state and locks, can be linked: each side lists the other's
peers as name@machine and forwards letters to them, which wait while the other side is away.

  SLM_MESH_PEER_URL=http://hub:7899               another broker that serves this machine, or the daemon
                                                  of a SuperLocalMemory; commas between several
  slm-mesh status                                 has a line for each link, and what is wrong with it

Set it on both sides, with the same secret, which goes to that address as a bearer token.

What goes wrong: \"can't be reached\" is the address, the firewall or a hub that is not running;
\"does not know this secret\" is a secret that differs. A connection that is cut is noticed within 15
seconds, sessions come back by themselves with their name and mail, and locks of a guest outlive its
connection by 30 seconds. Two clones of a repository on two machines mean the same file by the same
path inside; the hub alone grants locks.";

const PROTOCOL: &str = "\
The socket mesh.sock in the data directory speaks JSON-RPC 2.0, one message a line, 1 MiB at most.
Every method below takes the arguments of its tool and verb. Further members of params: `as` (the
peer to act as) and `v` (the client's version; an older broker makes room for a newer client).
`attach` gives the connection a seat as a peer; `cancel {id}` (a notification) drops a waiting call.
The broker sends the notifications message, event and shutdown, and the request ping.";

const COMPLETIONS: &str = "\
  bash    slm-mesh help completions bash > ~/.local/share/bash-completion/completions/slm-mesh
  zsh     slm-mesh help completions zsh > DIRECTORY/_slm-mesh, where DIRECTORY is in your fpath
  fish    slm-mesh help completions fish > ~/.config/fish/completions/slm-mesh.fish

make install puts them where the shells look.";

/// The topics that the overview names.
const TOPICS: [&str; 7] = ["agents", "locks", "messages", "machines", "settings", "protocol", "completions"];

/// Prints the help on a topic; without one, the overview.
pub fn help(topic: &str) -> Result<u8, Fault> {
    let text = match topic {
        "" => overview(),
        "agents" => AGENTS.into(),
        "locks" => LOCKS.into(),
        "messages" => MESSAGES.into(),
        "machines" => MACHINES.into(),
        "completions" => COMPLETIONS.into(),
        "protocol" => format!("{PROTOCOL}\n\n{}", methods()),
        "settings" => settings(),
        "man" => man(),
        "readme" => readme(),
        "completions bash" => bash(),
        "completions zsh" => zsh(),
        "completions fish" => fish(),
        verb => return verb_help(verb),
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
    text.push_str(
        "More: slm-mesh help VERB; slm-mesh help agents | locks | messages | settings | protocol | completions; man slm-mesh\n",
    );
    text.push_str(&format!(
        "\nExit status: {}\n",
        exits().iter().map(|(n, means)| format!("{n} {means}")).collect::<Vec<_>>().join("; ")
    ));
    text
}

/// Each exit status with what it tells, in order.
fn exits() -> Vec<(u8, String)> {
    let mut rows: Vec<(u8, String)> = vec![(0, "done".into())];
    for row in fault::ROWS {
        match rows.iter_mut().find(|(n, _)| *n == row.exit) {
            Some((_, means)) => means.push_str(&format!(", {}", row.means)),
            None => rows.push((row.exit, row.means.into())),
        }
    }
    rows
}

fn verb_help(topic: &str) -> Result<u8, Fault> {
    let fits = |verb: &str| verb == topic || verb.starts_with(&format!("{topic} "));
    let mut text = String::new();
    for (verb, about) in rows().filter(|(verb, _)| fits(verb)) {
        text.push_str(&format!("slm-mesh {}\n  {about}\n", usage(verb)));
        let args = flags::operation(verb).map(|op| op.args).unwrap_or_default();
        let is_word = |place: Place| place == Place::Word || place == Place::Words;
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
        let meant = flags::meant(topic, flags::verbs().filter_map(|verb| verb.split(' ').next()).chain(TOPICS));
        let meant = meant.map(|word| format!("did you mean {word}? ")).unwrap_or_default();
        return Err(Fault::new(
            Kind::Usage,
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
