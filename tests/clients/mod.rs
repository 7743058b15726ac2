//! Installs the official MCP clients and the schema checker once, in cargo's target directory. A file lock protects the
//! installation, because several test programs run at the same time.
//!
//! If Python, Node or the network is missing, the tests that need it are skipped with a message. With
//! `SLM_MESH_TEST_ALL=1`, they fail instead.
#![allow(dead_code)] // each test program uses its part

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The lowest major version of Node with which the official clients work.
const NODE_MIN: u32 = 20;

/// The folder of this file.
pub fn here() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients")
}

/// Returns a Python interpreter with the packages that `NAME.txt` lists. If they can't be installed, prints the reason
/// and returns `None`.
pub fn python(test: &str, name: &str) -> Option<PathBuf> {
    let wanted = here().join(format!("{name}.txt"));
    let made = once(&format!("python-{name}"), &fs::read_to_string(&wanted).unwrap(), |dir| {
        run(Command::new("python3").args(["-m", "venv"]).arg(dir))?;
        let pip = ["-m", "pip", "install", "--quiet", "--no-deps", "--disable-pip-version-check", "-r"];
        run(Command::new(dir.join("bin/python")).args(pip).arg(&wanted))
    });
    found(test, made).map(|dir| dir.join("bin/python"))
}

/// Returns a folder with the JavaScript clients and the scripts that use them. If the clients can't be installed,
/// prints the reason and returns `None`.
pub fn node(test: &str) -> Option<PathBuf> {
    node_with(test, "node", &here(), &["scenario.mjs", "node_v1.mjs", "node_v2.mjs", "listen.mjs"])
}

/// Returns a folder with copies of these scripts from the folder `from`, and with the packages that `from/package.json`
/// lists. If the packages can't be installed, prints the reason and returns `None`.
pub fn node_with(test: &str, name: &str, from: &Path, scripts: &[&str]) -> Option<PathBuf> {
    let mut wanted = fs::read_to_string(from.join("package.json")).unwrap();
    for script in scripts {
        wanted += &fs::read_to_string(from.join(script)).unwrap();
    }
    let made = once(name, &wanted, |dir| {
        has_node()?;
        fs::create_dir_all(dir).map_err(|error| error.to_string())?;
        for file in scripts.iter().chain(&["package.json"]) {
            fs::copy(from.join(file), dir.join(file)).map_err(|error| error.to_string())?;
        }
        let quiet = ["install", "--silent", "--no-audit", "--no-fund", "--no-package-lock", "--ignore-scripts"];
        run(Command::new("npm").args(quiet).current_dir(dir))
    });
    found(test, made)
}

fn has_node() -> Result<(), String> {
    let out = Command::new("node").arg("--version").output().map_err(|error| format!("node: {error}"))?;
    let version = String::from_utf8_lossy(&out.stdout).trim().to_owned();
    let major = version.trim_start_matches('v').split('.').next().and_then(|n| n.parse::<u32>().ok());
    if major.is_some_and(|major| major >= NODE_MIN) {
        Ok(())
    } else {
        Err(format!("node {NODE_MIN} or newer, got {version}"))
    }
}

/// Makes a folder, and stores `wanted`, a description of its contents. Keeps an existing folder with the same
/// description.
fn once(name: &str, wanted: &str, make: impl FnOnce(&Path) -> Result<(), String>) -> Result<PathBuf, String> {
    let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join("clients");
    fs::create_dir_all(&root).unwrap();
    let lock = File::create(root.join(format!("{name}.lock"))).unwrap();
    lock.lock().unwrap();
    let (dir, stamp) = (root.join(name), root.join(format!("{name}.made")));
    if fs::read_to_string(&stamp).is_ok_and(|made| made == wanted) {
        return Ok(dir);
    }
    let _ = fs::remove_dir_all(&dir);
    make(&dir)?;
    fs::write(stamp, wanted).unwrap();
    Ok(dir)
}

fn run(command: &mut Command) -> Result<(), String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let out = command.stdin(Stdio::null()).output().map_err(|error| format!("{name}: {error}"))?;
    if out.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&out.stderr).into_owned() + &String::from_utf8_lossy(&out.stdout);
    Err(format!("{name}: {}", said.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or("failed")))
}

fn found(test: &str, made: Result<PathBuf, String>) -> Option<PathBuf> {
    match made {
        Ok(dir) => Some(dir),
        Err(why) => {
            assert!(std::env::var("SLM_MESH_TEST_ALL").as_deref() != Ok("1"), "{test} needs {why}");
            // `println!` is not used, because its output is hidden if the test passes.
            std::io::stderr().write_all(format!("skipped: {test}: {why}\n").as_bytes()).unwrap();
            None
        }
    }
}
