//! The methods of the broker itself, in addition to the operations of the mesh. The dispatch and `slm-mesh help
//! protocol` are derived from one table.

use super::event_loop::LoopContext;
use super::lifecycle::ShutdownReason;
use super::log;
use super::web::auth::WebAuth;
use crate::base::error::{Error, ErrorKind};
use crate::core::Arg;
use crate::sys::settings::Settings;
use serde_json::{Value, json};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

/// Where a caller of a broker method runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallerMachine {
    /// On the broker's own machine.
    Local,
    /// On another machine.
    Remote,
}

/// A method of the broker.
pub struct BrokerMethod {
    /// Its name on the socket.
    pub name: &'static str,
    /// One line: what it does.
    pub summary: &'static str,
    /// Its arguments. The methods of this table take none, and ignore what they are given.
    pub args: &'static [Arg],
    /// What it does.
    run: fn(&mut LoopContext, CallerMachine) -> Result<Value, Error>,
}

/// All methods of the broker, in the order of the documentation.
pub const BROKER_OPS: &[BrokerMethod] = &[
    BrokerMethod { name: "ping", summary: "Answer at once, to show that the broker is alive", args: &[], run: ping },
    BrokerMethod {
        name: "broker.info",
        summary: "Show the broker's version, process id, HTTP port, and a fingerprint of its settings",
        args: &[],
        run: info,
    },
    BrokerMethod {
        name: "broker.stop",
        summary: "End the broker; refused to a caller on another machine",
        args: &[],
        run: stop,
    },
    BrokerMethod {
        name: "web.open",
        summary: "Create a code that opens the web page once, within a minute; refused to a caller on another machine",
        args: &[],
        run: open_page,
    },
];

/// The facts for the broker's methods.
pub struct BrokerInfo {
    settings: Settings,
    web: Arc<WebAuth>,
}

impl BrokerInfo {
    /// The settings in force, and the codes that open the page.
    pub fn new(settings: Settings, web: Arc<WebAuth>) -> BrokerInfo {
        BrokerInfo { settings, web }
    }
}

/// Runs the broker's method of that name; `None` if it has no such method.
pub fn run_method(context: &mut LoopContext, method: &str, caller: CallerMachine) -> Option<Result<Value, Error>> {
    let found = BROKER_OPS.iter().find(|known| known.name == method)?;
    Some((found.run)(context, caller))
}

/// Ends the broker if a client on this machine has a newer version: the client starts its own.
pub fn yield_to_newer(context: &mut LoopContext, version: &str, caller: CallerMachine) {
    if caller == CallerMachine::Local && is_newer(version, env!("CARGO_PKG_VERSION")) {
        log(&format!("ending, since a client of the newer version {version} came"));
        context.lifecycle.request_shutdown(ShutdownReason::Replaced);
    }
}

fn ping(_: &mut LoopContext, _: CallerMachine) -> Result<Value, Error> {
    Ok(json!({}))
}

fn info(context: &mut LoopContext, _: CallerMachine) -> Result<Value, Error> {
    let settings = context.mesh.settings();
    Ok(json!({
        "ok": true, "version": settings.version, "pid": settings.pid, "port": settings.port,
        "settings": context.info.settings.fingerprint(),
    }))
}

fn stop(context: &mut LoopContext, caller: CallerMachine) -> Result<Value, Error> {
    if caller == CallerMachine::Remote {
        return Err(Error::new(ErrorKind::Refused, "stop: a broker can be stopped on its own machine only"));
    }
    context.lifecycle.request_shutdown(ShutdownReason::Stopped);
    Ok(json!({ "ok": true, "pid": std::process::id() }))
}

fn open_page(context: &mut LoopContext, caller: CallerMachine) -> Result<Value, Error> {
    let port = context.mesh.settings().port;
    let host = context.info.settings.text("SLM_MESH_HOST");
    let refused = |text: String| Err(Error::new(ErrorKind::Refused, text));
    if caller == CallerMachine::Remote {
        return refused(format!(
            "web: the hub serves the page to its own machine only: run slm-mesh web --print there, \
             run ssh -L {port}:127.0.0.1:{port} here, and open the link here"
        ));
    }
    if port == 0 {
        return refused("web: this broker serves no HTTP, since its ports were taken; see SLM_MESH_PORT".into());
    }
    let is_any = ["0.0.0.0", "::", "localhost"].contains(&host);
    if !is_any && !host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback()) {
        return refused(format!(
            "web: the page is served on 127.0.0.1 only, but this hub listens on {host} only; \
             set SLM_MESH_HOST to 0.0.0.0 to serve both"
        ));
    }
    context.lifecycle.note_use(context.now);
    Ok(json!({ "ok": true, "port": port, "code": context.info.web.new_code(Instant::now()) }))
}

/// Compares versions of the form `1.2.3`.
fn is_newer(a: &str, b: &str) -> bool {
    let parts = |text: &str| {
        text.split(['.', '-', '+']).take(3).map(|part| part.parse::<u64>().unwrap_or(0)).collect::<Vec<_>>()
    };
    parts(a) > parts(b)
}
