//! For each known agent, tests that each call acts as the peer of the right session. A session's hooks, MCP server and
//! commands may reach the broker in any order. The session may later end, continue or be resumed. It must always be
//! exactly one peer.

mod announced;
mod chosen_name;
mod daemon;
mod drawn;
mod ended;
mod restarts;
mod shell_agent;
mod shell_session;
mod switched;

use serde_json::{Value, json};
use slm_mesh::base::error::Error;
use slm_mesh::base::process_identity::Process;
use slm_mesh::core::ConnId::Client;
use slm_mesh::core::{self, Call, Effect, Mesh, MeshSettings};
use slm_mesh::known_agents::{AGENTS, Agent};
use slm_mesh::store::Store;

/// The ways in which a session calls the broker: a hook, its MCP server, or a verb (subcommand).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Road {
    Hook,
    Server,
    Verb,
}

const ORDERS: [[Road; 3]; 6] = {
    use Road::{Hook, Server, Verb};
    [
        [Hook, Server, Verb],
        [Hook, Verb, Server],
        [Server, Hook, Verb],
        [Server, Verb, Hook],
        [Verb, Hook, Server],
        [Verb, Server, Hook],
    ]
};

/// A session of an agent, as these tests simulate it.
#[derive(Debug, Clone)]
struct Session {
    agent: &'static Agent,
    /// The agent's key for the session.
    key: String,
    /// The ancestors of the session's hooks, MCP server and verbs (subcommands), nearest first.
    above: Vec<Process>,
    /// The connection of the session's MCP server; `None` if it is not connected.
    conn: Option<u64>,
    /// The process id of the session's MCP server. A restarted broker may wait for this server to connect again.
    server: Option<i64>,
    /// Whether the session's hooks report that the session continues an earlier session under a new key.
    continues: bool,
}

struct World {
    mesh: Option<Mesh>,
    now: i64,
    next: u64,
    /// The folder in which all sessions of a scenario work.
    project: String,
    /// The session id in the environment of the next calls, if there is one.
    shell_session: Option<String>,
    /// The agent's name in the environment of the next calls, if there is one.
    shell_agent: Option<String>,
}

fn open(store: Store, now: i64) -> Mesh {
    let mut n = now as u128; // other ids after each restart
    let random = move || {
        n = n.wrapping_mul(0x2360_ed05_1fc6_5da4_4385_df64_9fcc_f645).wrapping_add(12_345);
        n
    };
    Mesh::open(store, MeshSettings::default(), Box::new(random), now).unwrap()
}

fn process(pid: i64, agent: Option<&'static Agent>) -> Process {
    // A process below an editor may belong to no agent, because a user's own terminal also runs below the editor.
    let agent = agent.filter(|agent| !agent.identity.hosts_terminals).map(Agent::program);
    Process { pid, start: 1, wrapper: false, agent }
}

fn id_of(answer: &Value) -> String {
    answer["you"]["id"].as_str().or(answer["id"].as_str()).unwrap_or_else(|| panic!("{answer}")).to_owned()
}

impl World {
    fn new() -> World {
        let now = 1_795_000_000_000;
        World {
            mesh: Some(open(Store::memory().unwrap(), now)),
            now,
            next: 100,
            project: "/p".into(),
            shell_session: None,
            shell_agent: None,
        }
    }

    fn session(&mut self, agent: &'static Agent) -> Session {
        self.next += 1;
        let pid = self.next as i64;
        Session {
            agent,
            key: format!("key-{pid}"),
            above: vec![process(pid, Some(agent))],
            conn: None,
            server: None,
            continues: false,
        }
    }

    /// A new session that runs in the same process as the session `of`.
    fn tab(&mut self, of: &Session) -> Session {
        Session { above: of.above.clone(), ..self.session(of.agent) }
    }

    /// Ends a turn of the mesh in which no call was made.
    fn settle(&mut self) {
        let mesh = self.mesh.as_mut().unwrap();
        assert!(mesh.commit());
        mesh.take_effects();
    }

    /// Makes a call. Returns all effects of the mesh's turn, and the id of the call.
    fn send(&mut self, conn: u64, op: &str, args: Value, above: &[Process]) -> Result<(Vec<Effect>, Value), Error> {
        self.next += 1;
        self.now += 1;
        let (id, now) = (json!(self.next), self.now);
        let op = core::op(op).unwrap();
        let args = op.check(args.as_object().unwrap().clone())?;
        let (shell_session, shell_agent) = (self.shell_session.clone(), self.shell_agent.clone());
        let ancestors = above.to_vec();
        let mesh = self.mesh.as_mut().unwrap();
        mesh.call(
            Call { conn: Client(conn), id: id.clone(), op, args, acting: None, shell_session, shell_agent, ancestors },
            now,
        );
        assert!(mesh.commit());
        Ok((mesh.take_effects(), id))
    }

    fn call(&mut self, conn: u64, op: &str, args: Value, above: &[Process]) -> Result<Value, Error> {
        let (effects, id) = self.send(conn, op, args, above)?;
        let reply = effects.into_iter().find_map(|effect| match effect {
            Effect::Reply { id: of, result, .. } if of == id => Some(result),
            _ => None,
        });
        reply.expect("the call is answered")
    }

    /// Makes a call over a new connection, as a hook or a verb (subcommand) does.
    fn call_once(&mut self, op: &str, args: Value, above: &[Process]) -> Result<Value, Error> {
        self.next += 1;
        let conn = self.next;
        self.mesh.as_mut().unwrap().on_connected(Client(conn));
        self.mesh.as_mut().unwrap().set_ancestors(Client(conn), above);
        let result = self.call(conn, op, args, above);
        let now = self.now;
        self.mesh.as_mut().unwrap().on_disconnected(Client(conn), now);
        result
    }

    fn hook_args(&self, session: &Session) -> Value {
        let dialect = session.agent.dialect.as_ref();
        json!({
            "agent": session.agent.kind, "session": session.key, "project": self.project, "gitRoot": self.project,
            "shortName": session.agent.short_name, "continues": session.continues,
            "sharedHooks": dialect.is_some_and(|dialect| dialect.is_shared),
            "keyedCalls": session.agent.identity.has_many_sessions,
        })
    }

    fn hook(&mut self, session: &Session) -> String {
        let mut args = self.hook_args(session);
        args["peek"] = json!(true);
        let answer = self.call_once("hook.mail", args, &session.above).unwrap();
        id_of(&answer)
    }

    /// Reports an edit of `a.rs` by the session or by one of its subagents.
    fn edit(&mut self, session: &Session, subagent: Option<&str>) -> Result<Value, Error> {
        let mut args = self.hook_args(session);
        (args["files"], args["subagent"]) = (json!([format!("{}/a.rs", self.project)]), json!(subagent));
        self.call_once("hook.edit", args, &session.above)
    }

    /// Makes a tool call over the session's MCP server. Returns the id of the peer that the call acts as.
    fn serve(&mut self, session: &mut Session) -> String {
        if let Some(conn) = session.conn {
            return id_of(&self.call(conn, "whoami", json!({}), &session.above).unwrap());
        }
        let conn = *session.conn.insert(self.connect(&session.above));
        session.server = Some(conn as i64);
        let key = session.agent.identity.calls_name_session().then_some(session.key.as_str());
        self.attach(session, conn, key)
    }

    /// Connects a process with these ancestors.
    fn connect(&mut self, above: &[Process]) -> u64 {
        self.next += 1;
        let mesh = self.mesh.as_mut().unwrap();
        mesh.on_connected(Client(self.next));
        mesh.set_ancestors(Client(self.next), above);
        self.next
    }

    /// Attaches the session over a connection. Returns the id of its peer.
    fn attach(&mut self, session: &Session, conn: u64, key: Option<&str>) -> String {
        let args = json!({
            "agent": session.agent.kind, "shortName": session.agent.short_name, "project": self.project, "gitRoot": self.project,
            "pid": conn, "session": key,
        });
        id_of(&self.call(conn, "attach", args, &session.above).unwrap())
    }

    /// Runs a verb in the session's shell. Returns the id of the peer that the verb acts as. Like the real client, this
    /// method begins the session if the broker knows the agent but not the session.
    fn verb(&mut self, session: &Session) -> Result<String, Error> {
        let asked = self.call_once("whoami", json!({}), &session.above);
        let answer = match asked {
            Err(error) if error.data.as_ref().is_some_and(|data| data.get("agent").is_some()) => {
                let args = json!({
                    "agent": session.agent.kind, "project": self.project, "gitRoot": self.project,
                    "shortName": session.agent.short_name,
                });
                self.call_once("session.begin", args, &session.above)?;
                self.call_once("whoami", json!({}), &session.above)?
            }
            asked => asked?,
        };
        Ok(id_of(&answer))
    }

    fn human(&self) -> String {
        let mesh = self.mesh.as_ref().unwrap();
        mesh.peers().human().to_string()
    }

    /// Makes one call in each of these ways, and checks that all calls act as the same peer. Returns the id of this
    /// peer.
    fn speak(&mut self, session: &mut Session, roads: &[Road]) -> String {
        let mut ids: Vec<String> = Vec::new();
        for road in roads {
            ids.extend(match road {
                Road::Hook if session.agent.dialect.is_none() => None,
                Road::Hook => Some(self.hook(session)),
                Road::Server => Some(self.serve(session)),
                Road::Verb => {
                    let id = self.verb(session).unwrap();
                    // If an editor runs no MCP server, the user of a shell in its terminal is a person.
                    let is_person = session.agent.identity.hosts_terminals && session.server.is_none();
                    if is_person {
                        assert_eq!(id, self.human());
                        None
                    } else {
                        Some(id)
                    }
                }
            });
        }
        assert!(ids.iter().all(|id| *id == ids[0]), "{:?} by {roads:?}: {ids:?}", session.agent.id);
        assert!(ids.iter().all(|id| *id != self.human()), "{} by {roads:?}", session.agent.id);
        ids.first().cloned().unwrap_or_default()
    }
}

/// Runs a scenario for each agent and each order of the three ways to call the broker. Each run uses a new folder.
fn each(scenario: impl Fn(&mut World, Session, &[Road])) {
    let mut world = World::new();
    for (n, agent) in AGENTS.iter().enumerate() {
        for (m, order) in ORDERS.iter().enumerate() {
            world.project = format!("/p/{n}/{m}");
            let session = world.session(agent);
            scenario(&mut world, session, order);
        }
    }
}

/// Like `each`, but only for agents with hooks. Hooks report the key of their session.
fn each_with_hooks(scenario: impl Fn(&mut World, Session, &[Road])) {
    each(|world, session, order| {
        if session.agent.dialect.is_some() {
            scenario(world, session, order);
        }
    });
}

#[test]
fn a_fresh_session_is_one_peer_whatever_speaks_first() {
    each(|world, mut session, order| {
        let first = world.speak(&mut session, order);
        assert_eq!(world.speak(&mut session, order), first);
    });
}

#[test]
fn wrapper_scripts_and_sudo_stand_between_without_a_say() {
    each(|world, mut session, order| {
        let first = world.speak(&mut session, order);
        let wrapper = Process { wrapper: true, ..process(7, None) };
        let mut wrapped = session.clone();
        wrapped.above.splice(0..0, [wrapper, process(8, None)]);
        if session.conn.is_some() {
            assert_eq!(world.verb(&wrapped).unwrap(), first);
        }
    });
}

#[test]
fn a_session_that_goes_on_under_another_key_stays_one_peer() {
    each_with_hooks(|world, mut session, order| {
        let first = world.speak(&mut session, order);
        for _ in 0..3 {
            session.key.push('+');
            session.continues = true;
            assert_eq!(world.hook(&session), first, "{} after /clear, resume, fork, compact", session.agent.id);
            session.continues = false;
            assert_eq!(world.hook(&session), first);
        }
    });
}

#[test]
fn two_tabs_of_one_process_are_two_peers() {
    each_with_hooks(|world, mut one, order| {
        let first = world.speak(&mut one, order);
        let two = world.tab(&one);
        let second = world.hook(&two);
        assert_ne!(first, second, "{}", one.agent.id);
        // The edit in the first tab locks the file. After that, an edit in the second tab is refused, but the first tab
        // may edit the file again.
        world.edit(&one, None).unwrap();
        assert!(world.edit(&two, None).is_err());
        world.edit(&one, None).unwrap();
        // The shell may belong to either tab. So a call that must act as a peer is refused, and the error lists both
        // tabs.
        let error = world.verb(&two).unwrap_err();
        let candidates = error.data.unwrap()["candidates"].clone();
        assert!(candidates.as_array().unwrap().iter().all(|id| *id == json!(first) || *id == json!(second)));
        assert!(world.call_once("peers", json!({}), &two.above).is_ok(), "anybody may look");
    });
}

#[test]
fn two_windows_in_one_folder_are_two_peers() {
    each(|world, mut one, order| {
        let mut two = world.session(one.agent);
        let (first, second) = (world.speak(&mut one, order), world.speak(&mut two, order));
        assert_ne!(first, second, "{}", one.agent.id);
        assert_eq!(world.speak(&mut one, order), first);
        assert_eq!(world.speak(&mut two, order), second);
    });
}

#[test]
fn a_shell_in_tmux_or_another_terminal_is_the_persons() {
    each(|world, mut session, order| {
        world.speak(&mut session, order);
        let shell = Session { above: vec![process(3, None)], conn: None, ..session };
        assert_eq!(world.verb(&shell).unwrap(), world.human());
    });
}

#[test]
fn where_no_process_is_seen_the_key_alone_tells() {
    each_with_hooks(|world, mut session, order| {
        session.above.clear();
        let first = world.hook(&session);
        assert_eq!(world.hook(&session), first);
        if session.agent.identity.session_variable.is_some() {
            assert_eq!(world.serve(&mut session), first, "{} by {order:?}", session.agent.id);
        }
        let other = Session { key: "other".into(), ..session.clone() };
        assert_ne!(world.hook(&other), first);
    });
}

#[test]
fn subagents_are_the_peer_of_their_session_and_owners_of_their_own() {
    each_with_hooks(|world, mut session, order| {
        world.speak(&mut session, order);
        world.edit(&session, Some("sub-1")).unwrap();
        assert!(world.edit(&session, Some("sub-2")).is_err());
        let mut end = world.hook_args(&session);
        end["subagent"] = json!("sub-1");
        world.call_once("hook.turn_end", end, &session.above).unwrap();
        world.edit(&session, Some("sub-2")).unwrap();
    });
}

#[test]
fn an_agent_that_an_agent_started_is_itself() {
    each(|world, mut inner, order| {
        let folder = world.project.clone();
        // Two cases are left out. An editor does not run inside an agent. An agent inside an agent of the same kind
        // looks like one agent with two windows.
        let is_other = |outer: &&Agent| outer.kind != inner.agent.kind && !inner.agent.identity.hosts_terminals;
        for (n, outer) in AGENTS.iter().filter(is_other).enumerate() {
            world.project = format!("{folder}/{n}");
            let mut outer = world.session(outer);
            let first = world.speak(&mut outer, order);
            inner = world.session(inner.agent);
            inner.above.extend(outer.above.clone());
            assert_ne!(world.speak(&mut inner, order), first, "{} in {}", inner.agent.id, outer.agent.id);
            assert_eq!(world.speak(&mut outer, order), first);
        }
    });
}

#[test]
fn sessions_come_back_to_their_peers_after_a_restart_of_the_broker() {
    each_with_hooks(|world, mut one, order| {
        let mut two = world.session(one.agent);
        let (first, second) = (world.speak(&mut one, order), world.speak(&mut two, order));
        world.restart_broker(&mut [&mut one, &mut two]);
        // Now the second session makes the first call.
        assert_eq!(world.hook(&two), second, "{} by {order:?}", one.agent.id);
        assert_eq!(world.hook(&one), first);
        assert_eq!(world.speak(&mut two, order), second);
        assert_eq!(world.speak(&mut one, order), first);
    });
}

#[test]
fn a_key_that_comes_back_in_another_process_is_the_same_session() {
    each_with_hooks(|world, mut session, order| {
        let first = world.speak(&mut session, order);
        let resumed = Session { above: vec![process(9, Some(session.agent))], conn: None, ..session.clone() };
        assert_eq!(world.hook(&resumed), first);
    });
}

#[test]
fn a_process_number_that_returns_is_another_process() {
    each_with_hooks(|world, mut session, order| {
        let first = world.speak(&mut session, order);
        let mut other = world.tab(&session);
        other.above[0].start = 2;
        assert_ne!(world.hook(&other), first, "{}", session.agent.id);
    });
}

#[test]
fn keys_that_two_agents_share_or_that_are_empty_or_huge_name_nobody_else() {
    let agents: Vec<&'static Agent> = AGENTS.iter().filter(|agent| agent.dialect.is_some()).collect();
    for pair in agents.windows(2) {
        let mut world = World::new();
        let (one, mut two) = (world.session(pair[0]), world.session(pair[1]));
        two.key = one.key.clone();
        let first = world.hook(&one);
        let is_shared = pair[1].dialect.as_ref().is_some_and(|dialect| dialect.is_shared);
        assert_eq!(world.hook(&two) == first, is_shared, "{} and {}", pair[0].id, pair[1].id);
        for key in ["", &"k".repeat(1 << 20)] {
            let three = Session { key: key.into(), ..world.session(pair[0]) };
            let args = world.hook_args(&three);
            match world.call_once("hook.mail", args, &three.above) {
                Ok(answer) => assert_ne!(answer["you"]["id"], json!(first)),
                Err(error) => assert!(error.text.contains("session"), "{}", error.text),
            }
        }
    }
}
