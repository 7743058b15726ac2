//! Processes, as evidence of a caller's identity.

/// A process as the kernel identifies it. The number alone is not enough, because the kernel reuses numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Process {
    /// Process id.
    pub pid: i64,
    /// The start time of the process, in the kernel's own unit.
    pub start: u64,
    /// Whether the process only runs another program, such as `npx` or a shell for one command between an agent and
    /// its tool.
    pub wrapper: bool,
    /// The agent whose program this is, if slm-mesh knows the agent and the agent runs each shell below it.
    pub agent: Option<AgentProgram>,
}

/// The words with which the mesh names the sessions of an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AgentProgram {
    /// The type of the agent's sessions.
    pub kind: &'static str,
    /// The beginning of the names of the agent's sessions.
    pub short_name: &'static str,
}

impl Process {
    /// Whether both are the same process. Process ids are reused, so the start times are compared, too.
    pub fn is_same(&self, other: &Process) -> bool {
        (self.pid, self.start) == (other.pid, other.start)
    }
}
