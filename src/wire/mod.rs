//! Bytes and messages: lines in buffers, JSON-RPC 2.0 in lines.
//!
//! **Invariant:** no input or output happens here; buffers come in, messages go out.

pub mod lines;
pub mod rpc;
