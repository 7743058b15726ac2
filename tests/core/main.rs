//! Tests the rules of the mesh with scripts: lists of calls and their expected results. The tests need no process, no
//! clock and no file.
//!
//! A line is `WHO OP key=value … -> WANT …`, or `+TIME` to let time pass, or `WHO joins`, `WHO connects` (a hook or
//! verb), `WHO leaves`, `WHO cancels` (its last call), `crash`. A want is `ok`, `waits`, or an error's kind. Each
//! `path=value` after it must equal a field of the answer, and each quoted text must occur in the answer.
//! `! WHO WANT…` checks what WHO has received since the last such line.

mod channels;
mod failures;
mod wakeups;
mod who_calls;
mod forwarding;
mod federation;
mod history;
mod lock_queue;
mod locks;
mod two_machines;
mod operations;
mod script;
mod takeovers;
