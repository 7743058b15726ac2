//! Tests windows, tabs, subagents, restarts and taken-over names in random order. After each step, every session is
//! still a peer of its own, mail reaches only its recipient, no file has two holders, and no session is refused because
//! of its own lock.

use super::{AGENTS, Session, World, process};
use serde_json::json;
use slm_mesh::core::ConnId::Client;
use slm_mesh::known_agents::Agent;
use std::collections::HashMap;

const SEEDS: u64 = 30;
const STEPS: usize = 120;
const FILES: [&str; 3] = ["a.rs", "b.rs", "c.rs"];

/// Random numbers from a seed (SplitMix64).
struct Draw(u64);

impl Draw {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % n as u64) as usize
    }
}

/// A running session, and the id of its peer.
struct Live {
    session: Session,
    id: String,
    /// The mail for the session, and for the earlier session whose name it has taken over.
    mail: Vec<String>,
}

struct Play {
    world: World,
    draw: Draw,
    agents: Vec<&'static Agent>,
    live: Vec<Live>,
    n_letters: usize,
}

impl Play {
    fn some(&mut self) -> Option<usize> {
        (!self.live.is_empty()).then(|| self.draw.below(self.live.len()))
    }

    fn tabs_of(&self, pid: i64) -> usize {
        self.live.iter().filter(|live| live.session.above[0].pid == pid).count()
    }

    fn open(&mut self, session: Session) {
        let id = self.world.hook(&session);
        assert!(self.live.iter().all(|live| live.id != id), "{}: a live session lost its peer", session.agent.id);
        let mut live = Live { session, id, mail: Vec::new() };
        if live.session.agent.identity.calls_name_session() && self.draw.below(2) == 0 {
            assert_eq!(self.world.serve(&mut live.session), live.id);
        }
        self.read(&mut live, true);
        self.live.push(live);
    }

    /// Shows a session its mail. A fresh session may have taken over the name and the mail of a session that has ended.
    fn read(&mut self, live: &mut Live, is_fresh: bool) {
        let args = self.world.hook_args(&live.session);
        let answer = self.world.call_once("hook.mail", args, &live.session.above).unwrap();
        let shown: Vec<String> = answer["messages"]
            .as_array()
            .unwrap()
            .iter()
            .map(|row| row["payload"].as_str().unwrap().to_owned())
            .collect();
        if is_fresh {
            let is_theirs = |text: &String| self.live.iter().any(|other| other.mail.contains(text));
            assert!(!shown.iter().any(is_theirs), "{shown:?} belongs to a session that lives");
            live.mail.extend(shown);
        } else {
            assert!(shown.iter().all(|text| live.mail.contains(text)), "{shown:?} is not for {}", live.id);
        }
    }

    fn step(&mut self) {
        match self.draw.below(12) {
            0 | 1 => {
                let agent = self.agents[self.draw.below(self.agents.len())];
                let session = self.world.session(agent);
                self.open(session);
            }
            2 | 3 => {
                let Some(n) = self.some() else { return };
                let tab = self.world.tab(&self.live[n].session);
                self.open(tab);
            }
            4 => {
                // A tab closes.
                let Some(n) = self.some() else { return };
                let live = self.live.swap_remove(n);
                let mut args = self.world.hook_args(&live.session);
                args["leave"] = json!(true);
                self.world.call_once("hook.turn_end", args, &live.session.above).unwrap();
                self.hang_up(&live);
            }
            5 => self.kill_window(),
            6 => self.clear(),
            7 | 8 => self.edit(),
            9 => {
                let Some(n) = self.some() else { return };
                let mut args = self.world.hook_args(&self.live[n].session);
                if self.draw.below(2) == 0 {
                    args["subagent"] = json!(format!("sub-{}", self.draw.below(2)));
                }
                let above = self.live[n].session.above.clone();
                self.world.call_once("hook.turn_end", args, &above).unwrap();
            }
            10 => {
                let Some(n) = self.some() else { return };
                self.n_letters += 1;
                let text = format!("letter {}", self.n_letters);
                let args = json!({ "to": self.live[n].id, "message": text });
                self.world.call_once("send", args, &[process(3, None)]).unwrap();
                self.live[n].mail.push(text);
            }
            _ if self.draw.below(3) == 0 => {
                self.world.restart_broker(&mut self.live.iter_mut().map(|live| &mut live.session).collect::<Vec<_>>());
            }
            _ => {
                self.world.now += 1000 * self.draw.below(120) as i64;
                let now = self.world.now;
                self.world.mesh.as_mut().unwrap().tick(now);
                self.world.settle();
            }
        }
    }

    /// Kills a window with all its tabs.
    fn kill_window(&mut self) {
        let Some(n) = self.some() else { return };
        let killed = self.live[n].session.above[0];
        let is_in_it = |live: &Live| live.session.above[0].pid == killed.pid;
        let (gone, live): (Vec<Live>, Vec<Live>) = std::mem::take(&mut self.live).into_iter().partition(is_in_it);
        self.live = live;
        gone.iter().for_each(|live| self.hang_up(live));
        let now = self.world.now;
        self.world.mesh.as_mut().unwrap().on_process_exit(&killed, now);
        self.world.settle();
    }

    /// Lets a session continue under a new key.
    fn clear(&mut self) {
        let Some(n) = self.some() else { return };
        if self.tabs_of(self.live[n].session.above[0].pid) > 1 {
            return;
        }
        let live = &mut self.live[n];
        live.session.key.push('+');
        live.session.continues = true;
        assert_eq!(self.world.hook(&live.session), live.id);
        live.session.continues = false;
    }

    fn hang_up(&mut self, live: &Live) {
        let Some(conn) = live.session.conn else { return };
        let now = self.world.now;
        self.world.mesh.as_mut().unwrap().on_disconnected(Client(conn), now);
        self.world.settle();
    }

    /// Lets a session or one of its subagents edit a file.
    fn edit(&mut self) {
        let Some(n) = self.some() else { return };
        let subagent = (self.draw.below(3) == 0).then(|| format!("sub-{}", self.draw.below(2)));
        let file = format!("{}/{}", self.world.project, FILES[self.draw.below(FILES.len())]);
        let live = &self.live[n];
        let mut args = self.world.hook_args(&live.session);
        (args["files"], args["subagent"]) = (json!([file]), json!(subagent));
        let above = live.session.above.clone();
        let (id, key) = (live.id.clone(), live.session.key.clone());
        let owned = |world: &World| -> Vec<(String, String)> {
            let locks = world.mesh.as_ref().unwrap().locks().all();
            let of = locks.filter(|lock| lock.path == file && lock.expires > world.now);
            of.map(|lock| (lock.holder.to_string(), format!("{:?}", lock.owner))).collect()
        };
        let before = owned(&self.world);
        if let Err(error) = self.world.call_once("hook.edit", args, &above) {
            let is_own = before.iter().all(|(holder, owner)| {
                *holder == id && subagent.as_ref().map_or(owner == "Turn", |name| owner.contains(name.as_str()))
            });
            assert!(!is_own, "{id} with {key} was refused by its own lock: {}", error.text);
        }
    }

    fn check(&mut self) {
        for n in 0..self.live.len() {
            let live = &self.live[n];
            assert_eq!(self.world.hook(&live.session), live.id, "{} is not itself", live.session.agent.id);
        }
        if let Some(n) = self.some() {
            let mut live = self.live.swap_remove(n);
            self.read(&mut live, false);
            self.live.push(live);
        }
        let mut owners: HashMap<String, String> = HashMap::new();
        for lock in self.world.mesh.as_ref().unwrap().locks().all() {
            let owner = lock.holder.to_string();
            if let Some(other) = owners.insert(lock.path.clone(), owner.clone()) {
                assert_eq!(other, owner, "{} has two owners", lock.path);
            }
        }
    }
}

#[test]
fn sessions_drawn_by_a_seed_stay_who_they_are() {
    for seed in 0..SEEDS {
        let agents = AGENTS.iter().filter(|agent| agent.dialect.is_some()).collect();
        let mut play = Play { world: World::new(), draw: Draw(seed), agents, live: Vec::new(), n_letters: 0 };
        for step in 0..STEPS {
            // With these two numbers, a failure can be repeated.
            eprintln!("seed {seed} step {step}");
            play.step();
            play.check();
        }
    }
}
