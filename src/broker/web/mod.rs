//! The web page for people: access to the page, its files, and the calls that it may make.
//!
//! **Invariant:** without a session, only the page's files are served, and they contain no data. Only the broker's own
//! page, in a browser on this machine, can use a session. To enforce this, the HTTP thread checks the head of each
//! request.

pub mod auth;
pub mod event_stream;

use super::http::{Gate, Head, HttpResponse, Request};
use crate::base::error::Error;
use crate::base::id_types::PeerId;
use crate::core::op_behavior::RowStream;
use crate::core::{self, CallContext, ClientKind, Mesh, OPS, Op};
use crate::wire::lone_surrogate_json;
use auth::WebAuth;
use serde_json::{Map, Value, json};
use std::sync::Arc;
use std::time::Instant;

const JAVASCRIPT: &str = "text/javascript; charset=utf-8";

/// A file of the page: its path, its content type and its text.
type PageFile = (&'static str, &'static str, &'static str);

/// The files of the page. The scripts are ES modules. They import each other by the paths in this list.
const FILES: &[PageFile] = &[
    ("/", "text/html; charset=utf-8", include_str!("page.html")),
    ("/page.css", "text/css; charset=utf-8", include_str!("page.css")),
    ("/page.js", JAVASCRIPT, include_str!("page.js")),
    ("/page/calls_and_event_stream.js", JAVASCRIPT, include_str!("page/calls_and_event_stream.js")),
    ("/page/dialogs.js", JAVASCRIPT, include_str!("page/dialogs.js")),
    ("/page/dom.js", JAVASCRIPT, include_str!("page/dom.js")),
    ("/page/mesh_state.js", JAVASCRIPT, include_str!("page/mesh_state.js")),
    ("/page/repaint_schedule.js", JAVASCRIPT, include_str!("page/repaint_schedule.js")),
    ("/page/agents.js", JAVASCRIPT, include_str!("page/agents.js")),
    ("/page/locks.js", JAVASCRIPT, include_str!("page/locks.js")),
    ("/page/messages.js", JAVASCRIPT, include_str!("page/messages.js")),
    ("/page/message_search.js", JAVASCRIPT, include_str!("page/message_search.js")),
    ("/page/agent_mailbox.js", JAVASCRIPT, include_str!("page/agent_mailbox.js")),
    ("/page/message_timeline.js", JAVASCRIPT, include_str!("page/message_timeline.js")),
    ("/page/shared_key_value_list.js", JAVASCRIPT, include_str!("page/shared_key_value_list.js")),
    ("/page/events_list.js", JAVASCRIPT, include_str!("page/events_list.js")),
];

/// The beginning of the path that opens the page. The rest of the path is a code.
pub const OPEN: &str = "/open/";
/// The path of the event stream.
pub const STREAM: &str = "/web/events";
/// The path to which the page posts its calls.
const CALL: &str = "/web/call";

/// Forbids content from other origins, inline scripts and styles, frames, and scripts that turn text into markup.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; \
     frame-ancestors 'none'; base-uri 'none'; form-action 'none'; \
     require-trusted-types-for 'script'; trusted-types 'none'";

/// Accepts or refuses requests for the page, and passes all other requests to the gate `rest`.
pub fn gate(auth: Arc<WebAuth>, port: u16, rest: Gate) -> Gate {
    Box::new(move |head: &Head| {
        let path = head.target.as_str();
        let is_for_page = find_file(path).is_some() || path.starts_with(OPEN) || path.starts_with("/web/");
        if is_for_page { decide(&auth, port, head) } else { rest(head) }
    })
}

fn find_file(path: &str) -> Option<&'static PageFile> {
    FILES.iter().find(|(known, ..)| *known == path)
}

/// Returns the response to a request for the page; `None` if the event loop must respond.
fn decide(auth: &WebAuth, port: u16, head: &Head) -> Option<HttpResponse> {
    if let Some(why) = why_foreign(port, head) {
        return Some(refuse(403, why));
    }
    let now = Instant::now();
    let name = format!("slm-mesh-{port}");
    let mut cookies = find_cookies(head.cookie.as_deref().unwrap_or(""), &name);
    match (head.method.as_str(), head.target.as_str()) {
        ("GET", path) if path.starts_with(OPEN) => Some(redeem_code(auth, head, &path[OPEN.len()..], &name)),
        ("GET", path) => Some(find_file(path).map_or_else(not_found, serve_file)),
        ("POST", "/web/key") => Some(match cookies.find_map(|cookie| auth.claim_key(cookie, now)) {
            Some(key) => respond(200, &json!({ "ok": true, "key": key })),
            None => refuse(
                401,
                "this page has no session, or another page already uses its session; run slm-mesh web to open a new \
                 page",
            ),
        }),
        ("POST", STREAM | CALL) => {
            let key = head.browser.page_key.as_deref().unwrap_or("");
            if !cookies.any(|cookie| auth.admits(cookie, key, now)) {
                return Some(refuse(401, "this page has no session; run slm-mesh web to open a new page"));
            }
            let is_json = head.browser.content_type.as_deref() == Some("application/json");
            (!is_json).then(|| refuse(415, "expected application/json"))
        }
        _ => Some(not_found()),
    }
}

/// Returns why a request is refused; `None` if it is accepted. An accepted request comes from this machine. If a
/// browser sent it, either the user typed the address, or the broker's own page made the request.
fn why_foreign(port: u16, head: &Head) -> Option<&'static str> {
    // Host names are case-insensitive.
    let host = head.host.as_deref().unwrap_or("").to_ascii_lowercase();
    let is_named = ["127.0.0.1", "localhost", "[::1]"].iter().any(|name| host == format!("{name}:{port}"));
    let is_own = head.origin.as_ref().map(|origin| *origin == format!("http://{host}"));
    let site = head.browser.site.as_deref();
    if !head.peer.is_loopback() {
        return Some("the page is served only to the broker's machine; from another machine, use a tunnel (ssh -L)");
    }
    if !is_named {
        return Some("open the page at 127.0.0.1, localhost or [::1], with the broker's port");
    }
    if is_own == Some(false) || !matches!(site, None | Some("none" | "same-origin")) {
        return Some("requests from other web pages are refused; type the address into the browser");
    }
    let is_proven = is_own == Some(true) || site == Some("same-origin");
    (head.method == "POST" && !is_proven).then_some("the Origin header must name the broker's own page")
}

/// Returns the values of all cookies with this name. There may be several such cookies, because a program on another
/// port of this machine can set a cookie with the same name.
fn find_cookies<'a>(cookies: &'a str, name: &str) -> impl Iterator<Item = &'a str> {
    cookies
        .split(';')
        .filter_map(move |pair| pair.trim().split_once('=').filter(|(known, _)| *known == name))
        .map(|(_, value)| value)
}

/// Exchanges a code for a cookie. The response is a redirect, so that the code disappears from the address bar.
/// Previews, frames and prefetches do not use up the code.
fn redeem_code(auth: &WebAuth, head: &Head, code: &str, name: &str) -> HttpResponse {
    let browser = &head.browser;
    let is_visit = matches!(browser.mode.as_deref(), None | Some("navigate"))
        && matches!(browser.dest.as_deref(), None | Some("document"));
    if !is_visit {
        return refuse(403, "paste this link into the address bar");
    }
    let cookie = auth.redeem(code, Instant::now());
    let mut response =
        with_policy(HttpResponse { status: 303, content_type: "text/plain", headers: Vec::new(), body: Vec::new() });
    // The page opens even without a valid code. If the browser still has a session, the page works. Otherwise, the page
    // says what was wrong.
    response.headers.push(("Location", if cookie.is_some() { "/".into() } else { "/#used".into() }));
    if let Some(cookie) = cookie {
        response.headers.push(("Set-Cookie", format!("{name}={cookie}; Path=/; HttpOnly; SameSite=Strict")));
    }
    response
}

/// Runs an operation that the page calls on behalf of the person at this machine.
pub fn run_call(mesh: &mut Mesh, request: &Request, now: i64) -> HttpResponse {
    if request.head.target != CALL {
        return not_found();
    }
    match run_operation(mesh, &request.body, now) {
        Ok(value) => respond(200, &value),
        Err(error) => respond(error.kind.codes().http, &error.to_value()),
    }
}

fn run_operation(mesh: &mut Mesh, body: &[u8], now: i64) -> Result<Value, Error> {
    let mut call: Map<String, Value> = match lone_surrogate_json::parse_bytes(body) {
        Ok(Value::Object(call)) => call,
        _ => return Err(Error::usage("body", "expected a JSON object")),
    };
    let op = call.get("method").and_then(Value::as_str).and_then(core::op).filter(|op| op.behavior.on_page);
    let op = op.ok_or_else(|| {
        let callable: Vec<_> = OPS.iter().filter(|op| op.behavior.on_page).map(|op| op.name).collect();
        Error::usage("method", format!("expected one of {}", callable.join(", ")))
    })?;
    let mut params = core::object(call.remove("params").unwrap_or(Value::Null));
    let actor = match call.get("as").and_then(Value::as_str) {
        None => mesh.peers().human().clone(),
        Some(owner) => look_at_mailbox(mesh, op, owner, &mut params)?,
    };
    let args = op.check(params)?;
    // A call from the page never waits. The response is sent at once, even if it is empty.
    mesh.run(op, &args, &CallContext::over_http(ClientKind::Interactive, Some(actor), now))
}

/// Restricts a call that the page makes as another peer of this mesh. The call may show the mailbox of that peer and do
/// nothing else. It marks no message as read or acknowledged. Returns the peer's id.
fn look_at_mailbox(mesh: &Mesh, op: &Op, owner: &str, params: &mut Map<String, Value>) -> Result<PeerId, Error> {
    if op.behavior.stream != Some(RowStream::Messages) || params.contains_key("ack") {
        return Err(Error::usage(
            "as",
            "the page can show the mailboxes of other peers, but cannot act on their behalf",
        ));
    }
    params.insert("take".into(), json!(false));
    mesh.peers().require_local(mesh.peers().find_by_name(owner)?)
}

fn serve_file((_, content_type, text): &PageFile) -> HttpResponse {
    with_policy(HttpResponse { status: 200, content_type, headers: Vec::new(), body: text.as_bytes().to_vec() })
}

fn not_found() -> HttpResponse {
    refuse(404, "Unknown endpoint")
}

fn respond(status: u16, value: &Value) -> HttpResponse {
    with_policy(HttpResponse::json(status, value.to_string().into_bytes()))
}

fn refuse(status: u16, text: &str) -> HttpResponse {
    respond(status, &json!({ "ok": false, "error": text }))
}

/// Adds the headers that restrict what the browser may do with the response.
fn with_policy(mut response: HttpResponse) -> HttpResponse {
    let all = [
        ("Content-Security-Policy", CONTENT_SECURITY_POLICY),
        ("X-Content-Type-Options", "nosniff"),
        ("Cross-Origin-Opener-Policy", "same-origin"),
        ("Cross-Origin-Resource-Policy", "same-origin"),
        ("Referrer-Policy", "no-referrer"),
        ("Cache-Control", "no-store"),
    ];
    response.headers.extend(all.map(|(name, value)| (name, value.to_owned())));
    response
}
