//! The types and limits that every module shares: errors, limits, times, paths and processes.
//!
//! **Invariant:** this module contains no rules of the mesh, and uses no clock, socket or file.

pub mod counted;
pub mod error;
pub mod ids;
pub mod build_json_object;
pub mod json_text;
pub mod limits;
pub mod path_overlap;
pub mod process;
pub mod stored_enums;
pub mod time;
pub mod untrusted_text;
pub mod shell_wildcards;
