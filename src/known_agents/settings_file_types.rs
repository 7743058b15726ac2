//! Where an agent keeps its settings files, and what our entries in these files look like.

/// The files that `setup` changes for one agent.
#[derive(Debug, Clone, Copy)]
pub struct Files {
    /// The agent's programs. The agent counts as installed if one of them is on PATH.
    pub programs: &'static [&'static str],
    /// The possible paths of the agent's settings directory. A path that depends on an environment variable is skipped
    /// if the variable is not set. The first of the other paths is used.
    pub directory: &'static [Directory],
    /// The files that apply to all projects of a user.
    pub user: Scope,
    /// The files that apply to the project in the working directory.
    pub project: Scope,
    /// What the user must do after set-up, such as approving the server.
    pub approve: &'static str,
    /// What the user must do after set-up of a project; empty if this is the same as in `approve`.
    pub approve_in_project: &'static str,
    /// Why `setup` itself adds the server to the file, although the agent has a command for this.
    pub why_edited: &'static str,
    /// The settings by which the user can switch hooks off.
    pub switches: &'static [Switch],
    /// The settings by which the user can switch our server off, although it is registered.
    pub server_switches: &'static [Switch],
    /// The plugin that packages the server, hooks and skills for the agent's marketplace.
    pub plugin: Option<Plugin>,
}

/// What `setup` prints if the user does not have to approve anything.
pub(super) const RESTART: &str = "Sessions that are already running see the change only after a restart.";

/// An agent without settings files.
pub(super) const NO_SETTINGS: Files = Files {
    programs: &[],
    directory: &[],
    user: NO_FILES,
    project: NO_FILES,
    approve: RESTART,
    approve_in_project: "",
    why_edited: "",
    switches: &[],
    server_switches: &[],
    plugin: None,
};

/// A package in the agent's own format, such as a plugin or an extension. It contains the server, hooks and skills.
#[derive(Debug, Clone, Copy)]
pub struct Plugin {
    /// The path of the package's manifest.
    pub manifest: &'static str,
    /// The file that registers the package's servers; `None` if the manifest registers them.
    pub server_file: Option<&'static str>,
    /// The placeholder for the path of the package's folder, for use in the package's files.
    pub root: &'static str,
    /// The paths and the format of the skills. In a path, `{name}` stands for the name of a skill.
    pub skills: (&'static str, CommandStyle),
    /// How to detect that the user has installed the package.
    pub sign: PluginSign,
}

/// How to detect that a plugin is installed and switched on.
#[derive(Debug, Clone, Copy)]
pub enum PluginSign {
    /// In this settings file, an entry `slm-mesh@MARKETPLACE` below this key is true.
    EnabledIn(FilePath, &'static str),
    /// This file exists.
    Exists(FilePath),
}

/// A possible path of an agent's settings directory.
#[derive(Debug, Clone, Copy)]
pub enum Directory {
    /// The first field is the name of an environment variable, which contains a directory. The second field is the path
    /// of the settings directory, relative to that directory; empty if the two are the same.
    Variable(&'static str, &'static str),
    /// A folder below the directory in `XDG_CONFIG_HOME`. A relative path in this variable is ignored, as the XDG
    /// specification demands.
    Xdg(&'static str),
    /// A folder below the user's home directory.
    Home(&'static str),
}

/// A setting by which the user can switch hooks or our server off.
#[derive(Debug, Clone, Copy)]
pub struct Switch {
    /// The file that contains the setting.
    pub file: FilePath,
    /// The keys that lead to the setting, outermost first.
    pub keys: &'static [&'static str],
    /// The value that means off.
    pub off: Off,
}

/// The value of a setting that switches hooks or our server off.
#[derive(Debug, Clone, Copy)]
pub enum Off {
    /// The setting has this boolean value.
    Flag(bool),
    /// The setting is a list that contains our name.
    ListHasUs,
    /// The setting is a list that contains other names, but not ours.
    ListLacksUs,
}

/// The path of one of an agent's files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FilePath {
    /// In the agent's settings directory.
    Settings(&'static str),
    /// In the user's home directory.
    Home(&'static str),
    /// In the settings directory if an environment variable moves the settings directory; otherwise, in the user's home
    /// directory.
    HomeUnlessMoved(&'static str),
    /// In the project's directory.
    Project(&'static str),
}

/// The files that `setup` changes, either for a user or for a project.
#[derive(Debug, Clone, Copy)]
pub struct Scope {
    /// The file that registers MCP servers.
    pub server: Option<ServerFile>,
    /// The file that registers hooks.
    pub hooks: Option<HookFile>,
    /// Slash commands, or skills.
    pub commands: Option<CommandFiles>,
    /// A file, such as a plugin, whose whole text comes from `setup`.
    pub own_file: Option<OwnFile>,
}

/// No files at all.
pub(super) const NO_FILES: Scope = Scope { server: None, hooks: None, commands: None, own_file: None };

/// The file in which an agent looks for MCP servers.
#[derive(Debug, Clone, Copy)]
pub struct ServerFile {
    /// The possible paths of the file. Set-up creates a new file at the first path.
    pub paths: &'static [FilePath],
    /// The key that contains the servers.
    pub key: &'static str,
    /// The format of a server's entry.
    pub entry: EntryShape,
    /// Who writes the entry.
    pub writer: Writer,
}

/// Who writes a server's entry.
#[derive(Debug, Clone, Copy)]
pub enum Writer {
    /// Set-up edits the file.
    Us,
    /// The agent's own command writes the entry. If set-up edited the file, a running session of the agent could undo
    /// the edit.
    Agent(AgentCommand),
}

/// The commands with which an agent adds and removes a server. In the arguments, `{program}` stands for the path of our
/// program. `{entry}` stands for the server's entry in JSON, or for `-` if the command reads the entry from standard
/// input.
#[derive(Debug, Clone, Copy)]
pub struct AgentCommand {
    /// The agent's program.
    pub program: &'static str,
    /// The arguments that add the server.
    pub add: &'static [&'static str],
    /// The arguments that add the server with the entry `{entry}`.
    pub add_entry: &'static [&'static str],
    /// The arguments that remove the server.
    pub remove: &'static [&'static str],
    /// The same file also contains settings for individual directories, below this key. If the settings for a directory
    /// contain an entry for the server, the agent uses this entry in that directory, and ignores the user's entry.
    pub directories: &'static str,
    /// The arguments that remove the server only from the settings for the working directory.
    pub remove_in_directory: &'static [&'static str],
}

/// The formats of a server's entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryShape {
    /// JSON: `command` and `args`.
    Plain,
    /// JSON: `command`, `args` and `type: stdio`.
    Stdio,
    /// JSON: `type: local`, with all tools switched on.
    LocalWithTools,
    /// JSON: `type: local`, with program and arguments in one list.
    LocalWithList,
    /// A table in TOML.
    TomlTable,
    /// A line of YAML that contains the path of the agent's [`OwnFile`].
    YamlLine,
}

/// The file in which an agent looks for hooks.
#[derive(Debug, Clone, Copy)]
pub struct HookFile {
    /// The path of the file.
    pub path: FilePath,
    /// The key that contains the events; `None` if the events are at the top level.
    pub key: Option<&'static str>,
    /// Whether the file must contain `version: 1`.
    pub has_version: bool,
    /// Whether each event contains groups with a matcher, and each group contains hooks.
    pub has_groups: bool,
    /// The form of our command in a hook's entry, for example one string or a list of words.
    pub command: HookCommand,
    /// The field and the unit of the hook's time limit.
    pub limit: TimeLimit,
    /// The events, each with a pattern for the names of tools (empty for all tools).
    pub events: &'static [(&'static str, &'static str)],
    /// The tool-name patterns that older versions of `setup` wrote. `setup` replaces these patterns, but keeps the
    /// patterns of the user.
    pub older_tools: &'static [&'static str],
    /// The event after which a hook may wait in the background to wake the agent.
    pub wake_event: Option<&'static str>,
}

/// Claude Code's hook file. Several agents have copied its format.
pub(super) const CLAUDE_HOOKS: HookFile = HookFile {
    path: FilePath::Settings("settings.json"),
    key: Some("hooks"),
    has_version: false,
    has_groups: true,
    command: HookCommand::ShellLine,
    limit: TimeLimit::Seconds,
    events: &[
        ("SessionStart", ""),
        ("UserPromptSubmit", ""),
        ("PreToolUse", ""),
        ("PostToolUse", ""),
        ("Stop", ""),
        ("SessionEnd", ""),
    ],
    older_tools: &[],
    wake_event: None,
};

/// The form in which a hook's entry contains our command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HookCommand {
    /// `command` and `args`, run without a shell.
    ProgramAndArguments,
    /// `command`: a command line for a shell.
    ShellLine,
    /// `command`, a command line for a shell, and `name`.
    NamedShellLine,
    /// `bash`: a command line for a shell. An agent that uses this field denies every tool call whose hook fails. The
    /// command line therefore succeeds even if slm-mesh has been removed.
    BashIfPresent,
    /// TOML: an array of tables. Each table has an `event` and a `command`, which is a command line for a shell.
    TomlLine,
}

/// The field for a hook's time limit, and the unit of the limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimeLimit {
    /// `timeout`, in seconds.
    Seconds,
    /// `timeoutSec`, in seconds.
    NamedSeconds,
    /// `timeout`, in milliseconds.
    Milliseconds,
}

/// Where an agent looks for slash commands or skills.
#[derive(Debug, Clone, Copy)]
pub struct CommandFiles {
    /// The file of one command; `{name}` stands for the command's name.
    pub path: FilePath,
    /// The format of the file.
    pub style: CommandStyle,
}

/// The format of a command's file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CommandStyle {
    /// Markdown, below a header with a description.
    MarkdownWithDescription,
    /// Markdown, below a header with a name and a description.
    MarkdownWithName,
    /// Markdown without a header.
    Markdown,
    /// TOML with a prompt.
    Toml,
}

/// A file, such as a plugin, whose whole text comes from `setup`.
#[derive(Debug, Clone, Copy)]
pub struct OwnFile {
    /// The path of the file.
    pub path: FilePath,
    /// The text of the file. `"{program}"` stands for the quoted path of our program, and `{agent}` for the agent's id.
    pub text: &'static str,
    /// Whether the file runs our hooks, as a plugin does.
    pub runs_hooks: bool,
}

impl EntryShape {
    /// Whether a file with an entry in this format is JSON.
    pub fn is_json(self) -> bool {
        !matches!(self, EntryShape::TomlTable | EntryShape::YamlLine)
    }
}

/// Describes a file in which `setup` itself registers our server.
pub(super) const fn edited(paths: &'static [FilePath], key: &'static str, entry: EntryShape) -> Option<ServerFile> {
    Some(ServerFile { paths, key, entry, writer: Writer::Us })
}

/// Describes the files of slash commands or skills.
pub(super) const fn commands(path: FilePath, style: CommandStyle) -> Option<CommandFiles> {
    Some(CommandFiles { path, style })
}
