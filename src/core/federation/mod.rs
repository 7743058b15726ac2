//! Federation: the peers of other meshes beside ours, and the messages that travel between meshes.

pub mod forwarding;
pub mod roster;
