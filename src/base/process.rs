//! Processes, as evidence of who calls.

/// A process, as the kernel names it: its number alone is used again after a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Process {
    /// Process id.
    pub pid: i64,
    /// When it started, in the kernel's own unit.
    pub start: u64,
    /// A shell run for one command, `npx` and the like: it stands between an agent and its tool.
    pub wrapper: bool,
}
