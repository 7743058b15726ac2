//! Tests sessions that have ended: hooks that arrive late, and old session keys after a restart of the broker.

use super::{Road, Session, World, each_with_hooks};
use serde_json::{Value, json};
use slm_mesh::core::ConnId::Client;
use slm_mesh::known_agents::AGENTS;

impl World {
    pub(super) fn end(&mut self, session: &Session) {
        let mut args = self.hook_args(session);
        args["leave"] = json!(true);
        self.call_once("hook.turn_end", args, &session.above).unwrap();
    }

    /// Runs a hook that may arrive late, because it reports an event that has already happened. Agents run such hooks
    /// after a tool call, at the end of a turn, or for a notification.
    fn late_hook(&mut self, session: &Session) -> Value {
        let mut args = self.hook_args(session);
        args["mayBeLate"] = json!(true);
        self.call_once("hook.mail", args, &session.above).unwrap()
    }

    pub(super) fn is_online(&self, id: &str) -> bool {
        self.mesh.as_ref().unwrap().peers().with_id(id).unwrap().is_online()
    }
}

#[test]
fn a_late_hook_brings_no_ended_session_back_and_takes_none_of_its_mail() {
    // In a container, or on a machine that hides processes, a hook can't see its ancestor processes.
    for is_hidden in [false, true] {
        each_with_hooks(|world, mut session, _| {
            if is_hidden {
                session.above.clear();
            }
            let id = world.hook(&session);
            world.call_once("send", json!({ "to": id, "message": "hello" }), &[]).unwrap();
            world.end(&session);
            for _ in 0..3 {
                let answer = world.late_hook(&session);
                assert_eq!(answer["messages"], json!([]), "{}", session.agent.id);
                assert!(!world.is_online(&id), "{}: a late hook keeps it here", session.agent.id);
            }
            // The next session in this folder gets the name and the mail, as if the late hook had not run.
            let next = world.session(session.agent);
            assert_eq!(world.hook(&next), id, "{}", session.agent.id);
        });
    }
}

#[test]
fn a_new_session_gets_nothing_that_a_crashed_one_held_or_waited_for() {
    for is_soon in [true, false] {
        each_with_hooks(|world, mut one, _| {
            let id = world.speak(&mut one, &[Road::Server, Road::Hook]);
            let server = one.conn.unwrap();
            world.call(server, "lock.lock", json!({ "filePath": "/p/held", "ttlMinutes": 60 }), &one.above).unwrap();
            world.call(server, "channel.join", json!({ "channel": "#api" }), &one.above).unwrap();
            let (person, shell) = (world.connect(&[]), world.connect(&[]));
            world.call(person, "lock.lock", json!({ "filePath": "/p/wanted" }), &[]).unwrap();
            let wanted = json!({ "filePath": "/p/wanted", "waitSeconds": 60 });
            let (answers, _) = world.send(shell, "lock.lock", wanted, &one.above).unwrap();
            assert!(answers.is_empty(), "it waits: {answers:?}");
            // The agent dies, but a command in its shell continues to run.
            let now = world.now;
            let mesh = world.mesh.as_mut().unwrap();
            mesh.on_process_exit(&one.above[0], now);
            mesh.on_disconnected(Client(server), now);
            if !is_soon {
                world.now += 6_000;
                world.mesh.as_mut().unwrap().tick(world.now);
            }
            world.settle();
            let next = world.session(one.agent);
            assert_eq!(world.hook(&next), id, "{}: it takes over the name", one.agent.id);
            world.call(person, "lock.unlock", json!({ "filePath": "/p/wanted" }), &[]).unwrap();
            let locks: Vec<_> = world.mesh.as_ref().unwrap().locks().all().collect();
            assert!(locks.is_empty(), "{}, soon: {is_soon}: {locks:?}", one.agent.id);
            let channels = world.call_once("channel.list", json!({}), &[]).unwrap();
            assert_eq!(channels["channels"], json!([]), "{}: {channels}", one.agent.id);
        });
    }
}

#[test]
fn a_command_that_outlives_its_session_keeps_its_lock_from_the_next_session() {
    each_with_hooks(|world, mut one, _| {
        let id = world.speak(&mut one, &[Road::Server, Road::Hook]);
        let shell = world.connect(&[]);
        let (path, now) = (format!("{}/a.rs", world.project), world.now);
        world.call(shell, "lock.lock", json!({ "filePath": path, "command": "build" }), &one.above).unwrap();
        let mesh = world.mesh.as_mut().unwrap();
        mesh.on_process_exit(&one.above[0], now);
        mesh.on_disconnected(Client(one.conn.unwrap()), now);
        world.settle();
        let next = world.session(one.agent);
        assert_eq!(world.hook(&next), id, "{}: it takes over the name", one.agent.id);
        let refusal = world.edit(&next, None).unwrap_err().text;
        assert!(refusal.contains("ends when that command ends"), "{refusal}");
        // The next session can give the name back while the command of the earlier session is still running.
        world.shell_session = Some(id.clone());
        let own = world.call_once("peer.decline", json!({}), &next.above).unwrap();
        world.shell_session = None;
        assert_ne!(own["you"]["id"], json!(id));
        let locks: Vec<_> = world.mesh.as_ref().unwrap().locks().all().collect();
        let holders: Vec<_> = locks.iter().filter(|lock| lock.path == path).map(|lock| lock.holder.as_str()).collect();
        assert_eq!(holders, [&id]);
        world.edit(&next, None).unwrap_err();
        world.mesh.as_mut().unwrap().on_disconnected(Client(shell), now);
        world.settle();
        world.edit(&next, None).unwrap();
    });
}

#[test]
fn a_session_in_two_terminals_ends_with_the_last_of_them() {
    let mut world = World::new();
    let mut one = world.session(AGENTS.iter().find(|agent| agent.id == "claude").unwrap());
    let mut two = Session { key: one.key.clone(), ..world.session(one.agent) };
    let id = world.speak(&mut one, &[Road::Server, Road::Hook]);
    assert_eq!(world.speak(&mut two, &[Road::Server, Road::Hook]), id);
    let server = two.conn.unwrap();
    world.call(server, "lock.lock", json!({ "filePath": "/p/held" }), &two.above).unwrap();
    world.call(server, "channel.join", json!({ "channel": "#api" }), &two.above).unwrap();
    world.edit(&one, None).unwrap();
    let held = |world: &World| -> Vec<String> {
        world.mesh.as_ref().unwrap().locks().all().map(|lock| lock.path.clone()).collect()
    };
    world.end(&one);
    assert_eq!(held(&world), ["/p/held"], "only the turn of the first terminal has ended");
    let now = world.now;
    world.mesh.as_mut().unwrap().on_process_exit(&one.above[0], now);
    world.settle();
    assert_eq!((held(&world).len(), world.is_online(&id)), (1, true));
    let channels = world.call(server, "channel.list", json!({}), &two.above).unwrap();
    assert_eq!(channels["channels"][0]["joined"], json!(true), "{channels}");
    world.end(&two);
    assert_eq!(held(&world), [""; 0]);
}

#[test]
fn a_session_that_begins_again_after_its_end_gets_its_mail() {
    each_with_hooks(|world, session, _| {
        let id = world.hook(&session);
        world.call_once("send", json!({ "to": id, "message": "hello" }), &[]).unwrap();
        world.end(&session);
        // Some hooks are never late, such as the hook for a prompt. If such a hook runs, the session has begun again.
        // So the broker brings the session back.
        assert_eq!(world.hook(&session), id);
        assert_eq!(world.late_hook(&session)["messages"][0]["payload"], json!("hello"), "{}", session.agent.id);
    });
}

#[test]
fn an_older_key_of_a_session_is_known_after_a_restart() {
    each_with_hooks(|world, mut session, _| {
        let id = world.hook(&session);
        let old = session.clone();
        // An agent may choose any key. Some of these keys look like the list in which the database stores keys.
        for key in ["[\"key\",\"other\"]", "[", "a\nb", "newest"] {
            session.key = format!("{key}-{}", old.key);
            session.continues = true;
            assert_eq!(world.hook(&session), id);
        }
        session.continues = false;
        let keys = ["[\"key\",\"other\"]", "[", "a\nb", "newest"].map(|key| format!("{key}-{}", old.key));
        world.restart_broker(&mut [&mut session]);
        for key in keys.iter().chain([&old.key]) {
            // The ancestors of this caller are unknown, so only its key identifies the session.
            let caller = Session { key: key.clone(), above: Vec::new(), ..session.clone() };
            assert_eq!(world.hook(&caller), id, "{} by {key:?}", session.agent.id);
        }
        let stranger = Session { key: "other".into(), above: Vec::new(), ..session.clone() };
        assert_ne!(world.hook(&stranger), id, "a part of a key is no key");
    });
}

#[test]
fn a_later_session_gets_the_mail_of_one_of_two_sessions_that_ended() {
    each_with_hooks(|world, one, _| {
        let two = world.session(one.agent);
        let (first, second) = (world.hook(&one), world.hook(&two));
        world.end(&one);
        world.end(&two);
        world.call_once("send", json!({ "to": first, "message": "please answer" }), &[]).unwrap();
        // The second session was never used, so only the first session can be continued.
        let next = world.session(one.agent);
        assert_eq!(world.hook(&next), first, "{}", one.agent.id);
        let inbox = world.call_once("hook.mail", world.hook_args(&next), &next.above).unwrap();
        assert_eq!(inbox["messages"][0]["payload"], json!("please answer"), "{inbox}");
        assert!(world.mesh.as_ref().unwrap().peers().with_id(&second).is_none());
    });
}
