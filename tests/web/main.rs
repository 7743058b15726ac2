//! The web page: access to it, the event stream of an open page, and what a person sees.

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
