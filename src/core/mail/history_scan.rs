//! Reads the history of messages in bounded steps, for `log` and for a search of the inbox.
//!
//! One step blocks the broker's event loop for at most a millisecond. If more steps are needed, the client calls again.
//! Other clients are served between the steps.
//!
//! The subcommands do not read the database themselves, for three reasons. A guest (a machine that uses another
//! machine's broker) has no database. A second reader would delay the checkpoints of the write-ahead log. Finally, the
//! rules about who may see which messages would have to be written twice.

use super::Mail;
use super::resolve_recipients::Correspondent;
use super::search_terms::TextFilter;
use crate::base::domain_enums::MessageState;
use crate::base::error::Error;
use crate::base::id_types::{MessageSeq, PeerId};
use crate::base::json_text::visible_json_length;
use crate::core::peers::{Peer, Peers};
use crate::store::{Message, MessageScan, ScanEnd, ScanSource, ScannedMessage, Store};
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::ops::ControlFlow;

/// Maximum number of rows that one step reads. This many rows take about half a millisecond.
pub(super) const STEP_ROWS: i64 = 1_000;
/// Maximum number of bytes of text that one step reads.
pub(super) const STEP_BYTES: usize = 512 * 1024;
/// Maximum number of messages that one step returns. Returning one message takes as long as reading ten messages.
const FOUND_MAX: usize = 100;
/// A link leads from a reply to the message that the reply answers. In one step, the search follows at most this many
/// links.
const CLIMB_MAX: usize = 1_000;

/// Which messages a caller may see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum VisibleMail {
    /// All messages. The caller is the user who owns the mesh.
    All,
    /// The messages of the peers on one machine. The caller is the person at that machine.
    OfMachine(String),
    /// The messages that this peer has sent or received.
    OfPeer(PeerId),
}

impl VisibleMail {
    pub(super) fn of(peers: &Peers, me: &PeerId) -> VisibleMail {
        match peers.get(me) {
            _ if peers.human() == me => VisibleMail::All,
            Some(peer) if peers.is_human(me) => VisibleMail::OfMachine(peer.row.host.clone()),
            _ => VisibleMail::OfPeer(me.into()),
        }
    }

    /// Whether the caller may see this message.
    pub(super) fn includes(&self, peers: &Peers, message: &Message) -> bool {
        let is_at = |host: &str, id: &PeerId| peers.get(id).is_some_and(|peer| peer.row.host == host);
        match self {
            VisibleMail::All => true,
            VisibleMail::OfMachine(host) => is_at(host, &message.sender) || is_at(host, &message.recipient),
            VisibleMail::OfPeer(me) => message.sender == *me || message.recipient == *me,
        }
    }
}

/// A test that a peer passes or fails. The result for each peer is cached.
struct PeerTest<'a> {
    peers: &'a Peers,
    passes: Box<dyn Fn(&Peer) -> bool + 'a>,
    known: HashMap<PeerId, bool>,
}

impl<'a> PeerTest<'a> {
    fn new(peers: &'a Peers, passes: impl Fn(&Peer) -> bool + 'a) -> PeerTest<'a> {
        PeerTest { peers, passes: Box::new(passes), known: HashMap::new() }
    }

    /// Whether the sender or the recipient of a message passes the test.
    fn passes_either(&mut self, message: &ScannedMessage<'_>) -> bool {
        [message.sender, message.recipient].into_iter().any(|id| {
            *self.known.entry(id.clone()).or_insert_with(|| self.peers.get(id).is_some_and(|peer| (self.passes)(peer)))
        })
    }
}

/// A test that a message passes or fails.
type MessageTest<'a> = Box<dyn FnMut(&ScannedMessage<'_>) -> bool + 'a>;

/// A filter for the messages that a caller wants.
pub(super) struct HistoryFilter<'a> {
    text: TextFilter,
    /// The tests. A message must pass all of them.
    tests: Vec<MessageTest<'a>>,
    /// If this is set, only one message and its direct and indirect replies pass the filter.
    below: Option<Subthread>,
}

impl<'a> HistoryFilter<'a> {
    pub(super) fn new(text: TextFilter) -> HistoryFilter<'a> {
        HistoryFilter { text, tests: Vec::new(), below: None }
    }

    /// Adds a test of the message itself.
    pub(super) fn and(&mut self, test: impl FnMut(&ScannedMessage<'_>) -> bool + 'a) {
        self.tests.push(Box::new(test));
    }

    /// Adds a test that the sender or the recipient must pass.
    pub(super) fn and_either_peer(&mut self, peers: &'a Peers, passes: impl Fn(&Peer) -> bool + 'a) {
        let mut test = PeerTest::new(peers, passes);
        self.and(move |message| test.passes_either(message));
    }

    /// Restricts the filter to messages that the caller may see.
    pub(super) fn and_visible(&mut self, peers: &'a Peers, visible: VisibleMail) {
        match visible {
            VisibleMail::All => {}
            VisibleMail::OfMachine(host) => self.and_either_peer(peers, move |peer| peer.row.host == host),
            VisibleMail::OfPeer(me) => self.and(move |message| *message.sender == me || *message.recipient == me),
        }
    }

    /// Restricts the filter to a message and its direct and indirect replies. The arguments are the sequence numbers of
    /// the message's first and last copy.
    pub(super) fn and_below(&mut self, (first, last): (MessageSeq, MessageSeq)) {
        let known = (first.0..=last.0).map(|copy| (MessageSeq(copy), true)).collect();
        self.below = Some(Subthread { top: first, n_climbed: 0, known });
    }
}

/// Whether a message passes all tests, and belongs to the subthread if the filter has one.
fn passes(
    store: &Store,
    message: &ScannedMessage<'_>,
    tests: &mut [MessageTest<'_>],
    below: Option<&mut Subthread>,
) -> Result<bool, Error> {
    if !tests.iter_mut().all(|test| test(message)) {
        return Ok(false);
    }
    below.map_or(Ok(true), |below| below.contains(store, message.seq, message.reply_to))
}

/// A message inside a conversation, together with its direct and indirect replies.
#[derive(Debug)]
struct Subthread {
    top: MessageSeq,
    n_climbed: usize,
    known: HashMap<MessageSeq, bool>,
}

impl Subthread {
    fn contains(&mut self, store: &Store, seq: MessageSeq, reply_to: Option<MessageSeq>) -> Result<bool, Error> {
        let (mut path, mut at, mut parent) = (Vec::new(), seq, reply_to);
        let is_below = loop {
            if let Some(known) = self.known.get(&at) {
                break *known;
            }
            path.push(at);
            // A reply has a higher sequence number than the message that it answers. So a message with a number below
            // `top` is outside the subthread.
            at = match parent {
                Some(parent) if parent >= self.top => parent,
                _ => break false,
            };
            self.n_climbed += 1;
            if self.n_climbed > CLIMB_MAX {
                // After too many steps, the message is shown, although it may not belong to the subthread.
                return Ok(true);
            }
            parent = store.reply_target(at)?;
        };
        self.known.extend(path.into_iter().map(|seq| (seq, is_below)));
        Ok(is_below)
    }
}

/// A sent message, with those of its copies that the scan has found. A message to a group has one copy for each member.
#[derive(Debug)]
struct FoundSend {
    /// The sequence number of the oldest copy.
    first: MessageSeq,
    /// The sequence number of the newest copy.
    last: MessageSeq,
    copies: Vec<MessageState>,
    /// The sender, the group, the time and the text, which are the same in all copies of a group message; `None` for a
    /// message to one peer.
    shared: Option<(PeerId, String, i64, String)>,
}

impl FoundSend {
    fn new(message: &ScannedMessage<'_>) -> FoundSend {
        let shared = message
            .group
            .map(|group| (message.sender.clone(), group.to_owned(), message.created, message.body.to_owned()));
        FoundSend { first: message.seq, last: message.seq, copies: vec![message.state], shared }
    }

    /// Whether `message` is a copy of this sent message.
    fn includes(&self, message: &ScannedMessage<'_>) -> bool {
        self.shared.as_ref().is_some_and(|(sender, group, created, body)| {
            (sender, Some(group.as_str()), *created, body.as_str())
                == (message.sender, message.group, message.created, message.body)
        })
    }

    /// Adds a copy that the scan found.
    fn add(&mut self, copy: &ScannedMessage<'_>) {
        self.first = self.first.min(copy.seq);
        self.last = self.last.max(copy.seq);
        self.copies.push(copy.state);
    }

    /// How many copies are in each state.
    fn receipts(&self) -> Value {
        let mut counts: Map<String, Value> = Map::new();
        for state in &self.copies {
            let n = counts.get(state.word()).and_then(Value::as_i64).unwrap_or(0);
            counts.insert(state.word().into(), json!(n + 1));
        }
        Value::Object(counts)
    }
}

/// The result of one step.
#[derive(Debug)]
pub(super) struct HistoryPage {
    /// The messages, oldest first.
    pub(super) rows: Vec<Value>,
    /// The sequence number of the last message that this step read. The next step continues after this message.
    pub(super) cursor: Option<MessageSeq>,
    /// Whether the scan has reached the end.
    pub(super) is_complete: bool,
}

impl Mail {
    /// Makes one step through the history. `to_row` converts a message to a row. The rows have at most `bytes_max`
    /// bytes in total, unless the first row alone is larger.
    pub(super) fn history(
        &self,
        store: &Store,
        scan: &MessageScan<'_>,
        filter: &mut HistoryFilter<'_>,
        limit: usize,
        bytes_max: usize,
        to_row: impl Fn(&Message) -> Value,
    ) -> Result<HistoryPage, Error> {
        let (found, end) = find(store, scan, filter, limit.min(FOUND_MAX))?;
        let (mut rows, mut size) = (Vec::new(), 0);
        let (mut cursor, mut is_complete) = (end.last, end.is_complete);
        for (n, send) in found.iter().enumerate() {
            let Some(message) = store.message(send.first)? else { continue };
            let mut row = to_row(&message);
            if send.copies.len() > 1 {
                row["copies"] = json!(send.copies.len());
                row["receipts"] = send.receipts();
            }
            size += visible_json_length(&row);
            if size > bytes_max && n > 0 {
                let done = &found[n - 1];
                (cursor, is_complete) = (Some(if scan.newest { done.first } else { done.last }), false);
                break;
            }
            rows.push(row);
        }
        if scan.newest {
            rows.reverse();
        }
        Ok(HistoryPage { rows, cursor, is_complete })
    }
}

/// Finds at most `limit` messages that pass the filter, in the direction of the scan. If the step ends between the
/// copies of one message, the remaining copies are also read, so that the next page does not show them as a separate
/// message.
fn find(
    store: &Store,
    scan: &MessageScan<'_>,
    filter: &mut HistoryFilter<'_>,
    limit: usize,
) -> Result<(Vec<FoundSend>, ScanEnd), Error> {
    let mut found: Vec<FoundSend> = Vec::new();
    let (mut scan, mut passed) = (*scan, None);
    let mut wants_only_copies = false;
    loop {
        let (mut failed, mut last_copy, mut is_full) = (None, None, false);
        let HistoryFilter { text, tests, below } = &mut *filter;
        let visit = |message: &ScannedMessage<'_>| {
            let is_copy = found.last().is_some_and(|send| send.includes(message));
            if wants_only_copies && !is_copy {
                is_full = true;
                return ControlFlow::Break(());
            }
            last_copy = is_copy.then_some(message.seq);
            match passes(store, message, tests, below.as_mut()) {
                Err(error) => {
                    failed = Some(error);
                    return ControlFlow::Break(());
                }
                Ok(false) => return ControlFlow::Continue(()),
                Ok(true) => {}
            }
            if let Some(send) = found.last_mut().filter(|_| is_copy) {
                send.add(message);
            } else if found.len() == limit {
                is_full = true;
                return ControlFlow::Break(());
            } else {
                last_copy = Some(message.seq);
                found.push(FoundSend::new(message));
            }
            ControlFlow::Continue(())
        };
        let end = store.scan_messages(&scan, |body| text.matches(body), visit)?;
        if let Some(error) = failed {
            return Err(error);
        }
        passed = end.last.or(passed);
        let is_within_send = last_copy.is_some() && end.last == last_copy;
        if end.is_complete || is_full || !is_within_send {
            return Ok((found, ScanEnd { last: passed, is_complete: end.is_complete }));
        }
        wants_only_copies = true;
        let edge = if scan.newest { &mut scan.before } else { &mut scan.after };
        *edge = passed.unwrap_or(*edge);
    }
}

/// The messages that one step searches: a thread, all messages that the caller may see, or the messages of one peer or
/// channel.
pub(super) fn source<'a>(
    visible: &'a VisibleMail,
    with: Option<&'a Correspondent>,
    thread: Option<MessageSeq>,
) -> ScanSource<'a> {
    match (thread, visible, with) {
        (Some(root), ..) => ScanSource::Thread(root),
        (None, VisibleMail::OfPeer(me), _) => ScanSource::OfPeer(me),
        (None, _, Some(Correspondent::Peer(id))) => ScanSource::OfPeer(id),
        (None, _, Some(Correspondent::Channel(name))) => ScanSource::Channel(name.as_str()),
        (None, _, None) => ScanSource::All,
    }
}
