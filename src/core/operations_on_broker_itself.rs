//! The broker's own operations. The core defines them, but the broker runs them, because only the broker has the data
//! that they need, such as its role among several hubs.

use crate::core::op_behavior::{Notices, OpBehavior};
use crate::core::op_definition::{ArgKind, Runner};
use crate::core::{Arg, Auth, CliPlace, Op};

/// What the broker is asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BrokerRequest {
    /// Answer, as proof that the broker is alive.
    Ping,
    /// Return the number of the last event.
    LastEvent,
    /// Describe the broker.
    Info,
    /// End the broker.
    Stop,
    /// Create a code that opens the web page.
    OpenPage,
    /// Describe the hubs of this mesh.
    HubStatus,
    /// Return a piece of a database copy.
    Snapshot,
}

/// Proves that the broker is alive.
pub static PING: Op = broker_op(
    BrokerRequest::Ping,
    "ping",
    "Answer at once, as proof that the broker is alive and that its hub is the leader; if several hubs share \
     the mesh, the answer also names their log",
    &[],
);

/// Returns the number of the last event.
pub static LAST_EVENT: Op = broker_op(
    BrokerRequest::LastEvent,
    "events.cursor",
    "Return the number of the last event, so that the caller can wait for all later events",
    &[],
);

/// Describes the broker.
pub static INFO: Op = Op {
    behavior: OpBehavior { on_standby: true, ..QUIET },
    ..broker_op(
        BrokerRequest::Info,
        "broker.info",
        "Show the broker's version, process id and HTTP port, and its address for other machines; callers on \
         its own machine also see a fingerprint of its settings",
        &[],
    )
};

/// Ends the broker.
pub static STOP: Op = Op {
    repeatable: false,
    behavior: OpBehavior { on_standby: true, ..QUIET },
    ..broker_op(BrokerRequest::Stop, "broker.stop", "End the broker. Only callers on the same machine may do this", &[])
};

/// Creates a code that opens the web page.
pub static OPEN_PAGE: Op = broker_op(
    BrokerRequest::OpenPage,
    "web.open",
    "Create a code that opens the web page once and expires after a minute. Only callers on the same \
     machine may do this",
    &[],
);

/// Describes the hubs of this mesh.
pub static HUB_STATUS: Op = Op {
    behavior: OpBehavior { on_standby: true, ..QUIET },
    ..broker_op(
        BrokerRequest::HubStatus,
        "hub.status",
        "Show which hub leads, how far the other hubs lag behind it, and the state of etcd",
        &[],
    )
};

/// Returns a piece of a database copy to another hub.
pub static SNAPSHOT: Op = broker_op(
    BrokerRequest::Snapshot,
    "hub.snapshot",
    "Give another hub one piece of a database copy; all other callers are refused",
    &[
        hidden("hub", HUB_TEXT, "The address of the hub that requests the copy").required(),
        hidden("ticket", HUB_TEXT, "The ticket that the requesting hub put into etcd").required(),
        hidden("from", ArgKind::Int { min: 0, max: i64::MAX }, "The byte at which the piece begins"),
    ],
);

/// For operations that only programs call. No user sees the results, so they contain no notices.
const QUIET: OpBehavior = OpBehavior { notices: Notices::None, ..OpBehavior::USUAL };

/// Defines an operation that the broker runs, and that programs may repeat.
const fn broker_op(request: BrokerRequest, name: &'static str, summary: &'static str, args: &'static [Arg]) -> Op {
    Op {
        name,
        summary,
        args,
        actor: Auth::Optional,
        verb: None,
        tool: None,
        repeatable: true,
        behavior: QUIET,
        run: Runner::Broker(request),
    }
}

const HUB_TEXT: ArgKind = ArgKind::Text { min: 1, max: 300 };

const fn hidden(name: &'static str, kind: ArgKind, help: &'static str) -> Arg {
    Arg::new(name, kind, help).at(CliPlace::Hidden).not_in_tool()
}
