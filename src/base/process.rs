//! Processes, as evidence of who calls.

/// A process as the kernel names it. The number alone is not enough: the kernel reuses it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Process {
    /// Process id.
    pub pid: i64,
    /// When it started, in the kernel's own unit.
    pub start: u64,
    /// A shell run for one command, `npx` and the like, which stands between an agent and its tool.
    pub wrapper: bool,
}

impl Process {
    /// Whether both name the same process: the number alone is reused.
    pub fn is_same(&self, other: &Process) -> bool {
        (self.pid, self.start) == (other.pid, other.start)
    }
}
