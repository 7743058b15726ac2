//! The announcing process: `slm-mesh announce`, which the broker starts and people don't.
//!
//! **Invariant:** it holds no secret, and its death is nothing but a restart: one packet from anybody
//! overflows its stack (librespot-org/libmdns issue 56), another one panics its thread. A thread that
//! panics takes the process with it, so that whoever started it sees that nothing is announced.

use super::{SERVICE, addresses};
use crate::sys;
use libmdns::Responder;
use rustix::process::{Resource, Rlimit, setrlimit};
use std::io;
use std::net::IpAddr;
use std::time::Duration;

/// libmdns takes no label of 63 bytes, though the standard does.
const LABEL_BYTES_MAX: usize = 62;
/// Longer versions would not be believed either.
const VERSION_BYTES_MAX: usize = 32;
/// So many addresses fit every packet.
const ADDRESSES_MAX: usize = 16;
/// What libmdns needs to send the goodbye: it tells nobody when it has.
const GOODBYE: Duration = Duration::from_millis(100);
/// The exit status of a thread that panicked.
const PANICKED: i32 = 101;

/// What is to be announced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Orders {
    /// The instance's name: a label that libmdns takes.
    name: String,
    /// The port of HTTP.
    port: u16,
    /// The port of WebSocket.
    ws_port: u16,
    /// The hub's version.
    version: String,
    /// The addresses to tell.
    pub addresses: Vec<IpAddr>,
}

impl Orders {
    /// Orders without addresses yet. Of the name stays what fits into one label: libmdns would take a
    /// dot for the end of it.
    pub fn new(name: &str, port: u16, ws_port: u16, version: &str) -> Orders {
        let tame = |c: char| if c == '.' || c.is_control() { '-' } else { c };
        let mut label: String = name.chars().map(tame).collect();
        while label.len() > LABEL_BYTES_MAX {
            label.pop();
        }
        if label.is_empty() {
            label.push_str("slm-mesh");
        }
        let version = version.chars().filter(char::is_ascii_graphic).take(VERSION_BYTES_MAX).collect();
        Orders { name: label, port, ws_port, version, addresses: Vec::new() }
    }

    /// The orders as arguments.
    pub fn words(&self) -> Vec<String> {
        let mut words = vec![self.name.clone(), self.port.to_string(), self.ws_port.to_string(), self.version.clone()];
        words.extend(self.addresses.iter().map(IpAddr::to_string));
        words
    }

    /// Orders from arguments.
    ///
    /// # Errors
    /// For words that are none, with what is wanted.
    pub fn read(words: &[String]) -> Result<Orders, String> {
        let [name, port, ws_port, version, addresses @ ..] = words else {
            return Err("want NAME PORT WSPORT VERSION ADDRESS…, as the broker gives them".into());
        };
        let port_of = |word: &str| match word.parse::<u16>() {
            Ok(port) if port > 0 => Ok(port),
            _ => Err(format!("want a port from 1 to 65535, got \"{word}\"")),
        };
        let mut orders = Orders::new(name, port_of(port)?, port_of(ws_port)?, version);
        for word in addresses.iter().take(ADDRESSES_MAX) {
            orders.addresses.push(word.parse().map_err(|_| format!("want an address, got \"{word}\""))?);
        }
        Ok(orders)
    }
}

/// Announces until standard input ends, then says goodbye.
///
/// # Errors
/// If there is no network to announce on, or its port is another program's alone.
pub fn run(orders: &Orders) -> Result<(), String> {
    die_alone();
    // An empty list would mean all addresses to libmdns, those of containers too.
    let addresses = if orders.addresses.is_empty() { addresses::own() } else { orders.addresses.clone() };
    if addresses.is_empty() {
        return Err("this machine has no address on a network".into());
    }
    let host = sys::host();
    if host.split('.').any(|label| label.is_empty() || label.len() > LABEL_BYTES_MAX) {
        return Err(format!("the machine's name \"{host}\" can't be announced"));
    }
    // Not Responder::new(): that one panics where there is no network.
    let responder =
        Responder::new_with_ip_list(addresses).map_err(|error| format!("multicast DNS is not to be had ({error})"))?;
    let texts = [format!("version={}", orders.version), format!("wsPort={}", orders.ws_port)];
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let service = responder.register(SERVICE, &orders.name, orders.port, &texts);
    // However the input ends, its end is the order to go.
    let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
    // In this order, with this pause: dropped at once, the responder forgets its goodbye.
    drop(service);
    std::thread::sleep(GOODBYE);
    drop(responder);
    Ok(())
}

/// Sees to it that this process dies as a whole, and leaves no image of its memory on the disk.
fn die_alone() {
    std::panic::set_hook(Box::new(|info| {
        sys::print_error(&format!("slm-mesh announce: {info}"));
        std::process::exit(PANICKED);
    }));
    // Where the limit can't be set the image is a nuisance, and no harm.
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_survive_the_way_through_arguments() {
        let mut orders = Orders::new("desk", 7899, 7900, "0.1.0");
        orders.addresses = vec!["192.168.1.2".parse().unwrap(), "2001:db8::2".parse().unwrap()];
        assert_eq!(Orders::read(&orders.words()), Ok(orders));
    }

    #[test]
    fn a_name_is_one_label() {
        let name = |name: &str| Orders::new(name, 1, 2, "1").name;
        assert_eq!(name("desk.example.com"), "desk-example-com");
        assert_eq!(name("a\0b\nc"), "a-b-c");
        assert_eq!(name(""), "slm-mesh");
        assert_eq!(name(&"x".repeat(100)).len(), LABEL_BYTES_MAX);
        assert_eq!(name(&"ü".repeat(40)).len(), LABEL_BYTES_MAX);
        assert!(name(&"日".repeat(40)).len() <= LABEL_BYTES_MAX);
    }

    #[test]
    fn the_text_fits_its_packet() {
        let orders = Orders::new("desk", 65535, 65535, &"9".repeat(5000));
        assert!(orders.version.len() <= VERSION_BYTES_MAX);
    }

    #[test]
    fn wrong_orders_are_refused() {
        let read = |line: &str| Orders::read(&line.split(' ').map(str::to_owned).collect::<Vec<_>>());
        assert!(read("desk 7899 7900 1").is_ok());
        for line in ["", "desk", "desk 0 7900 1", "desk 7899 70000 1", "desk x 7900 1", "desk 7899 7900 1 nowhere"] {
            assert!(read(line).is_err(), "{line}");
        }
    }
}
