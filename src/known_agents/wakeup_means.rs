//! How mail can wake an idle session of an agent, so that it begins a turn.

/// A way to wake a session.
#[derive(Debug, Clone, Copy)]
pub struct Wakeup {
    /// The name of this way in the receipts of messages.
    pub channel: &'static str,
    /// What makes the agent begin a turn.
    pub means: Means,
}

/// What makes the agent begin a turn.
#[derive(Debug, Clone, Copy)]
pub enum Means {
    /// Our MCP server writes to the session's Unix socket. The agent sets both variables for our server.
    SessionSocket {
        /// The variable that contains the path of the socket.
        socket: &'static str,
        /// The variable that contains the token for the socket.
        token: &'static str,
    },
    /// Our MCP server runs a command of the agent. `{session}` stands for the session's key, and `{text}` for the
    /// sentence.
    Command {
        /// The program.
        program: &'static str,
        /// The arguments of the program.
        arguments: &'static [&'static str],
        /// A variable that the command needs and that the agent does not pass on to its servers.
        variable: &'static str,
    },
    /// `slm-mesh hook AGENT --wake` waits in the background, and its answer wakes the agent.
    BackgroundHook {
        /// How the hook answers.
        answer: HookAnswer,
        /// The environment variables that must be set, each with its value if the value matters. Other agents run
        /// these hooks too, and a session without a window would wait for the hook to end.
        needs: &'static [(&'static str, Option<&'static str>)],
    },
}

/// How a hook in the background makes its agent begin a turn.
#[derive(Debug, Clone, Copy)]
pub enum HookAnswer {
    /// By the sentence on standard error and this exit status.
    ExitStatus(u8),
    /// With a line of JSON.
    JsonLine,
}
