//! The rules of the mesh. A rule is the code of one operation. Its inputs are a request, the time and the store.
//!
//! A [`Mesh`] consists of parts: peers, locks, mail, channels, the journal, state and federation. Each part is the only
//! writer of its data, in memory and in the database. [`run_call_in_savepoint`] runs operations. An
//! operation passes to its rules the parts that they need. [`transaction_and_pending_effects`] contains the open transaction, and the
//! effects (such as replies) that the caller carries out after the commit.
//!
//! **Invariant:** the core uses no clock, socket, thread or random source. The caller passes the time, and a function
//! that returns random numbers.

mod arguments_that_identify_session;
pub mod channels;
mod commit_or_roll_back_turn;
pub mod event_journal;
pub mod federation;
pub mod hook_operations;
pub mod locks;
pub mod mail;
pub mod mcp_tools;
mod mesh_opening_parameters;
pub mod mesh_status;
pub mod notify_holder_of_overwrite;
pub mod op_behavior;
pub mod op_definition;
pub mod operations_on_broker_itself;
pub mod pagination;
pub mod peers;
mod rate_limit;
pub mod run_call_in_savepoint;
pub mod shared_key_value_entries;
mod timed_work;
pub mod transaction_and_pending_effects;
pub mod waiting_calls;

pub use crate::base::id_types::ConnId;
pub use mesh_opening_parameters::{FormerHost, MeshSettings};
pub use op_definition::{Arg, Args, Auth, CliPlace, Op};
pub use run_call_in_savepoint::{Call, CallContext, ClientKind, Outcome};
pub use transaction_and_pending_effects::Effect;

use crate::base::broker_downtimes::Downtimes;
use crate::base::error::Error;
use crate::base::id_types::{PeerId, PublicIds};
use crate::base::process_identity::Process;
use crate::store::Store;
use channels::Channels;
use event_journal::Journal;
use federation::Federation;
use locks::Locks;
use mail::Mail;
use peers::Peers;
use rate_limit::RateLimiter;
use serde_json::{Map, Value};
use shared_key_value_entries::SharedEntries;
use std::rc::Rc;
use transaction_and_pending_effects::Turn;
use waiting_calls::Waiting;

/// All operations, in the order in which the documentation lists them.
pub const OPS: &[&Op] = &[
    &peers::list_peers::PEERS,
    &peers::WHOAMI,
    &peers::SUMMARY,
    &mail::SEND,
    &mail::INBOX,
    &mail::show_all_messages::LOG,
    &peers::undo_mistaken_takeover::DECLINE,
    &channels::JOIN,
    &channels::LEAVE,
    &channels::LIST,
    &shared_key_value_entries::GET,
    &shared_key_value_entries::SET,
    &shared_key_value_entries::LIST,
    &shared_key_value_entries::DELETE,
    &locks::LOCK,
    &locks::UNLOCK,
    &locks::QUERY,
    &event_journal::READ,
    &event_journal::EMIT,
    &event_journal::SUBSCRIBE,
    &event_journal::UNSUBSCRIBE,
    &mesh_status::STATUS,
    &peers::sessions::ATTACH,
    &peers::sessions::BEGIN,
    &peers::detach_connection::DETACH,
    &mail::receipts::MARK_READ,
    &locks::CHECK,
    &locks::others_locks_in_worktree::OTHERS,
    &hook_operations::EDIT,
    &peers::session_of_announced_call::ANNOUNCE,
    &hook_operations::MAIL,
    &hook_operations::END,
    &notify_holder_of_overwrite::CHANGED,
    &mail::wakeups::WAIT,
    &mail::wakeups::REPORT,
    &operations_on_broker_itself::PING,
    &operations_on_broker_itself::LAST_EVENT,
    &operations_on_broker_itself::INFO,
    &operations_on_broker_itself::STOP,
    &operations_on_broker_itself::OPEN_PAGE,
    &operations_on_broker_itself::HUB_STATUS,
    &operations_on_broker_itself::SNAPSHOT,
];

/// The operations that only HTTP routes run. They can't be called over the socket.
pub const HTTP_OPS: &[&Op] = &[
    &peers::http_registration::REGISTER,
    &peers::http_registration::UNREGISTER,
    &peers::http_registration::HEARTBEAT,
    &peers::http_registration::CLEAR_SUMMARY,
    &federation::operations_for_linked_meshes::PEERS,
    &federation::operations_for_linked_meshes::SEND,
    &federation::operations_for_linked_meshes::RECEIPTS,
];

/// Returns the operation with this name.
pub fn op(name: &str) -> Option<&'static Op> {
    OPS.iter().copied().find(|op| op.name == name)
}

/// A mesh: its parts, and the turn (one round of the broker's event loop) that is running.
pub struct Mesh {
    settings: Rc<MeshSettings>,
    ids: PublicIds,
    turn: Turn,
    waiting: Waiting,
    rates: RateLimiter,
    peers: Peers,
    locks: Locks,
    mail: Mail,
    channels: Channels,
    journal: Journal,
    state: SharedEntries,
    federation: Federation,
    /// The function that returns the current status of all hubs of this mesh; `None` if this broker is the only hub.
    hub_status: Option<Box<dyn Fn(i64) -> Value + Send>>,
    damage: mesh_status::Damage,
    /// The time at which the mesh was opened, in ms.
    started: i64,
    /// The time at which [`Mesh::tick`] last ran, in ms.
    ticked_at: i64,
    /// The time at which old rows will be removed next, in ms.
    next_prune: i64,
    /// The periods in which no broker ran. Each period adds at most a day to the age of old rows.
    downtimes: Downtimes,
    /// The time, in ms, at which timed work (such as expiry) resumes after the disk has refused a write.
    retry_after: i64,
}

impl std::fmt::Debug for Mesh {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Mesh({} peers, {} locks)", self.peers.all().len(), self.locks.all().len())
    }
}

impl Mesh {
    /// Opens a mesh on a store. `random` returns unpredictable numbers. If the store records its changes for a log, the
    /// first turn commits the writes of this function.
    ///
    /// # Errors
    /// When the store cannot be read or written.
    pub fn open(
        store: Store,
        settings: MeshSettings,
        random: Box<dyn FnMut() -> u128 + Send>,
        now: i64,
    ) -> Result<Mesh, Error> {
        let settings = Rc::new(settings);
        let mut turn = Turn::new(store);
        turn.store.begin_call();
        let mut peers = Peers::new(settings.clone(), random, now);
        let ids = PublicIds::new(instance_number(&mut turn, &mut peers)?);
        // If another machine already has the new name, nothing is renamed, because the peers and locks of the two
        // machines must not be mixed up.
        if let Some(former) = &settings.former_host
            && !peers::is_machine_known(&turn, &settings.host)?
        {
            peers::rename_machine(&mut turn, former, &settings.host)?;
            locks::rename_machine(&mut turn, former, &settings.host)?;
        }
        let mut locks = Locks::default();
        locks.load(&turn, &settings.host, now)?;
        peers.load(&mut turn, &locks, now)?;
        peers.settle_human(&mut turn, now)?;
        let (mut channels, journal) = (Channels::default(), Journal::new(ids));
        channels.load(&turn)?;
        channels.remove_ended(&mut turn, &peers, &journal, now)?;
        let mut mail = Mail::new(ids, now);
        mail.load_wakeups(&turn.store, now)?;
        turn.store.end_call()?;
        if !turn.store.is_recording() {
            turn.store.commit()?;
        }
        Ok(Mesh {
            ids,
            turn,
            waiting: Waiting::default(),
            rates: RateLimiter::new(settings.rate_max),
            peers,
            locks,
            mail,
            channels,
            journal,
            state: SharedEntries::default(),
            federation: Federation::new(&settings.links, now),
            hub_status: None,
            damage: mesh_status::Damage::default(),
            settings,
            started: now,
            ticked_at: now,
            next_prune: now,
            downtimes: Downtimes::default(),
            retry_after: 0,
        })
    }

    /// Sets the times in which no broker ran.
    pub fn set_downtimes(&mut self, downtimes: Downtimes) {
        self.downtimes = downtimes;
    }

    /// Sets the function that returns the status of all hubs of this mesh. The function's argument is the current time,
    /// in ms. The operation `status` calls the function.
    pub fn set_hub_status(&mut self, describe: Box<dyn Fn(i64) -> Value + Send>) {
        self.hub_status = Some(describe);
    }

    /// Sets the function that describes the last damaged database. The function's argument is a time, in ms. The
    /// function returns `None` if no damaged database has been set aside after that time.
    pub fn set_damage_report(&mut self, describe: Box<dyn Fn(i64) -> Option<String> + Send>) {
        self.damage.describe = Some(describe);
    }

    /// Sets the function that checks whether a process on this machine is alive. After a restart of the broker, the
    /// name of a session stays reserved as long as the session's process is alive, so that the session can reconnect.
    pub fn set_process_probe(&mut self, is_alive: Box<dyn Fn(i64) -> bool + Send>) {
        self.peers.set_process_probe(is_alive);
    }

    /// Records which agents run the MCP servers that were connected to an earlier broker. `agent_above` takes the
    /// process id of an MCP server, and returns the agent process that started this server. `is_known` checks whether
    /// slm-mesh knows an agent type.
    pub fn expect_servers(&mut self, agent_above: impl Fn(i64) -> Option<Process>, is_known: impl Fn(&str) -> bool) {
        self.peers.expect_servers(agent_above, is_known);
    }

    /// Sets whether observers receive every event and every change of a message's state.
    pub fn set_observed(&mut self, observed: bool) {
        self.journal.set_observed(observed);
    }

    /// Whether the mesh is idle: no peer is online, no call is waiting, and no message is waiting to be forwarded.
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && !self.peers.is_anybody_online() && !self.has_mail_to_forward()
    }

    /// Whether a connection is in use: it acts for a peer, has a waiting call, has subscribed to events, or holds locks
    /// for a running command.
    pub fn is_in_use(&self, conn: ConnId) -> bool {
        self.is_attached(conn)
            || self.journal.is_subscribed(conn)
            || self.waiting.has_call_of(conn)
            || self.locks.has_command(conn)
    }

    /// Whether a connection acts for a peer.
    pub fn is_attached(&self, conn: ConnId) -> bool {
        !self.peers.attached_to(conn).is_empty()
    }

    /// Whether a connection comes from another machine.
    pub fn is_remote(&self, conn: ConnId) -> bool {
        self.peers.is_remote(conn)
    }

    /// Stores which agent process runs the client on a connection. The agent is one of the client's ancestor processes,
    /// which the transport has verified.
    pub fn set_ancestors(&mut self, conn: ConnId, ancestors: &[Process]) {
        self.peers.set_agent_process(conn, ancestors);
    }

    /// The time at which the mesh was opened, in ms.
    pub fn started(&self) -> i64 {
        self.started
    }

    /// The settings with which the mesh was opened.
    pub fn settings(&self) -> &MeshSettings {
        &self.settings
    }

    /// The id that distinguishes this mesh from others.
    pub fn mesh_id(&self) -> String {
        self.ids.mesh_id()
    }

    /// Returns the converter between internal sequence numbers and public ids of messages and events.
    pub fn ids(&self) -> PublicIds {
        self.ids
    }

    /// The peers of this mesh.
    pub fn peers(&self) -> &Peers {
        &self.peers
    }

    /// The locks of this mesh.
    pub fn locks(&self) -> &Locks {
        &self.locks
    }

    /// The journal of this mesh.
    pub fn journal(&self) -> &Journal {
        &self.journal
    }

    /// The links to other meshes.
    pub fn federation(&self) -> &Federation {
        &self.federation
    }

    /// The store, for callers that only read.
    pub fn store(&self) -> &Store {
        &self.turn.store
    }

    /// Returns a peer in the form that clients see; `None` if no peer has this id.
    ///
    /// # Errors
    /// When the database can't be read.
    pub fn peer_view(&mut self, id: &PeerId, now: i64) -> Result<Option<Value>, Error> {
        let Mesh { turn, peers, mail, locks, .. } = self;
        peers.get(id).map(|peer| peers.view(peer, &turn.store, mail, locks, now)).transpose()
    }
}

/// Returns the random number in this mesh's public ids. The number is chosen once and then stored.
fn instance_number(turn: &mut Turn, peers: &mut Peers) -> Result<u128, Error> {
    // Version 0.1.0 stored the number under this name. Databases of version 0.1.0 must stay readable.
    const NAME: &str = "salt";
    if let Some(known) = turn.store.meta(NAME)?.and_then(|hex| u128::from_str_radix(&hex, 16).ok()) {
        return Ok(known);
    }
    let number = peers.random();
    turn.store.set_meta(NAME, &format!("{number:x}"))?;
    Ok(number)
}

/// Converts a JSON value to an object, so that a caller can add fields. If the value is not an object, returns an empty
/// object.
pub fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}
