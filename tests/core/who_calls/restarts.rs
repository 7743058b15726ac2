//! Tests restarts of the broker between any two calls of a session. Also tests unknown agents, which the broker
//! recognizes only by their MCP server.

use super::{AGENTS, Road, Session, World, each, open, process};
use serde_json::{Value, json};
use slm_mesh::base::error::Error;
use slm_mesh::base::process_identity::Process;
use slm_mesh::core::ConnId::Client;
use slm_mesh::core::Effect;
use slm_mesh::known_agents::by_kind;

/// The agent type that an unknown agent reports.
const NEWCOMER: &str = "newcomer";
/// The process id of an MCP server in these tests.
const SERVER: i64 = 77;

impl World {
    /// Ends the broker, and starts a new one. The new broker expects the MCP servers of these sessions to reconnect.
    pub(super) fn restart_broker(&mut self, sessions: &mut [&mut Session]) {
        let store = self.mesh.take().unwrap().into_store();
        let mesh = self.mesh.insert(open(store, self.now));
        sessions.iter_mut().for_each(|session| session.conn = None);
        let above =
            |pid| sessions.iter().find(|one| one.server == Some(pid)).and_then(|one| one.above.first().copied());
        mesh.expect_servers(above, |kind| by_kind(kind).is_some());
    }
}

/// An unknown agent. It has an MCP server, and runs on this machine or on a different machine.
struct Newcomer {
    world: World,
    above: Vec<Process>,
    is_far: bool,
    conn: u64,
}

impl Newcomer {
    fn start(is_far: bool) -> Newcomer {
        let above = vec![process(500, None), process(3, None)];
        Newcomer { world: World::new(), above, is_far, conn: 0 }
    }

    fn connect(&mut self) -> u64 {
        let conn = self.world.connect(&self.above);
        if self.is_far {
            let now = self.world.now;
            self.world.mesh.as_mut().unwrap().set_origin(Client(conn), "laptop", "ada", None, now).unwrap();
        }
        conn
    }

    /// Attaches the agent's MCP server, and returns the id of its peer.
    fn attach(&mut self) -> String {
        self.conn = self.connect();
        let args = json!({ "agent": NEWCOMER, "project": "/p", "pid": SERVER, "knownAgent": false });
        super::id_of(&self.world.call(self.conn, "attach", args, &self.above).unwrap())
    }

    /// Runs the verb (subcommand) `whoami` below these processes. Returns the peer that the verb acts as.
    fn verb(&mut self, above: &[Process]) -> Result<Value, Error> {
        let conn = self.connect();
        let answer = self.world.call(conn, "whoami", json!({}), above)?;
        let now = self.world.now;
        self.world.mesh.as_mut().unwrap().on_disconnected(Client(conn), now);
        Ok(answer)
    }

    fn restart_broker(&mut self) {
        self.world.restart_broker(&mut []);
        let above = self.above[0];
        let agent_above = |pid| (pid == SERVER).then_some(above);
        self.world.mesh.as_mut().unwrap().expect_servers(agent_above, |kind| kind != NEWCOMER);
    }
}

#[test]
fn an_agent_that_no_file_describes_is_never_the_person_while_its_server_comes_back() {
    for is_far in [false, true] {
        let mut agent = Newcomer::start(is_far);
        let (id, above) = (agent.attach(), agent.above.clone());
        agent.restart_broker();
        let answer = agent.verb(&above).unwrap();
        assert_eq!((super::id_of(&answer), &answer["kind"]), (id.clone(), &json!("session")), "far: {is_far}");
        // The agent's verbs act as the agent, but a verb in a shell outside the agent still acts as the person.
        assert_eq!(agent.verb(&above[1..]).unwrap()["kind"], json!("human"));
        let other = Process { start: 2, ..above[0] };
        assert_eq!(agent.verb(&[other]).unwrap()["kind"], json!("human"), "another process with that number");
        assert_eq!(agent.attach(), id);
        assert_eq!(super::id_of(&agent.verb(&above).unwrap()), id);
        // The user switches off the agent's MCP server. From then on, nothing shows that the program is an agent.
        agent.world.call(agent.conn, "detach", json!({}), &above).unwrap();
        assert_eq!(agent.verb(&above).unwrap()["kind"], json!("human"));
    }
}

#[test]
fn hooks_of_an_agent_that_no_file_describes_are_its_servers_peer_in_any_dialect() {
    for agent in AGENTS.iter().filter(|agent| agent.dialect.is_some()) {
        let mut newcomer = Newcomer::start(false);
        let id = newcomer.attach();
        let session = Session { above: newcomer.above.clone(), ..newcomer.world.session(agent) };
        for _ in 0..3 {
            assert_eq!(newcomer.world.hook(&session), id, "hooks as of {}", agent.id);
        }
        newcomer.restart_broker();
        assert_eq!(newcomer.world.hook(&session), id, "hooks as of {}, before its server comes back", agent.id);
        assert_eq!(newcomer.attach(), id);
        newcomer.world.call(newcomer.conn, "lock.lock", json!({ "filePath": "/p/a.rs" }), &[]).unwrap();
        assert!(newcomer.world.edit(&session, None).is_ok(), "its own lock refuses it");
        // A second session key in the same process belongs to a second session.
        let tab = newcomer.world.tab(&session);
        assert_ne!(newcomer.world.hook(&tab), id);
    }
}

#[test]
fn a_connection_that_breaks_does_not_make_an_agent_a_person() {
    let mut agent = Newcomer::start(true);
    let (id, above) = (agent.attach(), agent.above.clone());
    let now = agent.world.now;
    agent.world.mesh.as_mut().unwrap().on_disconnected(Client(agent.conn), now);
    assert_eq!(super::id_of(&agent.verb(&above).unwrap()), id);
}

#[test]
fn a_broker_that_restarts_between_two_calls_of_a_session_changes_nothing() {
    each(|world, mut session, order| {
        let mut known = String::new();
        for road in order.chunks(1) {
            let id = world.speak(&mut session, road);
            // The id is empty in two cases: the agent has no hooks, so no hook was run; or the verb acted as the user
            // of an editor.
            if !id.is_empty() {
                assert!(known.is_empty() || id == known, "{} by {order:?}", session.agent.id);
                known = id;
            }
            world.restart_broker(&mut [&mut session]);
        }
    });
}

#[test]
fn sessions_that_nobody_wrote_to_leave_no_peers_behind() {
    for agent in AGENTS.iter().filter(|agent| agent.dialect.is_some()) {
        let mut world = World::new();
        for n in 0..20 {
            // Two sessions run at the same time, so it is unclear which of them the next session continues.
            let mut both = [world.session(agent), world.session(agent)];
            let conns = both.each_mut().map(|session| {
                world.serve(session);
                world.hook(session);
                session.conn.unwrap()
            });
            for conn in conns {
                world.call(conn, "detach", json!({}), &[]).unwrap();
            }
            world.now += 60_000;
            let now = world.now;
            world.mesh.as_mut().unwrap().tick(now);
            world.settle();
            if n == 10 {
                world
                    .call_once("send", json!({ "to": format!("{}-p", agent.short_name), "message": "hi" }), &[])
                    .unwrap();
            }
        }
        let peers = world.mesh.as_ref().unwrap().peers().all();
        let left = peers.iter().filter(|peer| peer.row.is_session()).count();
        assert!(left <= 4, "{}: {left} peers of ended sessions", agent.id);
    }
}

#[test]
fn a_session_whose_server_takes_over_a_name_is_one_peer_with_its_hooks() {
    for agent in AGENTS.iter().filter(|agent| agent.dialect.is_some()) {
        let mut world = World::new();
        let mut former = world.session(agent);
        let id = world.speak(&mut former, &[Road::Hook, Road::Server]);
        former.key.push('+');
        former.continues = true;
        assert_eq!(world.hook(&former), id);
        world.call(former.conn.unwrap(), "detach", json!({}), &[]).unwrap();
        let mut next = world.session(agent);
        assert_eq!(world.speak(&mut next, &[Road::Server, Road::Hook, Road::Verb]), id, "{}", agent.id);
        // The former session, which had the name before, comes back in a new window, under its new or its old key.
        for key in [&former.key[..], former.key.trim_end_matches('+')] {
            let window = Session { key: key.to_owned(), ..world.session(agent) };
            assert_ne!(world.hook(&window), id, "{}: two windows are one peer", agent.id);
        }
    }
}

#[test]
fn a_call_that_waits_for_a_session_that_ends_gets_nothing_more() {
    let identity = |agent: &&slm_mesh::known_agents::Agent| !agent.identity.calls_name_session();
    for agent in AGENTS.iter().filter(|agent| agent.dialect.is_some()).filter(identity) {
        let mut world = World::new();
        let mut one = world.session(agent);
        world.speak(&mut one, &[Road::Server, Road::Hook]);
        let two = world.tab(&one);
        let ended = world.hook(&two);
        let person = world.connect(&[]);
        world.call(person, "lock.lock", json!({ "filePath": "/p/a.rs" }), &[]).unwrap();
        let arguments = json!({ "filePath": "/p/a.rs", "waitSeconds": 60 });
        let mut args = world.hook_args(&two);
        (args["operation"], args["arguments"]) = (json!("lock.lock"), arguments.clone());
        world.call_once("hook.announce", args, &two.above).unwrap();
        let (answers, _) = world.send(one.conn.unwrap(), "lock.lock", arguments, &one.above).unwrap();
        assert!(answers.is_empty(), "it waits: {answers:?}");
        let mut end = world.hook_args(&two);
        end["leave"] = json!(true);
        world.call_once("hook.turn_end", end, &two.above).unwrap();
        world.call(person, "lock.unlock", json!({ "filePath": "/p/a.rs" }), &[]).unwrap();
        let locks: Vec<_> = world.mesh.as_ref().unwrap().locks().all().collect();
        assert!(locks.is_empty(), "{}: the session {ended} has ended: {locks:?}", agent.id);
    }
}

#[test]
fn the_locks_of_a_turn_end_with_the_last_subagent_that_outlived_it() {
    for agent in AGENTS.iter().filter(|agent| agent.dialect.is_some()) {
        let mut world = World::new();
        let session = world.session(agent);
        let end = |world: &mut World, more: Value| {
            let mut args = world.hook_args(&session);
            args.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            world.call_once("hook.turn_end", args, &session.above).unwrap();
        };
        let n_locks = |world: &World| world.mesh.as_ref().unwrap().locks().all().len();
        world.edit(&session, None).unwrap();
        end(&mut world, json!({ "running": ["sub-1", "sub-2"] }));
        end(&mut world, json!({ "subagent": "sub-1" }));
        assert_eq!(n_locks(&world), 1, "another one still runs");
        end(&mut world, json!({ "subagent": "sub-2" }));
        assert_eq!(n_locks(&world), 0, "{}", agent.id);
        // The next turn begins before the last subagent of the previous turn ends. The end of this subagent must not
        // release the locks of the next turn.
        world.edit(&session, None).unwrap();
        end(&mut world, json!({ "running": ["sub-3"] }));
        world.edit(&session, None).unwrap();
        end(&mut world, json!({ "subagent": "sub-3" }));
        assert_eq!(n_locks(&world), 1, "{}", agent.id);
    }
}

#[test]
fn the_log_says_once_that_a_hook_speaks_for_a_session_from_outside() {
    let reports = |world: &mut World, session: &Session| {
        let conn = world.connect(&session.above);
        let args = world.hook_args(session);
        let (effects, _) = world.send(conn, "hook.mail", args, &session.above).unwrap();
        let lines = effects.into_iter().filter_map(|effect| match effect {
            Effect::Log(error) => Some(error.text),
            _ => None,
        });
        lines.collect::<Vec<String>>()
    };
    for agent in AGENTS.iter().filter(|agent| agent.dialect.is_some() && !agent.identity.hosts_terminals) {
        let mut world = World::new();
        let session = world.session(agent);
        world.hook(&session);
        let stranger = Session { above: vec![process(9, None)], ..session.clone() };
        assert_eq!(reports(&mut world, &session), Vec::<String>::new());
        let said = reports(&mut world, &stranger);
        assert!(
            said.len() == 1 && said[0].starts_with("a hook in process 9 acts for the session "),
            "{}: {said:?}",
            agent.id
        );
        assert_eq!(reports(&mut world, &stranger), Vec::<String>::new(), "once");
        // When the other process exits, the session stays online, because its own agent is still running.
        world.mesh.as_mut().unwrap().on_process_exit(&stranger.above[0], 0);
        world.settle();
        assert!(
            world.mesh.as_ref().unwrap().peers().all().iter().any(|peer| peer.row.is_session() && peer.is_online())
        );
    }
}

#[test]
fn a_session_without_key_and_process_takes_nothing_over_from_itself() {
    for agent in AGENTS.iter().filter(|agent| agent.dialect.is_some()) {
        let mut world = World::new();
        let session = Session { key: String::new(), above: Vec::new(), ..world.session(agent) };
        let mut args = world.hook_args(&session);
        args["withNeighbours"] = json!(true);
        let answers = [(); 2].map(|()| world.call_once("hook.mail", args.clone(), &[]).unwrap());
        let ids = answers.each_ref().map(super::id_of);
        assert_eq!((&ids[0], &answers[1]["notice"]), (&ids[1], &Value::Null), "{}", agent.id);
    }
}

#[test]
fn a_session_that_continues_on_another_machine_is_online_there_only_while_it_is_connected() {
    for hook_first in [false, true] {
        let mut world = World::new();
        let claude = AGENTS.iter().find(|agent| agent.id == "claude").unwrap();
        let here = world.session(claude);
        let id = world.hook(&here);
        let is_online = |world: &World| world.mesh.as_ref().unwrap().peers().with_id(&id).unwrap().is_online();
        assert!(is_online(&world), "the kernel watches the agent");

        let there = Session { above: vec![process(9_000, Some(claude))], ..here.clone() };
        let conn = world.connect(&there.above);
        let now = world.now;
        world.mesh.as_mut().unwrap().set_origin(Client(conn), "laptop", "ada", None, now).unwrap();
        if hook_first {
            let args = world.hook_args(&there);
            assert_eq!(super::id_of(&world.call(conn, "hook.mail", args, &there.above).unwrap()), id);
            assert!(!is_online(&world), "nothing reports the end of the agent on the laptop");
        }
        assert_eq!(world.attach(&there, conn, Some(&there.key)), id);
        let now = world.now;
        world.mesh.as_mut().unwrap().on_process_exit(&here.above[0], now);
        world.settle();
        assert!(is_online(&world), "the session goes on at the laptop");
        world.mesh.as_mut().unwrap().on_disconnected(Client(conn), now);
        world.settle();
        assert!(!is_online(&world), "hook first: {hook_first}");
    }
}
