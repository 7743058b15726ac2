//! Works with the agents on this machine: answers their hooks, and sets up and checks their settings files.
//!
//! **Invariant:** a mesh that is down, slow or wrong never stops an agent's work. Facts about a single agent are in
//! [`crate::known_agents`].

pub mod broker_role_and_settings_check;
mod clock_check;
pub mod config_entries;
mod data_dir_check;
pub mod desktop_notification_check;
mod directory_servers_check;
pub mod doctor;
pub mod wake_and_shield_lists;
pub mod edited_paths;
mod export_session_id;
mod files_git_would_replace;
pub mod generated_file_texts;
pub mod held_files;
pub mod hook;
pub mod hook_command_line;
mod hook_event_handlers;
pub mod hook_input;
mod hook_stdin;
pub mod hook_text;
mod guest_hubs_check;
pub mod json_edit;
mod json_hook_entry;
pub mod marketplace_plugin_files;
mod mcp_tool_writes;
mod own_tool_calls;
pub mod project_settings_check;
pub mod prove_hooks;
mod register_via_agent_command;
mod registered_server_check;
pub mod safe_write;
mod server_trial_start;
pub mod setup;
pub mod setup_environment;
mod setup_lock;
pub mod setup_records;
pub mod setup_removal;
pub mod session_shield;
pub mod shell_tool_writes;
pub mod shield_trial;
mod standby_and_etcd_health_check;
mod layout_preserving_toml_edit;
pub mod toml_entry;
mod toml_hooks;
pub mod wake_hook;
pub mod yaml_entry;
