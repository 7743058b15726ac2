//! Works with the agents of this machine: answers their hooks, and sets up and checks their files.
//!
//! **Invariant:** a mesh that is down, slow or wrong never stops an agent's work. Facts about a single agent are in
//! [`crate::known_agents`].

pub mod agent_lists;
pub mod config_entries;
pub mod doctor;
pub mod edited_paths;
pub mod environment;
pub mod generated_files;
pub mod held_files;
pub mod hook;
pub mod hook_input;
pub mod hook_text;
pub mod json_edit;
pub mod mesh_call;
pub mod notify_check;
pub mod plugin;
pub mod prove;
pub mod safe_write;
mod server_tools;
pub mod session_shield;
mod session_env;
pub mod setup;
pub mod setup_records;
pub mod shell_command;
pub mod shield_trial;
pub mod toml_entry;
mod toml_hooks;
pub mod wake;
pub mod yaml_entry;
