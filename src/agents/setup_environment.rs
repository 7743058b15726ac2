//! The environment in which `setup` works: the user's home directory, the project, and the installed agents.

use super::edit_own_config_entries::{self, Entries};
use super::generated_file_texts::{self, MARK, NAME};
use super::server_trial_start::RegisteredServer;
use super::setup_records::Records;
use super::{json_edit, safe_write, toml_entry, toml_hooks, yaml_entry};
use crate::base::error::{Error, ErrorKind};
use crate::known_agents::settings_file_types::{
    Directory, EntryShape, FilePath, HookCommand, HookFile, Off, Scope, ServerFile, Switch, Writer,
};
use crate::known_agents::{AGENTS, Agent, by_id};
use crate::sys;
use crate::sys::data_dir::DataDir;
use crate::sys::settings::{SHIELD, Settings, WAKE};
use serde_json::{Value, json};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// The environment of one run of `setup` or `doctor`.
#[derive(Debug, Clone)]
pub struct Environment {
    /// The path of our program. Agents use this path to start the program.
    pub program: String,
    /// The user's home directory.
    pub home: PathBuf,
    /// The working directory.
    pub directory: PathBuf,
    /// Whether to change the project's files instead of the user's files.
    pub is_project: bool,
    /// Whether this is a dry run.
    pub is_dry_run: bool,
    /// The ids of the agents that may be woken by mail.
    pub wake: Vec<String>,
    /// The ids of the agents whose shell commands run in a shield.
    pub shield: Vec<String>,
}

/// One of an agent's settings files, and what `setup` adds to it.
#[derive(Debug, Clone)]
pub struct EditedFile {
    /// The path of the file.
    pub path: PathBuf,
    /// The position and format of our server entry; `None` if this file needs no server entry.
    pub server: Option<ServerFile>,
    /// The position and format of our hooks; `None` if this file needs no hooks.
    pub hooks: Option<HookFile>,
}

impl Environment {
    /// Finds the home directory, the working directory and the path of our program.
    ///
    /// # Errors
    /// If one of them can't be found.
    pub fn find(is_project: bool, is_dry_run: bool) -> Result<Environment, Error> {
        let usage = |text: String| Error::new(ErrorKind::Usage, text);
        let home = sys::home().ok_or_else(|| {
            usage("HOME is not set; set it to the directory in which the agents keep their settings".into())
        })?;
        sys::refuse_borrowed_home(&home)?;
        let directory = std::env::current_dir();
        let directory = directory.map_err(|error| {
            usage(format!("the working directory can't be read ({error}); change to another directory"))
        })?;
        let (wake, shield) = (listed(WAKE), listed(SHIELD));
        Ok(Environment { program: own_path()?, home, directory, is_project, is_dry_run, wake, shield })
    }

    /// The agents with these ids, or the installed agents if there are no ids.
    ///
    /// # Errors
    /// If an id is unknown; the error lists the known ids.
    pub fn agents(&self, ids: &[String]) -> Result<Vec<&'static Agent>, Error> {
        let known = || AGENTS.iter().map(|agent| agent.id).collect::<Vec<_>>().join(", ");
        let find = |id: &String| {
            by_id(id).ok_or_else(|| Error::usage("agent", format!("expected one of {}, got \"{id}\"", known())))
        };
        if ids.is_empty() {
            return Ok(AGENTS.iter().filter(|agent| self.is_installed(agent)).collect());
        }
        ids.iter().map(find).collect()
    }

    /// Returns the agents with these ids. If there are no ids, returns all agents from which something may have to be
    /// removed. These are the installed agents, the agents with a file in the records of `setup`, and the agents whose
    /// files contain our entries. All three groups are necessary, because an agent's settings directory or the project
    /// may have moved after set-up.
    ///
    /// # Errors
    /// If an id is unknown, or the records can't be read.
    pub fn agents_to_remove(&self, ids: &[String]) -> Result<Vec<&'static Agent>, Error> {
        if !ids.is_empty() {
            return self.agents(ids);
        }
        let records = Records::load().map_err(|why| Error::new(ErrorKind::Storage, why))?;
        let is_registered = |agent: &Agent| !self.is_project && !records.registrations_of(agent.id).is_empty();
        let is_recorded =
            |agent: &Agent| !records.files_of(agent.id, self.project()).is_empty() || is_registered(agent);
        let is_ours =
            |agent: &&'static Agent| self.is_installed(agent) || is_recorded(agent) || self.has_entries(agent);
        Ok(AGENTS.iter().filter(is_ours).collect())
    }

    /// Returns true if one of the agent's files contains our entries, or if `setup` wrote the file as a whole.
    fn has_entries(&self, agent: &'static Agent) -> bool {
        let own_file = self.own_file(agent);
        let text_of = |path: &Path| safe_write::read(path).ok().flatten().unwrap_or_default();
        let has_entry = |file: &EditedFile| {
            let text = text_of(&file.path);
            self.entries(agent, &own_file, file).remove_from(&text, None).is_ok_and(|bare| bare != text)
        };
        let commands = self.command_files(agent).into_iter().map(|(path, _)| path);
        let mut own = commands.chain(Some(PathBuf::from(&own_file)));
        self.edited_files(agent).iter().any(has_entry) || own.any(|path| text_of(&path).contains(MARK))
    }

    /// The project whose files are changed; `None` if the user's files are changed.
    pub fn project(&self) -> Option<&Path> {
        self.is_project.then_some(self.directory.as_path())
    }

    /// Whether the working directory is the home directory. If so, the project's files are the user's files.
    pub fn is_home(&self) -> bool {
        let real = |path: &Path| path.canonicalize().ok();
        real(&self.directory) == real(&self.home)
    }

    /// Whether `setup` supports the agent and the agent is installed. An agent is installed if its program or its
    /// settings directory exists.
    pub fn is_installed(&self, agent: &Agent) -> bool {
        let has_files = agent.files.user.server.is_some() || agent.files.user.own_file.is_some();
        let is_on_path = || agent.files.programs.iter().any(|program| find_on_path(program).is_some());
        has_files && (is_on_path() || self.settings_directory(agent).is_dir())
    }

    /// The agent's files that `setup` changes: either those of the user, or those of the project.
    pub fn scope(&self, agent: &Agent) -> Scope {
        if self.is_project { agent.files.project } else { agent.files.user }
    }

    /// The path of a possible settings directory. Returns `None` if the path depends on an environment variable that is
    /// not set. For [`Directory::Xdg`], also returns `None` if the variable contains a relative path.
    fn directory_at(&self, directory: Directory) -> Option<PathBuf> {
        let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        match directory {
            Directory::Variable(name, below) => variable(name).map(|value| self.directory.join(value).join(below)),
            Directory::Xdg(below) => {
                variable("XDG_CONFIG_HOME").filter(|value| value.is_absolute()).map(|value| value.join(below))
            }
            Directory::Home(below) => Some(self.home.join(below)),
        }
    }

    /// An agent's settings directory.
    pub fn settings_directory(&self, agent: &Agent) -> PathBuf {
        let mut places = agent.files.directory.iter().filter_map(|place| self.directory_at(*place));
        // Joining an empty path adds a slash at the end. `components` drops this slash.
        places.next().map_or_else(|| self.home.clone(), |path| path.components().collect())
    }

    /// The environment variables that move an agent's settings directory, with their values as absolute paths. The
    /// value is `None` if the variable is not set.
    pub fn directory_variables(&self, agent: &Agent) -> Vec<(String, Option<String>)> {
        let variable = |place: &Directory| match place {
            Directory::Variable(name, _) => {
                let value = self.directory_at(Directory::Variable(name, ""));
                let path = value.map(|path| path.components().collect::<PathBuf>().to_string_lossy().into_owned());
                Some(((*name).to_owned(), path))
            }
            Directory::Xdg(_) | Directory::Home(_) => None,
        };
        agent.files.directory.iter().filter_map(variable).collect()
    }

    /// The path of an agent's file.
    pub fn path(&self, agent: &Agent, file: FilePath) -> PathBuf {
        let is_moved = || {
            let moves = agent.files.directory.iter().filter(|place| matches!(place, Directory::Variable(..)));
            moves.filter_map(|place| self.directory_at(*place)).next().is_some()
        };
        match file {
            FilePath::Settings(path) => self.settings_directory(agent).join(path),
            FilePath::HomeUnlessMoved(path) if is_moved() => self.settings_directory(agent).join(path),
            FilePath::Home(path) | FilePath::HomeUnlessMoved(path) => self.home.join(path),
            FilePath::Project(path) => self.directory.join(path),
        }
    }

    /// The path of the file in which servers are registered: the first path that exists, or the first path if none
    /// exists.
    pub fn server_path(&self, agent: &Agent, server: &ServerFile) -> PathBuf {
        let paths: Vec<PathBuf> = server.paths.iter().map(|path| self.path(agent, *path)).collect();
        paths.iter().find(|path| path.exists()).or(paths.first()).cloned().unwrap_or_default()
    }

    /// Whether mail is allowed to wake this agent.
    pub fn may_wake(&self, agent: &Agent) -> bool {
        self.wake.iter().any(|id| id == agent.id)
    }

    /// A path as people write it: relative to the project, or with `~` for the home directory.
    pub fn shown(&self, path: &Path) -> String {
        match (path.strip_prefix(&self.directory), path.strip_prefix(&self.home)) {
            (Ok(rest), _) if self.is_project => rest.display().to_string(),
            (_, Ok(rest)) => format!("~/{}", rest.display()),
            _ => path.display().to_string(),
        }
    }

    /// What the user must do after set-up.
    pub fn approval_note(&self, agent: &Agent) -> &'static str {
        let in_project = Some(agent.files.approve_in_project).filter(|note| self.is_project && !note.is_empty());
        in_project.unwrap_or(agent.files.approve)
    }

    /// The path of the file, such as a plugin, whose whole text `setup` writes for an agent; empty if there is none.
    pub fn own_file(&self, agent: &Agent) -> String {
        let own = self.scope(agent).own_file;
        own.map_or_else(String::new, |own| self.path(agent, own.path).display().to_string())
    }

    /// The files of an agent's slash commands, with their texts.
    pub fn command_files(&self, agent: &Agent) -> Vec<(PathBuf, String)> {
        let Some(files) = self.scope(agent).commands else { return Vec::new() };
        let pattern = self.path(agent, files.path);
        let file = |name: &str| PathBuf::from(pattern.to_string_lossy().replace("{name}", name));
        let texts = generated_file_texts::slash_commands(files.style).into_iter();
        texts.map(|(name, text)| (file(name), text)).collect()
    }

    /// The entries that `setup` adds to a file.
    pub fn entries<'a>(&'a self, agent: &'static Agent, own_file: &'a str, file: &EditedFile) -> Entries<'a> {
        Entries {
            agent,
            program: &self.program,
            own_file,
            server: file.server,
            hooks: file.hooks,
            may_wake: self.may_wake(agent),
        }
    }

    /// The program that an agent's settings file registers as the server `slm-mesh`. A YAML settings file names one of
    /// our own files instead of a program, so the path of that file is returned.
    ///
    /// # Errors
    /// If the file can't be read; the error says why.
    pub fn registered_program(&self, agent: &Agent, server: &ServerFile) -> Result<Option<String>, String> {
        let Some(text) = safe_write::read_only(&self.server_path(agent, server))? else { return Ok(None) };
        Ok(match server.entry {
            EntryShape::TomlTable => toml_entry::registered_program(&text, server.key),
            EntryShape::YamlLine => Some(self.own_file(agent)).filter(|file| yaml_entry::has(&text, server.key, file)),
            _ => edit_own_config_entries::registered_program(&json_edit::parse(&text)?, server),
        })
    }

    /// The command with which an agent starts our server. Returns `None` if the agent's settings contain no such
    /// command, or only refer to a file that `setup` wrote.
    ///
    /// # Errors
    /// If the file can't be read; the error says why.
    pub fn registered_server(&self, agent: &Agent, server: &ServerFile) -> Result<Option<RegisteredServer>, String> {
        let Some(text) = safe_write::read_only(&self.server_path(agent, server))? else { return Ok(None) };
        let entry = match server.entry {
            EntryShape::TomlTable => toml_entry::entry_as_json(&text, server.key),
            EntryShape::YamlLine => None,
            _ => Some(json_edit::parse(&text)?[server.key][NAME].clone()),
        };
        Ok(entry.as_ref().and_then(RegisteredServer::parse))
    }

    /// The files that `setup` edits for an agent.
    pub fn edited_files(&self, agent: &Agent) -> Vec<EditedFile> {
        let scope = self.scope(agent);
        let server = scope.server.filter(|server| matches!(server.writer, Writer::Us));
        let of_server =
            |server| EditedFile { path: self.server_path(agent, &server), server: Some(server), hooks: None };
        let mut found: Vec<EditedFile> = server.map(of_server).into_iter().collect();
        if let Some(hooks) = scope.hooks {
            let path = self.path(agent, hooks.path);
            match found.iter_mut().find(|file| file.path == path) {
                Some(file) => file.hooks = Some(hooks),
                None => found.push(EditedFile { path, server: None, hooks: Some(hooks) }),
            }
        }
        found
    }

    /// A file that `setup` has edited for an agent. The agent's settings directory may have moved since then, so the
    /// file's name alone determines which entries belong in it.
    pub fn recorded_file(&self, agent: &Agent, path: &Path) -> EditedFile {
        let scope = self.scope(agent);
        let has_name = |file: FilePath| self.path(agent, file).file_name() == path.file_name();
        let is_ours = |server: &ServerFile| matches!(server.writer, Writer::Us);
        let server = scope.server.filter(|server| is_ours(server) && server.paths.iter().any(|file| has_name(*file)));
        EditedFile { path: path.to_path_buf(), server, hooks: scope.hooks.filter(|hooks| has_name(hooks.path)) }
    }

    /// Lists the settings by which the user has switched hooks off.
    pub fn switched_off_hooks(&self, agent: &Agent) -> Vec<String> {
        self.switched_off(agent, agent.files.switches, "hooks")
    }

    /// Lists the settings by which the user has switched our server off.
    pub fn switched_off_server(&self, agent: &Agent) -> Vec<String> {
        self.switched_off(agent, agent.files.server_switches, "the server")
    }

    fn switched_off(&self, agent: &Agent, switches: &[Switch], what: &str) -> Vec<String> {
        let is_off = |switch: &&Switch| {
            let text = safe_write::read_only(&self.path(agent, switch.file)).ok().flatten();
            text.is_some_and(|text| is_switched_off(&text, switch))
        };
        let (mut found, mut seen) = (Vec::new(), Vec::new());
        for switch in switches.iter().filter(is_off) {
            let path = self.path(agent, switch.file);
            // If the project is the home directory, the user's file is also the project's file, so it is listed only
            // once.
            let real = path.canonicalize().unwrap_or_else(|_| path.clone());
            if seen.contains(&(real.clone(), switch.keys)) {
                continue;
            }
            seen.push((real, switch.keys));
            let place = self.shown(&path);
            found.push(format!("{} in {place} switches {what} off", switch.keys.join(".")));
        }
        found
    }
}

fn is_switched_off(text: &str, switch: &Switch) -> bool {
    let value = match json_edit::parse(text) {
        Ok(whole) => switch.keys.iter().fold(&whole, |value, key| &value[*key]).clone(),
        Err(_) => toml_entry::flag(text, switch.keys).map_or(Value::Null, Value::Bool),
    };
    match switch.off {
        Off::Flag(off) => value == json!(off),
        Off::ListLacksUs => value.as_array().is_some_and(|list| !list.is_empty() && !list.contains(&json!(NAME))),
        Off::ListHasUs => value.as_array().is_some_and(|list| list.contains(&json!(NAME))),
    }
}

/// The agents that are listed in a setting.
fn listed(setting: &str) -> Vec<String> {
    let settings = DataDir::find().and_then(|places| Settings::load(&places));
    // `slm-mesh doctor` and the broker report errors in the settings, so such errors are ignored here.
    settings.map(|settings| settings.several(setting)).unwrap_or_default()
}

/// Finds a program on PATH.
pub fn find_on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).filter(|dir| dir.is_absolute()).map(|dir| dir.join(name)).find(|file| is_program(file))
}

/// Whether a path names an executable file.
pub fn is_program(path: &Path) -> bool {
    path.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// The path of this program. If the program is also found on PATH, the path found there is returned. That path stays
/// valid when a package manager replaces the installed version.
///
/// # Errors
/// If the program has another name, or if its path is unknown or not UTF-8.
pub fn own_path() -> Result<String, Error> {
    let own = std::env::current_exe();
    let own = own.map_err(|error| {
        Error::new(ErrorKind::Internal, format!("the path of this program can't be found ({error})"))
    })?;
    let own = PathBuf::from(own.to_string_lossy().trim_end_matches(" (deleted)"));
    let is_same = |found: &PathBuf| found.canonicalize().ok().is_some_and(|real| Some(real) == own.canonicalize().ok());
    let path = find_on_path(NAME).filter(is_same).unwrap_or(own);
    match path.to_str() {
        Some(text) if path.file_name().is_some_and(|name| name == NAME) => Ok(text.to_owned()),
        Some(text) => {
            let text = format!(
                "setup recognises its own entries by the program name {NAME}, but this program is {text}; rename it to \
                 {NAME}"
            );
            Err(Error::new(ErrorKind::Usage, text))
        }
        None => Err(Error::new(
            ErrorKind::Usage,
            format!("the path of this program is not UTF-8: {}; move the program to another folder", path.display()),
        )),
    }
}

/// The JSON value of a file; `None` if there is no file or no valid value.
pub fn read_json(path: &Path) -> Option<Value> {
    json_edit::parse(&safe_write::read_only(path).ok()??).ok()
}

/// The hooks in a file, in the form that JSON settings files use.
pub fn read_hooks(path: &Path, hooks: &HookFile) -> Option<Value> {
    match hooks.command {
        HookCommand::TomlLine => toml_hooks::as_json(&safe_write::read(path).ok()??),
        _ => read_json(path),
    }
}
