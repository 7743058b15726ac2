//! Tests code that reads untrusted bytes. Each test checks one property on the inputs in tests/fuzz/corpus, on recorded
//! inputs of real agents, and on random changes of both. `make fuzz` searches for more inputs.
//!
//! If an input fails, the test writes it to a temporary file, and prints the path. `SLM_MESH_INPUT=file` checks only
//! this file.

mod calls;
mod configs;
mod choices;
mod globs;
mod hooks;
mod http;
mod discovery;
mod lines;
mod mcp;
mod shell;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

/// The random number generator xorshift64*, as in tests/simulate/world.rs.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % n
    }
}

fn data(folder: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(folder)
}

/// The contents of all files in a folder, ordered by file name.
fn files(folder: &Path) -> Vec<Vec<u8>> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.iter().map(|path| fs::read(path).unwrap()).collect()
}

/// Makes a new input from the given inputs. It changes, removes or inserts a few bytes, or inserts a piece of a second
/// input.
fn mutated(dice: &mut Dice, inputs: &[Vec<u8>]) -> Vec<u8> {
    let mut input = inputs[dice.below(inputs.len())].clone();
    for _ in 0..=dice.below(4) {
        let at = dice.below(input.len() + 1);
        match dice.below(6) {
            0 if at < input.len() => input[at] = dice.below(256) as u8,
            1 if at < input.len() => input[at] ^= 1 << dice.below(8),
            2 => input.insert(at, dice.below(256) as u8),
            3 => {
                let end = (at + 1 + dice.below(16)).min(input.len());
                input.drain(at.min(end)..end);
            }
            4 => {
                let end = (at + 1 + dice.below(64)).min(input.len());
                let piece = input[at.min(end)..end].to_vec();
                input.splice(at..at, piece);
            }
            _ => {
                let other = &inputs[dice.below(inputs.len())];
                let from = dice.below(other.len() + 1);
                let piece = &other[from..(from + dice.below(200)).min(other.len())];
                input.splice(at..at, piece.iter().copied());
            }
        }
    }
    input.truncate(4096);
    input
}

/// Checks a property on every seed, on every input in the corpus, and on `n` random mutations of these inputs.
fn ask(target: &str, seeds: Vec<Vec<u8>>, n: usize, property: fn(&[u8])) {
    if let Some(path) = std::env::var_os("SLM_MESH_INPUT") {
        return property(&fs::read(path).unwrap());
    }
    let corpus = data("fuzz/corpus").join(target);
    let mut inputs = if corpus.exists() {
        files(&corpus)
    } else {
        println!("skipped: the fuzz corpus: the packaged crate does not contain {}", corpus.display());
        vec![Vec::new()]
    };
    inputs.extend(seeds);
    let mut dice = Dice(target.bytes().fold(0x9e37_79b9_u64, |all, byte| all.wrapping_mul(31) + u64::from(byte)) | 1);
    for n in 0..inputs.len() + n {
        let input = if n < inputs.len() { inputs[n].clone() } else { mutated(&mut dice, &inputs) };
        if catch_unwind(AssertUnwindSafe(|| property(&input))).is_err() {
            let kept = std::env::temp_dir().join(format!("slm-mesh-{target}-{n}"));
            fs::write(&kept, &input).unwrap();
            panic!("SLM_MESH_INPUT={} cargo test --test properties {target}", kept.display());
        }
    }
}

/// Adds a first byte to each input. The property uses this byte to choose how it reads the input.
fn behind(first: impl Fn(usize) -> u8, inputs: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    inputs.into_iter().enumerate().map(|(n, input)| [vec![first(n)], input].concat()).collect()
}

#[test]
fn lines_are_the_same_however_they_come() {
    ask("lines", behind(|n| n as u8, files(&data("data/mcp-clients"))), 3_000, lines::check);
}

#[test]
fn a_conversation_is_answered_the_same_however_it_comes() {
    ask("mcp", behind(|n| n as u8, files(&data("data/mcp-clients"))), 600, mcp::check);
}

#[test]
fn http_requests_are_the_same_however_they_come() {
    ask("http", vec![b"\x05GET /health HTTP/1.1\r\n\r\n".to_vec()], 40_000, http::check);
}

#[test]
fn hooks_name_files_of_their_input_and_quote_what_peers_say() {
    ask("hooks", behind(|n| n as u8, files(&data("data/hooks"))), 6_000, hooks::check);
}

#[test]
fn globs_overlap_where_a_path_fits_both() {
    ask("globs", vec![b"\x00/a*/b/**".to_vec()], 4_000, globs::check);
}

#[test]
fn calls_are_answered_or_refused_without_a_trace() {
    ask("calls", vec![vec![0; 20]], 400, calls::check);
}

#[test]
fn command_lines_write_paths_and_cost_a_bounded_number_of_looks() {
    let corpus = fs::read_to_string(data("shell_writes/corpus.txt")).unwrap();
    let commands = corpus.replace("\n| ", "\n").split("\n$ ").map(|command| command.as_bytes().to_vec()).collect();
    ask("shell", commands, 6_000, shell::check);
}

#[test]
fn configs_lose_nothing_and_come_back_as_they_were() {
    ask("configs", vec![b"\x00{\n  \"hooks\": {}\n}\n".to_vec()], 6_000, configs::check);
}

#[test]
fn answers_from_the_network_are_read_within_bounds_or_thrown_away() {
    ask("discovery", vec![vec![0; 12]], 200_000, discovery::check);
}
