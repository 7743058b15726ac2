//! The format of the messages between our programs: JSON-RPC 2.0, one message on each line.
//!
//! **Invariant:** this code does no input or output. It only converts between buffers and messages.

pub mod lossy_json_field_reader;
mod convert_to_utf8;
pub mod line_splitter;
pub mod lone_surrogate_json;
pub mod rpc;
mod shorten_long_json_text;
