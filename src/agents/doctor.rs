//! `slm-mesh doctor`: whether the broker and each agent are as they should be, and the cure for what
//! is not.
//!
//! **Invariant:** it looks and changes nothing; it starts no broker.

use super::configs::{Form, Row};
use super::environment::{Ground, value_of};
use super::generated_files::NAME;
use super::{config_entries, generated_files, safe_write};
use crate::base::error::Error;
use crate::client::{self, Client};
use crate::discovery;
use crate::sys::data_dir::Places;
use crate::sys::settings::Settings;
use crate::sys::{self};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

/// How long the broker may take to answer before it counts as hung.
const ANSWERS_WITHIN: Duration = Duration::from_secs(2);

/// How long hubs are listened for.
const HUBS_WITHIN: Duration = Duration::from_millis(300);

/// One thing that was looked at.
#[derive(Debug, Clone)]
pub struct Check {
    /// What: the broker, an agent.
    pub about: String,
    /// What was found.
    pub found: String,
    /// What mends it; none if all is well.
    pub cure: Option<String>,
}

impl Check {
    fn well(about: &str, found: impl Into<String>) -> Check {
        Check { about: about.into(), found: found.into(), cure: None }
    }

    fn error(about: &str, found: impl Into<String>, cure: impl Into<String>) -> Check {
        Check { about: about.into(), found: found.into(), cure: Some(cure.into()) }
    }

    /// The agents can't be looked at, and why.
    pub fn unseen(why: &Error) -> Check {
        let cure = "none of them was looked at; run doctor again with HOME set to your home directory";
        Check::error("agents", why.text.clone(), cure)
    }

    /// The check for a program.
    pub fn to_value(&self) -> Value {
        json!({ "about": self.about, "ok": self.cure.is_none(), "found": self.found, "cure": self.cure })
    }
}

/// Looks at the mesh itself.
pub fn mesh() -> Vec<Check> {
    let places = match Places::find() {
        Ok(places) => places,
        Err(error) => return vec![Check::error("data directory", error.text, "set it as said")],
    };
    let mut checks = vec![directory(&places)];
    let settings = Settings::load(&places);
    checks.push(match &settings {
        Ok(_) => Check::well("settings", "in order"),
        Err(error) => {
            Check::error("settings", error.text.clone(), "slm-mesh help settings lists them with their ranges")
        }
    });
    checks.extend(private(&places.token(), "token"));
    checks.extend(broker(&places, settings.as_ref().ok()));
    checks.extend(settings.ok().map(|settings| hubs(&settings)));
    checks
}

/// Who answers on the local network; nobody is no error, since most meshes are one machine.
fn hubs(settings: &Settings) -> Check {
    let about = "hubs on the LAN";
    if !settings.discovers() {
        return Check::well(about, "not looked for: SLM_MESH_DISCOVERY is off");
    }
    let n_hubs = discovery::browse(HUBS_WITHIN).iter().filter(|found| found.what == discovery::What::Hub).count();
    Check::well(
        about,
        match n_hubs {
            0 => "none answers".into(),
            1 => "1 answers; slm-mesh hubs tells more".to_owned(),
            n => format!("{n} answer; slm-mesh hubs tells more"),
        },
    )
}

fn directory(places: &Places) -> Check {
    let about = "data directory";
    let shown = places.dir.display();
    match places.dir.metadata() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Check::well(about, format!("{shown} is not there yet; the first session makes it"))
        }
        Err(error) => Check::error(about, format!("{shown} can't be read ({error})"), format!("chmod u+rwx {shown}")),
        Ok(meta) if !meta.is_dir() => Check::error(about, format!("{shown} is no directory"), "move that file away"),
        Ok(meta) if meta.uid() != sys::uid() => {
            let cure = "set SLM_MESH_DATA_DIR to a directory of your own";
            Check::error(about, format!("{shown} belongs to another user (uid {})", meta.uid()), cure)
        }
        Ok(meta) if meta.mode() & 0o077 != 0 => {
            let found = format!("{shown} is open to others (mode {:o})", meta.mode() & 0o777);
            Check::error(about, found, format!("chmod 700 {shown}"))
        }
        Ok(_) => Check::well(about, format!("{shown}, yours alone")),
    }
}

fn private(path: &Path, about: &str) -> Option<Check> {
    let meta = path.metadata().ok()?;
    let mode = meta.permissions().mode() & 0o777;
    let shown = path.display();
    Some(if mode & 0o077 == 0 {
        Check::well(about, format!("{shown}, yours alone"))
    } else {
        Check::error(about, format!("{shown} can be read by others (mode {mode:o})"), format!("chmod 600 {shown}"))
    })
}

fn broker(places: &Places, settings: Option<&Settings>) -> Vec<Check> {
    let about = "broker";
    let mut client = match Client::connect(places) {
        Ok(client) => client,
        Err(error) if client::is_absent(&error) => {
            return vec![Check::well(about, "none runs; the next session or verb starts one")];
        }
        Err(error) => {
            let found = format!("{} can't be reached ({error})", places.socket().display());
            return vec![Check::error(about, found, "see who owns the data directory")];
        }
    };
    let asked = client.wait_at_most(Some(ANSWERS_WITHIN)).ok().and_then(|()| {
        let status = client.call("status", &json!({})).ok()?;
        Some((status, client.call("broker.info", &json!({})).ok()?))
    });
    let Some((status, info)) = asked else {
        let pid = std::fs::read_to_string(places.pid()).unwrap_or_default();
        let found = format!("it took the connection and did not answer in {} s", ANSWERS_WITHIN.as_secs());
        return vec![Check::error(about, found, format!("kill {}; the next session starts another", pid.trim()))];
    };
    let (theirs, ours) = (status["version"].as_str().unwrap_or("?"), env!("CARGO_PKG_VERSION"));
    let running = format!("version {theirs}, PID {}, {} here", status["pid"], status["peers"]["active"]);
    let mut checks = vec![if theirs == ours {
        Check::well(about, running)
    } else {
        Check::error(about, format!("{running}; this program is {ours}"), "slm-mesh stop; sessions start the new one")
    }];
    if settings.is_some_and(|settings| info["settings"] != json!(settings.fingerprint())) {
        let found = "the broker runs with other settings than these";
        checks.push(Check::error("settings", found, "slm-mesh start --detach replaces it"));
    }
    checks.push(http(places, status["port"].as_u64().unwrap_or(0) as u16));
    checks
}

/// Whether HTTP answers on the port that the file names.
fn http(places: &Places, port: u16) -> Check {
    let named = std::fs::read_to_string(places.port()).unwrap_or_default();
    let cure = "slm-mesh stop; the next broker takes a free one of ten ports from SLM_MESH_PORT";
    if port == 0 {
        return Check::error("HTTP", "no port was free", cure);
    }
    if named.trim() != port.to_string() {
        let found = format!("the broker has port {port}, and the file port says \"{}\"", named.trim());
        return Check::error("HTTP", found, cure);
    }
    let asked = (|| {
        let mut stream = TcpStream::connect_timeout(&([127, 0, 0, 1], port).into(), ANSWERS_WITHIN)?;
        stream.set_read_timeout(Some(ANSWERS_WITHIN))?;
        write!(stream, "GET /health HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n")?;
        let mut head = [0; 12];
        stream.read_exact(&mut head)?;
        Ok::<bool, std::io::Error>(head.ends_with(b" 200"))
    })();
    match asked {
        Ok(true) => Check::well("HTTP", format!("port {port} answers")),
        Ok(false) => Check::error("HTTP", format!("port {port} answers, and not with 200"), cure),
        Err(error) => Check::error("HTTP", format!("port {port} does not answer ({error})"), cure),
    }
}

/// Looks at an agent that is here.
pub fn agent(ground: &Ground, row: &Row) -> Vec<Check> {
    let cure = format!("slm-mesh setup {}{}", row.name, if ground.project { " --project" } else { "" });
    let mut checks = vec![registration(ground, row, &cure)];
    checks.extend(hooks(ground, row, &cure));
    let scope = ground.scope(row);
    let plugin = scope.own.map(|(path, kind)| (path.to_owned(), generated_files::text(kind, &ground.program)));
    let commands = scope.skills.iter().flat_map(generated_files::skills);
    for (what, files) in [("own file", plugin.into_iter().collect::<Vec<_>>()), ("commands", commands.collect())] {
        let current = |(path, text): &&(String, String)| {
            safe_write::read(&ground.path(row, path)).is_ok_and(|old| old.as_ref() == Some(text))
        };
        let n_current = files.iter().filter(current).count();
        if n_current < files.len() {
            let found = format!("{n_current} of {} are there as this version writes them", files.len());
            checks.push(Check::error(&format!("{} {what}", row.name), found, cure.clone()));
        } else if !files.is_empty() {
            checks.push(Check::well(&format!("{} {what}", row.name), "there"));
        }
    }
    checks
}

fn registration(ground: &Ground, row: &Row, cure: &str) -> Check {
    let about = format!("{} server", row.name);
    let Some(server) = ground.scope(row).server else { return Check::well(&about, "has none at this level") };
    let shown = ground.shown(&ground.path(row, server.path));
    match ground.registered(row, &server) {
        None => Check::error(&about, format!("{NAME} is not registered in {shown}"), cure),
        Some(_) if server.form == Form::Yaml => Check::well(&about, format!("{shown} reads our file")),
        Some(program) if !is_program(&program) => {
            Check::error(&about, format!("{shown} names {program}, which is no program"), cure)
        }
        Some(program) if !generated_files::is_us(&program) => {
            Check::error(&about, format!("{shown} has another program under our name: {program}"), cure)
        }
        Some(program) => Check::well(&about, format!("{program}, in {shown}")),
    }
}

fn hooks(ground: &Ground, row: &Row, cure: &str) -> Option<Check> {
    let hooks = ground.scope(row).hooks?;
    let about = format!("{} hooks", row.name);
    let path = ground.path(row, hooks.path);
    let shown = ground.shown(&path);
    let Some(whole) = value_of(&path) else {
        let found = if path.exists() { "can't be read for certain" } else { "is not there" };
        return Some(Check::error(&about, format!("{shown} {found}"), cure));
    };
    let found = config_entries::hooks_in(&whole, &hooks);
    let missing: Vec<&str> = hooks
        .events
        .iter()
        .map(|(event, _)| *event)
        .filter(|event| !found.iter().any(|(known, _)| known == event))
        .collect();
    let gone =
        found.iter().filter_map(|(_, hook)| config_entries::program_of(hook)).find(|program| !is_program(program));
    Some(match gone {
        _ if !missing.is_empty() => {
            Check::error(&about, format!("{shown} has none of ours for {}", missing.join(", ")), cure)
        }
        Some(program) => Check::error(&about, format!("{shown} names {program}, which is no program"), cure),
        None => Check::well(&about, format!("{} in {shown}", found.len())),
    })
}

fn is_program(path: &str) -> bool {
    Path::new(path).metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}
