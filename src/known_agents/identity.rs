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
        let ProcessSign::ArgumentsHave(part) = self else { return self.fits(name, "") };
        let is_interpreter = ["node", "bun", "deno", "mainthread"].contains(&name) || name.starts_with("python");
        let script = arguments.iter().skip(1).find(|word| !word.starts_with('-'));
        let script = script.map_or("", String::as_str);
        let base = script.rsplit('/').next().unwrap_or("");
        is_interpreter && (base == part.trim_matches('/') || script.contains("/node_modules/") && script.contains(part))
    }
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
