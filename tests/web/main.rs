//! The web page: who can open it, its stream of events, and what a person sees.

#[path = "../clients/mod.rs"]
mod clients;
#[path = "../http/client.rs"]
#[allow(dead_code)] // shared with tests that use more of it
mod client;
#[path = "../support/mod.rs"]
mod support;

mod browser;
mod access;
mod page;
mod stream;
