//! Tests agents that switch to another session in the same process, with `/clear` or `/resume`.

use super::{Road, Session, World, each_with_hooks, id_of};
use serde_json::json;
use slm_mesh::core::ConnId::Client;
use slm_mesh::known_agents::AGENTS;

impl World {
    /// Reports that the session's process continues under this key, for example after `/clear` or `/resume`. Returns
    /// the id of the session's peer.
    fn switch(&mut self, session: &mut Session, key: String) -> String {
        self.end(session);
        session.key = key;
        session.continues = true;
        let id = self.hook(session);
        session.continues = false;
        id
    }
}

#[test]
fn a_session_that_was_cleared_and_is_resumed_in_a_second_window_is_a_second_peer() {
    each_with_hooks(|world, mut first, order| {
        if first.agent.identity.has_many_sessions {
            return;
        }
        let id = world.speak(&mut first, order);
        let cleared = first.key.clone();
        assert_eq!(world.switch(&mut first, format!("{cleared}+")), id);
        let mut second = Session { key: cleared, continues: true, ..world.session(first.agent) };
        let second_id = world.speak(&mut second, &[Road::Hook, Road::Server, Road::Verb]);
        assert_ne!(second_id, id, "{} by {order:?}: two agents are one peer", first.agent.id);
        second.continues = false;
        world.edit(&first, None).unwrap();
        assert!(world.edit(&second, None).is_err(), "{}: both edit one file", first.agent.id);
        for _ in 0..2 {
            assert_eq!(world.hook(&first), id);
            assert_eq!(world.speak(&mut second, order), second_id);
            world.restart_broker(&mut [&mut first, &mut second]);
        }
    });
}

#[test]
fn an_agent_that_resumes_an_ended_session_acts_as_that_session_on_every_road() {
    each_with_hooks(|world, mut ended, order| {
        if ended.agent.identity.has_many_sessions {
            return;
        }
        let id = world.speak(&mut ended, order);
        world.end(&ended);
        let now = world.now;
        let mesh = world.mesh.as_mut().unwrap();
        mesh.on_process_exit(&ended.above[0], now);
        ended.conn.into_iter().for_each(|conn| mesh.on_disconnected(Client(conn), now));
        world.settle();
        world.project.push_str("/other"); // Otherwise, the next session would take over the name of this one.
        let mut session = world.session(ended.agent);
        let before = world.speak(&mut session, &[Road::Hook, Road::Server]);
        assert_ne!(before, id);
        assert_eq!(world.switch(&mut session, ended.key.clone()), id);
        assert_eq!(world.speak(&mut session, order), id, "{}", session.agent.id);
        let conn = session.conn.unwrap();
        world.call(conn, "lock.lock", json!({ "filePath": "/p/resumed" }), &session.above).unwrap();
        let mut args = world.hook_args(&session);
        args["files"] = json!(["/p/resumed"]);
        world.call_once("hook.edit", args, &session.above).expect("its own lock does not refuse it");
        world.call(conn, "lock.unlock", json!({ "filePath": "/p/resumed" }), &session.above).unwrap();
        assert!(!world.mesh.as_ref().unwrap().peers().with_id(&before).unwrap().is_online());
    });
}

#[test]
fn a_thread_that_has_ended_leaves_the_connection_that_it_shared() {
    for agent in AGENTS.iter().filter(|agent| agent.identity.has_many_sessions && agent.dialect.is_some()) {
        let mut world = World::new();
        let mut first = world.session(agent);
        world.serve(&mut first);
        let conn = first.conn.unwrap();
        // One connection can act for at most 64 peers at a time.
        for _ in 0..70 {
            let thread = world.tab(&first);
            let id = world.hook(&thread);
            assert_eq!(world.attach(&thread, conn, Some(&thread.key)), id);
            world.end(&thread);
            assert!(!world.mesh.as_ref().unwrap().peers().with_id(&id).unwrap().is_online(), "{}", agent.id);
        }
        // If an ended thread continues, it attaches again as its former peer.
        let thread = world.tab(&first);
        let id = world.hook(&thread);
        world.attach(&thread, conn, Some(&thread.key));
        world.end(&thread);
        assert_eq!(world.attach(&thread, conn, Some(&thread.key)), id);
        let asked = world.call_once("whoami", json!({}), &[]).unwrap();
        assert_ne!(id_of(&asked), id);
    }
}
