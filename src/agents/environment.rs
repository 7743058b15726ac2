//! Where set-up stands: the user's home, the project, and what of the agents is here.

use super::config_entries::{self, Want};
use super::configs::{Form, ROWS, Row, Scope, Server};
use super::generated_files::NAME;
use super::{safe_write, toml_edit};
use crate::base::error::{Error, ErrorKind};
use crate::sys::data_dir::Places;
use crate::sys::settings::{Settings, WAKE};
use serde_json::Value;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// The surroundings of one run.
#[derive(Debug, Clone)]
pub struct Ground {
    /// The path under which agents are to start us.
    pub program: String,
    /// The user's home.
    pub home: PathBuf,
    /// The working directory.
    pub here: PathBuf,
    /// Whether the project's files are meant, and not the user's.
    pub project: bool,
    /// Whether nothing is to be changed.
    pub dry: bool,
    /// The agents that mail may wake, by their words.
    pub wake: Vec<String>,
}

impl Ground {
    /// Looks around.
    ///
    /// # Errors
    /// When there is no home, no working directory, or our own path can't be told.
    pub fn find(project: bool, dry: bool) -> Result<Ground, Error> {
        let home = std::env::var_os("HOME").filter(|home| !home.is_empty());
        let home = home.ok_or_else(|| {
            Error::new(
                ErrorKind::Usage,
                "HOME: want the directory in which the agents keep their settings, and it is not set",
            )
        })?;
        let here = std::env::current_dir();
        let here = here
            .map_err(|error| Error::new(ErrorKind::Usage, format!("the working directory can't be told ({error})")))?;
        Ok(Ground { program: own_path()?, home: home.into(), here, project, dry, wake: waking() })
    }

    /// The rows of these names; without names, those of the agents that are here.
    ///
    /// # Errors
    /// For a name that no row has, with those that there are.
    pub fn rows(&self, names: &[String]) -> Result<Vec<&'static Row>, Error> {
        let known = || ROWS.iter().map(|row| row.name).collect::<Vec<_>>().join(", ");
        let find = |name: &String| {
            let row = ROWS.iter().find(|row| row.name == name);
            row.ok_or_else(|| Error::usage("agent", format!("want one of {}, got \"{name}\"", known())))
        };
        if names.is_empty() {
            return Ok(ROWS.iter().filter(|row| self.is_here(row)).collect());
        }
        names.iter().map(find).collect()
    }

    /// Whether an agent is installed: its program, or its directory of settings.
    pub fn is_here(&self, row: &Row) -> bool {
        row.programs.iter().any(|program| on_path(program).is_some()) || self.root(row).is_dir()
    }

    /// The level that is meant.
    pub fn scope(&self, row: &Row) -> Scope {
        if self.project { row.project } else { row.user }
    }

    /// The agent's directory of settings.
    pub fn root(&self, row: &Row) -> PathBuf {
        let (variable, place) = row.root;
        let moved = Some(variable).filter(|name| !name.is_empty()).and_then(std::env::var_os);
        match moved.filter(|dir| !dir.is_empty()) {
            Some(dir) => self.here.join(dir),
            None => self.home.join(place.trim_start_matches("~/")),
        }
    }

    /// A path of the table, resolved.
    pub fn path(&self, row: &Row, path: &str) -> PathBuf {
        let is_moved = !row.root.0.is_empty() && std::env::var_os(row.root.0).is_some_and(|dir| !dir.is_empty());
        let found = match path.split_once('/') {
            Some(("@", rest)) => self.root(row).join(rest),
            // Claude Code's own file moves into its directory when that is moved.
            Some(("~", ".claude.json")) if is_moved => self.root(row).join(".claude.json"),
            Some(("~", rest)) => self.home.join(rest),
            _ => self.here.join(path),
        };
        let commented = PathBuf::from(format!("{}c", found.display()));
        let is_commented = found.ends_with("opencode.json") && !found.exists() && commented.exists();
        if is_commented { commented } else { found }
    }

    /// Whether mail may wake this agent.
    pub fn may_wake(&self, row: &Row) -> bool {
        self.wake.iter().any(|word| word == row.name)
    }

    /// A path as people write it.
    pub fn shown(&self, path: &Path) -> String {
        match (path.strip_prefix(&self.here), path.strip_prefix(&self.home)) {
            (Ok(rest), _) if self.project => rest.display().to_string(),
            (_, Ok(rest)) => format!("~/{}", rest.display()),
            _ => path.display().to_string(),
        }
    }

    /// What a server's entry names as its program: us, or for YAML the file with our words.
    pub fn target(&self, row: &Row, server: &Server) -> String {
        let own = self.scope(row).own.filter(|_| server.form == Form::Yaml);
        own.map_or_else(|| self.program.clone(), |(path, _)| self.path(row, path).display().to_string())
    }

    /// The program that an agent has registered under our name, if its file says.
    pub fn registered(&self, row: &Row, server: &Server) -> Option<String> {
        let text = safe_write::read(&self.path(row, server.path)).ok()??;
        match server.form {
            Form::Toml => toml_edit::toml_program(&text),
            Form::Yaml => {
                let file = self.target(row, server);
                let want = Want { agent: row.name, program: &file, server: Some(*server), hooks: None, wake: false };
                want.apply(&text).is_ok_and(|new| new == text).then_some(file)
            }
            _ => config_entries::registered(&config_entries::parse(&text).ok()?, server),
        }
    }

    /// The files that hold our entries, each with what it should hold; the server is left out where
    /// the agent's command takes care of it.
    pub fn files(&self, row: &Row, with_server: bool) -> Vec<(PathBuf, Option<Server>, Option<super::configs::Hooks>)> {
        let scope = self.scope(row);
        let server = scope.server.filter(|server| with_server && server.ours_to_write);
        let mut found: Vec<(PathBuf, Option<Server>, _)> =
            server.map(|server| (self.path(row, server.path), Some(server), None)).into_iter().collect();
        if let Some(hooks) = scope.hooks {
            let path = self.path(row, hooks.path);
            match found.iter_mut().find(|(known, ..)| *known == path) {
                Some((.., place)) => *place = Some(hooks),
                None => found.push((path, None, Some(hooks))),
            }
        }
        found
    }
}

/// The agents that mail may wake, as the settings say.
fn waking() -> Vec<String> {
    let settings = Places::find().and_then(|places| Settings::load(&places));
    // Wrong settings are told by those who need them.
    settings.map(|settings| settings.several(WAKE)).unwrap_or_default()
}

/// A program on PATH.
pub fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let is_program =
        |file: &PathBuf| file.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0);
    std::env::split_paths(&path).filter(|dir| dir.is_absolute()).map(|dir| dir.join(name)).find(is_program)
}

/// Our own path; the one on PATH if that is us, since it stays when a version below it goes.
fn own_path() -> Result<String, Error> {
    let own = std::env::current_exe();
    let own = own.map_err(|error| {
        Error::new(ErrorKind::Internal, format!("the path of this program can't be told ({error})"))
    })?;
    let own = PathBuf::from(own.to_string_lossy().trim_end_matches(" (deleted)"));
    let is_same = |found: &PathBuf| found.canonicalize().ok().is_some_and(|real| Some(real) == own.canonicalize().ok());
    let path = on_path(NAME).filter(is_same).unwrap_or(own);
    match path.to_str() {
        Some(text) if path.file_name().is_some_and(|name| name == NAME) => Ok(text.to_owned()),
        Some(text) => {
            let text =
                format!("this program is called {text}; agents know its entries by the name {NAME}, so call it that");
            Err(Error::new(ErrorKind::Usage, text))
        }
        None => {
            Err(Error::new(ErrorKind::Usage, format!("{}: want a path in UTF-8; move the program", path.display())))
        }
    }
}

/// A JSON text's value, if it has one.
pub fn value_of(path: &Path) -> Option<Value> {
    config_entries::parse(&safe_write::read(path).ok()??).ok()
}
