//! Feeds what the fuzzer finds to tests/properties/mcp.rs.
#![no_main]

#[path = "../../properties/choices.rs"]
mod choices;
#[path = "../../properties/mcp.rs"]
mod property;

libfuzzer_sys::fuzz_target!(|data: &[u8]| property::check(data));
