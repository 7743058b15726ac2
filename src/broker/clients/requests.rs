//! Handles the lines that a client sends: parses each line, passes the call to the mesh or to the broker, and sends the
//! response.

use super::client_machine_and_ancestors::{Origin, RemoteOrigin};
use super::connection::ClientConnection;
use super::fair_queue::CLIENT_SHARE;
use super::retired_methods::retired;
use crate::base::error::{Error, ErrorKind};
use crate::base::id_types::ConnId;
use crate::broker::event_loop::LoopContext;
use crate::broker::run_operations_on_broker_itself::{run_broker_operation, yield_to_newer};
use crate::core::op_behavior::ConnectionChange;
use crate::core::op_definition::Runner;
use crate::core::{self, Auth, Call};
use crate::wire::line_splitter::LINE_MAX;
use crate::wire::rpc::{self, InvalidMessage, RpcMessage};
use serde_json::{Map, Value};
use std::time::Instant;

/// Maximum number of requests of one client that are served in one turn, so that other clients get their share.
const REQUESTS_MAX: usize = 16;
/// Maximum length of the parameters `as` and `shellAgent`, in bytes, and of `shellSession`, in characters.
const AS_MAX: usize = 256;
/// The parameters that identify the caller. Every operation accepts them.
const CALLER_PARAMS: [&str; 4] = ["as", "shellSession", "shellAgent", "whoami"];
/// The error for an unknown method shows at most this many characters of the method's name.
const METHOD_SHOWN: usize = 60;

/// Reads what a client has sent, and serves as much of it as one turn allows. If `may_begin` is false, a request that
/// may begin a session waits for the next turn. Such a request may continue an ended session, so the mesh must first
/// learn which sessions have ended. If the client has attached as a session and has hung up, its requests do not wait.
pub fn serve(
    context: &mut LoopContext,
    token: u64,
    connection: &mut ClientConnection,
    may_begin: bool,
    buffer: &mut [u8],
) {
    if connection.is_backpressured() || connection.is_closed() && !connection.has_more {
        return;
    }
    while !connection.has_more && connection.fill(buffer) {
        if connection.note_heard(context.now) {
            context.mesh.set_unresponsive(ConnId::Client(token), false, context.now);
        }
        // If the client has hung up, all of its input is read now, so that the connection can be detached in this turn.
        // If it were detached later, a client that reconnects in this turn would find its peer still in use.
        if !connection.is_half_closed() {
            break;
        }
    }
    connection.has_more = false;
    let may_begin = may_begin || connection.is_half_closed() && context.mesh.is_attached(ConnId::Client(token));
    let began = Instant::now();
    for n_served in 0.. {
        if connection.is_closed() && connection.input.is_empty() {
            return;
        }
        if n_served == REQUESTS_MAX || began.elapsed() >= CLIENT_SHARE || context.is_turn_full() {
            connection.has_more = true;
            return;
        }
        let message = match connection.input.next_line() {
            Ok(None) => return,
            Ok(Some([])) => continue,
            Ok(Some(line)) => rpc::parse_line(line),
            Err(_) => {
                let text = format!("the line is longer than {LINE_MAX} bytes; this connection ends");
                connection.write(&rpc::protocol_error_response(None, rpc::INVALID_REQUEST, &text));
                return connection.close();
            }
        };
        if !may_begin && message.as_ref().is_ok_and(may_begin_session) {
            connection.input.put_back_line();
            connection.has_more = true;
            return;
        }
        serve_message(context, token, connection, message);
    }
}

/// Whether a message may begin a session. Examples are an attach and a call from an agent's hook.
fn may_begin_session(message: &RpcMessage) -> bool {
    let (RpcMessage::Request { method, .. } | RpcMessage::Notification { method, .. }) = message else { return false };
    core::op(method).is_some_and(|op| op.behavior.connection == ConnectionChange::Attach || op.actor == Auth::Hook)
}

fn serve_message(
    context: &mut LoopContext,
    token: u64,
    connection: &mut ClientConnection,
    message: Result<RpcMessage, InvalidMessage>,
) {
    match message {
        Ok(RpcMessage::Request { id, method, params }) => {
            serve_request(context, token, connection, id, &method, params);
        }
        Ok(RpcMessage::Notification { method, params }) => serve_notice(context, token, connection, &method, params),
        // The broker sends no requests to a client except pings, and any line counts as the answer to a ping.
        Ok(RpcMessage::Response { .. }) => {}
        Err(bad) => connection.write(&rpc::protocol_error_response(bad.id.as_ref(), bad.code, &bad.text)),
    }
}

fn serve_notice(
    context: &mut LoopContext,
    token: u64,
    connection: &mut ClientConnection,
    method: &str,
    params: Map<String, Value>,
) {
    match method {
        // The mesh learns this origin later, when this hub begins to lead.
        "origin" if context.role.is_standby() => connection.origin = Origin::Remote(RemoteOrigin::parse(&params)),
        _ if context.role.is_standby() || connection.refusal.is_some() => {}
        "cancel" => context.mesh.cancel(ConnId::Client(token), params.get("id").unwrap_or(&Value::Null), context.now),
        "origin" => {
            let remote = RemoteOrigin::parse(&params);
            match context.mesh.set_origin(
                ConnId::Client(token),
                &remote.host,
                &remote.user,
                remote.boot_id.as_deref(),
                context.now,
            ) {
                Ok(()) => connection.origin = Origin::Remote(remote),
                // Without its origin, the client would look like a caller on this machine, so it is not served.
                Err(error) => connection.refusal = Some(error),
            }
        }
        // A message without an id runs an operation, but asks for no reply.
        _ => {
            if let Some(op) = core::op(method) {
                // A client calls the broker's own operations for their answers, so without an answer they are useless.
                if matches!(op.run, Runner::Rule(_)) {
                    call_operation(context, token, connection, Value::Null, op, params);
                }
            } else if let Some(error) = retired(method) {
                connection.write(&rpc::error_response(&Value::Null, &error));
                // A session of slm-mesh 0.1.0 on another machine reports its origin with this method. Such a session is
                // not served.
                if method == "far" {
                    connection.refusal = Some(error);
                }
            }
        }
    }
}

fn serve_request(
    context: &mut LoopContext,
    token: u64,
    connection: &mut ClientConnection,
    id: Value,
    method: &str,
    mut params: Map<String, Value>,
) {
    if let Some(error) = connection.refusal.clone().or_else(|| retired(method)) {
        return connection.write(&rpc::error_response(&id, &error));
    }
    let machine = connection.origin.machine();
    if let Some(version) = params.remove("v").as_ref().and_then(Value::as_str) {
        yield_to_newer(context, version, machine);
    }
    let op = core::op(method);
    let refusal = context.role.refusal().filter(|_| !op.is_some_and(|op| op.behavior.on_standby));
    let answer = match op.map(|op| (op, op.run)) {
        _ if refusal.is_some() => refusal.map_or(Ok(Value::Null), Err),
        Some((op, Runner::Rule(_))) => return call_operation(context, token, connection, id, op, params),
        Some((op, Runner::Broker(request))) => {
            params.retain(|name, _| !CALLER_PARAMS.contains(&name.as_str()));
            op.check(params).and_then(|args| run_broker_operation(context, request, machine, &args))
        }
        None => {
            let method: String = method.chars().take(METHOD_SHOWN).collect();
            let text = format!("no method {method}; for a list of all methods, run slm-mesh help protocol");
            Err(Error::new(ErrorKind::UnknownMethod, text))
        }
    };
    match answer {
        Ok(value) => connection.write(&rpc::response(&id, &value)),
        Err(error) => connection.write(&rpc::error_response(&id, &error)),
    }
}

fn call_operation(
    context: &mut LoopContext,
    token: u64,
    connection: &mut ClientConnection,
    id: Value,
    op: &'static core::Op,
    mut params: Map<String, Value>,
) {
    let LoopContext { mesh, shutdown, pages, now, .. } = context;
    shutdown.note_use(*now);
    pages.mark_dirty();
    let acting = match params.remove("as") {
        None | Some(Value::Null) => None,
        Some(Value::String(name)) if name.len() <= AS_MAX => Some(name),
        Some(_) => {
            return connection
                .write(&rpc::error_response(&id, &Error::usage("as", "expected the name or id of a peer")));
        }
    };
    let shell_session = match params.remove("shellSession") {
        Some(Value::String(id)) if !id.is_empty() => Some(id.chars().take(AS_MAX).collect()),
        _ => None,
    };
    let shell_agent = match params.remove("shellAgent") {
        Some(Value::String(name)) if !name.is_empty() && name.len() <= AS_MAX => Some(name),
        _ => None,
    };
    // Some callers must be identified, but have not attached and name no peer. Their ancestor processes identify them.
    // A caller on this machine can't fake its ancestors.
    let is_known = acting.is_some() || mesh.is_attached(ConnId::Client(token));
    let must_be_known = params.remove("whoami").is_some() || op.actor == Auth::Required;
    let is_attach = op.behavior.connection == ConnectionChange::Attach;
    if is_attach {
        // A session that attaches is a peer of its own, even inside another session. So its ancestors are stored, but
        // do not identify it. For a script, only the script's own process is stored. So the commands of the script act
        // as the script, but other commands in the same shell do not.
        match connection.origin.process().filter(|_| params.get("script") == Some(&Value::Bool(true))) {
            Some(process) => mesh.set_ancestors(ConnId::Client(token), &[process]),
            None => mesh.set_ancestors(ConnId::Client(token), connection.origin.ancestors()),
        }
    }
    let is_hook = op.actor == Auth::Hook;
    let may_be_inside = !is_known && must_be_known && !is_attach;
    let ancestors = if is_hook || may_be_inside { connection.origin.ancestors().to_vec() } else { Vec::new() };
    match op.check(params) {
        Ok(args) => mesh.call(
            Call { conn: ConnId::Client(token), id, op, args, acting, shell_session, shell_agent, ancestors },
            *now,
        ),
        Err(error) => connection.write(&rpc::error_response(&id, &error)),
    }
}
