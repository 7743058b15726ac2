//! Serves the requests that the HTTP thread found well-formed and authorised. Some requests wait here for changes or
//! for the lookup of a directory.

use super::directory_lookups::{DirectoryLookup, DirectoryLookups};
use super::event_loop::LoopContext;
use super::http::{HttpResponse, HttpServer, PendingRequest, Ticket};
use super::{legacy_http, log, superlocalmemory, web};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

/// Maximum time for requests in one turn, so that sessions get their share. A request that has begun is finished.
const TURN_SHARE: Duration = Duration::from_millis(1);
/// Maximum number of requests held at once. Further requests are answered immediately.
const HELD_MAX: usize = 64;
/// How long the lookup of a directory may take, in ms. After that its repository counts as unknown.
const LOOKUP_MS: i64 = 1000;

/// The HTTP thread, as the event loop sees it.
pub struct HttpRequests {
    /// The HTTP thread; `None` when no port was free.
    server: Option<HttpServer>,
    inbox: Receiver<PendingRequest>,
    /// Requests that wait for changes, each with the time until which it waits, in ms.
    held: Vec<(PendingRequest, i64)>,
    /// Requests that wait for the lookup of a directory, each with the time until which it waits, in ms.
    looking: Vec<(PendingRequest, DirectoryLookup<String>, i64)>,
    lookups: DirectoryLookups,
    /// Responses that leave with the next flush.
    responses: Vec<(Ticket, HttpResponse)>,
    /// Whether the last turn ended before the inbox was empty.
    has_backlog: bool,
}

impl HttpRequests {
    /// Takes over a started HTTP thread, and the inbox into which it puts requests.
    pub fn new(server: Option<HttpServer>, inbox: Receiver<PendingRequest>, lookups: DirectoryLookups) -> HttpRequests {
        let (held, looking, responses) = (Vec::new(), Vec::new(), Vec::new());
        HttpRequests { server, inbox, held, looking, lookups, responses, has_backlog: false }
    }

    /// Serves the requests that have arrived, up to a turn's share of work. The HTTP thread passes on one request of
    /// each connection at a time, so connections take turns.
    pub fn serve(&mut self, context: &mut LoopContext) {
        let began = Instant::now();
        while began.elapsed() < TURN_SHARE && !context.is_turn_full() {
            let Ok(pending) = self.inbox.try_recv() else {
                self.has_backlog = false;
                return;
            };
            let target = pending.request.head.target.as_str();
            if !superlocalmemory::is_poll(target) {
                context.lifecycle.note_use(context.now);
            }
            let hold_ms = superlocalmemory::hold_ms(&pending.request, superlocalmemory::Marks::of(&context.mesh));
            match hold_ms.filter(|_| self.held.len() < HELD_MAX) {
                Some(ms) => self.held.push((pending, context.now + ms)),
                None => self.look_or_respond(pending, context),
            }
        }
        self.has_backlog = true;
    }

    /// Answers a request. If it depends on a directory, it waits until a thread has inspected that directory.
    fn look_or_respond(&mut self, pending: PendingRequest, context: &mut LoopContext) {
        if let Some(refusal) = context.role.refusal() {
            return self.responses.push((pending.ticket, legacy_http::standing_by(&refusal)));
        }
        let directory = legacy_http::directory(&context.mesh, &pending.request);
        match directory.and_then(|directory| self.lookups.find_repository(directory)) {
            Some(lookup) => self.looking.push((pending, lookup, context.now + LOOKUP_MS)),
            None => self.respond(&pending, None, context),
        }
    }

    /// Answers the requests whose directory lookups are done, or took too long.
    pub fn serve_looking(&mut self, context: &mut LoopContext) {
        for (pending, lookup, until) in std::mem::take(&mut self.looking) {
            match lookup.result() {
                None if until > context.now => self.looking.push((pending, lookup, until)),
                found => self.respond(&pending, found.flatten(), context),
            }
        }
    }

    /// Answers held requests that a change concerns, or whose time is up.
    pub fn serve_held(&mut self, context: &mut LoopContext) {
        if self.held.is_empty() {
            return;
        }
        let marks = superlocalmemory::Marks::of(&context.mesh);
        let is_due = |(pending, until): &(PendingRequest, i64)| {
            *until <= context.now || superlocalmemory::hold_ms(&pending.request, marks).is_none()
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
            log("a bug: a panic ended one HTTP request, which was answered with 500");
            Some(legacy_http::internal_error())
        });
        self.responses.extend(response.map(|response| (pending.ticket, response)));
        pages.mark_dirty();
        // Waiting calls are served before the next request, which came later.
        mesh.resume_waiting(now);
    }

    /// Passes the turn's responses to the HTTP thread. If the commit failed, they say that nothing was stored.
    pub fn send_responses(&mut self, is_committed: bool) {
        for (ticket, response) in self.responses.drain(..) {
            if let Some(server) = &self.server {
                server.respond(ticket, if is_committed { response } else { legacy_http::not_stored() });
            }
        }
    }

    /// Answers all requests that are pending that this hub can't say what became of them.
    pub fn refuse_pending(&mut self) {
        let held = std::mem::take(&mut self.held).into_iter().map(|(pending, _)| pending.ticket);
        let looking = std::mem::take(&mut self.looking).into_iter().map(|(pending, ..)| pending.ticket);
        let ready = std::mem::take(&mut self.responses).into_iter().map(|(ticket, _)| ticket);
        for ticket in held.chain(looking).chain(ready) {
            if let Some(server) = &self.server {
                server.respond(ticket, legacy_http::outcome_unknown());
            }
        }
    }

    /// Whether requests are left over from the last turn.
    pub fn has_backlog(&self) -> bool {
        self.has_backlog
    }

    /// The latest time at which a held request must be answered, in ms.
    pub fn deadline(&self) -> Option<i64> {
        self.held.iter().map(|(_, until)| *until).chain(self.looking.iter().map(|(.., until)| *until)).min()
    }

    /// The HTTP thread, through which pages are streamed.
    pub fn server(&self) -> Option<&HttpServer> {
        self.server.as_ref()
    }

    /// Ends the HTTP thread after a moment for pending responses.
    pub fn stop(self) {
        if let Some(server) = self.server {
            server.stop();
        }
    }
}
