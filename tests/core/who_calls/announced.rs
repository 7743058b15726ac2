//! Tests tool calls that a hook has announced. Such a call belongs to the session of the hook.

use super::{Effect, Road, Session, World, each_with_hooks};
use serde_json::{Value, json};

#[test]
fn a_call_that_a_hook_announced_is_that_sessions() {
    each_with_hooks(|world, mut one, _| {
        let identity = &one.agent.identity;
        if identity.session_variable.is_some() || identity.has_many_sessions {
            return; // the calls of this agent name their session
        }
        let first = world.speak(&mut one, &[Road::Server, Road::Hook]);
        let two = world.tab(&one);
        let second = world.hook(&two);
        let announce = |world: &mut World, by: &Session, text: &str| {
            let mut args = world.hook_args(by);
            args["operation"] = json!("summary");
            args["arguments"] = json!({ "summary": text });
            world.call_once("hook.announce", args, &by.above).unwrap();
        };
        let conn = one.conn.unwrap();
        let summarise =
            |world: &mut World, text: &str| world.call(conn, "summary", json!({ "summary": text }), &one.above);
        let acted_as = |answer: Value| answer["actedAs"]["id"].as_str().map(str::to_owned);
        announce(world, &two, "a");
        assert_eq!(acted_as(summarise(world, "a").unwrap()), Some(second.clone()), "{}", one.agent.id);
        // A call that no hook has announced acts as the connection's peer, and the answer says that this is uncertain.
        let answer = summarise(world, "a").unwrap();
        assert_eq!(answer["actedAs"]["id"], json!(first));
        assert!(answer["actedAs"]["note"].as_str().unwrap().contains("several sessions"), "{answer}");
        // An announcement does not apply to a call with other arguments.
        announce(world, &two, "b");
        assert_eq!(acted_as(summarise(world, "c").unwrap()), Some(first.clone()));
        // If two sessions announce the same call at the same time, the call is refused, because its caller is unknown.
        announce(world, &one, "d");
        announce(world, &two, "d");
        let error = summarise(world, "d").unwrap_err();
        assert_eq!(error.data.unwrap()["candidates"].as_array().unwrap().len(), 2);
        // The attached session announces this call, so the caller is known.
        announce(world, &one, "d");
        let name = world.mesh.as_ref().unwrap().peers().name_of(&first.as_str().into());
        assert_eq!(summarise(world, "d").unwrap()["actedAs"], json!({ "id": first, "name": name }));
        // An announcement is ignored if its session has ended.
        announce(world, &two, "e");
        let mut end = world.hook_args(&two);
        end["leave"] = json!(true);
        world.call_once("hook.turn_end", end, &two.above).unwrap();
        assert!(summarise(world, "e").unwrap().get("actedAs").is_none(), "only one session is left");
    });
}

/// Attaches the MCP server of `one`, and opens a second session in the same process. Then `one` locks `a.rs` over this
/// server. If `announced` is true, the hook of `one` first announces this call.
fn lock_with_two_sessions(world: &mut World, one: &mut Session, announced: bool) -> Session {
    world.speak(one, &[Road::Server, Road::Hook]);
    let two = world.tab(one);
    world.hook(&two);
    let lock = json!({ "filePath": format!("{}/a.rs", world.project), "reason": "rewriting" });
    if announced {
        let mut args = world.hook_args(one);
        (args["operation"], args["arguments"]) = (json!("lock.lock"), lock.clone());
        world.call_once("hook.announce", args, &one.above).unwrap();
    }
    world.call(one.conn.unwrap(), "lock.lock", lock, &one.above).unwrap();
    two
}

/// The paths of the locks that a command of the session must respect.
fn locks_of_others(world: &mut World, session: &Session) -> Vec<String> {
    let mut args = world.hook_args(session);
    (args["files"], args["checkOnly"], args["withLocks"]) = (json!([]), json!(true), json!(true));
    let answer = world.call_once("hook.edit", args, &session.above).unwrap();
    answer["others"].as_array().unwrap().iter().map(|lock| lock["filePath"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn an_announced_lock_refuses_the_other_sessions_of_the_process() {
    each_with_hooks(|world, mut one, _| {
        let two = lock_with_two_sessions(world, &mut one, true);
        let agent = one.agent.id;
        assert_eq!(
            locks_of_others(world, &two),
            [format!("{}/a.rs", world.project)],
            "{agent}: a command may write the file"
        );
        assert!(world.edit(&two, None).unwrap_err().text.contains("rewriting"), "{agent}");
        world.edit(&one, None).unwrap_or_else(|error| panic!("{agent}: {} refuses its own edit", error.text));
    });
}

#[test]
fn a_lock_from_the_shell_of_a_session_refuses_the_other_sessions_of_the_process() {
    each_with_hooks(|world, mut one, _| {
        let first = world.speak(&mut one, &[Road::Server, Road::Hook]);
        let two = world.tab(&one);
        world.hook(&two);
        world.shell_session = Some(first);
        world.call_once("lock.lock", json!({ "filePath": format!("{}/a.rs", world.project) }), &one.above).unwrap();
        world.shell_session = None;
        world.edit(&two, None).unwrap_err();
        world.edit(&one, None).unwrap();
    });
}

#[test]
fn a_lock_that_nobody_announced_refuses_no_session_of_the_process_until_one_of_them_confirms_it() {
    each_with_hooks(|world, mut one, _| {
        let identity = &one.agent.identity;
        if identity.session_variable.is_some() || identity.has_many_sessions {
            return; // the calls of this agent name their session
        }
        let two = lock_with_two_sessions(world, &mut one, false);
        let edit = |world: &mut World, session: &Session| {
            let mut args = world.hook_args(session);
            (args["files"], args["checkOnly"]) = (json!([format!("{}/a.rs", world.project)]), json!(true));
            world.call_once("hook.edit", args, &session.above)
        };
        edit(world, &two).expect("the second session may have requested the lock");
        let stranger = world.session(one.agent);
        edit(world, &stranger).expect_err("a session in another process has not requested the lock");
        assert_eq!(locks_of_others(world, &two), [""; 0]);
        // This edit shows that the first session uses the lock.
        world.edit(&one, None).unwrap();
        world.edit(&two, None).expect_err("both edit one file");
    });
}

#[test]
fn a_lock_of_the_only_session_of_a_process_refuses_sessions_that_begin_later() {
    each_with_hooks(|world, mut one, _| {
        world.speak(&mut one, &[Road::Server, Road::Hook]);
        world
            .call(one.conn.unwrap(), "lock.lock", json!({ "filePath": format!("{}/a.rs", world.project) }), &one.above)
            .unwrap();
        let two = world.tab(&one);
        world.edit(&two, None).unwrap_err();
        world.edit(&one, None).unwrap();
    });
}

#[test]
fn an_announced_call_that_waits_is_as_certain_as_one_that_does_not() {
    each_with_hooks(|world, mut one, _| {
        let identity = &one.agent.identity;
        if identity.session_variable.is_some() || identity.has_many_sessions {
            return; // the calls of this agent name their session
        }
        let first = world.speak(&mut one, &[Road::Server, Road::Hook]);
        let two = world.tab(&one);
        world.hook(&two);
        let wait = json!({ "waitSeconds": 60 });
        let mut args = world.hook_args(&one);
        (args["operation"], args["arguments"]) = (json!("inbox"), wait.clone());
        world.call_once("hook.announce", args, &one.above).unwrap();
        let (_, waiting) = world.send(one.conn.unwrap(), "inbox", wait, &one.above).unwrap();
        let person = world.connect(&[]);
        let (effects, _) = world.send(person, "send", json!({ "to": first, "message": "hello" }), &[]).unwrap();
        let answer = effects.into_iter().find_map(|effect| match effect {
            Effect::Reply { id, result, .. } if id == waiting => Some(result.unwrap()),
            _ => None,
        });
        let acted_as = &answer.expect("the wait ends")["actedAs"];
        assert_eq!(acted_as["id"], json!(first));
        assert!(acted_as.get("note").is_none(), "{}: {acted_as}", one.agent.id);
    });
}
