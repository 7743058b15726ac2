//! The Python client of slm-mesh 1.x, unmodified from PyPI, against a real broker.

mod support;

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use support::Place;

const CLIENT: &str = "slm-mesh==1.2.3";

/// Runs a command; its output if it succeeded, else what it said.
fn run(command: &mut Command) -> Result<Output, String> {
    let out = command.stdin(Stdio::null()).output().map_err(|error| error.to_string())?;
    match out.status.success() {
        true => Ok(out),
        false => Err(String::from_utf8_lossy(&out.stderr).lines().last().unwrap_or("it failed").to_owned()),
    }
}

/// A Python that has the client, made once for this build and kept with it.
fn python() -> Result<PathBuf, String> {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("pypi-client-1.2.3");
    let python = dir.join("bin/python");
    let made = dir.join("made");
    if made.exists() {
        return Ok(python);
    }
    // What another run left half done is of no use.
    let _ = std::fs::remove_dir_all(&dir);
    run(Command::new("python3").args(["-m", "venv"]).arg(&dir))
        .map_err(|why| format!("no python3 with venv ({why})"))?;
    let pip = ["-m", "pip", "install", "--quiet", "--no-deps", "--disable-pip-version-check", CLIENT];
    run(Command::new(&python).args(pip)).map_err(|why| format!("{CLIENT} can't be installed ({why})"))?;
    std::fs::write(made, "").unwrap();
    Ok(python)
}

#[test]
fn the_python_client_passes_every_method_unmodified() {
    let python = match python() {
        Ok(python) => python,
        Err(why) => {
            assert!(std::env::var_os("SLM_MESH_TEST_ALL").is_none(), "{why}");
            return println!("skipped: the_python_client_passes_every_method_unmodified: {why}");
        }
    };
    let place = Place::new();
    let started = place.json(&["start", "--detach"]);
    let port = started["data"]["port"].to_string();
    let script = support::project().join("tests/clients/pypi_client.py");
    let mut command = Command::new(python);
    command.arg(script).arg(port).arg(place.dir.join("broker.token")).arg(&place.root).env_remove("PYTHONPATH");
    command.env("SLM_MESH_DATA_DIR", &place.dir);
    let out = command.output().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success(), "{said}");
    assert!(said.contains("every method passed"), "{said}");
    place.ok(&["stop"]);
}
