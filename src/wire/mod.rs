//! The format of the messages between our programs: JSON-RPC 2.0, one message on each line.
//!
//! **Invariant:** this code does no input or output. It only converts between buffers and messages.

mod convert_to_utf8;
pub mod json_field_scanner;
pub mod lenient_json;
pub mod line_splitter;
pub mod rpc;
mod keep_head_and_needed_lines;
