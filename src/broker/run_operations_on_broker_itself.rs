//! Runs the broker's own operations, such as `broker.stop`. The core defines these operations, as it defines all
//! others.

use super::decide_when_to_shut_down::ShutdownReason;
use super::event_loop::LoopContext;
use super::leadership::BrokerRole;
use super::log;
use super::web::auth::WebAuth;
use crate::base::error::{Error, ErrorKind};
use crate::core::Args;
use crate::core::operations_on_broker_itself::BrokerRequest;
use crate::sys::settings::Settings;
use serde_json::{Value, json};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

/// Where the caller of a broker method runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallerMachine {
    /// The caller runs on the broker's own machine.
    Local,
    /// The caller runs on another machine.
    Remote,
}

/// What the broker's own operations need: the settings, and the part that controls access to the web page.
pub struct BrokerInfo {
    settings: Settings,
    web: Arc<WebAuth>,
}

impl BrokerInfo {
    /// Stores the current settings. `web` creates the codes that open the web page.
    pub fn new(settings: Settings, web: Arc<WebAuth>) -> BrokerInfo {
        BrokerInfo { settings, web }
    }
}

/// Runs one of the broker's own operations.
///
/// # Errors
/// If the operation refuses the request.
pub fn run_broker_operation(
    context: &mut LoopContext,
    request: BrokerRequest,
    caller: CallerMachine,
    args: &Args,
) -> Result<Value, Error> {
    match request {
        BrokerRequest::Ping => Ok(context.role.mesh_identity()),
        BrokerRequest::LastEvent => Ok(json!({ "ok": true, "seq": context.mesh.last_event().0 })),
        BrokerRequest::Info => Ok(info(context, caller)),
        BrokerRequest::Stop => stop(context, caller),
        BrokerRequest::OpenPage => open_page(context, caller),
        BrokerRequest::HubStatus => Ok(context.role.status(context.now)),
        BrokerRequest::Snapshot => give_snapshot(context, args),
    }
}

/// Ends the broker if a client on this machine has a newer version. This client then starts a new broker.
pub fn yield_to_newer(context: &mut LoopContext, version: &str, caller: CallerMachine) {
    if caller == CallerMachine::Local && is_newer(version, env!("CARGO_PKG_VERSION")) {
        log(&format!("this broker ends, because a client with the newer version {version} connected"));
        context.shutdown.request(ShutdownReason::Replaced);
    }
}

fn info(context: &LoopContext, caller: CallerMachine) -> Value {
    let settings = context.mesh.settings();
    // Guests get no fingerprint of the settings. It contains hashes of secrets, so a guest could use it to guess the
    // password for etcd.
    let fingerprint = (caller == CallerMachine::Local).then(|| context.info.settings.fingerprint());
    json!({
        "ok": true, "version": settings.version, "pid": settings.pid, "port": settings.port,
        "serves": settings.serves, "settings": fingerprint,
    })
}

fn stop(context: &mut LoopContext, caller: CallerMachine) -> Result<Value, Error> {
    if caller == CallerMachine::Remote {
        return Err(Error::new(ErrorKind::Refused, "stop: a broker can be stopped only on its own machine"));
    }
    context.shutdown.request(ShutdownReason::Stopped);
    Ok(json!({ "ok": true, "pid": std::process::id() }))
}

fn open_page(context: &mut LoopContext, caller: CallerMachine) -> Result<Value, Error> {
    let port = context.mesh.settings().port;
    let host = context.info.settings.text("SLM_MESH_HOST");
    let refused = |text: String| Err(Error::new(ErrorKind::Refused, text));
    if caller == CallerMachine::Remote {
        return refused(format!(
            "web: a hub serves the page only to its own machine; on the hub, run slm-mesh web --print; on this \
             machine, run ssh -L {port}:127.0.0.1:{port} HUB, and open the printed link"
        ));
    }
    if port == 0 {
        return refused(
            "web: this broker serves no HTTP, because other programs use its ports; set SLM_MESH_PORT to a free port"
                .into(),
        );
    }
    let is_any = ["0.0.0.0", "::", "localhost"].contains(&host);
    if !is_any && !host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback()) {
        return refused(format!(
            "web: the page is served only on 127.0.0.1, but this hub listens only on {host}; set SLM_MESH_HOST to \
             0.0.0.0, which includes 127.0.0.1"
        ));
    }
    context.shutdown.note_use(context.now);
    Ok(json!({ "ok": true, "port": port, "code": context.info.web.new_code(Instant::now()) }))
}

fn give_snapshot(context: &mut LoopContext, args: &Args) -> Result<Value, Error> {
    match &mut context.role {
        BrokerRole::Leads(leading) => leading.give_snapshot(&context.mesh, args),
        BrokerRole::Alone | BrokerRole::StandsBy(_) => Err(Error::new(
            ErrorKind::Refused,
            "this broker does not share its mesh with other hubs, so it sends no copies of its database",
        )),
    }
}

/// Whether version `a` is newer than `b`. Versions have the form `1.2.3`.
fn is_newer(a: &str, b: &str) -> bool {
    let parts = |text: &str| {
        text.split(['.', '-', '+']).take(3).map(|part| part.parse::<u64>().unwrap_or(0)).collect::<Vec<_>>()
    };
    parts(a) > parts(b)
}
