//! The format of the messages between our programs: JSON-RPC 2.0, one message on each line.
//!
//! **Invariant:** this code does no input or output. It only converts between buffers and messages.

pub mod line_splitter;
pub mod lone_surrogate_json;
pub mod rpc;
