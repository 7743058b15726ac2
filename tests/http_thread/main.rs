//! The HTTP thread over real TCP. **Invariant:** waits for conditions, never for a guess of how
//! long something takes.
#![allow(clippy::unwrap_used)]

mod attacks;
mod promises;
mod wire;
