//! Runs the unmodified Python client of slm-mesh 1.x from PyPI against a real broker.

mod clients;
mod support;

use std::path::Path;
use std::process::Command;
use support::Place;

/// Calls every method of the Python client, which reads its token from the given file.
fn passes(python: &Path, place: &Place, token: &Path) {
    let started = place.json(&["start", "--detach"]);
    let port = started["data"]["port"].to_string();
    let mut command = Command::new(python);
    command.arg(clients::here().join("pypi_client.py")).arg(port).arg(token).arg(&place.root).env_remove("PYTHONPATH");
    command.env("SLM_MESH_DATA_DIR", &place.dir);
    let out = command.output().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success(), "{said}");
    assert!(said.contains("every method passed"), "{said}");
    place.ok(&["stop"]);
}

#[test]
fn the_python_client_passes_every_method_unmodified() {
    let Some(python) = clients::python("the_python_client_passes_every_method_unmodified", "pypi") else { return };
    let place = Place::new();
    passes(&python, &place, &place.dir.join("broker.token"));
}

#[test]
fn and_on_a_hub_with_the_secret_as_its_token() {
    let Some(python) = clients::python("and_on_a_hub_with_the_secret_as_its_token", "pypi") else { return };
    let secret = "correct horse battery staple";
    let hub = Place::new().with("SLM_MESH_HOST", "0.0.0.0").with("SLM_MESH_SHARED_SECRET", secret);
    let file = hub.root.join("secret");
    std::fs::write(&file, secret).unwrap();
    passes(&python, &hub, &file);
}
