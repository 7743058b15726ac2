//! An agent runs `slm-mesh` commands in a shell that has a session id in its environment. Tests which session such a
//! command acts as, and when the command is refused.

use super::{AGENTS, Effect, Session, World, id_of, process};
use serde_json::{Value, json};

#[test]
fn a_shell_whose_environment_names_its_session_acts_as_it() {
    once_with_hooks(|world, mut one| {
        let mut two = world.tab(&one);
        let ids = [&mut one, &mut two].map(|session| world.hook(session));
        for (session, id) in [(&one, &ids[0]), (&two, &ids[1])] {
            world.shell_session = Some(id.clone());
            assert_eq!(&world.verb(session).unwrap(), id, "one of two tabs");
            let unseen = Session { above: Vec::new(), ..session.clone() };
            assert_eq!(&world.verb(&unseen).unwrap(), id, "where no process is seen, as in a container");
        }
        world.shell_session = None;
    });
}

#[test]
fn a_session_in_the_environment_that_is_not_the_callers_is_refused() {
    once_with_hooks(|world, outer| {
        let id = world.hook(&outer);
        let refusal = |world: &mut World, session: &Session, named: &str| {
            world.shell_session = Some(named.to_owned());
            let error = world.verb(session).unwrap_err().text;
            world.shell_session = None;
            assert!(error.contains(named) && error.contains("--as"), "{error}");
            error
        };
        assert!(refusal(world, &outer, "nobody").contains("no session has that id"));
        assert!(refusal(world, &outer, &world.human()).contains("no session has that id"), "the human is none");
        // The session starts another agent. The new agent inherits the variable with the session's id, but acts as a
        // session of its own.
        let mut inner = world.session(AGENTS.iter().find(|agent| agent.id == "codex").unwrap());
        let apart = inner.clone();
        inner.above.extend(outer.above.clone());
        let of_inner = world.serve(&mut inner);
        world.shell_session = Some(id.clone());
        assert_eq!(world.verb(&inner).unwrap(), of_inner);
        world.shell_session = None;
        assert!(refusal(world, &apart, &id).contains("does not run in"), "another agent has it from elsewhere");
        let terminal = Session { above: vec![process(1, None)], ..outer.clone() };
        assert!(refusal(world, &terminal, &id).contains("does not run in"), "a person's terminal has it");
        world.call_once("hook.turn_end", with_leave(world.hook_args(&outer)), &outer.above).unwrap();
        assert!(refusal(world, &outer, &id).contains("has ended"));
    });
}

#[test]
fn a_shell_that_waits_for_a_lock_gets_it_although_the_process_of_its_session_is_unseen() {
    once_with_hooks(|world, one| {
        let unseen = Session { above: Vec::new(), ..one };
        let id = world.hook(&unseen);
        let file = format!("{}/a.rs", world.project);
        let lock = |seconds: i64| json!({ "filePath": file, "waitSeconds": seconds });
        world.call_once("lock.lock", lock(0), &[]).unwrap();
        world.shell_session = Some(id.clone());
        let shell = world.connect(&[]);
        let (effects, call) = world.send(shell, "lock.lock", lock(60), &[]).unwrap();
        assert!(!effects.iter().any(|effect| matches!(effect, Effect::Reply { .. })), "it waits");
        // The next script acts for the person, and waits for the same lock. The shell must get the lock first.
        world.shell_session = None;
        let behind = world.connect(&[]);
        world.send(behind, "lock.lock", lock(60), &[]).unwrap();
        let conn = world.connect(&[]);
        let (effects, _) = world.send(conn, "lock.unlock", json!({ "filePath": file }), &[]).unwrap();
        let granted = effects.into_iter().find_map(|effect| match effect {
            Effect::Reply { id, result, .. } if id == call => Some(result.unwrap()),
            _ => None,
        });
        let granted = granted.expect("the shell gets the lock as soon as it is free");
        assert_eq!(granted["lock"]["lockedBy"], json!(id));
    });
}

#[test]
fn a_shell_acts_as_its_session_after_the_session_has_given_back_a_name() {
    once_with_hooks(|world, one| {
        let old = world.hook(&one);
        world.call_once("send", json!({ "to": old, "message": "hello" }), &[]).unwrap();
        world.call_once("hook.turn_end", with_leave(world.hook_args(&one)), &one.above).unwrap();
        let mut two = world.session(one.agent);
        assert_eq!(world.hook(&two), old, "it takes the name over");
        world.shell_session = Some(old.clone());
        let own = id_of(&world.call_once("peer.decline", json!({}), &two.above).unwrap());
        let unseen = Session { above: Vec::new(), ..two.clone() };
        assert_ne!(own, old);
        assert_eq!((world.verb(&two), world.verb(&unseen)), (Ok(own.clone()), Ok(own.clone())));
        let apart = world.session(one.agent);
        assert!(world.verb(&apart).is_err(), "it is not inside the session");
        // The earlier session is resumed under its old id. Now both sessions have shells with the same id in the
        // environment.
        let again = Session { key: one.key.clone(), ..world.session(one.agent) };
        assert_eq!(world.hook(&again), old);
        for _ in 0..2 {
            assert_eq!((world.verb(&two), world.verb(&again)), (Ok(own.clone()), Ok(old.clone())));
            world.restart_broker(&mut [&mut two]);
            world.hook(&again);
        }
        world.shell_session = None;
    });
}

/// Runs a scenario once for each agent that has hooks.
fn once_with_hooks(scenario: impl Fn(&mut World, Session)) {
    let mut world = World::new();
    for agent in AGENTS.iter().filter(|agent| agent.dialect.is_some()) {
        world.project = format!("/p/{}", agent.id);
        let session = world.session(agent);
        scenario(&mut world, session);
    }
}

fn with_leave(mut args: Value) -> Value {
    args["leave"] = json!(true);
    args
}
