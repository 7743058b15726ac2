//! Handles the answer of a linked mesh to a message: the other mesh accepts the message, refuses it, or gives no clear
//! answer.
//!
//! **Invariant:** no message blocks later messages forever. A failure of the other mesh is no reason to refuse a
//! message. A message counts as refused if the other mesh refuses it. Without a clear answer, a message counts as
//! refused only if the other mesh has accepted or refused a later message, or has answered polls for an hour.

use super::MeshLink;
use super::roster::plain;
use crate::base::domain_enums::MessageState;
use crate::base::error::{Error, ErrorKind};
use crate::base::id_types::{MeshUrl, MessageSeq};
use crate::base::limits;
use crate::base::untrusted_text::quoted;
use crate::core::Mesh;
use crate::core::event_journal::{Change, Journal};
use crate::core::federation::Federation;
use crate::core::mail::Mail;
use crate::core::peers::Peers;
use crate::core::transaction_and_pending_effects::Turn;
use crate::store::Message;

/// How many times the oldest message must be tried before later messages are tried.
const TRIES_ALONE: u32 = 3;
/// If a message gets no clear answer for this long, in ms, while the other mesh answers polls, the message counts as
/// refused.
const GIVE_UP_MS: i64 = 3_600_000;
/// Maximum length of a stored reason for a refusal, in characters.
const REASON_MAX: usize = 200;

/// How the other mesh answered a message.
#[derive(Debug, Clone, PartialEq)]
pub enum Delivery {
    /// The other mesh has stored the message.
    Accepted,
    /// The other mesh will never accept the message, for this reason.
    Rejected(String),
    /// The other mesh failed, or another program answered, so the message was neither accepted nor refused.
    Unclear(String),
    /// The other mesh accepts no messages at present, for this reason.
    Retry(String),
}

/// A message that was sent over a link, and to which the other mesh has given no clear answer. The message waits to be
/// sent again. It is the oldest of the messages that wait for this link.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct DoubtfulMessage {
    seq: MessageSeq,
    /// When the message was first sent, in ms.
    since: i64,
    /// How many times the message was sent without success.
    n_tries: u32,
    /// The index of the waiting message to send next; the oldest has index 0. After the newest, the oldest is sent
    /// again.
    next: usize,
    /// Whether the other mesh has given a clear answer to a later message.
    others_pass: bool,
}

impl DoubtfulMessage {
    /// The index of the waiting message to try next.
    pub(super) fn next_try(&self, waiting: &[Message]) -> usize {
        match waiting.first() {
            Some(oldest) if oldest.seq == self.seq && !self.others_pass => self.next % waiting.len(),
            _ => 0,
        }
    }
}

impl MeshLink {
    /// Whether the other mesh has given no clear answer to this message.
    pub(super) fn is_doubtful(&self, seq: MessageSeq) -> bool {
        self.doubtful.as_ref().is_some_and(|doubtful| doubtful.seq == seq)
    }

    /// Records that a message got no clear answer. If the message must now count as refused, returns how many times it
    /// was tried.
    fn note_unclear(&mut self, seq: MessageSeq, now: i64) -> Option<u32> {
        let heard = self.last_answer.unwrap_or(0);
        let fresh = DoubtfulMessage { seq, since: now, n_tries: 0, next: 0, others_pass: false };
        let doubtful = self.doubtful.get_or_insert(fresh);
        if doubtful.seq == seq {
            doubtful.n_tries += 1;
        }
        // A later message is tried only if the other mesh has answered a poll since the doubtful message was first
        // tried. Without such an answer, the other mesh may be down, and the doubtful message may not be the cause.
        if heard > doubtful.since && doubtful.n_tries >= TRIES_ALONE {
            doubtful.next += 1;
        }
        let is_silent = heard + limits::LINK_SILENT_MS <= now;
        let is_hopeless = doubtful.others_pass || (now - doubtful.since >= GIVE_UP_MS && !is_silent);
        (doubtful.seq == seq && is_hopeless).then_some(doubtful.n_tries)
    }

    /// Records that a message got a clear answer.
    fn note_clear(&mut self, seq: MessageSeq) {
        match &mut self.doubtful {
            Some(doubtful) if doubtful.seq != seq => doubtful.others_pass = true,
            doubtful => *doubtful = None,
        }
    }
}

/// The parts of the mesh that change when another mesh answers a message.
struct AnswerParts<'a> {
    turn: &'a mut Turn,
    peers: &'a Peers,
    mail: &'a mut Mail,
    journal: &'a Journal,
    federation: &'a mut Federation,
}

/// Looks at a message that got no clear answer. Returns the reason for giving up, after too many attempts.
fn note_unclear(
    parts: &mut AnswerParts,
    n: usize,
    seq: MessageSeq,
    why: &str,
    now: i64,
) -> Result<Option<String>, Error> {
    let AnswerParts { turn, mail, journal, federation, .. } = parts;
    let doubted = federation.links.get(n).and_then(|link| link.doubtful.as_ref()).map(|of| of.seq);
    let was = doubted.map(|seq| mail.message(&turn.store, seq)).transpose()?.flatten();
    let is_waiting = was.is_some_and(|of| of.state.is_unread() && of.expires.is_none_or(|at| at > now));
    let Some(link) = federation.links.get_mut(n) else { return Ok(None) };
    if !is_waiting {
        link.doubtful = None;
    }
    if let Some(n_tries) = link.note_unclear(seq, now) {
        let why = format!("the other mesh gave no clear answer in {n_tries} attempts; the last error was: {why}");
        return Ok(Some(why));
    }
    // The receipt shows the sender why the message still waits.
    let Some(was) = mail.message(&turn.store, seq)?.filter(|of| of.state.is_unread()) else { return Ok(None) };
    let message = Message { mesh: Some(link.url.clone()), unclear: Some(why.to_owned()), ..was.clone() };
    if message != was {
        mail.put_receipt(turn, journal, &was, &message)?;
    }
    Ok(None)
}

/// Stores the final state of a message in its receipt: refused if there is a `rejection`, and forwarded otherwise.
/// Returns the message; `None` if it was not waiting any more.
fn settle(
    parts: &mut AnswerParts,
    n: usize,
    seq: MessageSeq,
    rejection: Option<&str>,
    now: i64,
) -> Result<Option<Message>, Error> {
    let AnswerParts { turn, peers, mail, journal, federation } = parts;
    let Some(link) = federation.links.get_mut(n) else { return Ok(None) };
    link.note_clear(seq);
    // A clear answer to a message, even a refusal, shows that the link itself works.
    link.trouble = None;
    let Some(was) = mail.message(&turn.store, seq)?.filter(|of| of.state.is_unread()) else { return Ok(None) };
    let taken_at = rejection.is_none().then_some(now);
    let message = Message {
        state: if rejection.is_none() { MessageState::Forwarded } else { MessageState::Rejected },
        offered: taken_at,
        pushed: taken_at,
        channel: None,
        mesh: Some(link.url.clone()),
        rejection: rejection.map(str::to_owned),
        unclear: None,
        ..was.clone()
    };
    mail.put_receipt(turn, journal, &was, &message)?;
    let url = &link.url;
    let change = match rejection {
        None => Change::MessageForwarded { message: &message, by: url },
        Some(reason) => Change::MessageRejected { message: &message, by: url, reason },
    };
    journal.record(turn, peers, &change, &was.recipient, now)?;
    Ok(Some(message))
}

/// Tells the sender of a message that it was refused. Without this report, the sender would see the refusal only in the
/// receipt.
fn report_to_sender(
    parts: &mut AnswerParts,
    (id, url): (&str, &MeshUrl),
    message: &Message,
    why: &str,
    now: i64,
) -> Result<(), Error> {
    let AnswerParts { turn, peers, mail, journal, federation } = parts;
    // The sender is a peer of this mesh, because messages from other meshes are never forwarded. A sender that has been
    // forgotten gets no report.
    let sender = peers.get(&message.sender).filter(|peer| !peer.row.is_linked());
    let Some(sender) = sender.map(|peer| peer.row.id.clone()) else { return Ok(()) };
    let draft = Message {
        sender: url.as_str().into(),
        body: format!(
            "The mesh of {} refused your message {id}, so the message was not delivered: {}",
            peers.name_of(&message.recipient),
            quoted(why, REASON_MAX)
        ),
        reply_to: Some(message.seq),
        ..Message::default()
    };
    mail.post(turn, peers, journal, federation, draft, &[sender], now).map(|_| ())
}

impl Mesh {
    /// Records how the other mesh answered a message.
    ///
    /// # Errors
    /// When the database can't be written.
    pub fn on_delivery(&mut self, n: usize, seq: MessageSeq, delivery: &Delivery, now: i64) -> Result<(), Error> {
        self.federation.may_forward = true;
        let rejection = match delivery {
            Delivery::Accepted => None,
            Delivery::Rejected(why) => Some(plain(why, REASON_MAX)),
            Delivery::Unclear(why) => {
                self.on_poll_failed(n, why);
                let why = plain(why, REASON_MAX);
                match self.in_savepoint(|mesh| note_unclear(&mut mesh.answer_parts(), n, seq, &why, now))? {
                    None => return Ok(()),
                    gives_up => gives_up,
                }
            }
            Delivery::Retry(why) => {
                self.on_poll_failed(n, why);
                return Ok(());
            }
        };
        let settled = self.in_savepoint(|mesh| settle(&mut mesh.answer_parts(), n, seq, rejection.as_deref(), now))?;
        let (Some(message), Some(link)) = (settled, self.federation.links.get_mut(n)) else { return Ok(()) };
        let Some(why) = rejection else {
            link.awaited.add(&message);
            return Ok(());
        };
        link.n_rejected += 1;
        link.last_rejection = Some(why.clone());
        let (id, url) = (self.ids.message(message.seq), link.url.clone());
        let (from, to) = (self.peers.name_of(&message.sender), self.peers.name_of(&message.recipient));
        let text = format!("{url} refused message {id} from {from} to {to}: {why}");
        self.turn.log_error::<()>(Err(Error::new(ErrorKind::Refused, text)));
        // If the report can't be delivered, for example because the mailbox is full, the receipt still shows the
        // refusal.
        let sent =
            self.in_savepoint(|mesh| report_to_sender(&mut mesh.answer_parts(), (&id, &url), &message, &why, now));
        self.turn.log_error(sent);
        Ok(())
    }

    /// Returns the parts that change when another mesh answers a message.
    fn answer_parts(&mut self) -> AnswerParts<'_> {
        let Mesh { turn, peers, mail, journal, federation, .. } = self;
        AnswerParts { turn, peers, mail, journal, federation }
    }
}
