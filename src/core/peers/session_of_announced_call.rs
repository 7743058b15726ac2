//! Tool calls that hooks announced. Some clients run several sessions in one process with a single MCP server. The tool
//! calls to this server do not contain the id of the session that makes them. But just before each call, the client
//! runs a hook that knows the session. The hook announces the operation and its arguments to the mesh. The next call
//! from the same process with this operation and these arguments belongs to the announced session.

use super::Peers;
use super::caller_resolver::nearest;
use crate::base::error::Error;
use crate::base::id_types::PeerId;
use crate::base::limits;
use crate::base::process_identity::Process;
use crate::core::arguments_that_identify_session::{NAMING, session_args};
use crate::core::hook_operations::session_of_hook;
use crate::core::op_behavior::OpBehavior;
use crate::core::op_definition::{ArgKind, ArgRole, Runner};
use crate::core::{Arg, Args, Auth, Call, CallContext, CliPlace, ConnId, Mesh, Op, Outcome, op};
use serde_json::{Map, Value, json};

/// How long an announced call may take to arrive, in ms. The announcement does not apply to later calls, because the
/// user may have refused the announced call.
const ANNOUNCED_MS: i64 = 60_000;
/// Maximum number of announced calls that are remembered.
const ANNOUNCED_MAX: usize = 64;
/// Maximum size of the arguments of one call, in bytes. This is twice the maximum size of a message, because a message
/// becomes longer when it is written as a JSON string.
const ARGUMENTS_MAX: usize = 2 * limits::PAYLOAD_MAX;

/// Announces a tool call.
pub static ANNOUNCE: Op = Op {
    name: "hook.announce",
    summary: "Announce a session's next call, for a client whose calls do not say which session makes them",
    args: session_args![
        NAMING;
        Arg::new("operation", ArgKind::Text { min: 1, max: limits::WORD_MAX }, "The operation that the session will \
                                                                                call")
            .required()
            .at(CliPlace::Hidden),
        Arg::new("arguments", ArgKind::Object { max: ARGUMENTS_MAX }, "The arguments of the call")
            .at(CliPlace::Hidden),
    ],
    actor: Auth::Hook,
    verb: None,
    tool: None,
    repeatable: true,
    behavior: OpBehavior::USUAL,
    run: Runner::Rule(announce),
};

/// A call that a hook announced.
#[derive(Debug)]
pub(super) struct AnnouncedCall {
    session: PeerId,
    process: Process,
    op: &'static Op,
    arguments: Map<String, Value>,
    until: i64,
}

impl AnnouncedCall {
    /// Whether a call matches this announcement. Arguments that were not announced are ignored, because the client may
    /// have added them. Paths are never announced, because the client may make them absolute in the call.
    fn is(&self, call: &Call) -> bool {
        std::ptr::eq(self.op, call.op) && self.arguments.iter().all(|(name, value)| call.args.get(name) == Some(value))
    }
}

fn announce(mesh: &mut Mesh, ctx: &CallContext, args: &Args) -> Result<Outcome, Error> {
    let session = session_of_hook(&mut mesh.session_parts(), ctx, args)?;
    let name = args.word("operation");
    let called = op(name).filter(|op| op.tool.is_some());
    let called =
        called.ok_or_else(|| Error::usage("operation", format!("the operation {name} belongs to no MCP tool")))?;
    let given = args.object("arguments").and_then(Value::as_object).cloned().unwrap_or_default();
    let mut arguments = called.check(given)?.into_map();
    arguments.retain(|name, _| {
        called.args.iter().any(|arg| arg.name == name && !matches!(arg.role, ArgRole::Path | ArgRole::IdempotencyKey))
    });
    let peers = &mut mesh.peers;
    // If the process has only one session, the announcement is not needed.
    if let Some(process) = nearest(&ctx.ancestors).filter(|process| peers.sessions_of_process(process).len() > 1) {
        peers.announced.retain(|call| call.until > ctx.now);
        if peers.announced.len() == ANNOUNCED_MAX {
            peers.announced.remove(0);
        }
        let until = ctx.now + ANNOUNCED_MS;
        peers.announced.push(AnnouncedCall { session, process: *process, op: called, arguments, until });
    }
    Ok(Outcome::Ready(json!({ "ok": true })))
}

impl Peers {
    /// Returns the session whose hook announced this call, if there was an announcement.
    ///
    /// # Errors
    /// When hooks of several sessions announced the same call. The error lists these sessions.
    pub(in crate::core) fn announcer(&mut self, call: &Call, now: i64) -> Result<Option<PeerId>, Error> {
        if self.announced.is_empty() || call.op.tool.is_none() {
            return Ok(None);
        }
        let Some(process) = self.attachments.get(call.conn).and_then(|one| one.agent) else { return Ok(None) };
        let has_left = |id: &PeerId| self.get(id).is_none_or(|peer| peer.has_left);
        let fits = |one: &AnnouncedCall| one.process.is_same(&process) && one.until > now && one.is(call);
        let places: Vec<usize> = (0..self.announced.len())
            .filter(|place| fits(&self.announced[*place]) && !has_left(&self.announced[*place].session))
            .collect();
        let Some(first) = places.first() else { return Ok(None) };
        let session = self.announced[*first].session.clone();
        if places.iter().all(|place| self.announced[*place].session == session) {
            self.announced.remove(*first);
            self.note_announcer(call.conn, &session);
            return Ok(Some(session));
        }
        let mut sessions: Vec<PeerId> = places.iter().map(|place| self.announced[*place].session.clone()).collect();
        sessions.sort();
        sessions.dedup();
        // If a session repeats the call, its hook announces the call again. So these announcements are no longer
        // needed.
        places.iter().rev().for_each(|place| drop(self.announced.remove(*place)));
        Err(self.several_callers(&sessions))
    }

    /// Records that a session began. If its process already has another session, later calls from the process may
    /// belong to any session of the process.
    pub(in crate::core) fn note_new_session(&mut self, process: Option<&Process>) {
        self.has_shared_process |= process.is_some_and(|process| !self.sessions_of_process(process).is_empty());
    }

    /// Records that this session has made an announced call over this connection. Over the same connection, the client
    /// later reports what the session has read.
    fn note_announcer(&mut self, conn: ConnId, session: &PeerId) {
        let Some(one) = self.attachments.get_mut(conn) else { return };
        if !one.peers().contains(session) && !one.announcers.contains(session) {
            one.announcers.push(session.clone());
            if one.announcers.len() > limits::PEERS_PER_CONNECTION_MAX {
                one.announcers.remove(0);
            }
        }
    }

    /// Whether this session has made an announced call over this connection.
    pub(super) fn has_announced_over(&self, conn: ConnId, session: &PeerId) -> bool {
        self.attachments.get(conn).is_some_and(|one| one.announcers.contains(session))
    }

    /// Returns the id and the name of the peer that made a call, for the reply; `None` if the client knows this peer
    /// anyway. If no hook announced the call, the result contains a warning that another session of the client may have
    /// made the call.
    pub(in crate::core) fn caller_note(&self, ctx: &CallContext, actor: &PeerId) -> Option<Value> {
        if !self.has_shared_process {
            return None;
        }
        let one = self.attachments.get(ctx.conn).filter(|one| !one.peers().is_empty() && !one.is_keyed)?;
        let view = json!({ "id": actor.as_str(), "name": self.name_of(actor) });
        if ctx.is_announced || !one.peers().contains(actor) {
            return Some(view);
        }
        let others = self.other_possible_callers(ctx, actor);
        (!others.is_empty()).then(|| {
            let mut view = view;
            view["note"] = json!(format!(
                "your client has several sessions and does not say which of them is making a call; perhaps one of \
                 these sessions made this call instead: {}",
                self.names_of(&others)
            ));
            view
        })
    }

    /// Returns the other sessions that may have made a call that came from this peer's connection. There are such
    /// sessions only if the client runs several sessions in one process, and if neither a key nor an announcement says
    /// which of them makes the call.
    pub(in crate::core) fn other_possible_callers(&self, ctx: &CallContext, actor: &PeerId) -> Vec<&PeerId> {
        let own = self.attachments.get(ctx.conn).filter(|one| !ctx.is_announced && !one.is_keyed);
        let own = own.filter(|one| one.peers() == std::slice::from_ref(actor));
        let Some(process) = own.and_then(|one| one.agent) else { return Vec::new() };
        let others = self.sessions_of_process(&process).into_iter().filter(|peer| peer.row.id != *actor);
        others.filter(|peer| !peer.has_left).map(|peer| &peer.row.id).collect()
    }
}
