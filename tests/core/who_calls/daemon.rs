//! Tests an agent's daemon that serves several threads. The daemon starts an MCP server for each thread, and sends the
//! thread's key later.

use super::{Session, World, id_of};
use serde_json::json;
use slm_mesh::known_agents::AGENTS;

impl World {
    /// Connects a new MCP server of the session. The server does not know the session's key yet. Returns the
    /// connection.
    fn server(&mut self, session: &Session) -> u64 {
        let conn = self.connect(&session.above);
        self.attach(session, conn, None);
        conn
    }

    /// The ids of all sessions.
    fn sessions(&self) -> Vec<String> {
        let all = self.mesh.as_ref().unwrap().peers().all();
        sorted(all.iter().filter(|peer| peer.row.is_session()).map(|peer| peer.row.id.as_str()))
    }
}

fn sorted(ids: impl IntoIterator<Item = impl AsRef<str>>) -> Vec<String> {
    let mut ids: Vec<String> = ids.into_iter().map(|id| id.as_ref().to_owned()).collect();
    ids.sort();
    ids
}

#[test]
fn two_threads_of_one_daemon_are_two_peers_although_their_servers_came_before_any_key() {
    for agent in AGENTS.iter().filter(|agent| agent.identity.has_many_sessions) {
        let mut world = World::new();
        let one = world.session(agent);
        let two = world.tab(&one);
        // Each thread has its own server. The server is attached as a peer before any call contains the thread's key.
        let servers = [&one, &two].map(|thread| world.server(thread));
        let ids = [&one, &two].map(|thread| world.hook(thread));
        assert_ne!(ids[0], ids[1]);
        // The first call of a thread through its server contains the thread's key.
        for ((thread, conn), id) in [&one, &two].into_iter().zip(servers).zip(&ids) {
            assert_eq!(world.attach(thread, conn, Some(&thread.key)), *id);
            assert_eq!(id_of(&world.call(conn, "whoami", json!({}), &thread.above).unwrap()), *id);
        }
        assert_eq!(world.sessions(), sorted(&ids), "{}", agent.id);
        // A server's first peer normally disappears when the key becomes known. If the peer has mail, it stays, because
        // the mail must not be lost.
        let third = world.tab(&one);
        let conn = world.server(&third);
        let placeholder = id_of(&world.call(conn, "whoami", json!({}), &third.above).unwrap());
        world.call_once("send", json!({ "to": placeholder, "message": "hello" }), &[]).unwrap();
        let id = world.hook(&third);
        assert_eq!(world.attach(&third, conn, Some(&third.key)), id);
        assert!(world.mesh.as_ref().unwrap().peers().with_id(&placeholder).is_some());
    }
}
