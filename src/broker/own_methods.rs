//! Methods that are not operations of the mesh, so the broker itself handles them. One table lists these methods. It is
//! used to find a method and to print `slm-mesh help protocol`.

use super::event_loop::LoopContext;
use super::leadership::BrokerRole;
use super::log;
use super::shutdown_reasons::ShutdownReason;
use super::web::auth::WebAuth;
use crate::base::error::{Error, ErrorKind};
use crate::core::op_definition::{Arg, ArgKind};
use crate::sys::settings::Settings;
use serde_json::{Map, Value, json};
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

/// A method of the broker.
pub struct BrokerMethod {
    /// The name of the method on the socket.
    pub name: &'static str,
    /// What the method does, in one line.
    pub summary: &'static str,
    /// The method's arguments.
    pub args: &'static [Arg],
    /// Whether a hub on standby answers this method.
    works_on_standby: bool,
    /// The function that runs the method.
    run: RunMethod,
}

type RunMethod = fn(&mut LoopContext, CallerMachine, &Map<String, Value>) -> Result<Value, Error>;

/// All methods of the broker, in the order in which the documentation lists them.
pub const BROKER_OPS: &[BrokerMethod] = &[
    BrokerMethod {
        name: "ping",
        summary: "Answer at once, as proof that the broker is alive and that its hub is the leader; if several hubs \
                  share the mesh, the answer also names their log",
        args: &[],
        works_on_standby: false,
        run: ping,
    },
    BrokerMethod {
        name: "events.cursor",
        summary: "Return the number of the last event, so that the caller can wait for all later events",
        args: &[],
        works_on_standby: false,
        run: events_cursor,
    },
    BrokerMethod {
        name: "broker.info",
        summary: "Show the broker's version, process id and HTTP port, and its address for other machines; callers on \
                  its own machine also see a fingerprint of its settings",
        args: &[],
        works_on_standby: true,
        run: info,
    },
    BrokerMethod {
        name: "broker.stop",
        summary: "End the broker. Only callers on the same machine may do this",
        args: &[],
        works_on_standby: true,
        run: stop,
    },
    BrokerMethod {
        name: "web.open",
        summary: "Create a code that opens the web page once and expires after a minute. Only callers on the same \
                  machine may do this",
        args: &[],
        works_on_standby: false,
        run: open_page,
    },
    BrokerMethod {
        name: "hub.status",
        summary: "Show which hub leads, how far behind the other hubs are, and the state of etcd",
        args: &[],
        works_on_standby: true,
        run: hub_status,
    },
    BrokerMethod {
        name: "hub.snapshot",
        summary: "Give another hub one piece of a database copy; all other callers are refused",
        args: SNAPSHOT_ARGS,
        works_on_standby: false,
        run: hub_snapshot,
    },
];

const SNAPSHOT_ARGS: &[Arg] = &[
    Arg::new("hub", ArgKind::Text { min: 1, max: 300 }, "The address of the hub that requests the copy").required(),
    Arg::new("ticket", ArgKind::Text { min: 1, max: 300 }, "The ticket that the requesting hub put into etcd")
        .required(),
    Arg::new("from", ArgKind::Int { min: 0, max: i64::MAX }, "The byte at which the piece begins"),
];

/// What the broker's own methods need: the settings, and the access to the web page.
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

/// Runs the broker method with this name. Returns `None` if there is no such method.
pub fn run_method(
    context: &mut LoopContext,
    method: &str,
    caller: CallerMachine,
    args: &Map<String, Value>,
) -> Option<Result<Value, Error>> {
    let found = BROKER_OPS.iter().find(|known| known.name == method)?;
    Some((found.run)(context, caller, args))
}

/// Whether a hub on standby answers this method.
pub fn works_on_standby(method: &str) -> bool {
    BROKER_OPS.iter().any(|known| known.name == method && known.works_on_standby)
}

/// Ends the broker if a client on this machine has a newer version. This client then starts a new broker.
pub fn yield_to_newer(context: &mut LoopContext, version: &str, caller: CallerMachine) {
    if caller == CallerMachine::Local && is_newer(version, env!("CARGO_PKG_VERSION")) {
        log(&format!("this broker ends, because a client with the newer version {version} connected"));
        context.shutdown.request(ShutdownReason::Replaced);
    }
}

fn ping(context: &mut LoopContext, _: CallerMachine, _: &Map<String, Value>) -> Result<Value, Error> {
    Ok(context.role.mesh_identity())
}

fn events_cursor(context: &mut LoopContext, _: CallerMachine, _: &Map<String, Value>) -> Result<Value, Error> {
    Ok(json!({ "ok": true, "seq": context.mesh.last_event() }))
}

fn info(context: &mut LoopContext, caller: CallerMachine, _: &Map<String, Value>) -> Result<Value, Error> {
    let settings = context.mesh.settings();
    // Guests get no fingerprint of the settings. It contains hashes of secrets, so a guest could use it to guess the
    // password for etcd.
    let fingerprint = (caller == CallerMachine::Local).then(|| context.info.settings.fingerprint());
    Ok(json!({
        "ok": true, "version": settings.version, "pid": settings.pid, "port": settings.port,
        "serves": settings.serves, "settings": fingerprint,
    }))
}

fn stop(context: &mut LoopContext, caller: CallerMachine, _: &Map<String, Value>) -> Result<Value, Error> {
    if caller == CallerMachine::Remote {
        return Err(Error::new(ErrorKind::Refused, "stop: a broker can be stopped only on its own machine"));
    }
    context.shutdown.request(ShutdownReason::Stopped);
    Ok(json!({ "ok": true, "pid": std::process::id() }))
}

fn open_page(context: &mut LoopContext, caller: CallerMachine, _: &Map<String, Value>) -> Result<Value, Error> {
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

fn hub_snapshot(context: &mut LoopContext, _: CallerMachine, args: &Map<String, Value>) -> Result<Value, Error> {
    match &mut context.role {
        BrokerRole::Leads(leading) => leading.give_snapshot(&context.mesh, args),
        BrokerRole::Alone | BrokerRole::StandsBy(_) => Err(Error::new(
            ErrorKind::Refused,
            "this broker does not share its mesh with other hubs, so it sends no copies of its database",
        )),
    }
}

fn hub_status(context: &mut LoopContext, _: CallerMachine, _: &Map<String, Value>) -> Result<Value, Error> {
    Ok(context.role.status(context.now))
}

/// Whether version `a` is newer than `b`. Versions have the form `1.2.3`.
fn is_newer(a: &str, b: &str) -> bool {
    let parts = |text: &str| {
        text.split(['.', '-', '+']).take(3).map(|part| part.parse::<u64>().unwrap_or(0)).collect::<Vec<_>>()
    };
    parts(a) > parts(b)
}
