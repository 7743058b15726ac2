//! The format of the messages between our programs: JSON-RPC 2.0, one message on each line.
//!
//! **Invariant:** this code does no input or output. It only converts between buffers and messages.

mod convert_to_utf8;
pub mod huge_or_broken_json_reader;
mod keep_start_and_matching_lines;
pub mod line_splitter;
pub mod lone_surrogate_json;
pub mod rpc;
