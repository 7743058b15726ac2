//! Tests the name that a user has chosen for a session. The session's hooks, verbs (subcommands) and MCP server report
//! this name.

use super::{AGENTS, Effect, Session, World, process};
use serde_json::{Value, json};

impl World {
    fn name_of(&self, id: &str) -> String {
        self.mesh.as_ref().unwrap().peers().name_of(&id.into())
    }

    /// A session of this agent: `claude`, which sends a session key, or `aider`, which only runs verbs (subcommands).
    fn named_session(&mut self, agent: &str) -> Session {
        let agent = AGENTS.iter().find(|one| one.id == agent).unwrap();
        self.session(agent)
    }

    fn hook_with_name(&mut self, session: &Session, name: &str) -> Value {
        let mut args = self.hook_args(session);
        (args["name"], args["withNeighbours"]) = (json!(name), json!(true));
        self.call_once("hook.mail", args, &session.above).unwrap()
    }

    fn attach_with_name(&mut self, session: &Session, name: &str) -> Value {
        let conn = self.connect(&session.above);
        let args = json!({
            "agent": session.agent.kind, "shortName": session.agent.short_name, "project": self.project, "pid": conn,
            "session": session.key, "name": name,
        });
        self.call(conn, "attach", args, &session.above).unwrap()
    }
}

#[test]
fn a_session_has_the_chosen_name_whatever_speaks_first() {
    for is_server_first in [true, false] {
        let mut world = World::new();
        let (one, two) = (world.named_session("claude"), world.named_session("claude"));
        if is_server_first {
            world.attach_with_name(&one, "boss");
        }
        assert_eq!(world.hook_with_name(&one, "boss")["you"]["name"], "boss", "server first: {is_server_first}");
        assert_eq!(world.attach_with_name(&one, "boss")["you"]["name"], "boss");
        assert_eq!(world.hook_with_name(&two, "boss")["you"]["name"], "boss-2", "the name is taken");
    }
}

#[test]
fn a_verb_begins_a_session_under_the_chosen_name_and_its_next_run_returns_to_it() {
    let mut world = World::new();
    let mut aider = world.named_session("aider");
    let begin = |world: &mut World, above: &[super::Process]| {
        let facts = json!({ "agent": "aider", "project": "/p", "shortName": "aider", "name": "chosen" });
        world.call_once("session.begin", facts, above).unwrap()["you"].clone()
    };
    let first = begin(&mut world, &aider.above);
    assert_eq!(first["name"], "chosen");
    let now = world.now;
    world.mesh.as_mut().unwrap().on_process_exit(&aider.above[0], now);
    world.settle();
    aider.above = vec![process(77, Some(aider.agent))];
    assert_eq!(begin(&mut world, &aider.above), first);
    let said = world.call_once("whoami", json!({}), &aider.above).unwrap();
    assert!(said.get("notice").is_none(), "a chosen name is no takeover: {said}");
}

#[test]
fn who_waits_for_mail_from_a_session_gets_it_also_under_its_new_name() {
    let mut world = World::new();
    let claude = world.named_session("claude");
    world.hook(&claude);
    let (person, shell) = (world.connect(&[]), world.connect(&[]));
    let wait = json!({ "from": "claude-p", "waitSeconds": 60 });
    let (answers, waiting) = world.send(person, "inbox", wait, &[]).unwrap();
    assert!(answers.is_empty(), "it waits: {answers:?}");
    assert_eq!(world.attach_with_name(&claude, "boss")["you"]["name"], "boss");
    let mail = json!({ "to": "human", "message": "done" });
    let (effects, _) = world.send(shell, "send", mail, &claude.above).unwrap();
    let answer = effects.into_iter().find_map(|effect| match effect {
        Effect::Reply { id, result, .. } if id == waiting => Some(result.unwrap()),
        _ => None,
    });
    assert_eq!(answer.expect("the wait ends")["messages"][0]["fromName"], "boss");
}

#[test]
fn a_chosen_name_is_not_that_of_another_session_with_a_number() {
    for is_server in [true, false] {
        let mut world = World::new();
        let start = |world: &mut World, name: &str| {
            let session = world.named_session("claude");
            let speak = if is_server { World::attach_with_name } else { World::hook_with_name };
            (speak(world, &session, name)["you"].clone(), session)
        };
        let (first, session) = start(&mut world, "issue-1");
        world.call_once("send", json!({ "to": "issue-1", "message": "for issue-1" }), &[]).unwrap();
        let mut leave = world.hook_args(&session);
        leave["leave"] = json!(true);
        world.call_once("hook.turn_end", leave, &session.above).unwrap();
        let now = world.now;
        world.mesh.as_mut().unwrap().on_process_exit(&session.above[0], now);
        world.settle();
        let (second, _) = start(&mut world, "issue");
        assert_eq!(second["name"], "issue", "by its server: {is_server}");
        assert_ne!(second["id"], first["id"]);
        assert_eq!(start(&mut world, "issue-1").0, first, "and the name itself leads back");
    }
}

#[test]
fn a_name_that_only_the_server_knows_replaces_the_default_one_once() {
    let mut world = World::new();
    let claude = world.named_session("claude");
    let id = world.hook(&claude);
    assert_eq!(world.name_of(&id), "claude-p");
    assert_eq!(world.attach_with_name(&claude, "boss")["you"], json!({ "id": id, "name": "boss" }));
    let events = world.call_once("events.read", json!({ "types": ["peer_updated"] }), &[]).unwrap();
    assert_eq!(events["events"][0]["payload"]["name"], "boss", "the others learn the name: {events}");
    assert_eq!(world.attach_with_name(&claude, "chief")["you"]["name"], "boss", "others know the session as boss");
    // A hook succeeds even if the chosen name is not allowed. The session then gets a default name.
    let other = world.named_session("claude");
    assert_eq!(world.hook_with_name(&other, "a b")["you"]["name"], "claude-p");
}
