//! Starts a broker: takes the lock, opens the database and the ports, reports that clients can connect, and runs
//! the event loop.

mod database;
mod open_mesh_for_role;
mod restore_backup_while_no_broker_runs;
mod runtime_files_watch;
mod single_instance;
mod tcp_listeners;

pub use database::{LogChange, complete_database_file, refuse_newer_database};
pub use open_mesh_for_role::MeshOpener;
pub use restore_backup_while_no_broker_runs::CheckedBackup;
pub use runtime_files_watch::{PathState, RuntimeFiles};

use super::admit_guests_and_announce_hub::RemoteListener;
use super::answer_parsed_http_requests::HttpRequests;
use super::blocking_filesystem_threads::DirectoryLookups;
use super::checkpoint_thread::CheckpointThread;
use super::clients::{Clients, LivenessLimits};
use super::decide_when_to_shut_down::{ShutdownDecision, ShutdownReason};
use super::desktop_notifications::Notifications;
use super::event_loop::{DIRECTORY, EventLoop, LoopContext, SIGNALS, new_poll};
use super::leadership::HubConfig;
use super::log;
use super::process_exits::ProcessExits;
use super::push_to_http_registered_peers::PushTargets;
use super::run_operations_on_broker_itself::BrokerInfo;
use super::web::auth::WebAuth;
use super::web::event_stream::PageStreams;
use crate::base::error::{Error, ErrorKind};
use crate::sys;
use crate::sys::data_dir::{self, DataDir};
use crate::sys::local_or_hub_endpoint::{self, Endpoint};
use crate::sys::settings::{NOTIFY, Settings};
use crate::sys::{broker_startup_progress, typescript_broker};
use open_mesh_for_role::mesh_settings;
use serde_json::json;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Instant;
use tcp_listeners::{
    HttpListener, PortCredentials, hub_warning, sessions_port, start_http, start_remote, wake_loop, watch_signals,
};

/// Runs a broker until it ends. As soon as clients can connect, calls `ready` with the HTTP port (0 without HTTP) and a
/// warning for the user, if any.
///
/// # Errors
/// When another broker is running in this directory, or when something that the broker needs is missing.
pub fn run(places: &DataDir, settings: Settings, ready: impl FnOnce(u16, Option<String>)) -> Result<(), Error> {
    let (bind, is_hub) = own_address(&settings)?;
    places.prepare()?;
    let started = sys::wall_ms();
    let lock = single_instance::lock(places)?;
    typescript_broker::refuse(places)?;
    // If this fails, for example because the disk is full, clients do not learn why this broker is slow.
    let _ = broker_startup_progress::note(&lock, &database::work_at_start(places));
    let token = data_dir::keep_token(places)?;
    let credentials = PortCredentials::new(token.clone(), &settings);
    let (poll, waker) = new_poll().map_err(|error| places.error("can't be watched", &error))?;
    let web_auth = Arc::new(WebAuth::new(sys::random_u128));
    let HttpListener { server, inbox, port } = start_http(&bind, is_hub, &settings, &credentials, &web_auth, &waker);
    let remote =
        if is_hub { start_remote(&bind, port, &settings, credentials, &waker)? } else { RemoteListener::default() };
    let hub = HubConfig::find(&settings, is_hub.then_some(&bind), remote.port())?;
    let serves = is_hub.then(|| local_or_hub_endpoint::with_port(&bind, remote.port()));
    let opener = MeshOpener {
        places: places.clone(),
        mesh_settings: mesh_settings(&settings, port, serves)?,
        settings: settings.clone(),
        hub,
        waker: Arc::clone(&waker),
    };
    let (mesh, clock, role) = opener.open_first().map_err(|error| places.name_full_disk(error))?;
    let now = clock.now();
    let (heartbeat_ms, dead_ms) = (settings.int("SLM_MESH_HEARTBEAT_MS"), settings.int("SLM_MESH_DEAD_MS"));
    // A hub keeps running while it is idle, because its guests can't start it. If the hub is one of several, it must
    // also be able to take over at any time.
    let idle_ms = if is_hub { 0 } else { settings.int("SLM_MESH_IDLE_TIMEOUT") };
    let shutdown = watch_signals()
        .and_then(|pipe| ShutdownDecision::new(pipe, idle_ms, poll.registry(), SIGNALS, now))
        .map_err(|error| places.error("can't be used, because the broker can't watch for signals", &error))?;
    let (mut runtime_files, listener) = RuntimeFiles::create(places, lock, token, port, heartbeat_ms)?;
    runtime_files.watch(poll.registry(), DIRECTORY);
    if opener.hub.is_some() {
        runtime_files.leave_database();
    }
    let clients = Clients::new(listener, LivenessLimits { heartbeat_ms, dead_ms }, poll.registry())
        .map_err(|error| places.error("contains a socket that can't be watched", &error))?;
    let warning = database::set_aside_warning(places, started);
    let warning = warning.or_else(|| if is_hub { hub_warning(&settings, remote.port()) } else { None });
    let mut event_loop = EventLoop {
        clock,
        turn_began: Instant::now(),
        runtime_files,
        clients,
        http: HttpRequests::new(server, inbox, DirectoryLookups::new(wake_loop(&waker).into())),
        pushes: PushTargets::new(DirectoryLookups::new(wake_loop(&waker).into())),
        remote,
        processes: ProcessExits::default(),
        links: opener.links(&mesh),
        checkpoints: CheckpointThread::start(&mesh),
        notifications: Notifications::new(settings.text(NOTIFY), places, wake_loop(&waker).into()),
        context: LoopContext::new(
            poll,
            mesh,
            role,
            shutdown,
            PageStreams::new(waker),
            BrokerInfo::new(settings, web_auth),
            now,
        ),
        opener,
    };
    event_loop.settle_role();
    ready(port.unwrap_or(0), warning);
    let ended = event_loop.serve();
    end_result(ended, places)
}

/// Turns the reason why the event loop ended into the result of the process.
fn end_result(ended: io::Result<ShutdownReason>, places: &DataDir) -> Result<(), Error> {
    let reason = ended
        .map_err(|error| Error::new(ErrorKind::Internal, format!("the broker could not wait for events: {error}")))?;
    log(&format!("the broker ended, because {}", reason.as_cause()));
    if reason == ShutdownReason::Failed {
        let text = format!("the broker ended because of an error on this machine; see {}", places.log().display());
        return Err(Error::new(ErrorKind::Storage, text));
    }
    Ok(())
}

/// Moves the database of this hub to another log. No broker may be running in this directory.
///
/// # Errors
/// When a broker is running, or the database can't be written.
pub fn change_log(places: &DataDir, settings: &Settings, change: LogChange) -> Result<(), Error> {
    places.prepare()?;
    let _lock = single_instance::lock(places)?;
    database::change_log(places, settings, change)
}

/// Checks whether the database of this hub can be moved to another log. The check works even while the broker is
/// running.
///
/// # Errors
/// When a setting is wrong. For `BeginNew`, when etcd already has a log. For `Rejoin`, when no other hub leads.
pub fn check_log_change(settings: &Settings, change: LogChange) -> Result<(), Error> {
    let (bind, is_hub) = own_address(settings)?;
    // If this port was not free when this hub's own broker started, that broker uses another port. As long as etcd
    // lists that broker as the leader, this check mistakes that broker for another hub.
    let port = sessions_port(settings, settings.int("SLM_MESH_PORT") as u16);
    match HubConfig::find(settings, is_hub.then_some(&bind), port)? {
        Some(config) => match change {
            LogChange::BeginNew => config.check_log_is_gone(),
            LogChange::Rejoin => config.check_hub_leads(),
        },
        None => Ok(()),
    }
}

/// Returns the address on which this broker listens, and whether it serves other machines.
///
/// # Errors
/// When the settings say that the broker runs on another machine.
pub fn own_address(settings: &Settings) -> Result<(String, bool), Error> {
    match Endpoint::find(settings)? {
        Endpoint::Local { bind, hub } => Ok((bind, hub)),
        _ => {
            let host = settings.text("SLM_MESH_HOST");
            let text = format!(
                "SLM_MESH_HOST={host} names another machine, so the broker runs there, and this machine needs no \
                 broker; to run a broker here, remove SLM_MESH_HOST"
            );
            Err(Error::new(ErrorKind::Usage, text))
        }
    }
}

/// What the broker does with standard output after it has reported that clients can connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AfterReady {
    /// The broker runs in the foreground and keeps standard output open.
    KeepOutput,
    /// The broker runs in the background and closes standard output. The process that started the broker waits for
    /// this.
    CloseOutput,
}

/// Reports on standard output that clients can connect. The process that started this broker reads this line.
pub fn say_ready(port: u16, note: Option<String>, after: AfterReady) {
    let line = json!({ "ok": true, "data": { "pid": std::process::id(), "port": port }, "note": note });
    let mut out = io::stdout().lock();
    // Writing fails if the process that started this broker is gone. The failure is harmless.
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
    if after == AfterReady::CloseOutput
        && let Ok(null) = File::options().write(true).open("/dev/null")
    {
        // If this fails, standard output stays open, and the process that started this broker just waits longer.
        let _ = rustix::stdio::dup2_stdout(null.as_fd());
    }
}
