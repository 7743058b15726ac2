//! The types and limits that every module shares: errors, limits, times, paths and processes.
//!
//! **Invariant:** nothing here knows a rule, a clock, a socket or a file.

pub mod error;
pub mod ids;
pub mod kinds;
pub mod limits;
pub mod paths;
pub mod process;
pub mod time;
pub mod untrusted_text;
