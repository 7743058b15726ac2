//! Where an agent keeps its settings, and what our entries look like there.

/// The files that set-up changes for one agent.
#[derive(Debug, Clone, Copy)]
pub struct Files {
    /// Programs on PATH that show that the agent is installed.
    pub programs: &'static [&'static str],
    /// Where its directory of settings can be: the first of these that applies.
    pub directory: &'static [Directory],
    /// Files for all projects of a user.
    pub user: Scope,
    /// Files of the project in the working directory.
    pub project: Scope,
    /// What only the user can do after set-up.
    pub approve: &'static str,
    /// Why set-up edits a file although the agent has a command for that.
    pub why_edited: &'static str,
    /// Settings with which the user switches hooks off.
    pub switches: &'static [Switch],
    /// How its marketplace packs server, hooks and skills.
    pub plugin: Option<Plugin>,
}

/// What is said where nothing is to be approved.
pub(super) const RESTART: &str = "Sessions that run now see it after a restart.";

/// No file at all, and nothing to approve.
pub(super) const NO_SETTINGS: Files = Files {
    programs: &[],
    directory: &[],
    user: NO_FILES,
    project: NO_FILES,
    approve: RESTART,
    why_edited: "",
    switches: &[],
    plugin: None,
};

/// A package of server, hooks and skills in the agent's own form: a plugin, an extension.
#[derive(Debug, Clone, Copy)]
pub struct Plugin {
    /// Its manifest.
    pub manifest: &'static str,
    /// The file below the package that names servers; none if that is the manifest.
    pub server_file: Option<&'static str>,
    /// What stands for the folder of the package in its files.
    pub root: &'static str,
    /// Its skills, with `{name}` for the name of one.
    pub skills: (&'static str, CommandStyle),
    /// What shows that a user has installed it.
    pub sign: PluginSign,
}

/// What shows that a plugin is installed and on.
#[derive(Debug, Clone, Copy)]
pub enum PluginSign {
    /// Below this key of a file, `slm-mesh@MARKETPLACE` is true.
    EnabledIn(FilePath, &'static str),
    /// The file exists.
    Exists(FilePath),
}

/// A place for an agent's directory of settings.
#[derive(Debug, Clone, Copy)]
pub enum Directory {
    /// The value of a variable, and a folder below it (empty for none).
    Variable(&'static str, &'static str),
    /// The same; the XDG specification has programs ignore a relative path in it.
    Xdg(&'static str),
    /// A folder below the home.
    Home(&'static str),
}

/// A setting that switches hooks off.
#[derive(Debug, Clone, Copy)]
pub struct Switch {
    /// The file.
    pub file: FilePath,
    /// The keys that lead to the setting.
    pub keys: &'static [&'static str],
    /// The value of the setting with which no hook runs.
    pub off: Off,
}

/// The value that switches hooks off.
#[derive(Debug, Clone, Copy)]
pub enum Off {
    /// This boolean.
    Flag(bool),
    /// A list that has our name.
    ListHasUs,
}

/// A file of an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FilePath {
    /// In the directory of settings.
    Settings(&'static str),
    /// In the home.
    Home(&'static str),
    /// In the home, or in the directory of settings if a variable moves that.
    HomeUnlessMoved(&'static str),
    /// In the project.
    Project(&'static str),
}

/// What set-up changes at one level.
#[derive(Debug, Clone, Copy)]
pub struct Scope {
    /// The file that names MCP servers.
    pub server: Option<ServerFile>,
    /// The file that names hooks.
    pub hooks: Option<HookFile>,
    /// Slash commands, or skills.
    pub commands: Option<CommandFiles>,
    /// A file that set-up writes whole.
    pub own_file: Option<OwnFile>,
}

/// No file.
pub(super) const NO_FILES: Scope = Scope { server: None, hooks: None, commands: None, own_file: None };

/// The file in which an agent looks for MCP servers.
#[derive(Debug, Clone, Copy)]
pub struct ServerFile {
    /// The names that the file can have; the first is for a new file.
    pub paths: &'static [FilePath],
    /// The key under which servers stand.
    pub key: &'static str,
    /// What an entry looks like.
    pub entry: EntryShape,
    /// Who writes the entry.
    pub writer: Writer,
}

/// Who writes a server's entry.
#[derive(Debug, Clone, Copy)]
pub enum Writer {
    /// Set-up edits the file.
    Us,
    /// The agent's own command: a running session rewrites the file.
    Agent(AgentCommand),
}

/// Commands of an agent that add and remove a server. `{program}` stands for our path.
#[derive(Debug, Clone, Copy)]
pub struct AgentCommand {
    /// The program.
    pub program: &'static str,
    /// Its arguments to add the server.
    pub add: &'static [&'static str],
    /// Its arguments to remove the server.
    pub remove: &'static [&'static str],
}

/// The shapes of a server's entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryShape {
    /// JSON: `command` and `args`.
    Plain,
    /// JSON: the same with `type: stdio`.
    Stdio,
    /// JSON: `type: local`, and all tools.
    LocalWithTools,
    /// JSON: `type: local`, with program and arguments in one list.
    LocalWithList,
    /// A table in TOML.
    TomlTable,
    /// A line of YAML that names the agent's [`OwnFile`].
    YamlLine,
}

/// The file in which an agent looks for hooks.
#[derive(Debug, Clone, Copy)]
pub struct HookFile {
    /// The file.
    pub path: FilePath,
    /// The key under which events stand; none if events stand at the top.
    pub key: Option<&'static str>,
    /// Whether the file must hold `version: 1`.
    pub has_version: bool,
    /// Whether an event has groups with a matcher, and hooks in each group.
    pub has_groups: bool,
    /// How a hook names our program.
    pub command: HookCommand,
    /// The unit of its time limit.
    pub limit: TimeLimit,
    /// Events, each with a pattern of the tools that matter (empty for all).
    pub events: &'static [(&'static str, &'static str)],
    /// The event after which a hook may wait in the background to wake the agent.
    pub wake_event: Option<&'static str>,
}

/// Claude Code's form of hooks, which several agents have taken over: a prompt, a tool and a turn, all of them.
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
    wake_event: None,
};

/// How a hook names the program that it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HookCommand {
    /// `command` and `args`, run without a shell.
    ProgramAndArguments,
    /// `command`: a line for a shell.
    ShellLine,
    /// The same, with a `name`.
    NamedShellLine,
    /// `bash`: a shell line that also succeeds after slm-mesh was removed, because this agent denies every tool call
    /// whose hook fails.
    BashIfPresent,
    /// TOML: an array of tables. Each table has an `event` and a `command`, which is a line for a shell.
    TomlLine,
}

/// How long an agent waits for our hook, in its own unit.
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
    /// How the file is written.
    pub style: CommandStyle,
}

/// How a command's file is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CommandStyle {
    /// Markdown below a head with a description.
    MarkdownWithDescription,
    /// Markdown below a head with a name and a description.
    MarkdownWithName,
    /// Markdown alone.
    Markdown,
    /// TOML with a prompt.
    Toml,
}

/// A file that set-up writes whole.
#[derive(Debug, Clone, Copy)]
pub struct OwnFile {
    /// The file.
    pub path: FilePath,
    /// Its text; `"{program}"` stands for our path in quotes, and `{agent}` for the agent's id.
    pub text: &'static str,
    /// Whether it runs our hooks, as a plugin does.
    pub runs_hooks: bool,
}

impl EntryShape {
    /// Whether the file is JSON.
    pub fn is_json(self) -> bool {
        !matches!(self, EntryShape::TomlTable | EntryShape::YamlLine)
    }
}

/// A file that set-up edits, with one name.
pub(super) const fn edited(paths: &'static [FilePath], key: &'static str, entry: EntryShape) -> Option<ServerFile> {
    Some(ServerFile { paths, key, entry, writer: Writer::Us })
}

/// Slash commands or skills.
pub(super) const fn commands(path: FilePath, style: CommandStyle) -> Option<CommandFiles> {
    Some(CommandFiles { path, style })
}
