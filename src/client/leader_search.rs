//! Finds the leader among several hubs. A search asks one hub first. If this hub takes too long, fails or is a standby,
//! the search asks the next one.
//!
//! **Invariant:** a dead hub delays a search only slightly, and a standby that names a wrong leader does not delay the
//! search at all. No hub is asked twice at the same time, and a search always ends.

use super::Client;
use super::connect_to_leading_hub::{Candidate, HubGroup};
use crate::base::error::{Error, ErrorKind, problem_and_cure};
use crate::base::id_types::LogId;
use crate::sys::parse_hub_addresses::HubAddress;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SendError, Sender, channel};
use std::time::{Duration, Instant};

/// How long a hub that is reached through ssh may take to answer. The time is long because ssh must log in first.
const SSH_MAX: Duration = Duration::from_secs(30);
/// How long to wait for a hub's answer before the next hub is asked too.
const NEXT_AFTER: Duration = Duration::from_millis(150);
const NEXT_AFTER_SSH: Duration = Duration::from_secs(1);
/// The pause after a failed attempt to ask a hub.
const AGAIN_AFTER: Duration = Duration::from_millis(500);
/// The first pause before a standby is asked again. The pause grows with each attempt up to a maximum, because all
/// guests of a dead hub search at the same time.
const STANDBY_PAUSE_MIN: Duration = Duration::from_millis(100);
const STANDBY_PAUSE_MAX: Duration = Duration::from_millis(500);
/// Maximum number of hubs that a search adds because a standby named them.
const HINTS_MAX: usize = 4;
const STACK_BYTES: usize = 256 * 1024;

/// What the search knows about one candidate.
#[derive(Debug)]
enum SearchProgress {
    /// The candidate has not been asked yet.
    Waiting,
    /// The candidate has not answered yet.
    Asked,
    /// The candidate is a standby. The search asks it again until it leads.
    StandsBy(Error),
    /// The last attempt to ask the candidate failed at this time, with this error.
    Failed(Instant, Error),
    /// The candidate has another mesh, so the search does not ask it again.
    HasOtherMesh(Error),
}

/// What a candidate answered, or why it can't be used.
enum Answer {
    /// The candidate leads.
    Leads(FoundLeader),
    /// The candidate could not be asked, or is a standby.
    Failed(Candidate, Error),
    /// The candidate leads another mesh.
    HasOtherMesh(Candidate, Error),
}

/// The hub that leads.
pub struct FoundLeader {
    /// The hub.
    pub hub: Candidate,
    /// The connection to the hub.
    pub client: Client,
    /// The log that the hub shares with other hubs, if the hub named one.
    pub log: Option<LogId>,
}

/// A search for the leader.
pub struct LeaderSearch<'a> {
    group: &'a Arc<HubGroup>,
    /// The candidates, in the order in which they are asked.
    candidates: Vec<(Candidate, SearchProgress)>,
    n_hints: usize,
    /// A silent hub that the search must not ask, even if a standby names it.
    silent: Option<HubAddress>,
    answers: (Sender<Answer>, Receiver<Answer>),
}

impl<'a> LeaderSearch<'a> {
    /// Creates a search among the hubs of a group. The search asks `first` before the other hubs.
    pub fn new(group: &'a Arc<HubGroup>, first: Option<Candidate>) -> LeaderSearch<'a> {
        let others = group.candidates().iter().filter(|candidate| first.as_ref() != Some(candidate)).cloned();
        let others: Vec<Candidate> = others.collect();
        let candidates =
            first.into_iter().chain(others).map(|candidate| (candidate, SearchProgress::Waiting)).collect();
        LeaderSearch { group, candidates, n_hints: 0, silent: None, answers: channel() }
    }

    /// Excludes a hub that does not answer.
    pub fn without(mut self, silent: &HubAddress) -> LeaderSearch<'a> {
        self.candidates.retain(|(candidate, _)| *candidate != Candidate::Hub(silent.clone()));
        self.silent = Some(silent.clone());
        self
    }

    /// Asks hubs until it finds one that leads, and returns a connection to this hub. While no hub leads, the standbys
    /// are asked again, because one of them may be about to take over.
    ///
    /// # Errors
    /// `Refused` if the leader or all hubs reject us, `Standby` if hubs answer but none leads, and `Gone` otherwise. The
    /// error says for each hub what is wrong.
    pub fn run(mut self, limit: Duration) -> Result<FoundLeader, Error> {
        let began = Instant::now();
        let mut next_at = began;
        loop {
            let now = Instant::now();
            if let Some(patience) = self.ask_next(now, next_at) {
                next_at = now + patience;
            }
            let end = began + if self.waits_for_ssh() { SSH_MAX } else { limit };
            if now >= end || !self.is_hopeful() {
                return Err(self.failure());
            }
            let pause = end.min(self.next_question(next_at)).saturating_duration_since(now);
            match self.answers.1.recv_timeout(pause) {
                Ok(Answer::Leads(found)) => return Ok(found),
                Ok(Answer::Failed(candidate, error)) => {
                    self.add_hint(&error);
                    let progress = match error.kind {
                        ErrorKind::Standby => SearchProgress::StandsBy(error),
                        _ => SearchProgress::Failed(Instant::now(), error),
                    };
                    self.note_progress(&candidate, progress);
                    next_at = Instant::now();
                }
                Ok(Answer::HasOtherMesh(candidate, error)) => {
                    self.note_progress(&candidate, SearchProgress::HasOtherMesh(error));
                    next_at = Instant::now();
                }
                // No answer has arrived, and it is time to ask the next candidate.
                Err(_) => {}
            }
        }
    }

    /// Asks the next candidate that is due. Returns how long to wait for the answer before another candidate is asked.
    /// Returns `None` if no candidate is due.
    fn ask_next(&mut self, now: Instant, next_at: Instant) -> Option<Duration> {
        let is_due = |progress: &SearchProgress| match progress {
            SearchProgress::Waiting => now >= next_at,
            SearchProgress::Asked | SearchProgress::StandsBy(_) | SearchProgress::HasOtherMesh(_) => false,
            SearchProgress::Failed(at, _) => now >= *at + AGAIN_AFTER,
        };
        let (candidate, progress) = self.candidates.iter_mut().find(|(_, progress)| is_due(progress))?;
        *progress = match ask(self.group, candidate, &self.answers.0) {
            Ok(()) => SearchProgress::Asked,
            Err(error) => SearchProgress::Failed(now, error),
        };
        Some(if candidate.is_behind_ssh() { NEXT_AFTER_SSH } else { NEXT_AFTER })
    }

    fn note_progress(&mut self, candidate: &Candidate, new: SearchProgress) {
        if let Some((_, progress)) = self.candidates.iter_mut().find(|(known, _)| known == candidate) {
            *progress = new;
        }
    }

    /// If a standby's error names the leader, moves the leader to the front of the candidates. If the leader is not a
    /// candidate yet, adds it at the front.
    fn add_hint(&mut self, error: &Error) {
        let Some(hint) = leader_hint(error) else { return };
        let is_hint = |hub: &HubAddress| self.group.is_named_by(hub, &hint);
        let listed = self.candidates.iter().position(|(candidate, _)| candidate.hub().is_some_and(is_hint));
        if let Some(at) = listed {
            self.candidates[..=at].rotate_right(1);
        } else if self.n_hints < HINTS_MAX && self.group.has_secret() && !self.silent.as_ref().is_some_and(is_hint) {
            self.n_hints += 1;
            self.candidates.insert(0, (Candidate::Hub(hint), SearchProgress::Waiting));
        }
    }

    /// Whether the search can still succeed. It can if at least one candidate has not failed.
    fn is_hopeful(&self) -> bool {
        let has_failed = |progress: &SearchProgress| {
            matches!(progress, SearchProgress::Failed(..) | SearchProgress::HasOtherMesh(_))
        };
        self.candidates.iter().any(|(_, progress)| !has_failed(progress))
    }

    fn waits_for_ssh(&self) -> bool {
        self.candidates
            .iter()
            .any(|(candidate, progress)| candidate.is_behind_ssh() && matches!(progress, SearchProgress::Asked))
    }

    /// Returns the time at which the next candidate is to be asked if no answer has arrived by then.
    fn next_question(&self, next_at: Instant) -> Instant {
        let due = self.candidates.iter().filter_map(|(_, progress)| match progress {
            SearchProgress::Waiting => Some(next_at),
            SearchProgress::Asked | SearchProgress::StandsBy(_) | SearchProgress::HasOtherMesh(_) => None,
            SearchProgress::Failed(at, _) => Some(*at + AGAIN_AFTER),
        });
        due.min().unwrap_or_else(|| Instant::now() + SSH_MAX)
    }

    /// The error that says why no leader was found.
    fn failure(&self) -> Error {
        let causes: Vec<String> = self.candidates.iter().map(|(hub, progress)| progress.cause(hub)).collect();
        let causes = causes.join("; ");
        let has = |kind| self.candidates.iter().any(|(_, progress)| progress.kind() == Some(kind));
        if let Some(leader) = self.leader_out_of_reach() {
            let text = format!(
                "none of the hubs in SLM_MESH_HOST is the leader: {causes}; this machine has no secret, so it can reach {leader} \
                 only through ssh: add ssh://{} to SLM_MESH_HOST, or set SLM_MESH_SHARED_SECRET",
                leader.host()
            );
            return Error::new(ErrorKind::Standby, text);
        }
        if let Some((leader, refusal)) = self.leader_that_refuses() {
            return Error::new(refusal.kind, format!("{leader} is the leader, but {}", refusal.text));
        }
        let are_all_refused = self.candidates.iter().all(|(_, progress)| progress.kind() == Some(ErrorKind::Refused));
        if let Some(cure) = self.cure_of_other_mesh() {
            let kind = if has(ErrorKind::Standby) { ErrorKind::Standby } else { ErrorKind::Gone };
            let kind = if are_all_refused { ErrorKind::Refused } else { kind };
            return Error::new(kind, format!("no hub of this machine's mesh is the leader: {causes}; {cure}"));
        }
        if has(ErrorKind::Standby) {
            let has_trouble = self.candidates.iter().any(|(_, progress)| progress.trouble().is_some());
            let or_else = if has_trouble { ", or run slm-mesh doctor on the hub that reports a problem" } else { "" };
            let text = format!("no hub is the leader at the moment: {causes}; try again in a moment{or_else}");
            return Error::new(ErrorKind::Standby, text);
        }
        let kind = if are_all_refused { ErrorKind::Refused } else { ErrorKind::Gone };
        Error::new(kind, format!("no hub answers: {causes}; run slm-mesh doctor to try each hub"))
    }
}

impl LeaderSearch<'_> {
    /// Returns the leader that a standby named, if this machine can't connect to that leader. The machine can't connect
    /// if the settings contain neither the leader nor a secret.
    fn leader_out_of_reach(&self) -> Option<HubAddress> {
        let mut hints = self.leaders_named_by_standbys();
        let is_listed = |hint: &HubAddress| {
            let mut hubs = self.candidates.iter().filter_map(|(candidate, _)| candidate.hub());
            hubs.any(|hub| self.group.is_named_by(hub, hint))
        };
        let found = hints.find(|hint| !is_listed(hint));
        found.filter(|_| !self.group.has_secret())
    }

    /// Returns the leader that a standby named, and the leader's refusal, if the leader refuses this machine. Another
    /// attempt would fail in the same way.
    fn leader_that_refuses(&self) -> Option<(HubAddress, &Error)> {
        self.leaders_named_by_standbys().find_map(|hint| {
            let refusal = self.candidates.iter().find_map(|(candidate, progress)| match progress {
                SearchProgress::Failed(_, error) if error.kind == ErrorKind::Refused => {
                    candidate.hub().filter(|hub| self.group.is_named_by(hub, &hint)).map(|_| error)
                }
                _ => None,
            })?;
            Some((hint, refusal))
        })
    }

    /// What to do about a hub that has another mesh. `None` if there is no such hub.
    fn cure_of_other_mesh(&self) -> Option<&str> {
        self.candidates.iter().find_map(|(_, progress)| match progress {
            SearchProgress::HasOtherMesh(error) => problem_and_cure(&error.text).1,
            _ => None,
        })
    }

    fn leaders_named_by_standbys(&self) -> impl Iterator<Item = HubAddress> + '_ {
        self.candidates.iter().filter_map(|(_, progress)| match progress {
            SearchProgress::StandsBy(error) => leader_hint(error),
            _ => None,
        })
    }
}

impl SearchProgress {
    fn kind(&self) -> Option<ErrorKind> {
        match self {
            SearchProgress::Waiting | SearchProgress::Asked => None,
            SearchProgress::StandsBy(error)
            | SearchProgress::Failed(_, error)
            | SearchProgress::HasOtherMesh(error) => Some(error.kind),
        }
    }

    /// Returns why a standby can't lead. Returns `None` if the hub is not a standby or gives no reason.
    fn trouble(&self) -> Option<&str> {
        match self {
            SearchProgress::StandsBy(error) => error.data.as_ref()?["trouble"].as_str(),
            SearchProgress::Waiting
            | SearchProgress::Asked
            | SearchProgress::Failed(..)
            | SearchProgress::HasOtherMesh(_) => None,
        }
    }

    /// Describes what failed at a hub. Uses only the first clause of the error. The other clauses contain advice that
    /// fits only a mesh with a single hub.
    fn cause(&self, hub: &Candidate) -> String {
        match self {
            SearchProgress::Failed(_, error) | SearchProgress::HasOtherMesh(error) => {
                problem_and_cure(&error.text).0.to_owned()
            }
            SearchProgress::StandsBy(error) => match leader_hint(error) {
                Some(leader) => format!("{hub} is a standby, and says that {leader} is the leader"),
                None => match self.trouble() {
                    Some(trouble) => {
                        format!("{hub} is a standby: {}", problem_and_cure(trouble).0)
                    }
                    None => format!("{hub} is a standby"),
                },
            },
            SearchProgress::Waiting | SearchProgress::Asked => format!("{hub} does not answer"),
        }
    }
}

/// Returns the leader that a standby named in its error.
pub fn leader_hint(error: &Error) -> Option<HubAddress> {
    let data = error.data.as_ref().filter(|_| error.kind == ErrorKind::Standby)?;
    HubAddress::parse(data["leader"].as_str()?).ok().filter(HubAddress::is_network)
}

/// Asks a candidate on a separate thread, so that a silent hub does not delay the other hubs. Asks a standby again
/// until the search ends.
fn ask(group: &Arc<HubGroup>, candidate: &Candidate, answers: &Sender<Answer>) -> Result<(), Error> {
    let (group, candidate, answers) = (Arc::clone(group), candidate.clone(), answers.clone());
    let ask = move || {
        let mut client = match group.connect_to(&candidate) {
            Ok(client) => client,
            // If the search has already ended, the send fails, and nobody needs the answer.
            Err(error) => return drop(answers.send(Answer::Failed(candidate, error))),
        };
        let mut pause = STANDBY_PAUSE_MIN;
        loop {
            match client.call_once("ping", &json!({})) {
                Ok(pong) => return answer_as_leader(&group, (candidate, client), &pong, &answers),
                Err(error) => {
                    let stands_by = error.kind == ErrorKind::Standby;
                    if answers.send(Answer::Failed(candidate.clone(), error)).is_err() || !stands_by {
                        return end_unwanted(client);
                    }
                }
            }
            std::thread::sleep(pause);
            pause = (pause * 3 / 2).min(STANDBY_PAUSE_MAX);
        }
    };
    let spawned = std::thread::Builder::new().stack_size(STACK_BYTES).spawn(ask);
    spawned.map(drop).map_err(|error| Error::new(ErrorKind::Gone, format!("no thread can be started ({error})")))
}

/// Reports a hub that leads, unless it leads another mesh.
fn answer_as_leader(group: &HubGroup, (hub, mut client): (Candidate, Client), pong: &Value, answers: &Sender<Answer>) {
    match group.check_mesh(&hub, &mut client, pong) {
        Ok(log) => {
            if let Err(SendError(Answer::Leads(unwanted))) =
                answers.send(Answer::Leads(FoundLeader { hub, client, log }))
            {
                end_unwanted(unwanted.client);
            }
        }
        Err(error) => {
            let is_answer = error.kind == ErrorKind::Refused;
            // If the search has already ended, the send fails, and nobody needs the answer.
            let _ = answers.send(if is_answer { Answer::HasOtherMesh(hub, error) } else { Answer::Failed(hub, error) });
            end_unwanted(client);
        }
    }
}

/// Closes a connection that is not needed, and ends its ssh process.
fn end_unwanted(mut client: Client) {
    if let Some(ssh) = client.carrier.take() {
        ssh.kill();
    }
}
