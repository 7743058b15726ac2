//! How an agent's idle session can be made to begin a turn.

/// One way to wake a session.
#[derive(Debug, Clone, Copy)]
pub struct Wakeup {
    /// Its name in the receipts of messages.
    pub channel: &'static str,
    /// What it takes.
    pub means: Means,
}

/// What makes the agent begin a turn.
#[derive(Debug, Clone, Copy)]
pub enum Means {
    /// Our MCP server writes to the Unix socket of the session. Both variables are set for it.
    SessionSocket {
        /// The variable with the socket's path.
        socket: &'static str,
        /// The variable with the token for it.
        token: &'static str,
    },
    /// Our MCP server runs a command of the agent. `{session}` and `{text}` stand for the key of the
    /// session and the sentence.
    Command {
        /// The program.
        program: &'static str,
        /// Its arguments.
        arguments: &'static [&'static str],
        /// A variable that the agent keeps from its servers, and that the command needs.
        variable: &'static str,
    },
    /// `slm-mesh hook AGENT --wake` waits in the background and answers.
    BackgroundHook {
        /// How the hook answers.
        answer: HookAnswer,
        /// What must be in the environment, each with its value if that matters. Other agents run
        /// these hooks too, and sessions without a window would wait for this hook to end.
        needs: &'static [(&'static str, Option<&'static str>)],
    },
}

/// How a hook in the background tells its agent to begin a turn.
#[derive(Debug, Clone, Copy)]
pub enum HookAnswer {
    /// With the sentence on standard error and this exit status.
    ExitStatus(u8),
    /// With a line of JSON.
    JsonLine,
}
