//! Feeds what the fuzzer finds to tests/properties/configs.rs.
#![no_main]

#[path = "../../properties/choices.rs"]
mod choices;
#[path = "../../properties/configs.rs"]
mod property;

libfuzzer_sys::fuzz_target!(|data: &[u8]| property::check(data));
