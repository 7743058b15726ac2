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
}

/// No sign at all.
pub(super) const UNSEEN: Identity =
    Identity { client_names: &[], environment: &[], session_variable: None, processes: &[], has_many_sessions: false };
