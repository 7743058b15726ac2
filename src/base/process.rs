//! Processes, as evidence of a caller's identity.

/// A process as the kernel names it. The number alone is not enough: the kernel reuses it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Process {
    /// Process id.
    pub pid: i64,
    /// When it started, in the kernel's own unit.
    pub start: u64,
    /// A shell for one command, `npx` and the like, which runs between an agent and its tool.
    pub wrapper: bool,
    /// The agent whose program this is, if it is one that slm-mesh knows and that runs each shell below it.
    pub agent: Option<AgentProgram>,
}

/// What the mesh calls the sessions of an agent that its process shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AgentProgram {
    /// The type of its sessions.
    pub kind: &'static str,
    /// How the names of its sessions begin.
    pub short_name: &'static str,
}

impl Process {
    /// Whether both are the same process. Process ids are reused, so the start times are compared, too.
    pub fn is_same(&self, other: &Process) -> bool {
        (self.pid, self.start) == (other.pid, other.start)
    }
}
