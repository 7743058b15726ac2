//! Checks the property in tests/properties/shell.rs on each input of the fuzzer.
#![no_main]

#[path = "../../properties/shell.rs"]
mod property;

libfuzzer_sys::fuzz_target!(|data: &[u8]| property::check(data));
