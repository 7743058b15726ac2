//! Processes: who connected, what stands above it, and which agent that is.

use crate::base::process::Process;
use crate::known_agents::{self, Agent};
use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;

/// At most this many ancestors are looked at.
const ANCESTORS_MAX: usize = 24;

/// Who is at the other end of a Unix socket, by the kernel's own record.
#[derive(Debug, Clone, Copy)]
pub struct Credentials {
    /// User id.
    pub uid: u32,
    /// Process id; 0 where the system does not tell.
    pub pid: i64,
}

/// Asks the kernel who connected.
#[cfg(target_os = "linux")]
pub fn credentials(socket: impl AsFd) -> Option<Credentials> {
    let found = rustix::net::sockopt::socket_peercred(socket).ok()?;
    Some(Credentials { uid: found.uid.as_raw(), pid: i64::from(found.pid.as_raw_nonzero().get()) })
}

/// Without a safe call for it here, the 0700 directory around the socket is what keeps others out.
#[cfg(not(target_os = "linux"))]
pub fn credentials(_socket: impl AsFd) -> Option<Credentials> {
    Some(Credentials { uid: super::uid(), pid: 0 })
}

/// Has the kernel end this process when the one that started it ends.
#[cfg(target_os = "linux")]
pub fn end_with_parent() {
    // Where the kernel refuses, it ends later, by what it waits for.
    let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::TERM));
}

/// There is no such call here; it ends later, by what it waits for.
#[cfg(not(target_os = "linux"))]
pub fn end_with_parent() {}

/// A process in the tree: its parent, what it is, and when it started.
#[derive(Debug, Clone)]
struct Node {
    parent: i64,
    start: u64,
    /// Command name and arguments, lower case.
    words: Vec<String>,
}

#[cfg(target_os = "linux")]
fn node(pid: i64, words: bool) -> Option<Node> {
    // By one read: read_to_string asks for the size and probes, and a verb waits meanwhile.
    let mut bytes = [0; 1024];
    let n = File::open(format!("/proc/{pid}/stat")).ok()?.read(&mut bytes).ok()?;
    let stat = String::from_utf8_lossy(&bytes[..n]);
    // The name may hold anything, so fields are counted from its closing bracket (proc_pid_stat(5)).
    let (head, tail) = stat.rsplit_once(") ")?;
    let fields: Vec<&str> = tail.split(' ').collect();
    let name = head.split_once('(')?.1.to_lowercase();
    // The arguments cost as much again, and matter only to who asks what a process is.
    let line = if words { std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default() } else { Vec::new() };
    let args = line.split(|byte| *byte == 0).take(8).map(|arg| String::from_utf8_lossy(arg).to_lowercase());
    let words = std::iter::once(name).chain(args).collect();
    Some(Node { parent: fields.get(1)?.parse().ok()?, start: fields.get(19)?.parse().ok()?, words })
}

#[cfg(not(target_os = "linux"))]
fn node(pid: i64, _words: bool) -> Option<Node> {
    let asked = std::process::Command::new("ps")
        .args(["-o", "ppid=,lstart=,command=", "-p", &pid.to_string()])
        .output()
        .ok()?;
    let text = String::from_utf8_lossy(&asked.stdout).to_lowercase();
    let fields: Vec<&str> = text.split_whitespace().collect();
    // lstart is five words; as a number it only has to differ when the process does.
    let start =
        fields.get(1..6)?.join(" ").bytes().fold(0u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
    let words: Vec<String> = fields.get(6..)?.iter().map(|word| (*word).to_owned()).collect();
    let name = words.first()?.rsplit('/').next()?.to_owned();
    Some(Node { parent: fields.first()?.parse().ok()?, start, words: std::iter::once(name).chain(words).collect() })
}

fn ancestors_of(pid: i64, words: bool) -> Vec<(i64, Node)> {
    let mut found = Vec::new();
    let mut next = node(pid, false).map_or(0, |node| node.parent);
    while next > 1 && found.len() < ANCESTORS_MAX {
        let Some(node) = node(next, words) else { break };
        let parent = node.parent;
        found.push((next, node));
        next = parent;
    }
    found
}

/// The processes above one, nearest first. Which of them are wrappers is told only if asked for.
pub fn ancestors(pid: i64, wrappers: bool) -> Vec<Process> {
    let above = ancestors_of(pid, wrappers);
    above
        .iter()
        .map(|(pid, node)| Process { pid: *pid, start: node.start, wrapper: wrappers && is_wrapper(node) })
        .collect()
}

/// Whether a process of this user lives.
pub fn lives(pid: i64) -> bool {
    let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
    pid.is_some_and(|pid| rustix::process::test_kill_process(pid).is_ok())
}

/// A process as a caller names itself: by its number, and when it started.
pub fn itself(pid: i64) -> Option<Process> {
    node(pid, false).map(|node| Process { pid, start: node.start, wrapper: false })
}

/// Whether a process only runs another one for somebody: `sh -c`, `npx`, `env`, `timeout`.
fn is_wrapper(node: &Node) -> bool {
    let name = node.words[0].as_str();
    let runs_one = |word: &str| ["-c", "-lc", "-ic", "-cl"].contains(&word);
    let shell = ["sh", "bash", "dash", "zsh", "fish", "ksh"].contains(&name)
        && node.words.iter().skip(2).any(|word| runs_one(word));
    let runner = node
        .words
        .iter()
        .skip(1)
        .take(3)
        .any(|word| word.ends_with("/npx") || word.ends_with("npx-cli.js") || word == "npx");
    shell || runner || ["env", "timeout", "nice", "uvx", "setsid", "nohup", "sudo", "slm-mesh"].contains(&name)
}

/// The agent that the process tree shows, nearest ancestor first.
pub fn agent_above() -> Option<&'static Agent> {
    let above = ancestors_of(i64::from(std::process::id()), true);
    above.iter().find_map(|(_, node)| known_agents::by_process(&node.words))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_that_runs_one_command_is_a_wrapper_and_a_login_shell_is_not() {
        let node = |words: &[&str]| Node {
            parent: 1,
            start: 0,
            words: words.iter().map(|word| (*word).to_string()).collect(),
        };
        assert!(is_wrapper(&node(&["sh", "/bin/sh", "-c", "slm-mesh mcp"])));
        assert!(is_wrapper(&node(&["node", "node", "/usr/bin/npx", "slm-mesh"])));
        assert!(!is_wrapper(&node(&["bash", "-bash"])));
        assert!(!is_wrapper(&node(&["claude", "claude"])));
    }

    #[test]
    fn this_process_has_ancestors() {
        assert!(!ancestors(i64::from(std::process::id()), true).is_empty());
    }
}
