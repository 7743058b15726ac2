//! Prints a table of speed, size and growth. Each value is compared with its floor: the time or size that the machine
//! itself needs for similar work. `make bench` prints all rows, and `make bench ROWS="verbs push"` only two groups.
//!
//! The measured work and its floor are run in turn, so that a disturbance affects both. Other machines have other
//! times, but similar ratios.

mod bare_broker;
mod calls;
#[allow(dead_code)] // the tests of several hubs need all of it
#[path = "../replication/certificates.rs"]
mod certificates;
#[allow(dead_code)] // the tests of several hubs need all of it
#[path = "../replication/cluster.rs"]
mod cluster;
mod crowd;
mod figures;
mod filled_store;
mod floods;
mod floor;
mod growth;
mod held_files;
mod hooks;
mod hubs;
mod place;
mod python;
mod remote_sessions;
mod rest;
mod shell;
mod web;

use figures::Table;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

/// The CPUs on which a group of rows is measured.
#[derive(Clone, Copy, PartialEq, Eq)]
enum On {
    /// All CPUs: the scheduler decides where each process runs.
    AllCpus,
    /// One CPU for the caller, the broker and the process for comparison. Waking a process on a different CPU takes ten
    /// times as long. With several CPUs, chance would decide which processes share a CPU.
    OneCpu,
}

/// A group of rows: its name, its CPUs, and the function that adds its rows to the table.
type Group = (&'static str, On, fn(&mut Table));

/// The groups, in the order of the table.
const GROUPS: &[Group] = &[
    ("verbs", On::AllCpus, calls::verbs),
    ("socket", On::OneCpu, calls::socket),
    ("mcp", On::OneCpu, calls::mcp),
    ("http", On::OneCpu, calls::http),
    ("hooks", On::AllCpus, hooks::hooks),
    ("held-files", On::AllCpus, held_files::held_files),
    ("shell", On::OneCpu, shell::shell),
    ("python", On::OneCpu, python::python),
    ("push", On::OneCpu, crowd::push),
    ("broadcast", On::AllCpus, crowd::broadcast),
    ("writes", On::AllCpus, crowd::writes),
    ("steady", On::AllCpus, crowd::steady),
    ("peers", On::OneCpu, crowd::peers),
    ("web", On::AllCpus, web::web),
    ("far", On::OneCpu, remote_sessions::far),
    ("guests", On::AllCpus, remote_sessions::guests),
    ("strangers", On::AllCpus, remote_sessions::strangers),
    ("hubs", On::AllCpus, hubs::hubs),
    ("session", On::AllCpus, rest::session),
    ("floods", On::AllCpus, floods::floods),
    ("growth", On::OneCpu, growth::growth),
    ("memory", On::AllCpus, rest::memory),
    ("disk", On::AllCpus, rest::disk),
    ("idle", On::AllCpus, rest::idle),
];

fn main() {
    let mut words = std::env::args().skip(1);
    let mut wanted = Vec::new();
    while let Some(word) = words.next() {
        match word.as_str() {
            // The benchmark has started this process as a server for comparison.
            "--echo" => return floor::serve_echo(&words.next().expect("--echo PATH")),
            "--echo-http" => return floor::serve_http(),
            "--bare-broker" => {
                let mut path = || words.next().expect("--bare-broker SOCKET DATABASE");
                return bare_broker::serve(&path(), &path());
            }
            "--echo-tcp" => return floor::serve_tcp(),
            "--group" => return run_group(&words.next().expect("--group NAME"), &mut Table::new()),
            // `cargo bench` adds the argument `--bench`.
            flag if flag.starts_with("--") => {}
            _ => wanted.push(word),
        }
    }
    for name in &wanted {
        let known: Vec<&str> = GROUPS.iter().map(|(name, ..)| *name).collect();
        assert!(known.contains(&name.as_str()), "no rows are called {name}; there are {}", known.join(", "));
    }
    let kind = if place::is_static() { "linked statically" } else { "linked dynamically" };
    println!("{} ({kind})\n", place::program().display());
    let mut table = Table::new();
    table.head();
    for (name, on, _) in GROUPS.iter().filter(|(name, ..)| wanted.is_empty() || wanted.iter().any(|word| word == name))
    {
        if *on == On::AllCpus || !run_on_one_cpu(name, &mut table) {
            run_group(name, &mut table);
        }
    }
    table.end();
}

fn run_group(name: &str, table: &mut Table) {
    let (.., run) = GROUPS.iter().find(|(known, ..)| *known == name).expect("a group");
    run(table);
}

/// Runs a group in a process that is bound to one CPU, and adds its rows to the table. Returns false if `taskset` (part
/// of util-linux) is missing.
fn run_on_one_cpu(name: &str, table: &mut Table) -> bool {
    let program = std::env::current_exe().expect("this program has a path");
    let mut command = Command::new("taskset");
    command.args(["-c", "0"]).arg(program).args(["--group", name]).stdout(Stdio::piped());
    let Ok(mut child) = command.spawn() else { return false };
    for line in BufReader::new(child.stdout.take().expect("piped")).lines() {
        table.printed(&line.expect("text"));
    }
    assert!(child.wait().expect("a child of ours").success(), "the rows of {name} broke off");
    true
}
