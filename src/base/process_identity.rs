//! Describes processes, so that the mesh can find out which session makes a call.

/// Identifies a process. The process id alone is not enough, because the kernel reuses ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Process {
    /// Process id.
    pub pid: i64,
    /// The start time of the process, in the kernel's own unit.
    pub start: u64,
    /// Whether the process only runs another program. Examples are `npx`, and a shell that an agent starts only
    /// to run one command.
    pub wrapper: bool,
    /// The agent that runs in this process. `None` if slm-mesh does not know the agent, or if some shells of the agent
    /// are not descendants of this process.
    pub agent: Option<AgentProgram>,
}

/// An agent that slm-mesh knows. Its sessions have the agent type `kind`, and names that begin with `short_name`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AgentProgram {
    /// The agent type of the sessions.
    pub kind: &'static str,
    /// The beginning of the sessions' names.
    pub short_name: &'static str,
}

impl Process {
    /// Whether `self` and `other` identify the same process. Process ids are reused, so the start times are compared as
    /// well.
    pub fn is_same(&self, other: &Process) -> bool {
        (self.pid, self.start) == (other.pid, other.start)
    }
}
