//! Where each agent keeps its settings, and what ours look like there: one row an agent. Paths,
//! names and units are those of the agents' own documentation, autumn 2026.

/// An agent that set-up knows.
#[derive(Debug)]
pub struct Row {
    /// The word for it on our command line, and behind `hook`.
    pub name: &'static str,
    /// What its makers call it.
    pub title: &'static str,
    /// Programs whose presence on PATH shows that it is installed.
    pub programs: &'static [&'static str],
    /// The variable that moves its directory of settings, or "", and where that is else.
    pub root: (&'static str, &'static str),
    /// Files for all of a user's projects.
    pub user: Scope,
    /// Files of the project in the working directory.
    pub project: Scope,
    /// What only the user can do.
    pub approve: &'static str,
}

/// What set-up touches at one level. A path begins with `@/` for the agent's directory, `~/` for the
/// home, and else lies in the working directory.
#[derive(Debug, Clone, Copy)]
pub struct Scope {
    /// The agent's own way to register a server: preferred to its file.
    pub command: Option<Verbs>,
    /// Where its file names MCP servers.
    pub server: Option<Server>,
    /// Where its hooks are.
    pub hooks: Option<Hooks>,
    /// Slash commands, or skills.
    pub skills: Option<Skills>,
    /// A file that is ours alone, with its path: the plugin, the conventions.
    pub own: Option<(&'static str, Own)>,
}

/// Commands of an agent that register a server and take it out; `{program}` is our path, `{json}` our
/// entry.
#[derive(Debug, Clone, Copy)]
pub struct Verbs {
    /// The program.
    pub program: &'static str,
    /// Its arguments to register.
    pub add: &'static [&'static str],
    /// Its arguments to take out; none where it has no such command.
    pub remove: &'static [&'static str],
}

/// Where a file names servers, and what an entry looks like.
#[derive(Debug, Clone, Copy)]
pub struct Server {
    /// The file.
    pub path: &'static str,
    /// The key under which servers stand.
    pub under: &'static str,
    /// An entry's form.
    pub form: Form,
    /// Whether we may write it; Claude Code rewrites its own while it runs.
    pub ours_to_write: bool,
}

/// The forms of a server's entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// `command` and `args`.
    Plain,
    /// The same with `type: stdio`.
    Stdio,
    /// Copilot's own: `type: local`, and all tools.
    Local,
    /// OpenCode's: one list.
    List,
    /// A table of TOML.
    Toml,
    /// A line of YAML that names a file to read.
    Yaml,
}

/// Where hooks are and what one looks like.
#[derive(Debug, Clone, Copy)]
pub struct Hooks {
    /// The file.
    pub path: &'static str,
    /// The key under which events stand; "" for the top.
    pub under: &'static str,
    /// What else a file must hold.
    pub version: bool,
    /// Whether an event has groups with a matcher, and hooks in each.
    pub grouped: bool,
    /// How one names our program.
    pub call: Call,
    /// The member with its time limit, and the limit.
    pub limit: (&'static str, i64),
    /// Events, each with the tools for which it is wanted ("" for all).
    pub events: &'static [(&'static str, &'static str)],
    /// The event behind which a hook may wait in the background to wake the agent, or "".
    pub rewake: &'static str,
}

/// How a hook names the program it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// `command` and `args`, run without a shell.
    Args,
    /// `command`: a line for a shell.
    Line,
    /// `bash`: a line that lets everything pass when the program is gone, since this agent denies
    /// every tool call whose hook fails.
    Guarded,
    /// `command` as a line, with a `name`.
    Named,
}

/// Where slash commands or skills go: `{name}` is the command's.
#[derive(Debug, Clone, Copy)]
pub struct Skills {
    /// The file of one.
    pub path: &'static str,
    /// How it is written.
    pub style: Style,
}

/// How a command's text is dressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// Markdown below a head with a description.
    Headed,
    /// The same, and the head has the name.
    Skill,
    /// Markdown alone.
    Bare,
    /// TOML with a prompt.
    Toml,
}

/// Files that are ours alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Own {
    /// OpenCode's plugin.
    Plugin,
    /// What an agent without MCP should know.
    Conventions,
}

const NOTHING: Scope = Scope { command: None, server: None, hooks: None, skills: None, own: None };

const fn plain(path: &'static str, under: &'static str, form: Form) -> Option<Server> {
    Some(Server { path, under, form, ours_to_write: true })
}

const fn verbs(program: &'static str, add: &'static [&'static str], remove: &'static [&'static str]) -> Option<Verbs> {
    Some(Verbs { program, add, remove })
}

const fn skills(path: &'static str, style: Style) -> Option<Skills> {
    Some(Skills { path, style })
}

const CLAUDE: Hooks = Hooks {
    path: "@/settings.json",
    under: "hooks",
    version: false,
    grouped: true,
    call: Call::Args,
    limit: ("timeout", 5),
    events: &[
        ("SessionStart", ""),
        ("UserPromptSubmit", ""),
        ("PreToolUse", "Edit|Write|MultiEdit|NotebookEdit"),
        ("PostToolUse", ""),
        ("Stop", ""),
        ("SessionEnd", ""),
    ],
    rewake: "",
};

const CODEX: Hooks = Hooks {
    path: "@/hooks.json",
    call: Call::Line,
    events: &[
        ("SessionStart", ""),
        ("UserPromptSubmit", ""),
        // Also a shell's command: a model without a tool for patches applies them there.
        ("PreToolUse", ""),
        ("PostToolUse", ""),
        ("Stop", ""),
        ("Interrupt", ""),
        ("SessionEnd", ""),
    ],
    ..CLAUDE
};

const COPILOT: Hooks = Hooks {
    path: "@/hooks/slm-mesh.json",
    version: true,
    grouped: false,
    call: Call::Guarded,
    limit: ("timeoutSec", 5),
    events: &[
        ("sessionStart", ""),
        ("userPromptSubmitted", ""),
        ("preToolUse", ""),
        ("postToolUse", ""),
        ("agentStop", ""),
        ("sessionEnd", ""),
    ],
    ..CLAUDE
};

const GEMINI: Hooks = Hooks {
    path: "@/settings.json",
    call: Call::Named,
    limit: ("timeout", 5000),
    events: &[
        ("SessionStart", ""),
        ("BeforeAgent", ""),
        ("BeforeTool", "write_file|replace"),
        ("AfterTool", ""),
        ("AfterAgent", ""),
        ("SessionEnd", ""),
    ],
    ..CLAUDE
};

const CURSOR: Hooks = Hooks {
    path: "@/hooks.json",
    version: true,
    grouped: false,
    call: Call::Line,
    events: &[
        ("sessionStart", ""),
        ("beforeSubmitPrompt", ""),
        ("preToolUse", ""),
        ("postToolUse", ""),
        ("stop", ""),
        ("sessionEnd", ""),
    ],
    ..CLAUDE
};

const VSCODE: Hooks = Hooks {
    path: ".github/hooks/slm-mesh.json",
    grouped: false,
    call: Call::Line,
    events: &[("SessionStart", ""), ("UserPromptSubmit", ""), ("PreToolUse", ""), ("PostToolUse", ""), ("Stop", "")],
    ..CLAUDE
};

const DEVIN: Hooks = Hooks {
    path: "@/config.json",
    call: Call::Line,
    events: &[
        ("SessionStart", ""),
        ("UserPromptSubmit", ""),
        ("PreToolUse", ""),
        ("PostToolUse", ""),
        ("Stop", ""),
        ("SessionEnd", ""),
    ],
    ..CLAUDE
};

#[cfg(target_os = "macos")]
const VSCODE_ROOT: &str = "~/Library/Application Support/Code/User";
#[cfg(not(target_os = "macos"))]
const VSCODE_ROOT: &str = "~/.config/Code/User";

const RESTART: &str = "Sessions that run now see it after a restart.";

/// All agents, in the order in which they are shown.
pub const ROWS: &[Row] = &[
    Row {
        name: "claude",
        title: "Claude Code",
        programs: &["claude"],
        root: ("CLAUDE_CONFIG_DIR", "~/.claude"),
        user: Scope {
            command: verbs(
                "claude",
                &["mcp", "add", "slm-mesh", "-s", "user", "--", "{program}", "mcp"],
                &["mcp", "remove", "slm-mesh", "-s", "user"],
            ),
            server: Some(Server {
                path: "~/.claude.json",
                under: "mcpServers",
                form: Form::Stdio,
                ours_to_write: false,
            }),
            // A project's file is read by others, too, who would wait for the hook.
            hooks: Some(Hooks { rewake: "Stop", ..CLAUDE }),
            skills: skills("@/commands/{name}.md", Style::Headed),
            ..NOTHING
        },
        project: Scope {
            server: plain(".mcp.json", "mcpServers", Form::Stdio),
            hooks: Some(Hooks { path: ".claude/settings.json", ..CLAUDE }),
            skills: skills(".claude/commands/{name}.md", Style::Headed),
            ..NOTHING
        },
        approve: "A project's .mcp.json wants your approval in the next session, and its hooks run once you trust the folder.",
    },
    Row {
        name: "codex",
        title: "Codex CLI",
        programs: &["codex"],
        root: ("CODEX_HOME", "~/.codex"),
        user: Scope {
            command: verbs(
                "codex",
                &["mcp", "add", "slm-mesh", "--", "{program}", "mcp"],
                &["mcp", "remove", "slm-mesh"],
            ),
            server: plain("@/config.toml", "mcp_servers", Form::Toml),
            hooks: Some(CODEX),
            skills: skills("@/skills/{name}/SKILL.md", Style::Skill),
            ..NOTHING
        },
        project: Scope {
            server: plain(".codex/config.toml", "mcp_servers", Form::Toml),
            hooks: Some(Hooks { path: ".codex/hooks.json", ..CODEX }),
            ..NOTHING
        },
        approve: "Codex skips new and changed hooks in silence until you approve them: type /hooks in Codex.",
    },
    Row {
        name: "copilot",
        title: "GitHub Copilot CLI",
        programs: &["copilot"],
        root: ("COPILOT_HOME", "~/.copilot"),
        user: Scope {
            command: verbs(
                "copilot",
                &["mcp", "add", "slm-mesh", "--", "{program}", "mcp"],
                &["mcp", "remove", "slm-mesh"],
            ),
            server: plain("@/mcp-config.json", "mcpServers", Form::Local),
            hooks: Some(COPILOT),
            skills: skills("@/skills/{name}/SKILL.md", Style::Skill),
            ..NOTHING
        },
        // Its hooks in .github would run beside VS Code's: the user's own do for every project.
        project: Scope { server: plain(".mcp.json", "mcpServers", Form::Stdio), ..NOTHING },
        approve: RESTART,
    },
    Row {
        name: "gemini",
        title: "Gemini CLI",
        programs: &["gemini"],
        root: ("", "~/.gemini"),
        user: Scope {
            command: verbs(
                "gemini",
                &["mcp", "add", "-s", "user", "slm-mesh", "{program}", "mcp"],
                &["mcp", "remove", "-s", "user", "slm-mesh"],
            ),
            server: plain("@/settings.json", "mcpServers", Form::Plain),
            hooks: Some(GEMINI),
            skills: skills("@/commands/{name}.toml", Style::Toml),
            ..NOTHING
        },
        project: Scope {
            server: plain(".gemini/settings.json", "mcpServers", Form::Plain),
            hooks: Some(Hooks { path: ".gemini/settings.json", ..GEMINI }),
            skills: skills(".gemini/commands/{name}.toml", Style::Toml),
            ..NOTHING
        },
        approve: "Gemini CLI starts servers only in folders that you trust, warns once of a project's new hooks, and asks before each mesh tool.",
    },
    Row {
        name: "opencode",
        title: "OpenCode",
        programs: &["opencode"],
        root: ("OPENCODE_CONFIG_DIR", "~/.config/opencode"),
        user: Scope {
            server: plain("@/opencode.json", "mcp", Form::List),
            skills: skills("@/command/{name}.md", Style::Headed),
            own: Some(("@/plugin/slm-mesh.js", Own::Plugin)),
            ..NOTHING
        },
        project: Scope {
            server: plain("opencode.json", "mcp", Form::List),
            skills: skills(".opencode/command/{name}.md", Style::Headed),
            own: Some((".opencode/plugin/slm-mesh.js", Own::Plugin)),
            ..NOTHING
        },
        approve: RESTART,
    },
    Row {
        name: "cursor",
        title: "Cursor",
        programs: &["cursor", "cursor-agent"],
        root: ("", "~/.cursor"),
        user: Scope {
            server: plain("@/mcp.json", "mcpServers", Form::Plain),
            hooks: Some(CURSOR),
            skills: skills("@/commands/{name}.md", Style::Bare),
            ..NOTHING
        },
        project: Scope {
            server: plain(".cursor/mcp.json", "mcpServers", Form::Plain),
            hooks: Some(Hooks { path: ".cursor/hooks.json", ..CURSOR }),
            skills: skills(".cursor/commands/{name}.md", Style::Bare),
            ..NOTHING
        },
        approve: "Switch the server on in Cursor's settings, under MCP, if it shows as disabled.",
    },
    Row {
        name: "vscode",
        title: "VS Code",
        programs: &["code"],
        root: ("", VSCODE_ROOT),
        user: Scope {
            command: verbs("code", &["--add-mcp", "{json}"], &[]),
            server: plain("@/mcp.json", "servers", Form::Stdio),
            skills: skills("@/prompts/{name}.prompt.md", Style::Headed),
            ..NOTHING
        },
        project: Scope {
            server: plain(".vscode/mcp.json", "servers", Form::Stdio),
            hooks: Some(VSCODE),
            skills: skills(".github/prompts/{name}.prompt.md", Style::Headed),
            ..NOTHING
        },
        approve: "VS Code asks whether you trust the server when it first starts. It runs the hooks of a project's \
                  .github/hooks (slm-mesh setup vscode --project) and those in ~/.claude/settings.json.",
    },
    Row {
        name: "devin",
        title: "Devin",
        programs: &["devin"],
        root: ("", "~/.config/devin"),
        user: Scope { server: plain("@/mcp_config.json", "mcpServers", Form::Plain), hooks: Some(DEVIN), ..NOTHING },
        project: Scope {
            server: plain(".devin/mcp_config.json", "mcpServers", Form::Plain),
            hooks: Some(Hooks { path: ".devin/hooks.v1.json", under: "", ..DEVIN }),
            ..NOTHING
        },
        approve: RESTART,
    },
    Row {
        name: "windsurf",
        title: "Windsurf",
        programs: &["windsurf"],
        root: ("", "~/.codeium/windsurf"),
        user: Scope { server: plain("@/mcp_config.json", "mcpServers", Form::Plain), ..NOTHING },
        project: NOTHING,
        approve: "Its hooks can put nothing before the model: it has the tools alone. Press refresh in its MCP panel.",
    },
    Row {
        name: "zed",
        title: "Zed",
        programs: &["zed", "zeditor"],
        root: ("", "~/.config/zed"),
        user: Scope { server: plain("@/settings.json", "context_servers", Form::Plain), ..NOTHING },
        project: Scope { server: plain(".zed/settings.json", "context_servers", Form::Plain), ..NOTHING },
        approve: "It has no hooks: it has the tools alone.",
    },
    Row {
        name: "aider",
        title: "Aider",
        programs: &["aider"],
        root: ("", "~/.aider"),
        user: Scope {
            server: plain("~/.aider.conf.yml", "read", Form::Yaml),
            own: Some(("@/slm-mesh.md", Own::Conventions)),
            ..NOTHING
        },
        project: Scope {
            server: plain(".aider.conf.yml", "read", Form::Yaml),
            own: Some((".aider.slm-mesh.md", Own::Conventions)),
            ..NOTHING
        },
        approve: "It has neither MCP nor hooks: it reads the verbs, and you run them or let it ask to.",
    },
];

/// The slash commands: name, what it does, and its text.
pub const SKILLS: &[(&str, &str, &str)] = &[
    ("mesh-peers", "Who else works here, and on what", include_str!("skills/mesh-peers.md")),
    ("mesh-send", "Send a message to another agent", include_str!("skills/mesh-send.md")),
    ("mesh-lock", "Lock files before a larger change, or see who holds them", include_str!("skills/mesh-lock.md")),
    ("mesh-status", "How the mesh is, and what waits for you", include_str!("skills/mesh-status.md")),
    ("mesh-sync", "Catch up: mail, events, locks and shared state", include_str!("skills/mesh-sync.md")),
];
