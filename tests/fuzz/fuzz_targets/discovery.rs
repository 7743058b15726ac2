//! Checks the property in tests/properties/discovery.rs on each input of the fuzzer.
#![no_main]

#[path = "../../properties/choices.rs"]
mod choices;
#[path = "../../properties/discovery.rs"]
mod property;

libfuzzer_sys::fuzz_target!(|data: &[u8]| property::check(data));
