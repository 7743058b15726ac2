//! Works with the agents on this machine: answers their hooks, and sets up their settings files.
//!
//! **Invariant:** a mesh that is down, slow or wrong never stops an agent's work. Facts about a single agent are in
//! [`crate::known_agents`].

mod announce_own_mcp_calls;
pub mod change_wake_and_shield_settings;
pub mod edit_own_config_entries;
pub mod edited_paths;
mod export_session_id;
mod files_git_would_replace;
pub mod generated_file_texts;
pub mod held_files;
pub mod hook;
mod hook_event_handlers;
pub mod hook_input;
pub mod hook_input_fields;
pub mod hook_stdin;
pub mod hook_text;
pub mod json_edit;
mod json_hook_entry;
mod layout_preserving_toml_edit;
pub mod marketplace_plugin_files;
mod mcp_tool_writes;
pub mod prove_hooks;
pub mod recognise_own_hook_entries;
pub mod register_via_agent_command;
pub mod restart_shell_in_write_sandbox;
pub mod safe_write;
pub mod server_trial_start;
pub mod setup;
pub mod setup_environment;
mod setup_lock;
pub mod setup_records;
pub mod setup_removal;
pub mod shell_tool_writes;
pub mod toml_entry;
mod toml_hooks;
pub mod wake_hook;
pub mod yaml_entry;
