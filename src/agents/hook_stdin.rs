//! Reads the input of a hook from standard input. The size is not limited, because a tool's arguments may contain whole
//! files. The time that a hook waits for missing input is limited.

mod convert_to_utf8;
pub mod extract_needed_json_fields;
mod keep_start_and_matching_lines;

use super::hook_input_fields::NEEDED_FIELDS;
use crate::sys::socket_wait::{SocketEvent, wait_for};
use extract_needed_json_fields::{BUFFER_SIZE, read_object};
use serde_json::Value;
use std::io::{self, Read, StdinLock};
use std::time::Duration;

/// How long a hook waits for more input. Agents end our hooks after five seconds, so a hook must give up earlier in
/// order to report what went wrong.
const MORE_WITHIN: Duration = Duration::from_secs(3);

/// Standard input that ends early if a read fails, or if no more input comes in time.
struct TimedStdin {
    stdin: StdinLock<'static>,
    /// Why the input ended early.
    failure: Option<String>,
}

impl Read for TimedStdin {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        // `wait_for` does not see input that is in the buffer of `StdinLock`. A read of at least `BUFFER_SIZE` bytes
        // bypasses that buffer, so the buffer stays empty.
        debug_assert!(buffer.len() >= BUFFER_SIZE);
        while self.failure.is_none() {
            match wait_for(&self.stdin, SocketEvent::Readable, MORE_WITHIN) {
                Ok(true) => match self.stdin.read(buffer) {
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => self.failure = Some(error.to_string()),
                    Ok(n_read) => return Ok(n_read),
                },
                Ok(false) => self.failure = Some(format!("the agent sent no input for {} s", MORE_WITHIN.as_secs())),
                Err(error) => self.failure = Some(error.to_string()),
            }
        }
        Ok(0)
    }
}

/// Reads the input of a hook.
///
/// # Errors
/// If the input contains no JSON object. The error says what is wrong.
pub fn read_input() -> Result<Value, String> {
    let mut stdin = TimedStdin { stdin: io::stdin().lock(), failure: None };
    let input = read_object(&mut stdin, &NEEDED_FIELDS);
    input.ok_or_else(|| match stdin.failure {
        Some(error) => format!("standard input can't be read ({error})"),
        None => "the input is not a JSON object".into(),
    })
}
