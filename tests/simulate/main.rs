//! Simulates a mesh with a real store. Random sessions, verbs (subcommands) and HTTP clients make calls. The broker
//! crashes, answers get lost, clients are slow, and clocks jump. After each step, the results are compared with a model
//! that knows only requests and answers.
//!
//! `make sim SEED=7 STEPS=100000` runs seed 7 for 100000 steps.

mod ask;
mod breaks;
mod engine;
mod events;
mod hubs;
mod locks;
mod mail;
mod model;
mod state;
mod steps;
mod turns;
mod world;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;
use world::{Disk, World};

/// The number of seeds that `make test` runs, and the number of steps for each.
const SEEDS: u64 = 40;
const STEPS: u64 = 600;
/// For one of every `FILE_EVERY` seeds, the store is in a file. A crash leaves the file as `kill -9` would.
const FILE_EVERY: u64 = 8;
/// For one seed in `HUBS_EVERY`, three hubs share a log.
const HUBS_EVERY: u64 = 4;

/// The result of a run: a hash of all that happened, and a count for each kind of event.
struct Run {
    hash: u64,
    counts: BTreeMap<&'static str, u64>,
}

/// Runs the simulation with one seed. If the run fails, panics with a command that repeats the run.
fn simulate(seed: u64, steps: u64) -> Run {
    let disk = match seed {
        seed if seed.is_multiple_of(FILE_EVERY) => Disk::File,
        seed if seed % HUBS_EVERY == 1 => Disk::Hubs,
        _ => Disk::Memory,
    };
    let mut world = World::new(seed, disk);
    let run = catch_unwind(AssertUnwindSafe(|| {
        for _ in 0..steps {
            world.one_step();
        }
    }));
    if run.is_err() {
        let trace: Vec<&str> = world.trace.iter().map(String::as_str).collect();
        eprintln!("the last steps:\n{}", trace.join("\n"));
        panic!("seed {seed} broke a promise at step {}: make sim SEED={seed} STEPS={}", world.step, world.step);
    }
    Run { hash: world.hash, counts: std::mem::take(&mut world.counts) }
}

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

#[test]
fn the_promises_hold_for_every_seed() {
    let steps = setting("SLM_MESH_SIM_STEPS");
    let Some(seed) = setting("SLM_MESH_SIM_SEED") else {
        for seed in 0..SEEDS {
            simulate(seed, steps.unwrap_or(STEPS));
        }
        return;
    };
    let n_seeds = setting("SLM_MESH_SIM_SEEDS").unwrap_or(1);
    let (began, steps) = (Instant::now(), steps.unwrap_or(100_000));
    let mut counts = BTreeMap::new();
    for seed in seed..seed + n_seeds {
        for (what, n) in simulate(seed, steps).counts {
            *counts.entry(what).or_insert(0) += n;
        }
    }
    let seconds = began.elapsed().as_secs_f64();
    let n_steps = steps * n_seeds;
    println!(
        "seeds {seed} to {}: {n_steps} steps in {seconds:.1} s, {:.0} a second",
        seed + n_seeds - 1,
        n_steps as f64 / seconds
    );
    for (what, n) in counts {
        println!("{n:>12} {what}");
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for seed in [3, FILE_EVERY, 1] {
        let (first, again) = (simulate(seed, STEPS), simulate(seed, STEPS));
        assert!(first.hash == again.hash, "seed {seed} gave two runs");
        assert!(first.counts == again.counts, "seed {seed} gave two runs");
    }
    assert!(simulate(3, STEPS).hash != simulate(4, STEPS).hash, "all seeds give one run");
}

#[test]
fn nothing_that_is_checked_is_left_out() {
    let counts = simulate(5, 4_000).counts;
    for what in
        ["answers lost", "locks granted after a wait", "events pushed to subscribers", "crashes before the commit"]
    {
        assert!(counts.get(what).is_some_and(|n| *n > 0), "{what} never happened: {counts:?}");
    }
    let counts = simulate(1, 4_000).counts;
    for what in ["standbys found equal to the leader", "deposed hubs that went on", "turns that only the log has"] {
        assert!(counts.get(what).is_some_and(|n| *n > 0), "{what} never happened: {counts:?}");
    }
}
