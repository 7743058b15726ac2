//! Carries news and letters between this broker and the meshes that it looks at, which are another
//! slm-mesh or a SuperLocalMemory daemon: two threads for each, one that asks who is there and one
//! that posts.
//!
//! **Invariant:** the loop never waits for another mesh, so two that ask each other at once can't
//! block each other; the secret goes to the address that the user wrote and, by no redirect, to
//! another; and one letter of a link is on its way at a time, in the order in which they were sent.

use crate::core::Mesh;
use crate::core::federation::forwarding::{Delivery, ForwardedMessage};
use crate::core::federation::roster::RemoteRoster;
use serde_json::Value;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};
use ureq::http::StatusCode;

/// How often a mesh of the other kind is asked; ours answers a question as soon as there is news.
const ASK_EVERY: Duration = Duration::from_secs(30);
/// How long ours may hold a question back, seconds: below what its HTTP thread allows.
const HOLD_SECONDS: u64 = super::superlocalmemory::HOLD_SECONDS_MAX;
/// What the answer to a question may take beyond that. SuperLocalMemory 3.4.48 answers nobody for 10 s
/// while it forwards a letter itself.
const ASK_MAX: Duration = Duration::from_secs(5);
/// What the answer to a letter may take.
const POST_MAX: Duration = Duration::from_secs(10);
/// What an answer may have, in bytes.
const ANSWER_MAX: u64 = 8 << 20;
/// The wait after the first failure, doubled with each further one up to the second.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// Two questions are never closer than this, whatever the other side answers. It is doubled with each
/// answer in a row that came at once, up to the second: where something changes all the time, or seems
/// to, more is learnt from one answer, and a mesh that lists others each time costs us little.
const ASK_AGAIN: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(6));
/// What came sooner than this came at once.
const AT_ONCE: Duration = Duration::from_secs(4);
/// News that wait for the loop. A thread with more waits itself, and asks nothing meanwhile.
const NEWS_MAX: usize = 4;

/// What a thread brings back; the number is that of the link.
enum News {
    Heard(usize, RemoteRoster),
    Silent(usize, String),
    Delivery(usize, i64, Delivery),
}

/// All links.
pub struct Links {
    lines: Vec<Line>,
    news: Receiver<News>,
}

/// One link, as the loop sees it.
struct Line {
    letters: SyncSender<ForwardedMessage>,
    is_busy: bool,
    /// After a failure, when to try again, ms; and how many there were in a row.
    again_at: Option<i64>,
    n_failed: u32,
    idle: bool,
}

/// What a thread needs.
#[derive(Clone)]
struct Road {
    n: usize,
    url: String,
    secret: String,
    news: SyncSender<News>,
    ring: Arc<dyn Fn() + Send + Sync>,
}

impl Links {
    /// Starts the threads. They end with the process: one may be in the middle of a question.
    pub fn open(urls: &[String], secret: &str, ring: Arc<dyn Fn() + Send + Sync>) -> Links {
        let (sender, news) = sync_channel(NEWS_MAX);
        let lines = urls.iter().enumerate().map(|(n, url)| {
            let road =
                Road { n, url: url.clone(), secret: secret.to_owned(), news: sender.clone(), ring: Arc::clone(&ring) };
            let (letters, inbox) = sync_channel(1);
            let asker = road.clone();
            for (name, run) in [
                ("asks", Box::new(move || asker.ask_on()) as Box<dyn FnOnce() + Send>),
                ("posts", Box::new(move || road.post_on(&inbox))),
            ] {
                if let Err(error) = std::thread::Builder::new().name(name.into()).spawn(run) {
                    super::log(&format!("{url} is not linked: {error}"));
                }
            }
            Line { letters, is_busy: false, again_at: None, n_failed: 0, idle: false }
        });
        Links { lines: lines.collect(), news }
    }

    /// When a letter is to be tried again, ms.
    pub fn deadline(&self) -> Option<i64> {
        self.lines.iter().filter(|line| !line.is_busy).filter_map(|line| line.again_at).min()
    }

    /// Tells the mesh what came; whether more may be there. It takes a few at a time: were it to wait for
    /// the last, meshes that say more than can be told in the meantime would keep everybody else waiting.
    pub fn hear(&mut self, mesh: &mut Mesh, now: i64) -> bool {
        for _ in 0..NEWS_MAX {
            let Ok(news) = self.news.try_recv() else { return false };
            let told = match news {
                News::Heard(n, roster) => mesh.on_roster(n, &roster, now),
                News::Silent(n, why) => {
                    mesh.on_poll_failed(n, &why);
                    Ok(())
                }
                News::Delivery(n, seq, passed) => {
                    self.lines[n].came_back(&passed, now);
                    mesh.on_delivery(n, seq, &passed, now)
                }
            };
            if let Err(error) = told {
                super::log(&format!("news of a linked mesh could not be stored: {}", error.text));
            }
        }
        true
    }

    /// Sends what waits; after a commit, since it has left then.
    pub fn post(&mut self, mesh: &mut Mesh, now: i64) {
        if mesh.take_forwarding_due() {
            self.lines.iter_mut().for_each(|line| line.idle = false);
        }
        for (n, line) in self.lines.iter_mut().enumerate() {
            if line.is_busy || line.idle && line.again_at.is_none() || line.again_at.is_some_and(|at| at > now) {
                continue;
            }
            line.again_at = None;
            match mesh.next_forwarded(n, now) {
                Ok(Some(letter)) => line.is_busy = line.letters.try_send(letter).is_ok(),
                Ok(None) => line.idle = true,
                Err(_) => line.again_at = Some(now + BACKOFF.1.as_millis() as i64),
            }
        }
    }
}

impl Line {
    fn came_back(&mut self, passed: &Delivery, now: i64) {
        self.is_busy = false;
        self.n_failed = if matches!(passed, Delivery::Retry(_)) { self.n_failed + 1 } else { 0 };
        self.again_at = (self.n_failed > 0).then(|| now + backoff(self.n_failed).as_millis() as i64);
    }
}

/// The wait after so many failures in a row.
fn backoff(n_failed: u32) -> Duration {
    BACKOFF.0.saturating_mul(1 << (n_failed - 1).min(8)).min(BACKOFF.1)
}

/// The time between two questions after so many answers in a row that came at once.
fn pause(n_quick: u32) -> Duration {
    ASK_AGAIN.0.saturating_mul(1 << n_quick.saturating_sub(2).min(8)).min(ASK_AGAIN.1)
}

impl Road {
    fn tell(&self, news: News) -> bool {
        let told = self.news.send(news).is_ok();
        (self.ring)();
        told
    }

    /// Asks who is there, again and again.
    fn ask_on(&self) {
        let agent = agent();
        let (mut mark, mut n_failed, mut n_quick) = (None, 0, 0);
        loop {
            let began = Instant::now();
            let (news, wait) = match self.ask(&agent, mark) {
                Ok((roster, next)) => {
                    (mark, n_failed) = (next, 0);
                    n_quick = if began.elapsed() < AT_ONCE { n_quick + 1 } else { 0 };
                    (News::Heard(self.n, roster), if next.is_some() { pause(n_quick) } else { ASK_EVERY })
                }
                Err(why) => {
                    (mark, n_failed) = (None, n_failed + 1);
                    (News::Silent(self.n, why), backoff(n_failed))
                }
            };
            if !self.tell(news) {
                return;
            }
            std::thread::sleep(wait.saturating_sub(began.elapsed()).max(ASK_AGAIN.0));
        }
    }

    /// One question: who is there, and for our own kind the mark by which the next one waits for news.
    fn ask(&self, agent: &ureq::Agent, mark: Option<i64>) -> Result<(RemoteRoster, Option<i64>), String> {
        let (query, limit) = match mark {
            Some(mark) => (format!("?after={mark}&wait={HOLD_SECONDS}"), ASK_MAX + Duration::from_secs(HOLD_SECONDS)),
            None => (String::new(), ASK_MAX),
        };
        let request = agent.get(format!("{}/mesh/peers{query}", self.url));
        let request = self.sign(request.config().timeout_global(Some(limit)).build());
        let (status, value) = read(request.call())?;
        if status != StatusCode::OK {
            return Err(refusal(status, &value));
        }
        let roster = RemoteRoster::parse(&value).ok_or("its answer is no list of peers")?;
        Ok((roster, value["mark"].as_i64()))
    }

    /// Posts what it is given.
    fn post_on(&self, inbox: &Receiver<ForwardedMessage>) {
        let agent = agent();
        while let Ok(letter) = inbox.recv() {
            let passed = self.post(&agent, &letter);
            if !self.tell(News::Delivery(self.n, letter.seq, passed)) {
                return;
            }
        }
    }

    fn post(&self, agent: &ureq::Agent, letter: &ForwardedMessage) -> Delivery {
        let request = agent.post(format!("{}/mesh/send", self.url));
        let request = self.sign(request.config().timeout_global(Some(POST_MAX)).build());
        let sent = request.header("Content-Type", "application/json").send(letter.body.to_string());
        let (status, value) = match read(sent) {
            Ok(answer) => answer,
            Err(why) => return Delivery::Retry(why),
        };
        match status.as_u16() {
            200..300 if value["ok"] == Value::Bool(true) => Delivery::Accepted,
            200..300 | 400 | 404 | 413 | 422 if is_worded(&value) => Delivery::Rejected(refusal(status, &value)),
            // Also what some other server at this address answers: it speaks for no mesh.
            _ => Delivery::Retry(refusal(status, &value)),
        }
    }

    /// Adds the secret in both forms: versions of the other kind differ in which they know.
    fn sign<B>(&self, request: ureq::RequestBuilder<B>) -> ureq::RequestBuilder<B> {
        if self.secret.is_empty() {
            return request;
        }
        request.header("Authorization", format!("Bearer {}", self.secret)).header("X-Mesh-Secret", &self.secret)
    }
}

/// What asks: no redirects, no proxy of the environment, every status an answer.
fn agent() -> ureq::Agent {
    let config = ureq::Agent::config_builder().max_redirects(0).proxy(None).http_status_as_error(false);
    config.timeout_connect(Some(ASK_MAX)).user_agent(concat!("slm-mesh/", env!("CARGO_PKG_VERSION"))).build().into()
}

/// Status and body of an answer; what is no JSON counts as null.
fn read(answer: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> Result<(StatusCode, Value), String> {
    let mut answer = answer.map_err(|error| error.to_string())?;
    let bytes = answer.body_mut().with_config().limit(ANSWER_MAX).read_to_vec().map_err(|error| error.to_string())?;
    Ok((answer.status(), serde_json::from_slice(&bytes).unwrap_or(Value::Null)))
}

/// Whether an answer says why, as both kinds do.
fn is_worded(value: &Value) -> bool {
    ["error", "detail"].iter().any(|name| !value[name].is_null())
}

/// Why something was refused, in the words of who did.
fn refusal(status: StatusCode, value: &Value) -> String {
    let words = ["error", "detail"].iter().find_map(|name| value[name].as_str());
    match (words, status.as_u16()) {
        (_, 401 | 403) => {
            format!("it does not let us in ({status}): SLM_MESH_SHARED_SECRET must be the same on both sides")
        }
        (Some(words), _) => words.chars().take(200).collect(),
        (None, 200..300) => "its answer is none that a mesh gives".into(),
        (None, _) => format!("it answered {status}"),
    }
}
