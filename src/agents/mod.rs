//! Where agents listen: their hooks, each in its own dialect, and the settings that set-up changes.
//!
//! **Invariant:** a mesh that is down, slow or wrong never stops anyone's work: a hook that can't
//! say something useful says nothing and succeeds.

pub mod configs;
pub mod dialect;
pub mod doctor;
pub mod safe_write;
pub mod config_entries;
pub mod edited_paths;
pub mod environment;
pub mod hook;
pub mod generated_files;
pub mod prove;
pub mod setup;
pub mod json_edit;
pub mod toml_edit;
pub mod wake;
pub mod hook_text;
