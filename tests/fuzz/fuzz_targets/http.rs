//! Checks the property in tests/properties/http.rs on each input of the fuzzer.
#![no_main]

#[path = "../../properties/choices.rs"]
mod choices;
#[path = "../../properties/http.rs"]
mod property;

libfuzzer_sys::fuzz_target!(|data: &[u8]| property::check(data));
