//! The twelve HTTP routes of a real broker, over plain TCP. **Invariant:** every test has a broker of its own, and
//! waits only for conditions, never for a fixed time.
#![allow(clippy::unwrap_used)]

mod client;
mod access;
mod files;
mod hostile;
mod life;
mod limits;
mod locks;
mod mail;
mod push;
mod refusals;
mod shapes;
#[path = "../support/mod.rs"]
mod support;
