//! The table of speed, size and growth: each figure beside the machine's own floor, measured in the
//! same run. `make bench` prints it; `make bench ROWS="verbs push"` only those rows.
//!
//! Absolute times belong to one machine; the ratios carry over. Work and floor take turns in small
//! batches, so that what disturbs one disturbs the other.

mod calls;
mod crowd;
mod figures;
mod floor;
mod growth;
mod place;
mod rest;

use figures::Table;

/// A group of rows by its name.
type Group = (&'static str, fn(&mut Table));

/// The groups, in the order of the table.
const GROUPS: &[Group] = &[
    ("verbs", calls::verbs),
    ("socket", calls::socket),
    ("mcp", calls::mcp),
    ("http", calls::http),
    ("push", crowd::push),
    ("broadcast", crowd::broadcast),
    ("writes", crowd::writes),
    ("steady", crowd::steady),
    ("session", rest::session),
    ("growth", growth::growth),
    ("memory", rest::memory),
    ("disk", rest::disk),
    ("idle", rest::idle),
];

fn main() {
    let mut words = std::env::args().skip(1);
    let mut wanted = Vec::new();
    while let Some(word) = words.next() {
        match word.as_str() {
            // This same program again, as the server that a floor is measured against.
            "--echo" => return floor::serve_echo(&words.next().expect("--echo PATH")),
            "--echo-http" => return floor::serve_http(),
            // cargo bench adds --bench.
            flag if flag.starts_with("--") => {}
            _ => wanted.push(word),
        }
    }
    for name in &wanted {
        let known: Vec<&str> = GROUPS.iter().map(|(name, _)| *name).collect();
        assert!(known.contains(&name.as_str()), "no rows are called {name}; there are {}", known.join(", "));
    }
    let kind = if place::is_static() { "linked statically" } else { "linked dynamically" };
    println!("{} ({kind})\n", place::program().display());
    let mut table = Table::begin();
    for (name, run) in GROUPS {
        if wanted.is_empty() || wanted.iter().any(|word| word == name) {
            run(&mut table);
        }
    }
    table.end();
}
