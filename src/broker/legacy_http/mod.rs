//! The twelve HTTP routes of slm-mesh 1.x. Their JSON keys, the order of the keys, the ids and the texts are frozen,
//! because existing clients depend on them. Keys may be added, but none may be renamed.
//!
//! A route runs operations of the mesh. So the rules and the limits are the same as for all other clients, but the old
//! protocol has other arguments, texts and errors.
//!
//! **Invariant:** only this module knows the old formats. The core does not know them.

mod auth;
pub(super) mod request_fields;
mod routes;

pub use auth::{bearer_check, gate};

use super::http::{HttpResponse, Request};
use crate::base::error::{Error, ErrorKind};
use crate::core::Mesh;
use crate::wire::lone_surrogate_json;
use request_fields::Fields;
use serde_json::{Map, Value, json};
use std::path::PathBuf;

/// The JSON body of a response, or an error. Most errors are sent with status 200 and `ok: false`.
type RouteResult = Result<Value, Error>;

/// Runs a request. `repository` is the repository of the directory that [`directory`] returns for this request.
pub fn respond(mesh: &mut Mesh, request: &Request, repository: Option<String>, now: i64) -> HttpResponse {
    let route = (request.head.method.as_str(), request.head.target.as_str());
    let own = routes::find(route);
    let of_slm = super::linked_mesh_http_routes::handler(route.0, route.1);
    if own.is_none() && of_slm.is_none() {
        return refuse(404, "Unknown endpoint");
    }
    let fields = match request.body.as_slice() {
        b"" => Map::new(),
        bytes => match lone_surrogate_json::parse_bytes(bytes) {
            Ok(Value::Object(map)) => map,
            _ => return refuse(400, "Invalid JSON in request body"),
        },
    };
    if let Some(handler) = of_slm {
        let result = mesh.in_savepoint(|mesh| handler(mesh, &request.head, &Fields::new(fields, None), now));
        return super::linked_mesh_http_routes::to_response(result);
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

/// Returns the directory in a request, if the response depends on the repository of this directory. Access to the
/// directory may block for a long time.
pub fn directory(mesh: &Mesh, request: &Request) -> Option<PathBuf> {
    let names_directory = routes::names_directory((request.head.method.as_str(), request.head.target.as_str()))?;
    let Ok(Value::Object(values)) = lone_surrogate_json::parse_bytes(&request.body) else { return None };
    names_directory(mesh, &Fields::new(values, None)).filter(|path| path.starts_with('/')).map(PathBuf::from)
}

/// The response to a request that caused a panic in a route.
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
        "this hub is no longer the leader, and may or may not have stored your request; repeat it on the new leader",
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
