//! Feeds what the fuzzer finds to tests/properties/lan.rs.
#![no_main]

#[path = "../../properties/feed.rs"]
mod feed;
#[path = "../../properties/lan.rs"]
mod property;

libfuzzer_sys::fuzz_target!(|data: &[u8]| property::check(data));
