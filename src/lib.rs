//! slm-mesh: one small program through which coding agents find each other, talk, share state and
//! stop overwriting each other's files. Read in this order:
//!
//! - [`base`]: the types and limits that every module shares
//! - [`mod@core`]: the rules, as plain functions of (request, time, store), and the table of operations
//! - [`store`]: the only SQL
//! - [`wire`]: bytes and messages in buffers
//! - [`remote`]: the same lines between machines, proven and encrypted
//! - [`replication`]: the log that keeps several hubs equal, in etcd
//! - [`broker`]: the poll loop that carries them, the HTTP thread, the frozen HTTP routes
//! - [`client`]: a blocking connection, which starts the broker if there is none
//! - [`mcp`]: MCP over stdio, derived from the operations
//! - [`discovery`]: the local network: hubs announced and found, in a world where every packet lies
//! - [`known_agents`]: what is known of each coding agent, one file per agent
//! - [`shell_writes`]: which files a shell command line would write, told from its text
//! - [`agents`]: answers the agents' hooks, and sets their files up
//! - [`cli`]: verbs, help, man page and completions, derived from the operations
//! - [`sys`]: time, chance, environment, files and processes: the one impure leaf
//!
//! **Invariant:** imports flow `cli → agents, mcp → client, broker → remote → wire → core → store → base`. `broker` and
//! `client` do not know each other; `discovery` knows nothing of the mesh. `core`, `store` and `wire` know no clock,
//! socket, thread or chance. tests/tidy checks all of this.

#![warn(missing_docs)]
#![cfg_attr(not(test), warn(clippy::unwrap_used))]

pub mod base;
pub mod core;
pub mod store;
pub mod wire;
pub mod remote;
pub mod replication;
pub mod broker;
pub mod client;
pub mod mcp;
pub mod discovery;
pub mod known_agents;
pub mod shell_writes;
pub mod agents;
pub mod cli;
pub mod sys;
