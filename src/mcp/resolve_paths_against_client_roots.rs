//! Finds the folder from which relative paths start. This is the working directory if it is a project. Otherwise, it is
//! the client's root, provided that the client lists exactly one root. Some clients start this session in the home
//! folder or in `/`, regardless of the workspace.

use crate::base::error::Error;
use crate::core::Op;
use crate::core::op_definition::ArgRole;
use crate::sys::path_normalization;
use crate::wire::rpc;
use serde_json::{Map, Value, json};

/// The id of our request for the client's roots.
const REQUEST_ID: &str = "slm-mesh-roots";

/// The client's workspace folders, if the client lists them.
#[derive(Debug, Default)]
pub struct ClientRoots {
    is_supported: bool,
    roots: Vec<String>,
}

impl ClientRoots {
    /// Records whether the client can list its roots. `params` comes from the client's `initialize`.
    pub fn note_capabilities(&mut self, params: &Map<String, Value>) {
        self.is_supported = params.get("capabilities").is_some_and(|capabilities| capabilities["roots"].is_object());
    }

    /// Returns the request for the client's roots; `None` if the client can't list them, or if they are not needed
    /// because the working directory is a project.
    pub fn request(&self) -> Option<String> {
        let is_needed = self.is_supported && path_normalization::project_dir().is_err();
        is_needed.then(|| rpc::request(&json!(REQUEST_ID), "roots/list", &json!({})))
    }

    /// Handles the client's reply to the request for its roots.
    pub fn note_response(&mut self, id: &Value, result: &Result<Value, Value>) {
        let Some(rows) = result.as_ref().ok().filter(|_| *id == json!(REQUEST_ID)) else { return };
        let rows = rows["roots"].as_array().map(Vec::as_slice).unwrap_or_default();
        self.roots =
            rows.iter().filter_map(|row| row["uri"].as_str()).filter_map(path_normalization::from_uri).collect();
    }

    /// Makes the paths in a call absolute and normalises them. Only this process can do so, because the broker does not
    /// know the working directory.
    ///
    /// # Errors
    /// If a path is relative, and the folder from which it starts is not known.
    pub fn resolve_paths(&self, op: &Op, arguments: &mut Map<String, Value>) -> Result<(), Error> {
        let root = match self.roots.as_slice() {
            [root] => Some(root.as_str()),
            _ => None,
        };
        for arg in op.args.iter().filter(|arg| arg.role == ArgRole::Path) {
            let name = arg.name;
            let paths = match arguments.get_mut(name) {
                Some(Value::Array(list)) => list.as_mut_slice(),
                Some(one) => std::slice::from_mut(one),
                None => continue,
            };
            for path in paths {
                if let Some(text) = path.as_str() {
                    *path = json!(path_normalization::resolve(text, root).map_err(|why| Error::usage(name, why))?);
                }
            }
        }
        Ok(())
    }
}
