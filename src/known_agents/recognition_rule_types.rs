//! How to detect which agent started a process. The signs are the name of the agent's MCP client, environment
//! variables, and the names and arguments of processes.

/// The environment variable that tells shell commands which agent runs them. Several agents set it, including some that
/// slm-mesh does not know.
pub const AGENT_VARIABLE: &str = "AI_AGENT";

/// Turns the name that an agent uses for itself into an agent type. Drops any version after the name. Returns `None` if
/// the text is not a name.
pub fn kind_of(name: &str) -> Option<String> {
    let name = name.trim().to_ascii_lowercase();
    let end = name.find(|c: char| !c.is_ascii_alphanumeric() && c != '-').unwrap_or(name.len());
    let kind = name[..end].trim_matches('-');
    let is_name = kind.starts_with(|c: char| c.is_ascii_alphabetic()) && kind.len() <= 40;
    (is_name && kind != "true").then(|| kind.to_owned())
}

/// How one agent can be recognised.
#[derive(Debug, Clone, Copy)]
pub struct Identity {
    /// The names that the agent's MCP client sends as `clientInfo.name`.
    pub client_names: &'static [&'static str],
    /// Environment variables that only this agent sets for the processes that it starts.
    pub environment: &'static [&'static str],
    /// The environment variable that contains the key of the agent's session. Another agent that runs inside this agent
    /// inherits the variable. So the variable counts only if this agent itself runs the MCP client.
    pub session_variable: Option<&'static str>,
    /// How the agent's processes can be recognised.
    pub processes: &'static [ProcessSign],
    /// Whether one process of the agent serves several sessions, each with its own key.
    pub has_many_sessions: bool,
    /// Whether people can open terminals in the agent, for example because it is an editor. If so, a shell that
    /// descends from the agent's process may belong to a person.
    pub hosts_terminals: bool,
}

impl Identity {
    /// Whether each tool call of the agent shows which session makes the call.
    pub fn calls_name_session(&self) -> bool {
        self.has_many_sessions || self.session_variable.is_some()
    }
}

/// What to look for in the name or the arguments of a process. All texts are in lower case.
#[derive(Debug, Clone, Copy)]
pub enum ProcessSign {
    /// The process has this name.
    Name(&'static str),
    /// The process's name contains this text.
    NameHas(&'static str),
    /// The process's arguments contain this text.
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

    /// Whether a process runs the agent's own program. It is not enough that the arguments mention the program:
    /// `vim /src/codex/main.rs` does not run Codex.
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

/// Returns the name of the program that a process runs. The main thread of Node is called `MainThread`, even when
/// another program embeds Node. For a process with this name, the arguments show which program runs.
fn program_name<'a>(name: &'a str, arguments: &'a [String]) -> &'a str {
    let first = arguments.first().filter(|_| name == "mainthread");
    first.map_or(name, |path| path.rsplit('/').next().unwrap_or(path))
}

/// The position of the script among the arguments of an interpreter.
fn script_place(name: &str, arguments: &[String]) -> Option<usize> {
    let name = program_name(name, arguments);
    let is_interpreter = ["node", "bun", "deno"].contains(&name) || name.starts_with("python");
    let place = arguments.iter().skip(1).position(|word| !word.starts_with('-')).filter(|_| is_interpreter)?;
    Some(place + 1)
}

/// The arguments of the program itself, without the arguments of its interpreter.
pub fn own_arguments<'a>(name: &str, arguments: &'a [String]) -> &'a [String] {
    arguments.get(script_place(name, arguments).unwrap_or(0) + 1..).unwrap_or_default()
}

/// The identity of an agent that cannot be recognised.
pub(super) const UNSEEN: Identity = Identity {
    client_names: &[],
    environment: &[],
    session_variable: None,
    processes: &[],
    has_many_sessions: false,
    hosts_terminals: false,
};

#[cfg(test)]
mod tests {
    use super::kind_of;

    #[test]
    fn an_agent_names_its_kind_with_or_without_a_version() {
        for (name, want) in [
            ("goose", Some("goose")),
            (" Open-Interpreter ", Some("open-interpreter")),
            ("amp/1.2", Some("amp")),
            ("kilo_code@7", Some("kilo")),
            ("1", None),
            ("true", None),
            ("", None),
            ("\u{1b}[31m", None),
        ] {
            assert_eq!(kind_of(name).as_deref(), want, "{name:?}");
        }
        assert_eq!(kind_of(&"x".repeat(1 << 20)), None);
    }
}
