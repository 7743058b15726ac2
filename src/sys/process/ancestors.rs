//! Finds the ancestors of a process. Marks the ancestors that are only wrappers of another program.
//!
//! **Invariant:** the cached data of a process is used only if the number, start time, parent and name of the process
//! are unchanged. Each call reads at least the nearest ancestor from the kernel.

use super::{ProcessInfo, platform};
use crate::base::process_identity::Process;
use crate::known_agents::recognition_rule_types::own_arguments;
use crate::known_agents::{self, Agent};
use std::collections::HashMap;
use std::sync::{LazyLock, Mutex, PoisonError};

/// Maximum number of ancestors that are read.
const ANCESTORS_MAX: usize = 24;
/// Maximum number of processes in the cache of ancestors. A full cache is cleared.
const KNOWN_MAX: usize = 256;

/// A process in the cache, and its ancestors.
struct KnownProcess {
    info: ProcessInfo,
    /// The arguments of the process, if it is an agent.
    arguments: Vec<String>,
    /// The process itself and its ancestors, nearest first.
    chain: Vec<Process>,
}

/// A cache of the processes that were read last. The keys are process numbers. Many short commands have the same shell
/// and the same agent as ancestors. Without the cache, each command would cause the same reads in /proc.
static KNOWN: LazyLock<Mutex<HashMap<i64, KnownProcess>>> = LazyLock::new(Mutex::default);

/// The ancestors of a process, nearest first.
pub fn ancestors(pid: i64) -> Vec<Process> {
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    let mut fresh: Vec<(Process, ProcessInfo, Vec<String>)> = Vec::new();
    let mut rest = Vec::new();
    let mut above: Vec<String> = Vec::new();
    walk(pid, |pid, info| {
        if let Some(found) = known.get(&pid).filter(|found| found.info == *info) {
            rest = found.chain.clone();
            above = found.arguments.clone();
            return Some(());
        }
        let arguments = platform::arguments(pid);
        let wrapper = is_wrapper(info, &arguments);
        let words: Vec<String> = std::iter::once(info.name.clone()).chain(arguments).collect();
        let agent = known_agents::by_program(&words).filter(|_| !wrapper).map(Agent::program);
        let arguments = if agent.is_some() { own_arguments(&words[0], &words[1..]).to_vec() } else { Vec::new() };
        fresh.push((Process { pid, start: info.start, wrapper, agent }, info.clone(), arguments));
        None
    });
    // The chain of a process consists of the process itself and the chain of its parent. The loop therefore starts at
    // the topmost ancestor.
    for (process, info, arguments) in fresh.into_iter().rev() {
        if !rest.first().is_some_and(|parent| is_restart((&process, &arguments), (parent, &above))) {
            rest.insert(0, process);
        }
        above.clone_from(&arguments);
        rest.truncate(ANCESTORS_MAX);
        if known.len() >= KNOWN_MAX {
            known.clear();
        }
        known.insert(process.pid, KnownProcess { info, arguments, chain: rest.clone() });
    }
    rest
}

/// Whether an agent has restarted itself as its own child, for example to get more memory. Both processes then have the
/// same arguments and count as one agent. If the arguments differ, one agent has started another agent.
fn is_restart(own: (&Process, &[String]), parent: (&Process, &[String])) -> bool {
    own.0.agent.is_some() && own.0.agent == parent.0.agent && own.1 == parent.1
}

/// Visits the ancestors of a process, nearest first, until `look` returns a value.
pub fn walk<T>(pid: i64, mut look: impl FnMut(i64, &ProcessInfo) -> Option<T>) -> Option<T> {
    let mut next = platform::process_info(pid)?.parent;
    for _ in 0..ANCESTORS_MAX {
        let info = (next > 1).then(|| platform::process_info(next)).flatten()?;
        if let Some(found) = look(next, &info) {
            return Some(found);
        }
        next = info.parent;
    }
    None
}

/// Whether a process, such as `sh -c`, `npx`, `env` or `timeout`, does nothing but run another program.
fn is_wrapper(info: &ProcessInfo, arguments: &[String]) -> bool {
    let runs_one = |word: &String| ["-c", "-lc", "-ic", "-cl"].contains(&word.as_str());
    let is_shell = ["sh", "bash", "dash", "zsh", "fish", "ksh"].contains(&info.name.as_str());
    // If the arguments can't be read, a shell without a terminal is assumed to run a single command.
    let runs_command = if arguments.is_empty() { !info.leads_terminal } else { arguments.iter().skip(1).any(runs_one) };
    let is_npx = |word: &String| word.ends_with("/npx") || word.ends_with("npx-cli.js") || word == "npx";
    let is_runner =
        ["env", "timeout", "nice", "uvx", "setsid", "nohup", "sudo", "slm-mesh"].contains(&info.name.as_str());
    is_shell && runs_command || is_runner || is_package_runner(info, arguments) || arguments.iter().take(3).any(is_npx)
}

/// Whether the purpose of a process is to run a program from a package. Such processes are npx (which calls itself `npm
/// exec`), `uv run`, uvx (which becomes `uv tool uvx`), and the script in slm-mesh's npm package.
fn is_package_runner(info: &ProcessInfo, arguments: &[String]) -> bool {
    let word = |at: usize| arguments.get(at).map_or("", String::as_str);
    let is_uv = info.name == "uv" && (word(1) == "run" || word(1) == "tool");
    is_uv || word(0).starts_with("npm exec") || word(0).ends_with("node") && word(1).ends_with("/slm-mesh")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str, leads_terminal: bool) -> ProcessInfo {
        ProcessInfo { parent: 1, start: 0, is_zombie: false, name: name.into(), leads_terminal }
    }

    #[test]
    fn a_shell_that_runs_one_command_is_a_wrapper_and_a_login_shell_is_not() {
        for (name, arguments, is_one) in [
            ("sh", "/bin/sh -c slm-mesh", true),
            ("zsh", "/bin/zsh -lc slm-mesh", true),
            ("node", "node /usr/bin/npx slm-mesh", true),
            ("env", "env A=1 slm-mesh", true),
            ("node", "node /usr/bin/slm-mesh mcp", true),
            ("node", "node /usr/bin/claude", false),
            ("uv", "/usr/bin/uv tool uvx slm-mesh mcp", true),
            ("bash", "-bash", false),
            ("claude", "claude -c", false),
        ] {
            let arguments: Vec<String> = arguments.split(' ').map(str::to_owned).collect();
            assert_eq!(is_wrapper(&named(name, false), &arguments), is_one, "{name} {arguments:?}");
        }
        // npx replaces all its arguments with a text such as `npm exec slm-mesh mcp`.
        assert!(is_wrapper(&named("npm exec slm-me", false), &["npm exec slm-mesh mcp".to_owned(), String::new()]));
        assert!(is_wrapper(&named("bash", false), &[]) && !is_wrapper(&named("bash", true), &[]));
    }

    #[test]
    fn an_agent_that_starts_itself_again_is_one_agent() {
        let of = |agent: &str| {
            let agent = known_agents::by_id(agent).map(Agent::program);
            Process { pid: 7, start: 1, wrapper: false, agent }
        };
        let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        for (own, arguments, parent, parent_arguments, is_one) in [
            ("copilot", "-p hi", "copilot", "-p hi", true),
            ("claude", "", "claude", "", true),
            ("claude", "-p hi", "claude", "", false),
            ("codex", "-p hi", "claude", "-p hi", false),
            ("", "-p hi", "", "-p hi", false),
        ] {
            let (own, parent) = ((&of(own), &words(arguments)[..]), (&of(parent), &words(parent_arguments)[..]));
            assert_eq!(is_restart(own, parent), is_one, "{arguments} below {parent_arguments}");
        }
    }

    #[test]
    fn a_chain_that_was_read_is_remembered_and_stays_the_same() {
        let me = i64::from(std::process::id());
        let first = ancestors(me);
        assert!(!first.is_empty());
        assert_eq!(ancestors(me), first);
        let known = KNOWN.lock().unwrap();
        let found = known.get(&first[0].pid).expect("the nearest is remembered");
        assert_eq!(found.chain, first);
        assert!(!known.contains_key(&me), "a verb's own process is not remembered");
    }

    #[test]
    fn a_process_that_became_another_program_is_read_anew() {
        let me = i64::from(std::process::id());
        let parent = ancestors(me)[0];
        if let Some(found) = KNOWN.lock().unwrap().get_mut(&parent.pid) {
            found.info.name = "the program before exec".into();
            found.chain.clear();
        }
        assert_eq!(ancestors(me)[0], parent);
    }
}
