//! slm-mesh is one small program through which coding agents find each other, exchange messages, share state, and avoid
//! overwriting each other's files. Read the modules in this order:
//!
//! - [`base`]: the types and limits that every module shares
//! - [`mod@core`]: the rules, as functions of (request, time, store), and the table of operations
//! - [`store`]: the only code that contains SQL
//! - [`wire`]: reads and writes protocol messages in buffers
//! - [`remote`]: carries protocol messages between machines, authenticated and encrypted
//! - [`replication`]: the log in etcd that several hubs share
//! - [`broker`]: the poll loop, the HTTP thread, and the frozen HTTP routes
//! - [`client`]: a blocking connection, which starts the broker if none is running
//! - [`mcp`]: MCP over stdio, derived from the operations
//! - [`discovery`]: announces hubs on the local network, and finds them for sessions
//! - [`known_agents`]: facts about each coding agent, one file per agent
//! - [`shell_writes`]: reads a shell command line, and finds the files that the command would write
//! - [`agents`]: answers the hooks of agents, and sets up their settings files
//! - [`doctor`]: checks the broker, the hubs and each agent, and says how to fix each fault
//! - [`cli`]: verbs, help, man page and completions, derived from the operations
//! - [`sys`]: time, randomness, environment, files and processes
//!
//! **Invariant:** a module imports only modules to its right in `cli → doctor → {agents, mcp} → {client, broker} → {core,
//! remote} → {store, wire} → base`. `broker` and `client` do not import each other, and `discovery` imports only `base` and
//! `sys`. `core`, `store` and `wire` use no clock, socket, thread or randomness. tests/tidy checks all of this.

#![warn(missing_docs)]
#![cfg_attr(not(test), warn(clippy::unwrap_used))]

pub mod agents;
pub mod base;
pub mod broker;
pub mod cli;
pub mod client;
pub mod core;
pub mod discovery;
pub mod doctor;
pub mod known_agents;
pub mod mcp;
pub mod remote;
pub mod replication;
pub mod shell_writes;
pub mod store;
pub mod sys;
pub mod wire;
