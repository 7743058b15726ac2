//! Authorises HTTP requests. Each request except `/health` must have the token or the secret. The `Host` header must be
//! a name or address of this machine. A hub checks the `Host` only in requests that contain no token and no secret.

use super::{body, refuse};
use crate::broker::http::{Gate, Head, HttpResponse};
use serde_json::json;
use std::net::IpAddr;
use std::time::Instant;
use subtle::ConstantTimeEq;

/// Accepts requests with the token or the secret, but no requests from web pages. So the gate refuses each request with
/// an `Origin`. It also refuses each request whose `Host` is not a name or address of this machine, because a page
/// could make its own name resolve to this machine's address. On a hub, a request with a token or a secret may have any
/// `Host`. The gate itself answers `/health`, which needs no token and no secret.
pub fn gate(token: String, secret: Option<String>, hub_name: Option<String>) -> Gate {
    let is_known = bearer_check(token, secret);
    let started = Instant::now();
    Box::new(move |head: &Head| {
        let bearer = head.authorization.as_deref().and_then(|given| given.strip_prefix("Bearer "));
        let given: Vec<&str> = [bearer, head.mesh_secret.as_deref()].into_iter().flatten().collect();
        let is_program = hub_name.is_some() && !given.is_empty();
        let is_own = is_own_name(head.host.as_deref(), hub_name.as_deref());
        if head.origin.is_some() || !is_own && !is_program {
            return Some(refuse(
                403,
                "only programs on this machine may use this address, not web pages of other origins",
            ));
        }
        if is_own && head.target == "/health" && head.method == "GET" {
            return Some(health(head, started));
        }
        // Always checks both the bearer token and the secret of a request. If the check stopped at the first match, the
        // response time would reveal which of the two matched.
        let is_let_in = given.iter().filter(|given| is_known(given)).count() > 0;
        (!is_let_in).then(|| refuse(401, "Unauthorized — invalid or missing bearer token"))
    })
}

/// Whether the `Host` header is a name or address of this machine. On a hub, the hub's name and any IP address are
/// accepted, too. An IP address is safe, because a web page can make only its own domain name resolve to this machine.
fn is_own_name(host: Option<&str>, hub_name: Option<&str>) -> bool {
    let host = host.map_or("localhost", without_port);
    // Host names are case-insensitive.
    let bare = host.trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
    let is_hub =
        |name: &str| bare.parse::<IpAddr>().is_ok() || bare.trim_end_matches(".local").eq_ignore_ascii_case(name);
    ["127.0.0.1", "localhost", "::1"].contains(&bare.as_str()) || hub_name.is_some_and(is_hub)
}

/// Answers `/health`, which needs no token. The request never reaches the event loop, so clients without a token can't
/// slow the event loop down.
fn health(head: &Head, started: Instant) -> HttpResponse {
    // Clients on other machines learn only that a server runs here.
    if !head.peer.is_loopback() {
        return body(200, &json!({ "status": "ok" }));
    }
    let uptime = started.elapsed().as_secs();
    body(200, &json!({ "status": "ok", "version": env!("CARGO_PKG_VERSION"), "uptime": uptime }))
}

/// Returns a function that checks whether a string is the token or the secret.
pub fn bearer_check(token: String, secret: Option<String>) -> impl Fn(&str) -> bool + Send + Sync {
    let wanted: Vec<String> = [Some(token), secret].into_iter().flatten().collect();
    // Always compares with both the token and the secret, each in constant time, so that the time reveals nothing about
    // the token or the secret.
    move |given| wanted.iter().fold(0, |n, want| n | given.as_bytes().ct_eq(want.as_bytes()).unwrap_u8()) == 1
}

fn without_port(host: &str) -> &str {
    let name = match host.find(']') {
        Some(end) if host.starts_with('[') => host.get(..=end),
        _ => host.split(':').next(),
    };
    name.unwrap_or(host)
}
