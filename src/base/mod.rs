//! The types and limits that every module shares: errors, limits, times, paths and processes.
//!
//! **Invariant:** this module contains no rules of the mesh, and uses no clock, socket or file.

pub mod broker_downtimes;
pub mod build_json_object;
pub mod counted;
pub mod domain_enums;
pub mod error;
pub mod id_types;
pub mod json_text;
pub mod limits;
pub mod path_overlap;
pub mod path_suffix;
pub mod process_identity;
pub mod shell_wildcards;
pub mod time_format;
pub mod untrusted_text;
