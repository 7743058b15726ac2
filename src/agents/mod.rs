//! Where agents listen: their hooks, each in its own dialect.
//!
//! **Invariant:** a mesh that is down, slow or wrong never stops anyone's work: a hook that can't
//! say something useful says nothing and succeeds.

pub mod dialect;
pub mod files;
pub mod hook;
pub mod words;
