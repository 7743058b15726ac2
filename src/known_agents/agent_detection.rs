//! What shows that an agent started a process: the name of its MCP client, its environment, and the
//! names of its processes.

/// The signs of one agent.
#[derive(Debug, Clone, Copy)]
pub struct Identity {
    /// `clientInfo.name` of its MCP client.
    pub client_names: &'static [&'static str],
    /// Variables that it alone sets for what it starts.
    pub environment: &'static [&'static str],
    /// The variable that holds the key of its session. An agent inside another agent inherits it, so
    /// it counts only if the client's name says the same.
    pub session_variable: Option<&'static str>,
    /// Its processes.
    pub processes: &'static [ProcessSign],
    /// Whether one process of it serves several sessions, each with its own key.
    pub has_many_sessions: bool,
    /// Whether people open terminals in it, as in an editor: then a shell below its process need not be its own.
    pub hosts_terminals: bool,
}

impl Identity {
    /// Whether its tool calls show which session makes them.
    pub fn calls_name_session(&self) -> bool {
        self.has_many_sessions || self.session_variable.is_some()
    }
}

/// A sign of a process, in lower case.
#[derive(Debug, Clone, Copy)]
pub enum ProcessSign {
    /// Its name is this.
    Name(&'static str),
    /// Its name contains this.
    NameHas(&'static str),
    /// Its arguments contain this.
    ArgumentsHave(&'static str),
}

impl ProcessSign {
    /// Whether a process has this sign.
    pub fn fits(&self, name: &str, arguments: &str) -> bool {
        match self {
            ProcessSign::Name(known) => name == *known,
            ProcessSign::NameHas(part) => name.contains(part),
            ProcessSign::ArgumentsHave(part) => arguments.contains(part),
        }
    }

    /// Whether this is the agent's program itself, and not one that only has its name somewhere among its
    /// arguments: `vim /src/codex/main.rs` runs no Codex.
    pub fn is_program(&self, name: &str, arguments: &[String]) -> bool {
        let name = program_name(name, arguments);
        if self.fits(name, "") {
            return true;
        }
        let Some(script) = script_place(name, arguments).and_then(|place| arguments.get(place)) else { return false };
        let base = script.rsplit('/').next().unwrap_or("");
        match self {
            ProcessSign::Name(known) => base == *known,
            ProcessSign::NameHas(_) => false,
            ProcessSign::ArgumentsHave(part) => {
                base == part.trim_matches('/') || script.contains("/node_modules/") && script.contains(part)
            }
        }
    }
}

/// What a process runs. Node calls its first thread MainThread, also in a program that has Node inside.
fn program_name<'a>(name: &'a str, arguments: &'a [String]) -> &'a str {
    let first = arguments.first().filter(|_| name == "mainthread");
    first.map_or(name, |path| path.rsplit('/').next().unwrap_or(path))
}

/// Where the script of an interpreter stands among its arguments.
fn script_place(name: &str, arguments: &[String]) -> Option<usize> {
    let name = program_name(name, arguments);
    let is_interpreter = ["node", "bun", "deno"].contains(&name) || name.starts_with("python");
    let place = arguments.iter().skip(1).position(|word| !word.starts_with('-')).filter(|_| is_interpreter)?;
    Some(place + 1)
}

/// The arguments of a program itself, without its interpreter's.
pub fn own_arguments<'a>(name: &str, arguments: &'a [String]) -> &'a [String] {
    arguments.get(script_place(name, arguments).unwrap_or(0) + 1..).unwrap_or_default()
}

/// No sign at all.
pub(super) const UNSEEN: Identity = Identity {
    client_names: &[],
    environment: &[],
    session_variable: None,
    processes: &[],
    has_many_sessions: false,
    hosts_terminals: false,
};
