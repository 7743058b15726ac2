//! The twelve HTTP routes of slm-mesh 1.x. Their keys, the order of the keys, the ids (strings) and the texts are
//! frozen, because the clients of slm-mesh 1.x match them. Keys may be added, but none may be renamed.
//!
//! A route runs the operation that corresponds to it. But sometimes the frozen protocol differs from every operation:
//! it does not count a call towards the caller's rate limit, marks a whole page of messages as read, accepts fractions
//! of a minute, or returns long rows uncut. In such cases, the route calls the rule behind the operation. Either way,
//! the maximum sizes and the allowed words come from the declaration of the operation, so the routes have no limits of
//! their own.
//!
//! **Invariant:** only this module knows the old formats. The core does not know them.

mod auth;
pub(super) mod fields;
mod routes;

pub use auth::{bearer_check, gate};

use super::http::{HttpResponse, Request};
use crate::base::error::{Error, ErrorKind};
use crate::core::Mesh;
use crate::wire::lenient_json;
use fields::Fields;
use serde_json::{Map, Value, json};
use std::path::PathBuf;

/// The result of a route: a body, or an error, which is sent with status 200 and `ok: false`.
type RouteResult = Result<Value, Error>;

/// Runs one request. `repository` is the repository of the [`directory`] that the request names.
pub fn respond(mesh: &mut Mesh, request: &Request, repository: Option<String>, now: i64) -> HttpResponse {
    let route = (request.head.method.as_str(), request.head.target.as_str());
    let own = routes::find(route);
    let of_slm = super::superlocalmemory_routes::handler(route.0, route.1);
    if own.is_none() && of_slm.is_none() {
        return refuse(404, "Unknown endpoint");
    }
    let fields = match request.body.as_slice() {
        b"" => Map::new(),
        bytes => match lenient_json::parse_bytes(bytes) {
            Ok(Value::Object(map)) => map,
            _ => return refuse(400, "Invalid JSON in request body"),
        },
    };
    if let Some(handler) = of_slm {
        let result = mesh.in_savepoint(|mesh| handler(mesh, &request.head, &Fields::new(fields, None), now));
        return super::superlocalmemory_routes::to_response(result);
    }
    let fields = Fields::new(fields, repository);
    match mesh
        .in_savepoint(|mesh| own.map_or_else(|| Err(no("Unknown endpoint")), |handler| handler(mesh, &fields, now)))
    {
        Ok(value) => body(200, &value),
        Err(error) if error.kind == ErrorKind::Limited => {
            refuse(429, "Rate limit exceeded (max 100 requests per 10 seconds)")
        }
        Err(error) if error.kind.is_storage() => refuse(507, &error.text),
        Err(error) => body(200, &error.to_value()),
    }
}

/// The directory that a request names, if the response depends on the repository of this directory. Access to the
/// directory may hang.
pub fn directory(mesh: &Mesh, request: &Request) -> Option<PathBuf> {
    let names_directory = routes::names_directory((request.head.method.as_str(), request.head.target.as_str()))?;
    let Ok(Value::Object(values)) = lenient_json::parse_bytes(&request.body) else { return None };
    names_directory(mesh, &Fields::new(values, None)).filter(|path| path.starts_with('/')).map(PathBuf::from)
}

/// The response if a bug in a route caused a panic.
pub fn internal_error() -> HttpResponse {
    refuse(500, "Internal server error")
}

/// The response if the turn could not be committed.
pub fn not_stored() -> HttpResponse {
    refuse(507, "the disk could not store this; free some space and try again")
}

/// The response to a request that was pending when this hub lost the lead.
pub fn outcome_unknown() -> HttpResponse {
    refuse(
        503,
        "this hub no longer leads, and your request may or may not have been stored; repeat it at the hub that leads",
    )
}

/// The response of a hub on standby.
pub fn standing_by(refusal: &Error) -> HttpResponse {
    body(refusal.kind.codes().http, &refusal.to_value())
}

fn refuse(status: u16, text: &str) -> HttpResponse {
    body(status, &json!({ "ok": false, "error": text }))
}

fn body(status: u16, value: &Value) -> HttpResponse {
    HttpResponse::json(status, value.to_string().into_bytes())
}

/// Makes an error with a text that clients of slm-mesh 1.x recognise.
fn no(text: impl Into<String>) -> Error {
    Error::new(ErrorKind::Refused, text)
}
