//! How mail can wake an idle session of an agent and make the session begin a turn.

/// A way to wake a session.
#[derive(Debug, Clone, Copy)]
pub struct Wakeup {
    /// The name of this wakeup channel in the delivery records of messages.
    pub channel: &'static str,
    /// What makes the agent begin a turn.
    pub means: Means,
}

/// What makes the agent begin a turn.
#[derive(Debug, Clone, Copy)]
pub enum Means {
    /// Our MCP server writes to the session's Unix socket. The agent passes the path of the socket and a token to our
    /// server, each in an environment variable.
    SessionSocket {
        /// The environment variable that contains the path of the socket.
        socket: &'static str,
        /// The environment variable that contains the token for the socket.
        token: &'static str,
    },
    /// Our MCP server runs one of the agent's commands. `{session}` stands for the session's key, and `{text}` for the
    /// wakeup sentence.
    Command {
        /// The agent's program.
        program: &'static str,
        /// The arguments of the program.
        arguments: &'static [&'static str],
        /// An environment variable that the command needs, but that the agent does not pass to its MCP servers.
        variable: &'static str,
    },
    /// The command `slm-mesh hook AGENT --wake` waits in the background. The command's result wakes the agent.
    BackgroundHook {
        /// How the hook gives its result to the agent.
        answer: HookAnswer,
        /// The hook waits only if these environment variables are set. A variable must have the given value; `None`
        /// allows any value. Without this condition, the hook would delay sessions that are not interactive, and other
        /// agents that run this hook.
        needs: &'static [(&'static str, Option<&'static str>)],
    },
}

/// How a hook in the background makes the agent begin a turn.
#[derive(Debug, Clone, Copy)]
pub enum HookAnswer {
    /// The hook writes the wakeup sentence to standard error and exits with this status.
    ExitStatus(u8),
    /// The hook prints a line of JSON.
    JsonLine,
}
