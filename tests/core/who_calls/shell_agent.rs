//! Verbs in the shell of an agent that slm-mesh does not know, but that names itself to its shell commands.

use super::{World, process};
use serde_json::{Value, json};
use slm_mesh::base::error::Error;
use slm_mesh::base::process::Process;

/// The processes above a verb: the shell that runs it, and the unknown agent.
fn above() -> Vec<Process> {
    vec![Process { wrapper: true, ..process(40, None) }, process(41, None), process(42, None)]
}

fn facts(agent: &str) -> Value {
    json!({ "agent": agent, "session": "", "project": "/p", "gitRoot": "/p", "shortName": agent })
}

fn whoami(world: &mut World, above: &[Process]) -> Result<String, Error> {
    world.call_once("whoami", json!({}), above).map(|answer| super::id_of(&answer))
}

#[test]
fn an_unknown_agent_that_names_itself_is_a_peer_before_its_server_appears() {
    let mut world = World::new();
    let human = world.human();
    assert_eq!(whoami(&mut world, &above()).unwrap(), human, "nothing tells that this is an agent");
    world.shell_agent = Some("goose".into());
    let refusal = whoami(&mut world, &above()).unwrap_err();
    assert_eq!(refusal.data.unwrap()["agent"], "goose", "the human's mail is not an agent's");
    world.call_once("session.begin", facts("goose"), &above()).unwrap();
    let first = whoami(&mut world, &above()).unwrap();
    assert_ne!(first, human);
    assert_eq!(whoami(&mut world, &above()).unwrap(), first, "the next verb");

    let conn = world.connect(&above()[1..]);
    let args = json!({ "agent": "goose", "project": "/p", "gitRoot": "/p", "pid": conn, "knownAgent": false });
    let attached = world.call(conn, "attach", args, &above()).unwrap();
    assert_eq!(super::id_of(&attached), first, "its server");
    world.shell_agent = None;
    assert_eq!(whoami(&mut world, &above()).unwrap(), first, "once there is a server, the name is not needed");
    assert_eq!(whoami(&mut world, &[process(42, None)]).unwrap(), human, "a terminal beside it");
}

#[test]
fn a_name_in_the_environment_does_not_override_what_the_processes_show() {
    let mut world = World::new();
    let agent = super::AGENTS.iter().find(|agent| agent.id == "codex").unwrap();
    let mut session = world.session(agent);
    let known = world.serve(&mut session);
    world.shell_agent = Some("goose".into());
    assert_eq!(world.verb(&session).unwrap(), known, "an inherited name");
}
