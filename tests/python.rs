//! Tests the Python package in `python/`: runs its own tests, compares it with the old client, and installs it with
//! pip. Needs python3; the old client comes from PyPI.

mod clients;
mod support;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use support::{BIN, Place, project};

/// A Python command that can import the package from the source tree, and writes no files there.
fn command(python: &Path) -> Command {
    let mut command = Command::new(python);
    command.env_clear().env("PATH", std::env::var("PATH").unwrap()).env("PYTHONDONTWRITEBYTECODE", "1");
    command.env("PYTHONPATH", project().join("python")).env("SLM_MESH_BIN", BIN).stdin(Stdio::null());
    command
}

fn said(out: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr))
}

/// Finds Python 3.9 or later. If there is none, prints that the test is skipped.
fn python3(test: &str) -> Option<PathBuf> {
    let asks = "import sys; sys.exit(sys.version_info < (3, 9))";
    if command(Path::new("python3")).args(["-c", asks]).status().is_ok_and(|status| status.success()) {
        return Some("python3".into());
    }
    assert!(std::env::var("SLM_MESH_TEST_ALL").as_deref() != Ok("1"), "{test} needs python3, 3.9 or newer");
    eprintln!("skipped: {test}: there is no python3 of version 3.9 or newer");
    None
}

fn unittest(python: &Path, which: &[&str]) {
    let place = Place::new();
    let mut command = command(python);
    command.args(["-m", "unittest"]).args(which).current_dir(project().join("python/tests"));
    let out = command.env("HOME", place.root.join("home")).output().unwrap();
    let said = said(&out);
    assert!(out.status.success() && said.contains("\nOK") && !said.contains("Ran 0 tests"), "{said}");
}

#[test]
fn scripts_work_as_promised() {
    let Some(python) = python3("scripts_work_as_promised") else { return };
    unittest(&python, &["discover"]);
}

#[test]
fn every_method_of_the_old_client_answers_the_same_through_both_packages() {
    let test = "every_method_of_the_old_client_answers_the_same_through_both_packages";
    let Some(python) = clients::python(test, "pypi") else { return };
    unittest(&python, &["-v", "test_client.BesideTheOldClient"]);
}

#[test]
fn the_package_passes_what_the_old_client_passes() {
    let Some(python) = python3("the_package_passes_what_the_old_client_passes") else { return };
    let place = Place::new();
    let port = place.json(&["start", "--detach"])["data"]["port"].to_string();
    let mut command = command(&python);
    command.arg(project().join("tests/clients/pypi_client.py"));
    command.arg(port).arg(place.dir.join("broker.token")).arg(&place.root);
    let out = command.env("SLM_MESH_DATA_DIR", &place.dir).output().unwrap();
    assert!(out.status.success() && said(&out).contains("every method passed"), "{}", said(&out));
    place.ok(&["stop"]);
}

#[test]
fn the_package_has_the_licence_of_the_program() {
    let read = |path: &str| std::fs::read_to_string(project().join(path)).unwrap();
    assert_eq!(read("python/LICENSE"), read("LICENSE"), "copy LICENSE to python/, where setuptools wants it");
}

#[test]
fn pip_installs_it() {
    let test = "pip_installs_it";
    let Some(old) = clients::python(test, "pypi") else { return };
    let place = Place::new();
    // The build writes files next to the sources, so pip gets a copy of the package.
    let source = place.root.join("python");
    let copied = Command::new("cp").arg("-R").arg(project().join("python")).arg(&source).status().unwrap();
    assert!(copied.success());
    let venv = place.root.join("venv");
    let ok = |command: &mut Command| {
        let out = command.env_remove("PYTHONPATH").output().unwrap();
        assert!(out.status.success(), "{}", said(&out));
        said(&out)
    };
    ok(command(&old).args(["-m", "venv"]).arg(&venv));
    let python = venv.join("bin/python");
    ok(command(&python).args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]).arg(&source));
    let script = "import slm_mesh, pathlib; here = pathlib.Path(slm_mesh.__file__).parent; \
                  assert (here / 'py.typed').exists() and 'site-packages' in str(here); \
                  print(slm_mesh.Mesh().state_set('installed', 'yes').value)";
    let mut installed = command(&python);
    installed.args(["-c", script]).env("SLM_MESH_DATA_DIR", &place.dir).envs(place.env.iter().cloned());
    assert_eq!(ok(&mut installed), "yes\n");
    place.ok(&["stop"]);
}

#[test]
fn the_package_repeats_only_what_the_operations_let_it_repeat() {
    let source = std::fs::read_to_string(project().join("python/slm_mesh/connection.py")).unwrap();
    let listed = source.split("REPEATABLE = frozenset({").nth(1).unwrap().split("})").next().unwrap();
    let listed: BTreeSet<&str> = listed.split('"').skip(1).step_by(2).collect();
    let allowed = slm_mesh::core::OPS.iter().filter(|op| op.repeatable).map(|op| op.name).collect::<BTreeSet<_>>();
    let beyond: Vec<_> = listed.difference(&allowed).collect();
    assert!(listed.len() > 10 && beyond.is_empty(), "{beyond:?}");
    let offered = slm_mesh::core::OPS.iter().filter(|op| op.repeatable && op.verb.is_some());
    let missing: Vec<_> = offered.filter(|op| !listed.contains(op.name)).map(|op| op.name).collect();
    assert!(missing.is_empty(), "add these to REPEATABLE, because a verb repeats them: {missing:?}");
}

#[test]
fn the_package_offers_every_operation_that_has_a_verb() {
    let package = project().join("python/slm_mesh");
    let sources = ["mesh.py", "connection.py", "follow.py", "held.py", "rpc.py"];
    let source: String = sources.map(|file| std::fs::read_to_string(package.join(file)).unwrap()).concat();
    let operations = slm_mesh::core::OPS.iter().filter(|op| op.verb.is_some());
    let missing: Vec<_> = operations.filter(|op| !source.contains(&format!("(\"{}\"", op.name))).collect();
    assert!(missing.is_empty(), "add a method to python/slm_mesh/mesh.py for {missing:?}");
}

#[test]
fn the_package_offers_every_argument_of_send() {
    let source = std::fs::read_to_string(project().join("python/slm_mesh/mesh.py")).unwrap();
    let op = slm_mesh::core::op("send").unwrap();
    let missing: Vec<_> =
        op.args.iter().map(|arg| arg.name).filter(|name| !source.contains(&format!("\"{name}\""))).collect();
    assert!(missing.is_empty(), "add {missing:?} to Mesh.send in python/slm_mesh/mesh.py");
}
