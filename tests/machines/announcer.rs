//! Stands in for a hub: keeps the announcing process alive, and prints its id whenever it is another.

use slm_mesh::discovery::Announcer;
use slm_mesh::discovery::mdns_process::Orders;
use slm_mesh::sys::Clock;
use std::time::Duration;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let (program, orders) = words.split_first().expect("PROGRAM NAME PORT WSPORT VERSION");
    let orders = Orders::read(orders).expect("orders as slm-mesh announce takes them");
    let mut announcer = Announcer::new(program.into(), orders);
    let clock = Clock::start(0);
    let mut told = None;
    while let Some(next) = announcer.tend(clock.now()) {
        if announcer.pid() != told {
            told = announcer.pid();
            println!("{}", told.unwrap_or(0));
        }
        std::thread::sleep(Duration::from_millis((next - clock.now()).max(0) as u64));
    }
}
