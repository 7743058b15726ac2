//! For 200 turns, two agents overwrite each other's files with shell commands.

use super::{Player, work_tree};
use serde_json::json;
use std::fs;
use std::process::Command;

/// The next number of a random number generator. The same seed always gives the same numbers.
fn next(seed: &mut u64) -> usize {
    *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*seed >> 33) as usize
}

/// A command that writes a file. The command contains the file's name only backwards.
fn disguised_write(kind: usize, file: &str, turn: usize) -> String {
    let backwards: String = file.chars().rev().collect();
    let program = match kind % 2 {
        0 => "python3 -c 'import sys; open(sys.argv[1][::-1], \"w\").write(sys.argv[2])'",
        _ => "sh -c 'echo $2 > $(echo $1 | rev)' sh",
    };
    format!("{program} {backwards} \"turn {turn}\"")
}

/// Two agents work in one repository, mostly with shell commands. If one agent overwrites a file that the other agent
/// has locked and written, the first agent's hook must report this. In most cases, the other agent must be told, too.
#[test]
fn every_lost_update_of_two_agents_is_reported_to_somebody() {
    let (place, _) = work_tree();
    let names: Vec<String> = (0..4).map(|n| format!("f{n}.txt")).collect();
    let players = [Player::new(&place, "claude", "one"), Player::new(&place, "claude", "two")];
    let mut seed = 20_261_128;
    // For each file, the agent that has locked the file. The lock ends when the agent's turn ends.
    let mut held: Vec<Option<usize>> = vec![None; names.len()];
    let (mut n_lost, mut n_denied) = (0, 0);
    for turn in 0..200 {
        let me = next(&mut seed) % 2;
        let (player, n) = (&players[me], next(&mut seed) % names.len());
        let file = &names[n];
        let is_others = held[n].is_some_and(|holder| holder != me);
        // Every tenth step ends a turn. Otherwise, a lock could expire on a slow machine.
        match if turn % 10 == 9 { 2 } else { [0, 0, 1, 3, 4, 5, 6][next(&mut seed) % 7] } {
            0 => {
                let denied = player.edit(file, &format!("edit {turn}\n")).contains("deny");
                assert_eq!(denied, is_others, "turn {turn}");
                n_denied += usize::from(denied);
                held[n] = held[n].or(Some(me));
            }
            // A shell command with a plain file name. Like an edit, it locks the file or is denied.
            1 => {
                let call = player.call(&format!("echo {turn} > {file}"), "plain");
                if player.hook(0, &call).is_empty() {
                    assert!(!is_others, "turn {turn}");
                    fs::write(place.root.join(file), format!("{turn}\n")).unwrap();
                    player.hook(1, &call);
                    held[n] = Some(me);
                } else {
                    assert!(is_others, "turn {turn}");
                    n_denied += 1;
                }
            }
            // The agent's turn ends, and so do the agent's locks.
            2 => {
                player.hook(3, &json!({}));
                held.iter_mut().filter(|holder| **holder == Some(me)).for_each(|holder| *holder = None);
            }
            // A shell command that hides the name of the file.
            kind => {
                let command = disguised_write(kind, file, turn);
                // Half of the time, the other agent runs a command that ends earlier (`order` 2) or later (`order` 3).
                let (other, order) = (&players[1 - me], next(&mut seed) % 4);
                let meanwhile = other.call("make", "meanwhile");
                other.hook(2, &json!({}));
                if order > 1 {
                    other.hook(0, &meanwhile);
                }
                let told = player.run_with(&command, || {
                    Command::new("sh").args(["-c", &command]).current_dir(&place.root).status().unwrap();
                    if order == 2 {
                        other.hook(1, &meanwhile);
                    }
                });
                let mut news = if order == 3 { other.hook(1, &meanwhile) } else { String::new() };
                news += &other.hook(2, &json!({}));
                let is_reported = told.contains(&format!("{file}, locked by"));
                if is_others {
                    n_lost += 1;
                    assert!(is_reported, "turn {turn}: {told}");
                    assert!(order == 2 || news.contains(file.as_str()), "turn {turn}: its holder hears of it: {news}");
                } else {
                    assert!(!is_reported, "turn {turn}: nobody else holds it: {told}");
                }
            }
        }
    }
    assert!(n_lost > 20 && n_denied > 5, "{n_lost} lost, {n_denied} denied");
}
