//! An agent of an unknown kind runs `slm-mesh` commands in its shell. An environment variable in the shell contains the
//! agent's name.

use super::{World, process};
use serde_json::{Value, json};
use slm_mesh::base::error::Error;
use slm_mesh::base::process_identity::Process;

/// The ancestors of a running `slm-mesh` command: first its shell, and then the agent of an unknown kind.
fn above() -> Vec<Process> {
    vec![Process { wrapper: true, ..process(40, None) }, process(41, None), process(42, None)]
}

fn facts(agent: &str) -> Value {
    json!({ "agent": agent, "project": "/p", "gitRoot": "/p", "shortName": agent })
}

impl World {
    fn pass(&mut self, ms: i64) {
        self.now += ms;
        let now = self.now;
        self.mesh.as_mut().unwrap().tick(now);
        self.settle();
    }
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

#[test]
fn an_unknown_agent_that_names_itself_is_online_until_it_ends_and_its_next_run_gets_its_mail() {
    let mut world = World::new();
    world.shell_agent = Some("goose".into());
    let run = |pid: i64| vec![process(pid, None), process(42, None)];
    world.call_once("session.begin", facts("goose"), &run(50)).unwrap();
    let first = whoami(&mut world, &run(50)).unwrap();
    assert!(world.is_online(&first), "one verb is enough, since the environment says that this is an agent");
    world.call_once("channel.join", json!({ "channel": "g" }), &run(50)).unwrap();
    world.shell_agent = None;
    let sent = world.call_once("send", json!({ "to": "agent:goose", "message": "hello" }), &[]).unwrap();
    world.shell_agent = Some("goose".into());
    assert_eq!(sent["recipients"][0]["id"], json!(first), "{sent}");
    for pid in 51..54 {
        let now = world.now;
        world.mesh.as_mut().unwrap().on_process_exit(&run(pid - 1)[0], now);
        world.settle();
        assert!(!world.is_online(&first));
        world.pass(6_000);
        let channels = world.call_once("channel.list", json!({}), &[]).unwrap();
        assert_eq!(channels["channels"], json!([]), "the session has ended");
        world.call_once("session.begin", facts("goose"), &run(pid)).unwrap();
        assert_eq!(whoami(&mut world, &run(pid)).unwrap(), first, "the next run continues as this peer");
    }
    let inbox = world.call_once("inbox", json!({}), &run(53)).unwrap();
    assert_eq!(inbox["messages"][0]["payload"], json!("hello"), "{inbox}");
}

#[test]
fn a_process_that_ended_while_no_broker_ran_keeps_no_name() {
    for is_alive in [true, false] {
        let mut world = World::new();
        let claude = super::AGENTS.iter().find(|agent| agent.id == "claude").unwrap();
        let session = super::Session { key: String::new(), above: vec![process(60, None)], ..world.session(claude) };
        let id = world.hook(&session);
        assert!(!world.is_online(&id), "a single hook does not show that this process is an agent");
        world.restart_broker(&mut []);
        let now = world.now;
        world.mesh.as_mut().unwrap().forget_dead_processes(|_| is_alive, now);
        world.settle();
        let next = super::Session { above: vec![process(61, None)], ..session };
        assert_eq!(world.hook(&next) == id, !is_alive, "the first process lives: {is_alive}");
    }
}
