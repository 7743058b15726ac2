//! Checks the property in tests/properties/hooks.rs on each input of the fuzzer.
#![no_main]

#[path = "../../properties/choices.rs"]
mod choices;
#[path = "../../properties/hooks.rs"]
mod property;

libfuzzer_sys::fuzz_target!(|data: &[u8]| property::check(data));
