//! Tests the rules of the mesh with scripts, which are lists of calls and their expected results. The tests need no
//! process, no clock and no file.
//!
//! The line `WHO OP key=value … -> WANT …` makes a call. The first WANT is `ok`, `waits`, or the kind of an error. For
//! the other WANTs, `path=value` means that this field of the answer must have this value, and `path=$name` stores the
//! field for later lines. Any other text must occur in the answer. A text after a `~` must not occur in the answer.
//!
//! `! WHO -> WANT …` checks what WHO has received since the previous line of this kind. `WHO joins` attaches a peer,
//! `WHO connects` connects a hook or verb, `WHO leaves` disconnects WHO, and `WHO cancels` cancels its last call.
//! `+TIME` lets time pass, and `crash` restarts the broker.

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
