//! Exchanges messages and peer lists with linked meshes. A linked mesh is another slm-mesh broker or a SuperLocalMemory
//! daemon. Each link has two threads. One thread polls the linked mesh for its online peers. The other thread posts
//! messages, and asks for their receipts (whether each message was read).
//!
//! **Invariant:** the event loop never waits for another mesh, so two meshes that poll each other can't block each
//! other. The secret is sent only to the address that the user configured, and redirects are not followed. A link posts
//! one message at a time, and does not exceed its own rate limit.

mod link_send_schedule;

use super::log;
use crate::base::error::Error;
use crate::base::id_types::MessageSeq;
use crate::core::Mesh;
use crate::core::federation::handle_forwarding_answer::Delivery;
use crate::core::federation::outbox_to_linked_meshes::ForwardedMessage;
use crate::core::federation::receipts::RemoteReceipt;
use crate::core::federation::roster::RemoteRoster;
use link_send_schedule::{LinkSender, SendState};
use serde_json::Value;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};
use ureq::http::StatusCode;

/// The time between two polls of a SuperLocalMemory daemon. For an slm-mesh broker, no pause is needed, because the
/// broker delays its reply until something changes.
const ASK_EVERY: Duration = Duration::from_secs(30);
/// Maximum time, in seconds, for which a linked broker may delay its reply to a poll.
const HOLD_SECONDS: u64 = super::linked_mesh_http_routes::HOLD_SECONDS_MAX;
/// Maximum time to wait for the reply to a poll, in addition to `HOLD_SECONDS`. When SuperLocalMemory 3.4.48 forwards a
/// message, it answers no client for 10 s. A poll that fails during that time is repeated.
const ASK_TIMEOUT: Duration = Duration::from_secs(5);
/// Maximum time to wait for the reply to a posted message.
const POST_TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum size of a reply, in bytes.
const ANSWER_MAX: u64 = 8 << 20;
/// The pause after the first failed attempt. The pause doubles after each further failed attempt.
const BACKOFF_MIN: Duration = Duration::from_secs(1);
/// Maximum pause after a failed attempt to post a message.
const BACKOFF_MAX: Duration = Duration::from_secs(30);
/// Maximum pause after a failed poll. The pause is short, because a successful poll shows that messages can be sent
/// again.
const POLL_BACKOFF_MAX: Duration = Duration::from_secs(5);
/// Minimum time between two polls, however quickly the other mesh replies.
const PAUSE_MIN: Duration = Duration::from_millis(50);
/// Maximum time between two polls. A poll is answered when the other mesh changes. If the answers come quickly, the
/// mesh changes all the time, so the time between polls grows. One answer then covers more changes, and polling stays
/// cheap.
const PAUSE_MAX: Duration = Duration::from_secs(6);
/// A reply that arrives sooner than this counts as quick.
const QUICK: Duration = Duration::from_secs(4);
/// Maximum number of reports in the queue from the link threads to the event loop. While the queue is full, a link
/// thread with a new report waits and does not poll.
const NEWS_MAX: usize = 4;
/// How many peers of a linked mesh are processed before the time is checked again.
const PEERS_AT_ONCE: usize = 4;
/// Maximum time per turn for processing lists of peers. The rest of a list is processed in the next turn.
const TURN_SHARE: Duration = Duration::from_millis(1);

/// A report from a thread of a link. The first field is the number of the link.
enum LinkNews {
    Roster(usize, RemoteRoster),
    Unreachable(usize, String),
    Delivery(usize, MessageSeq, Delivery),
    /// The reply to a request for receipts; `None` if there was no valid reply.
    Receipts(usize, Option<Vec<RemoteReceipt>>),
    /// The thread that posts messages has ended.
    PostingEnded(usize),
}

/// What the posting thread of a link sends to the linked mesh.
enum Outgoing {
    Message(ForwardedMessage),
    /// A request for the receipts of earlier messages.
    ReceiptsQuery(Value),
}

/// Version numbers from the last reply to a poll. The next poll sends them back. The other mesh then replies as soon as
/// one of them is outdated.
#[derive(Debug, Default, Clone, Copy)]
struct PollMarks {
    /// The version of the other mesh's list of peers; `None` for a SuperLocalMemory daemon.
    roster: Option<i64>,
    /// The version of the other mesh's receipts; `None` for slm-mesh 0.1.0.
    receipts: Option<i64>,
}

/// The links to all linked meshes.
pub struct MeshLinks {
    links: Vec<LinkSender>,
    inbox: Receiver<LinkNews>,
    /// A list of peers that is being processed: the number of the link, the list, and the number of processed peers.
    partial: Option<(usize, RemoteRoster, usize)>,
    /// Whether reports were left in the inbox at the end of the last turn.
    has_backlog: bool,
}

/// The configuration of a link, for its two threads.
#[derive(Clone)]
struct LinkThread {
    n: usize,
    url: String,
    secret: String,
    news: SyncSender<LinkNews>,
    wake: Arc<dyn Fn() + Send + Sync>,
}

/// The thread that posts messages. It reports its end even after a panic. Without this report, the event loop would
/// wait forever for the result of the last message.
struct PostingThread(LinkThread);

impl Drop for PostingThread {
    fn drop(&mut self) {
        // If the broker is ending, nobody receives this report.
        let _ = self.0.report(LinkNews::PostingEnded(self.0.n));
    }
}

impl MeshLinks {
    /// Starts the threads of all links. A thread ends when the receiver of its reports is gone. When the process ends,
    /// all threads end, even during a poll.
    pub fn open(urls: &[String], secret: &str, wake: Arc<dyn Fn() + Send + Sync>) -> MeshLinks {
        let (news, inbox) = sync_channel(NEWS_MAX);
        let links = urls.iter().enumerate().map(|(n, url)| {
            let thread = LinkThread {
                n,
                url: url.clone(),
                secret: secret.to_owned(),
                news: news.clone(),
                wake: Arc::clone(&wake),
            };
            let (outbox, messages) = sync_channel(1);
            let poller = thread.clone();
            for (name, run) in [
                ("link-poll", Box::new(move || poller.poll_roster()) as Box<dyn FnOnce() + Send>),
                ("link-post", Box::new(move || PostingThread(thread).0.post_messages(&messages))),
            ] {
                if let Err(error) = std::thread::Builder::new().name(name.into()).spawn(run) {
                    log(&format!("{url} is not linked: {error}"));
                }
            }
            LinkSender::new(url.clone(), outbox)
        });
        MeshLinks { links: links.collect(), inbox, partial: None, has_backlog: false }
    }

    /// Whether reports are left over from the last turn.
    pub fn has_backlog(&self) -> bool {
        self.has_backlog || self.partial.is_some()
    }

    /// The time, in ms, at which the next attempt to send a message is due.
    pub fn deadline(&self) -> Option<i64> {
        let retry_at = |link: &LinkSender| match link.state {
            SendState::FailedUntil(at) | SendState::PausedUntil(at) => Some(at),
            SendState::Ready | SendState::Idle | SendState::Posting | SendState::Stopped => None,
        };
        self.links.iter().filter_map(retry_at).min()
    }

    /// Passes at most `NEWS_MAX` reports to the mesh. Without this limit, a fast series of reports would keep all
    /// clients waiting.
    pub fn receive_news(&mut self, mesh: &mut Mesh, now: i64) {
        let began = Instant::now();
        for _ in 0..NEWS_MAX {
            self.take_in_roster(mesh, began, now);
            if self.partial.is_some() {
                return;
            }
            let Ok(news) = self.inbox.try_recv() else {
                self.has_backlog = false;
                return;
            };
            let stored = match news {
                LinkNews::Roster(n, roster) => {
                    self.links[n].note_poll(true);
                    self.partial = Some((n, roster, 0));
                    Ok(())
                }
                LinkNews::Unreachable(n, why) => {
                    self.links[n].note_poll(false);
                    mesh.on_poll_failed(n, &why);
                    Ok(())
                }
                LinkNews::Delivery(n, seq, delivery) => {
                    self.links[n].note_delivery(&delivery, now);
                    mesh.on_delivery(n, seq, &delivery, now)
                }
                LinkNews::PostingEnded(n) => {
                    self.links[n].stop();
                    Ok(())
                }
                LinkNews::Receipts(n, receipts) => {
                    // A failed request for receipts does not delay messages, because the other mesh may accept messages
                    // even if it sends no receipts.
                    self.links[n].state = SendState::Ready;
                    match receipts {
                        Some(receipts) => mesh.on_receipts(n, &receipts, now),
                        None => {
                            mesh.on_receipts_failed(n);
                            Ok(())
                        }
                    }
                }
            };
            report_unstored(stored);
        }
        self.has_backlog = true;
    }

    /// Continues with the list of peers from a linked mesh, until the time for lists in this turn is used up.
    fn take_in_roster(&mut self, mesh: &mut Mesh, began: Instant, now: i64) {
        while let Some((n, roster, n_taken)) = &mut self.partial {
            let end = roster.peers.len().min(*n_taken + PEERS_AT_ONCE);
            let stored = mesh.on_roster(*n, roster, *n_taken..end, now);
            *n_taken = end;
            if end == roster.peers.len() || stored.is_err() {
                self.partial = None;
            }
            report_unstored(stored);
            if began.elapsed() >= TURN_SHARE {
                return;
            }
        }
    }

    /// Passes the next message of each link to the thread that posts it. The turn must already be committed, because a
    /// posted message can't be taken back.
    pub fn send_waiting(&mut self, mesh: &mut Mesh, now: i64) {
        let has_new = mesh.take_forwarding_due();
        for (n, link) in self.links.iter_mut().enumerate() {
            match link.state {
                SendState::Posting | SendState::Stopped => continue,
                SendState::Idle if !has_new => continue,
                SendState::FailedUntil(at) | SendState::PausedUntil(at) if at > now => continue,
                SendState::Ready | SendState::Idle | SendState::FailedUntil(_) | SendState::PausedUntil(_) => {}
            }
            link.state = link.send_next(mesh, n, now);
        }
    }
}

fn report_unstored(stored: Result<(), Error>) {
    if let Err(error) = stored {
        log(&format!("a report from a linked mesh could not be stored: {}", error.text));
    }
}

/// Returns the pause after this many failures in a row.
fn backoff(n_failures: u32) -> Duration {
    BACKOFF_MIN.saturating_mul(1 << (n_failures - 1).min(8)).min(BACKOFF_MAX)
}

/// Returns the time between two polls after this many quick replies in a row.
fn pause(n_quick: u32) -> Duration {
    PAUSE_MIN.saturating_mul(1 << n_quick.saturating_sub(2).min(8)).min(PAUSE_MAX)
}

impl LinkThread {
    /// Passes a report to the event loop. Returns false if the event loop no longer receives reports.
    fn report(&self, news: LinkNews) -> bool {
        let is_sent = self.news.send(news).is_ok();
        (self.wake)();
        is_sent
    }

    /// Polls the other mesh repeatedly for its online peers.
    fn poll_roster(&self) {
        let agent = http_agent();
        let (mut marks, mut n_failures, mut n_quick) = (PollMarks::default(), 0, 0);
        loop {
            let began = Instant::now();
            let (news, wait) = match self.ask_roster(&agent, marks) {
                Ok((roster, next)) => {
                    (marks, n_failures) = (next, 0);
                    n_quick = if began.elapsed() < QUICK { n_quick + 1 } else { 0 };
                    let wait = if next.roster.is_some() { pause(n_quick) } else { ASK_EVERY };
                    (LinkNews::Roster(self.n, roster), wait)
                }
                Err(why) => {
                    (marks, n_failures) = (PollMarks::default(), n_failures + 1);
                    (LinkNews::Unreachable(self.n, why), backoff(n_failures).min(POLL_BACKOFF_MAX))
                }
            };
            if !self.report(news) {
                return;
            }
            std::thread::sleep(wait.saturating_sub(began.elapsed()).max(PAUSE_MIN));
        }
    }

    /// Polls the other mesh once for its online peers. A broker's reply also contains version numbers (marks). The next
    /// poll sends these marks back, and the broker delays its reply until something changes.
    fn ask_roster(&self, agent: &ureq::Agent, marks: PollMarks) -> Result<(RemoteRoster, PollMarks), String> {
        let (query, timeout) = match marks.roster {
            Some(mark) => {
                let receipts = marks.receipts.map_or(String::new(), |mark| format!("&receipts={mark}"));
                let query = format!("?people=1&after={mark}{receipts}&wait={HOLD_SECONDS}");
                (query, ASK_TIMEOUT + Duration::from_secs(HOLD_SECONDS))
            }
            None => ("?people=1".to_owned(), ASK_TIMEOUT),
        };
        let request = agent.get(format!("{}/mesh/peers{query}", self.url));
        let request = self.add_secret(request.config().timeout_global(Some(timeout)).build());
        let (status, value) = read_answer(request.call()).map_err(|error| error.to_string())?;
        if status != StatusCode::OK {
            return Err(describe_refusal(status, &value));
        }
        let roster = RemoteRoster::parse(&value).ok_or("its answer is not a list of peers")?;
        let marks = PollMarks { roster: value["mark"].as_i64(), receipts: roster.receipts_version };
        Ok((roster, marks))
    }

    /// Posts what the event loop passes to this thread: messages, and requests for receipts.
    fn post_messages(&self, outbox: &Receiver<Outgoing>) {
        let agent = http_agent();
        while let Ok(outgoing) = outbox.recv() {
            let news = match outgoing {
                Outgoing::Message(message) => {
                    let delivery = self.post_message(&agent, &message);
                    LinkNews::Delivery(self.n, message.seq, delivery)
                }
                Outgoing::ReceiptsQuery(query) => {
                    let answer = self.post(&agent, "/mesh/receipts", &query).ok();
                    LinkNews::Receipts(self.n, answer.and_then(|(_, value)| RemoteReceipt::parse_all(&value)))
                }
            };
            if !self.report(news) {
                return;
            }
        }
    }

    fn post_message(&self, agent: &ureq::Agent, message: &ForwardedMessage) -> Delivery {
        let (status, value) = match self.post(agent, "/mesh/send", &message.body) {
            Ok(answer) => answer,
            Err(error) if is_unreachable(&error) => return Delivery::Retry(error.to_string()),
            Err(error) => return Delivery::Unclear(error.to_string()),
        };
        match status.as_u16() {
            200..300 if value["ok"] == Value::Bool(true) => Delivery::Accepted,
            200..300 | 400 | 404 | 413 | 422 if says_why(&value) => {
                Delivery::Rejected(describe_refusal(status, &value))
            }
            // The other mesh accepts no messages at present. Possible reasons are a wrong secret, too many requests, a
            // hub on standby, or a full disk.
            401 | 403 | 429 | 503 | 507 => Delivery::Retry(describe_refusal(status, &value)),
            // A different kind of server may run at this address. So with any other status, it is unclear whether the
            // message was accepted.
            _ => Delivery::Unclear(describe_refusal(status, &value)),
        }
    }

    /// Posts JSON. Returns the status and the body of the reply.
    fn post(&self, agent: &ureq::Agent, path: &str, body: &Value) -> Result<(StatusCode, Value), ureq::Error> {
        let request = agent.post(format!("{}{path}", self.url));
        let request = self.add_secret(request.config().timeout_global(Some(POST_TIMEOUT)).build());
        read_answer(request.header("Content-Type", "application/json").send(body.to_string()))
    }

    /// Adds the secret in two headers, because different versions of SuperLocalMemory read different headers.
    fn add_secret<B>(&self, request: ureq::RequestBuilder<B>) -> ureq::RequestBuilder<B> {
        if self.secret.is_empty() {
            return request;
        }
        request.header("Authorization", format!("Bearer {}", self.secret)).header("X-Mesh-Secret", &self.secret)
    }
}

/// Makes an HTTP client that follows no redirects and ignores proxy settings. The client treats a reply with an error
/// status like any other reply.
fn http_agent() -> ureq::Agent {
    let config = ureq::Agent::config_builder().max_redirects(0).proxy(None).http_status_as_error(false);
    config.timeout_connect(Some(ASK_TIMEOUT)).user_agent(concat!("slm-mesh/", env!("CARGO_PKG_VERSION"))).build().into()
}

/// Returns the status and the JSON body of a reply. A body that is not JSON becomes null.
fn read_answer(
    answer: Result<ureq::http::Response<ureq::Body>, ureq::Error>,
) -> Result<(StatusCode, Value), ureq::Error> {
    let mut answer = answer?;
    let bytes = answer.body_mut().with_config().limit(ANSWER_MAX).read_to_vec()?;
    Ok((answer.status(), serde_json::from_slice(&bytes).unwrap_or(Value::Null)))
}

/// Whether the request failed before it reached a server. If so, the message can't be the cause of the failure.
fn is_unreachable(error: &ureq::Error) -> bool {
    use ureq::{Error, Timeout};
    match error {
        Error::HostNotFound | Error::ConnectionFailed | Error::BadUri(_) => true,
        Error::Timeout(which) => matches!(which, Timeout::Resolve | Timeout::Connect),
        Error::Io(error) => error.kind() == std::io::ErrorKind::ConnectionRefused,
        _ => false,
    }
}

/// Whether a reply contains a reason in its field `error` or `detail`.
fn says_why(value: &Value) -> bool {
    ["error", "detail"].iter().any(|name| !value[name].is_null())
}

/// Describes why the other mesh refused a request, with the text from its reply if possible.
fn describe_refusal(status: StatusCode, value: &Value) -> String {
    let words = ["error", "detail"].iter().find_map(|name| value[name].as_str());
    match (words, status.as_u16()) {
        (Some(words), 403) => {
            format!("it refused this mesh ({status}): {}", words.chars().take(200).collect::<String>())
        }
        (_, 401 | 403) => {
            format!(
                "it refused our secret ({status}): SLM_MESH_SHARED_SECRET must be the same on both sides, and \
                 SLM_MESH_BEARER must not be off on the other side, because a hub with SLM_MESH_BEARER=off refuses \
                 links"
            )
        }
        (Some(words), _) => words.chars().take(200).collect(),
        (None, 200..300) => "its answer is not that of an slm-mesh broker".into(),
        (None, _) => format!("it answered {status}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_posting_thread_is_reported_although_it_panicked() {
        let (news, inbox) = sync_channel(1);
        let (n, url, secret, wake) = (3, "http://b".into(), String::new(), Arc::new(|| {}));
        let thread = PostingThread(LinkThread { n, url, secret, news, wake });
        let posting = std::thread::spawn(move || {
            let _thread = thread;
            panic!("as posting a message could");
        });
        posting.join().unwrap_err();
        assert!(matches!(inbox.recv(), Ok(LinkNews::PostingEnded(3))));
    }
}
