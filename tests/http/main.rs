//! Tests the twelve HTTP routes of a real broker over plain TCP. **Invariant:** each test starts its own broker. A test
//! waits for conditions, and not for a fixed time.
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
