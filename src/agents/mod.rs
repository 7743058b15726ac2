//! Where agents listen: their hooks, each in its own dialect, and the settings that set-up changes.
//!
//! **Invariant:** a mesh that is down, slow or wrong never stops anyone's work: a hook that can't
//! say something useful says nothing and succeeds.

pub mod configs;
pub mod dialect;
pub mod doctor;
pub mod edit;
pub mod entries;
pub mod files;
pub mod ground;
pub mod hook;
pub mod own;
pub mod prove;
pub mod setup;
pub mod splice;
pub mod tables;
pub mod wake;
pub mod words;
