//! Feeds what the fuzzer finds to tests/properties/http.rs.
#![no_main]

#[path = "../../properties/choices.rs"]
mod choices;
#[path = "../../properties/http.rs"]
mod property;

libfuzzer_sys::fuzz_target!(|data: &[u8]| property::check(data));
