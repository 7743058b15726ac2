//! The page in a browser: who gets in, what an open page hears, and what a person sees.

#[path = "../clients/mod.rs"]
mod clients;
#[path = "../http/client.rs"]
#[allow(dead_code)] // made for more than is asked here
mod client;
#[path = "../support/mod.rs"]
mod support;

mod browser;
mod doors;
mod page;
mod stream;
