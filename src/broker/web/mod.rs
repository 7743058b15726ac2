//! The page for people: who may look at it, its three files, and what it may ask.
//!
//! **Invariant:** the files hold no data and are all that is served without a session; a session is asked
//! for on this machine only, by our own page. All of that is decided on the HTTP thread, from the head.

pub mod auth;
pub mod stream;

use super::http::{Answer, Gate, Head, Request};
use crate::base::error::Error;
use crate::core::{self, CallContext, Mesh};
use auth::Keys;
use serde_json::{Map, Value, json};
use std::sync::Arc;
use std::time::Instant;

const PAGE: &str = include_str!("page.html");
const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// Where a code is used.
pub const OPEN: &str = "/open/";
/// Where the page listens, and where it asks.
pub const STREAM: &str = "/web/events";
const CALL: &str = "/web/call";

/// What the page may ask, always as the human.
const CALLS: &[&str] = &["send", "inbox", "shown", "lock.unlock"];

/// Nothing from elsewhere, nothing inline, nothing framed, and no text that becomes markup.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; \
                      frame-ancestors 'none'; base-uri 'none'; form-action 'none'; \
                      require-trusted-types-for 'script'; trusted-types 'none'";

/// Looks at what concerns the page, and leaves the rest to another gate.
pub fn gate(keys: Arc<Keys>, port: u16, rest: Gate) -> Gate {
    Box::new(move |head: &Head| {
        let files = ["/", "/page.css", "/page.js"];
        let path = head.target.as_str();
        let is_ours = files.contains(&path) || path.starts_with(OPEN) || path.starts_with("/web/");
        if is_ours { look(&keys, port, head) } else { rest(head) }
    })
}

/// The answer, or nothing for what goes on to the loop.
fn look(keys: &Keys, port: u16, head: &Head) -> Option<Answer> {
    if let Some(why) = stranger(port, head) {
        return Some(refuse(403, why));
    }
    let now = Instant::now();
    let name = format!("slm-mesh-{port}");
    let cookie = head.cookie.as_deref().and_then(|cookies| named(cookies, &name)).unwrap_or("");
    match (head.method.as_str(), head.target.as_str()) {
        ("GET", "/") => Some(file("text/html; charset=utf-8", PAGE)),
        ("GET", "/page.css") => Some(file("text/css; charset=utf-8", STYLE)),
        ("GET", "/page.js") => Some(file("text/javascript; charset=utf-8", SCRIPT)),
        ("GET", path) if path.starts_with(OPEN) => Some(open(keys, head, &path[OPEN.len()..], &name)),
        ("POST", "/web/key") => Some(match keys.claim(cookie, now) {
            Some(key) => answer(200, &json!({ "ok": true, "key": key })),
            None => refuse(401, "no session, or its key was given out before"),
        }),
        ("POST", STREAM | CALL) => {
            let key = head.browser.page_key.as_deref().unwrap_or("");
            if !keys.admits(cookie, key, now) {
                return Some(refuse(401, "no session: slm-mesh web opens one"));
            }
            let is_json = head.browser.content_type.as_deref() == Some("application/json");
            (!is_json).then(|| refuse(415, "want application/json"))
        }
        _ => Some(refuse(404, "Unknown endpoint")),
    }
}

/// Why a request is not from our own page on this machine, if it isn't.
fn stranger(port: u16, head: &Head) -> Option<&'static str> {
    let host = head.host.as_deref().unwrap_or("");
    let is_named = ["127.0.0.1", "localhost", "[::1]"].iter().any(|name| host == format!("{name}:{port}"));
    let is_own = head.origin.as_ref().map(|origin| *origin == format!("http://{host}"));
    let site = head.browser.site.as_deref();
    if !head.peer.is_loopback() {
        return Some("the page is served on its own machine only; from elsewhere: ssh -L");
    }
    if !is_named {
        return Some("the page is served as 127.0.0.1, localhost or [::1] with the broker's port only");
    }
    if is_own == Some(false) || !matches!(site, None | Some("none" | "same-origin")) {
        return Some("nothing is served to pages of other origins; type the address into the browser");
    }
    let is_proven = is_own == Some(true) || site == Some("same-origin");
    (head.method == "POST" && !is_proven).then_some("want the Origin of the page")
}

/// A value among cookies.
fn named<'a>(cookies: &'a str, name: &str) -> Option<&'a str> {
    cookies.split(';').filter_map(|pair| pair.trim().split_once('=')).find(|(known, _)| *known == name).map(|(_, v)| v)
}

/// A code becomes a cookie, and is gone from the address bar. Who only looks what is behind a link (a
/// preview, a frame, a prefetch) does not use it up.
fn open(keys: &Keys, head: &Head, code: &str, name: &str) -> Answer {
    let browser = &head.browser;
    let is_visit = matches!(browser.mode.as_deref(), None | Some("navigate"))
        && matches!(browser.dest.as_deref(), None | Some("document"));
    if !is_visit {
        return refuse(403, "a link is opened in the address bar");
    }
    let cookie = keys.redeem(code, Instant::now());
    let mut answer =
        with_policy(Answer { status: 303, content_type: "text/plain", headers: Vec::new(), body: Vec::new() });
    // A page that is open stays so, also when its link is opened once more.
    answer.headers.push(("Location", if cookie.is_some() { "/".into() } else { "/#used".into() }));
    if let Some(cookie) = cookie {
        answer.headers.push(("Set-Cookie", format!("{name}={cookie}; Path=/; HttpOnly; SameSite=Strict")));
    }
    answer
}

/// Performs what the page asks, as the human at this machine.
pub fn call(mesh: &mut Mesh, request: &Request, now: i64) -> Answer {
    if request.head.target != CALL {
        return refuse(404, "Unknown endpoint");
    }
    match perform(mesh, &request.body, now) {
        Ok(value) => answer(200, &value),
        Err(error) => answer(error.kind.codes().http, &error.to_value()),
    }
}

fn perform(mesh: &mut Mesh, body: &[u8], now: i64) -> Result<Value, Error> {
    let mut asked: Map<String, Value> = match serde_json::from_slice(body) {
        Ok(Value::Object(asked)) => asked,
        _ => return Err(Error::usage("body", "want a JSON object")),
    };
    let method = asked.get("method").and_then(Value::as_str).filter(|method| CALLS.contains(method));
    let op = method.and_then(core::op);
    let op = op.ok_or_else(|| Error::usage("method", format!("want one of {}", CALLS.join(", "))))?;
    let params = core::object(asked.remove("params").unwrap_or(Value::Null));
    let args = op.check(params)?;
    let actor = Some(mesh.peers().resolve("human")?);
    // Nobody waits on this road: what would is answered at once.
    let ctx = CallContext {
        conn: 0,
        actor,
        now,
        until: None,
        cursor: None,
        deadline_reached: true,
        id: Value::Null,
        ancestors: Vec::new(),
    };
    mesh.run(op, &args, &ctx)
}

fn file(content_type: &'static str, text: &str) -> Answer {
    with_policy(Answer { status: 200, content_type, headers: Vec::new(), body: text.as_bytes().to_vec() })
}

fn answer(status: u16, value: &Value) -> Answer {
    with_policy(Answer::json(status, value.to_string().into_bytes()))
}

fn refuse(status: u16, text: &str) -> Answer {
    answer(status, &json!({ "ok": false, "error": text }))
}

/// What all answers say to the browser.
fn with_policy(mut answer: Answer) -> Answer {
    let all = [
        ("Content-Security-Policy", POLICY),
        ("X-Content-Type-Options", "nosniff"),
        ("Cross-Origin-Opener-Policy", "same-origin"),
        ("Cross-Origin-Resource-Policy", "same-origin"),
        ("Referrer-Policy", "no-referrer"),
        ("Cache-Control", "no-store"),
    ];
    answer.headers.extend(all.map(|(name, value)| (name, value.to_owned())));
    answer
}
