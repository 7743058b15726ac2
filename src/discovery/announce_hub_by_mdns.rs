//! The process that announces a hub by multicast DNS. Only the broker starts this process, with the command `slm-mesh
//! announce`.
//!
//! **Invariant:** the process knows no secrets and keeps no state, so it can be restarted after a crash. A single
//! packet can overflow the stack of libmdns (librespot-org/libmdns issue 56), and another packet can make one of its
//! threads panic. A panic in any thread ends the process, so that the broker notices the failure.

use super::{SERVICE, addresses};
use crate::sys;
use libmdns::Responder;
use rustix::process::{Resource, Rlimit, setrlimit};
use std::io;
use std::net::IpAddr;
use std::time::Duration;

/// Maximum length of a label, in bytes. The standard allows 63 bytes, but libmdns allows only 62.
const LABEL_BYTES_MAX: usize = 62;
/// Maximum length of the version, in bytes. Other hubs ignore longer versions.
const VERSION_BYTES_MAX: usize = 32;
/// Maximum number of addresses. This many addresses fit into a packet.
const ADDRESSES_MAX: usize = 16;
/// How long the process waits while libmdns sends the goodbye packet. libmdns does not report when it has sent the
/// packet.
const GOODBYE: Duration = Duration::from_millis(100);
/// The exit status of this process if a thread panics.
const PANICKED: i32 = 101;

/// The data that the process announces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announcement {
    /// The name of the service instance. It is a single DNS label, and short enough for libmdns.
    name: String,
    /// The HTTP port of the hub.
    port: u16,
    /// The WebSocket port of the hub.
    ws_port: u16,
    /// The version of the hub.
    version: String,
    /// The addresses of the hub.
    pub addresses: Vec<IpAddr>,
}

impl Announcement {
    /// Makes an announcement without addresses. Dots in the name are replaced, because libmdns would cut the name at
    /// the first dot.
    pub fn new(name: &str, port: u16, ws_port: u16, version: &str) -> Announcement {
        let tame = |c: char| if c == '.' || c.is_control() { '-' } else { c };
        let mut label: String = name.chars().map(tame).collect();
        while label.len() > LABEL_BYTES_MAX {
            label.pop();
        }
        if label.is_empty() {
            label.push_str("slm-mesh");
        }
        let version = version.chars().filter(char::is_ascii_graphic).take(VERSION_BYTES_MAX).collect();
        Announcement { name: label, port, ws_port, version, addresses: Vec::new() }
    }

    /// The command line arguments that describe this announcement.
    pub fn to_args(&self) -> Vec<String> {
        let mut words = vec![self.name.clone(), self.port.to_string(), self.ws_port.to_string(), self.version.clone()];
        words.extend(self.addresses.iter().map(IpAddr::to_string));
        words
    }

    /// Parses the arguments of the command line.
    ///
    /// # Errors
    /// When the arguments are wrong. The error describes the expected arguments.
    pub fn from_args(words: &[String]) -> Result<Announcement, String> {
        let [name, port, ws_port, version, addresses @ ..] = words else {
            return Err("expected NAME PORT WSPORT VERSION ADDRESS…; only the broker runs this command".into());
        };
        let port_of = |word: &str| match word.parse::<u16>() {
            Ok(port) if port > 0 => Ok(port),
            _ => Err(format!("expected a port from 1 to 65535, got \"{word}\"")),
        };
        let mut announcement = Announcement::new(name, port_of(port)?, port_of(ws_port)?, version);
        for word in addresses.iter().take(ADDRESSES_MAX) {
            announcement.addresses.push(word.parse().map_err(|_| format!("expected an address, got \"{word}\""))?);
        }
        Ok(announcement)
    }
}

/// Announces the hub until standard input ends. Then sends a goodbye packet.
///
/// # Errors
/// When there is no network, or when another program uses the port of multicast DNS and does not share the port.
pub fn announce(announcement: &Announcement) -> Result<(), String> {
    exit_on_panic();
    // The list for libmdns must not be empty. For an empty list, libmdns announces all addresses, even those of
    // containers.
    let addresses =
        if announcement.addresses.is_empty() { addresses::local_addresses() } else { announcement.addresses.clone() };
    if addresses.is_empty() {
        return Err("this machine has no address on a network".into());
    }
    let host = sys::host();
    if host.split('.').any(|label| label.is_empty() || label.len() > LABEL_BYTES_MAX) {
        return Err(format!(
            "the name of this machine, \"{host}\", can't be announced, because one of its parts is empty or longer \
             than {LABEL_BYTES_MAX} bytes"
        ));
    }
    // `Responder::new()` is not used, because it panics if there is no network.
    let responder =
        Responder::new_with_ip_list(addresses).map_err(|error| format!("multicast DNS can't be used ({error})"))?;
    let texts = [format!("version={}", announcement.version), format!("wsPort={}", announcement.ws_port)];
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let service = responder.register(SERVICE, &announcement.name, announcement.port, &texts);
    // The end of standard input tells this process to stop, even if reading ended with an error.
    let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
    // When the service is dropped, a goodbye packet is sent. The responder must not be dropped before the packet is
    // sent.
    drop(service);
    std::thread::sleep(GOODBYE);
    drop(responder);
    Ok(())
}

/// Installs a hook that ends the process if any thread panics, and disables core dumps.
fn exit_on_panic() {
    std::panic::set_hook(Box::new(|info| {
        sys::print_error(&format!("slm-mesh announce: {info}"));
        std::process::exit(PANICKED);
    }));
    // If this fails, the error is ignored, because a core dump does no harm.
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_announcement_survives_its_arguments() {
        let mut announcement = Announcement::new("desk", 7899, 7900, "2.0.0");
        announcement.addresses = vec!["192.168.1.2".parse().unwrap(), "2001:db8::2".parse().unwrap()];
        assert_eq!(Announcement::from_args(&announcement.to_args()), Ok(announcement));
    }

    #[test]
    fn a_name_becomes_one_label() {
        let name = |name: &str| Announcement::new(name, 1, 2, "1").name;
        assert_eq!(name("desk.example.com"), "desk-example-com");
        assert_eq!(name("a\0b\nc"), "a-b-c");
        assert_eq!(name(""), "slm-mesh");
        assert_eq!(name(&"x".repeat(100)).len(), LABEL_BYTES_MAX);
        assert_eq!(name(&"ü".repeat(40)).len(), LABEL_BYTES_MAX);
        assert!(name(&"日".repeat(40)).len() <= LABEL_BYTES_MAX);
    }

    #[test]
    fn the_version_is_cut() {
        let announcement = Announcement::new("desk", 65535, 65535, &"9".repeat(5000));
        assert!(announcement.version.len() <= VERSION_BYTES_MAX);
    }

    #[test]
    fn wrong_arguments_are_refused() {
        let read = |line: &str| Announcement::from_args(&line.split(' ').map(str::to_owned).collect::<Vec<_>>());
        assert!(read("desk 7899 7900 1").is_ok());
        for line in ["", "desk", "desk 0 7900 1", "desk 7899 70000 1", "desk x 7900 1", "desk 7899 7900 1 nowhere"] {
            assert!(read(line).is_err(), "{line}");
        }
    }
}
