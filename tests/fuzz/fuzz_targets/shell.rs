//! Feeds what the fuzzer finds to tests/properties/shell.rs.
#![no_main]

#[path = "../../properties/shell.rs"]
mod property;

libfuzzer_sys::fuzz_target!(|data: &[u8]| property::check(data));
