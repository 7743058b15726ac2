//! Runs the process that announces a hub by mDNS, and restarts it if it ends. Prints the id of each new process.

use slm_mesh::discovery::MdnsSupervisor;
use slm_mesh::discovery::announce_hub_by_mdns::Announcement;
use slm_mesh::sys::Clock;
use std::time::Duration;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let (program, orders) = words.split_first().expect("PROGRAM NAME PORT WSPORT VERSION");
    let orders = Announcement::from_args(orders).expect("the arguments of slm-mesh announce");
    let mut announcer = MdnsSupervisor::new(program.into(), orders);
    let clock = Clock::start(0);
    let mut told = None;
    while let Some(next) = announcer.supervise(clock.now()) {
        if announcer.pid() != told {
            told = announcer.pid();
            println!("{}", told.unwrap_or(0));
        }
        std::thread::sleep(Duration::from_millis((next - clock.now()).max(0) as u64));
    }
}
