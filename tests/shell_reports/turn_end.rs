//! Tests the reports that an agent gets when its turn ends. They are about commands after which the agent ran no hook.

use super::{Player, human_mail, work_tree};
use serde_json::json;
use std::fs;
use std::os::unix::net::UnixListener;

/// Some agents treat the output of the hook at the end of a turn as a prompt from the user. So this output must not
/// contain words of other peers.
#[test]
fn a_command_that_failed_is_reported_to_an_agent_that_takes_the_report_as_a_prompt() {
    let (place, file) = work_tree();
    place.ok(&["lock", "held.txt"]);
    for agent in ["gemini", "copilot"] {
        let player = Player::new(&place, agent, "s1");
        let quiet = player.hook(3, &json!({}));
        assert!(!quiet.contains("changed"), "{agent}: {quiet}");
        player.hook(0, &player.call("make c", "call_c"));
        fs::write(&file, format!("lost to {agent}\n")).unwrap();
        let told = player.hook(3, &json!({}));
        assert!(told.contains("to see these messages") && !told.contains("held.txt"), "{agent}: {told}");
        let again = player.hook(3, &json!({}));
        assert!(!again.contains("to see these messages"), "{agent}: {again}");
    }
    assert_eq!(human_mail(&place).matches("make c").count(), 2);
}

/// When the changes of a command are found, the notes about the command are removed. So the report must reach the agent
/// immediately, even if the broker is gone, or closes each connection without an answer.
#[test]
fn a_report_at_the_end_of_a_turn_needs_no_broker() {
    let (place, file) = work_tree();
    place.ok(&["lock", "held.txt"]);
    for (agent, shown) in [("claude", "held.txt, locked by"), ("gemini", "a command in this turn changed files")] {
        let player = Player::new(&place, agent, "s1");
        for hangs_up in [false, true] {
            place.ok(&["start", "--detach"]);
            player.hook(0, &player.call("make c", "call_c"));
            place.ok(&["stop"]);
            fs::write(&file, format!("lost to {agent}: {hangs_up}\n")).unwrap();
            let socket = place.dir.join("mesh.sock");
            let _ = fs::remove_file(&socket);
            if hangs_up {
                let broker = UnixListener::bind(&socket).unwrap();
                std::thread::spawn(move || broker.incoming().for_each(drop));
            }
            let told = player.run_hook(3, &json!({})).0;
            // The report of a stop hook makes the agent continue.
            assert!(told.contains(shown) && told.contains("\"decision\""), "{agent}: {hangs_up}: {told}");
            let again = player.run_hook(3, &json!({})).0;
            assert!(!again.contains(shown), "{agent}: it is said once: {again}");
            let _ = fs::remove_file(&socket);
        }
    }
}
