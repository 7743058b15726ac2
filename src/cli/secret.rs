//! `secret`: generates a secret for a hub and its guests.

use super::print_text;
use crate::base::error::Error;
use crate::sys;

/// Prints 128 random bits in hexadecimal.
pub fn print_secret(json: bool) -> Result<u8, Error> {
    print_text("secret", &format!("{:032x}", sys::random_u128()), json)
}
