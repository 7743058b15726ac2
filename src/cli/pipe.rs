//! What other machines need: the pipe behind ssh, and a good secret.

use super::{say, surroundings};
use crate::base::error::{Error, ErrorKind};
use crate::client::Client;
use crate::sys;
use std::io::{self, Read, Write};
use std::net::Shutdown;

/// Carries lines between standard input and output and this machine's broker, which it starts if
/// there is none: what ssh runs here for another machine.
pub fn pipe() -> Result<u8, Error> {
    let (places, _) = surroundings()?;
    let client = Client::connect_or_start(&places)?;
    let failed = |error: io::Error| Error::new(ErrorKind::Gone, format!("the pipe to the broker broke ({error})"));
    let mut to_broker = client.writer().map_err(failed)?;
    let mut from_broker = to_broker.try_clone().map_err(failed)?;
    std::thread::spawn(move || {
        // Either end closes the other: that is how each side learns that the other is gone.
        let _ = copy(&mut io::stdin().lock(), &mut to_broker);
        let _ = to_broker.shutdown(Shutdown::Write);
    });
    copy(&mut from_broker, &mut io::stdout().lock()).map_err(failed)?;
    Ok(0)
}

/// Like `io::copy`, but what arrives leaves at once.
fn copy(from: &mut impl Read, to: &mut impl Write) -> io::Result<()> {
    let mut buffer = [0; 16 << 10];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(n) => to.write_all(&buffer[..n]).and_then(|()| to.flush())?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Prints a secret that nobody guesses: 128 bits.
pub fn secret() -> Result<u8, Error> {
    say(&format!("{:032x}", sys::chance()))
}
