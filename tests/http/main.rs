//! The twelve HTTP routes of a real broker, spoken to over plain TCP as any program would.
//! **Invariant:** every test has a broker of its own, and waits for conditions only.
#![allow(clippy::unwrap_used)]

mod client;
mod doors;
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
