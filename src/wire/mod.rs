//! The wire format between our programs: JSON-RPC 2.0 messages on lines.
//!
//! **Invariant:** this code reads no input and writes no output; it converts between buffers and messages.

pub mod json_field_scanner;
pub mod line_splitter;
pub mod rpc;
mod text_excerpt;
