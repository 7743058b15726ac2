//! `secret`: generates a secret for a hub and its guests.

use super::print_line;
use crate::base::error::Error;
use crate::sys;

/// Prints 128 random bits in hexadecimal.
pub fn print_secret() -> Result<u8, Error> {
    print_line(&format!("{:032x}", sys::random_u128()))
}
