//! Tests the HTTP thread over real TCP. **Invariant:** a test waits for conditions, and never for a guessed time.
#![allow(clippy::unwrap_used)]

mod attacks;
mod promises;
mod wire;
