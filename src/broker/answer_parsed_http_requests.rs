//! Answers HTTP requests in the event loop. The HTTP thread has already checked that the requests are valid and
//! authorised. Some requests wait here until the mesh changes, or until a thread has inspected a directory.

use super::blocking_filesystem_threads::{DirectoryLookup, DirectoryLookups};
use super::event_loop::LoopContext;
use super::http::{HttpResponse, HttpServer, PendingRequest, Ticket};
use super::{legacy_http, linked_mesh_http_routes, log, web};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

/// Maximum time for HTTP requests in one turn of the event loop. The rest of the turn is for the clients on the Unix
/// socket. A request that has begun is always finished.
const TURN_SHARE: Duration = Duration::from_millis(1);
/// Maximum number of requests that wait for changes. Further requests are answered immediately.
const HELD_MAX: usize = 64;
/// How long the lookup of a directory may take, in ms. After this time, the repository of the directory counts as
/// unknown.
const LOOKUP_MS: i64 = 1000;

/// The HTTP requests that the event loop must answer.
pub struct HttpRequests {
    /// The HTTP thread; `None` if no port was free, or if the thread could not be started.
    server: Option<HttpServer>,
    inbox: Receiver<PendingRequest>,
    /// The requests that wait for changes, each with the time at which its wait ends, in ms.
    held: Vec<(PendingRequest, i64)>,
    /// The requests that wait for the lookup of a directory, each with the time at which its wait ends, in ms.
    looking: Vec<(PendingRequest, DirectoryLookup<String>, i64)>,
    lookups: DirectoryLookups,
    /// The responses that are sent with the next flush.
    responses: Vec<UnsentResponse>,
    /// Whether the last turn ended before the inbox was empty.
    has_backlog: bool,
}

/// A response that is sent with the next flush.
struct UnsentResponse {
    ticket: Ticket,
    response: HttpResponse,
    /// Whether the turn had written anything when it answered the request. Then the response is true only if the turn
    /// is committed.
    needs_commit: bool,
}

impl HttpRequests {
    /// Takes over a running HTTP thread, and the channel on which its requests arrive.
    pub fn new(server: Option<HttpServer>, inbox: Receiver<PendingRequest>, lookups: DirectoryLookups) -> HttpRequests {
        let (held, looking, responses) = (Vec::new(), Vec::new(), Vec::new());
        HttpRequests { server, inbox, held, looking, lookups, responses, has_backlog: false }
    }

    /// Serves the requests that have arrived, for at most `TURN_SHARE`. The HTTP thread passes on one request of each
    /// connection at a time, so no connection alone can use up this time.
    pub fn serve(&mut self, context: &mut LoopContext) {
        let began = Instant::now();
        while began.elapsed() < TURN_SHARE && !context.is_turn_full() {
            let Ok(pending) = self.inbox.try_recv() else {
                self.has_backlog = false;
                return;
            };
            let target = pending.request.head.target.as_str();
            if !linked_mesh_http_routes::is_poll(target) {
                context.shutdown.note_use(context.now);
            }
            let hold_ms =
                linked_mesh_http_routes::hold_ms(&pending.request, linked_mesh_http_routes::Marks::of(&context.mesh));
            match hold_ms.filter(|_| self.held.len() < HELD_MAX) {
                Some(ms) => self.held.push((pending, context.now + ms)),
                None => self.look_or_respond(pending, context),
            }
        }
        self.has_backlog = true;
    }

    /// Answers a request. If the request depends on a directory, the answer waits until a thread has inspected the
    /// directory.
    fn look_or_respond(&mut self, pending: PendingRequest, context: &mut LoopContext) {
        if let Some(refusal) = context.role.refusal() {
            let response = legacy_http::standing_by(&refusal);
            return self.responses.push(UnsentResponse { ticket: pending.ticket, response, needs_commit: false });
        }
        let directory = legacy_http::directory(&context.mesh, &pending.request);
        match directory.and_then(|directory| self.lookups.find_repository(directory)) {
            Some(lookup) => self.looking.push((pending, lookup, context.now + LOOKUP_MS)),
            None => self.respond(&pending, None, context),
        }
    }

    /// Answers the requests for which the lookup of the directory has ended or has taken too long.
    pub fn serve_looking(&mut self, context: &mut LoopContext) {
        for (pending, lookup, until) in std::mem::take(&mut self.looking) {
            match lookup.result() {
                None if until > context.now => self.looking.push((pending, lookup, until)),
                found => self.respond(&pending, found.flatten(), context),
            }
        }
    }

    /// Answers the waiting requests that are affected by a change, and those that have waited long enough.
    pub fn serve_held(&mut self, context: &mut LoopContext) {
        if self.held.is_empty() {
            return;
        }
        let marks = linked_mesh_http_routes::Marks::of(&context.mesh);
        let is_due = |(pending, until): &(PendingRequest, i64)| {
            *until <= context.now || linked_mesh_http_routes::hold_ms(&pending.request, marks).is_none()
        };
        let (due, held): (Vec<_>, Vec<_>) = std::mem::take(&mut self.held).into_iter().partition(is_due);
        self.held = held;
        for (pending, _) in due {
            self.respond(&pending, None, context);
        }
    }

    fn respond(&mut self, pending: &PendingRequest, repository: Option<String>, context: &mut LoopContext) {
        let LoopContext { mesh, pages, now, .. } = context;
        let (request, now) = (&pending.request, *now);
        let response = catch_unwind(AssertUnwindSafe(|| match request.head.target.as_str() {
            web::STREAM => pages.open_stream(mesh, pending.ticket),
            path if path.starts_with("/web/") => Some(web::run_call(mesh, request, now)),
            _ => Some(legacy_http::respond(mesh, request, repository, now)),
        }));
        let response = response.unwrap_or_else(|_| {
            log("a bug in slm-mesh: an HTTP request caused a panic and was answered with status 500");
            Some(legacy_http::internal_error())
        });
        let (ticket, needs_commit) = (pending.ticket, mesh.has_written());
        self.responses.extend(response.map(|response| UnsentResponse { ticket, response, needs_commit }));
        pages.mark_dirty();
        // Calls that wait for a change of the mesh are served before the next request, because they arrived earlier.
        mesh.resume_waiting(now);
    }

    /// Passes the responses of the turn to the HTTP thread. If the commit failed, replaces each response that needs the
    /// commit with an error.
    pub fn send_responses(&mut self, is_committed: bool) {
        for UnsentResponse { ticket, response, needs_commit } in self.responses.drain(..) {
            if let Some(server) = &self.server {
                let is_true = is_committed || !needs_commit;
                server.respond(ticket, if is_true { response } else { legacy_http::not_stored() });
            }
        }
    }

    /// Answers all pending requests with an error. The error says that this hub does not know whether the requests took
    /// effect.
    pub fn refuse_pending(&mut self) {
        let held = std::mem::take(&mut self.held).into_iter().map(|(pending, _)| pending.ticket);
        let looking = std::mem::take(&mut self.looking).into_iter().map(|(pending, ..)| pending.ticket);
        let ready = std::mem::take(&mut self.responses).into_iter().map(|unsent| unsent.ticket);
        for ticket in held.chain(looking).chain(ready) {
            if let Some(server) = &self.server {
                server.respond(ticket, legacy_http::outcome_unknown());
            }
        }
    }

    /// Whether the last turn may have left requests unserved.
    pub fn has_backlog(&self) -> bool {
        self.has_backlog
    }

    /// The next time at which a waiting request must be answered, in ms.
    pub fn deadline(&self) -> Option<i64> {
        self.held.iter().map(|(_, until)| *until).chain(self.looking.iter().map(|(.., until)| *until)).min()
    }

    /// The HTTP server, which sends the streams to the web pages.
    pub fn server(&self) -> Option<&HttpServer> {
        self.server.as_ref()
    }

    /// Ends the HTTP thread. Pending responses get a short time to be sent.
    pub fn stop(self) {
        if let Some(server) = self.server {
            server.stop();
        }
    }
}
