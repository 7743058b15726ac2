//! Reads the input of a hook from standard input. The size has no limit, because a tool's arguments may contain whole
//! files. But a hook waits only a limited time for missing input.

use super::edited_paths::NEEDED_FIELDS;
use crate::sys::socket_wait::{SocketEvent, wait_for};
use crate::wire::json_field_scanner::read_object;
use serde_json::Value;
use std::io::{self, BufReader, ErrorKind, Read, StdinLock};
use std::time::Duration;

/// How long a hook waits for more input. Agents end our hooks after five seconds, and then the hook can no longer
/// report what went wrong.
const MORE_WITHIN: Duration = Duration::from_secs(3);

/// How many bytes to read at once. A larger buffer would cost a page fault for each of its pages.
const BUFFER_SIZE: usize = 1 << 14;

/// Standard input. A read fails if no more input comes in time.
struct TimedStdin(StdinLock<'static>);

impl Read for TimedStdin {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        // `StdinLock` has a smaller buffer of its own, and `wait_for` does not see input in that buffer. A read of
        // `BUFFER_SIZE` bytes bypasses the buffer, so no input stays in it.
        if wait_for(&self.0, SocketEvent::Readable, MORE_WITHIN)? {
            return self.0.read(buffer);
        }
        Err(io::Error::new(ErrorKind::TimedOut, format!("no input for {} s", MORE_WITHIN.as_secs())))
    }
}

/// Reads the input of a hook.
///
/// # Errors
/// If the input contains no JSON object; the error says why.
pub fn read_input() -> Result<Value, String> {
    let stdin = BufReader::with_capacity(BUFFER_SIZE, TimedStdin(io::stdin().lock()));
    let mut failure = None;
    let mut bytes = stdin.bytes().map_while(|byte| byte.map_err(|error| failure = Some(error)).ok());
    let input = read_object(&mut bytes, &NEEDED_FIELDS);
    input.ok_or_else(|| match failure {
        Some(error) => format!("standard input can't be read ({error})"),
        None => "the input is not a JSON object".into(),
    })
}
