//! OpenCode, as of 1.18.33. OpenCode itself has no hooks, but our plugin runs our hooks in Claude Code's format.

use super::vocabulary::*;

/// The plugin, which runs our hooks in Claude Code's format.
pub(super) const PLUGIN: &str = include_str!("opencode_plugin.js");

pub(super) const AGENT: Agent = Agent {
    identity: Identity {
        client_names: &["opencode"],
        environment: &["OPENCODE_PID"],
        processes: &[ProcessSign::Name("opencode")],
        ..UNSEEN
    },
    dialect: Some(Dialect {
        fields: InputFields {
            // OpenCode itself calls this field `callID`, but our plugin sends it under Claude Code's name.
            call: &["tool_use_id", "callID"],
            files: &["filePath"],
            command_directory: &["workdir"],
            ..CLAUDE_FIELDS
        },
        edit_tools: &["edit", "write", "multiedit", "applypatch"],
        warn: None,
        shell_lines: Some(ShellLines::BashEnvInUsersShell),
        shell_environment: Some(ShellEnvironment::Answer("env")),
        reason_is_prompt: true,
        ..CLAUDE_SHAPED
    }),
    files: Files {
        programs: &["opencode"],
        directory: &[
            Directory::Variable("OPENCODE_CONFIG_DIR", ""),
            Directory::Xdg("opencode"),
            Directory::Home(".config/opencode"),
        ],
        user: Scope {
            server: edited(
                &[FilePath::Settings("opencode.json"), FilePath::Settings("opencode.jsonc")],
                "mcp",
                EntryShape::LocalWithList,
            ),
            commands: commands(FilePath::Settings("command/{name}.md"), CommandStyle::MarkdownWithDescription),
            own_file: Some(OwnFile { path: FilePath::Settings("plugin/slm-mesh.js"), text: PLUGIN, runs_hooks: true }),
            ..NO_FILES
        },
        project: Scope {
            server: edited(
                &[FilePath::Project("opencode.json"), FilePath::Project("opencode.jsonc")],
                "mcp",
                EntryShape::LocalWithList,
            ),
            commands: commands(FilePath::Project(".opencode/command/{name}.md"), CommandStyle::MarkdownWithDescription),
            own_file: Some(OwnFile {
                path: FilePath::Project(".opencode/plugin/slm-mesh.js"),
                text: PLUGIN,
                runs_hooks: true,
            }),
            ..NO_FILES
        },
        server_switches: &[
            Switch {
                file: FilePath::Settings("opencode.json"),
                keys: &["mcp", "slm-mesh", "enabled"],
                off: Off::Flag(false),
            },
            Switch {
                file: FilePath::Settings("opencode.jsonc"),
                keys: &["mcp", "slm-mesh", "enabled"],
                off: Off::Flag(false),
            },
            Switch {
                file: FilePath::Project("opencode.json"),
                keys: &["mcp", "slm-mesh", "enabled"],
                off: Off::Flag(false),
            },
            Switch {
                file: FilePath::Project("opencode.jsonc"),
                keys: &["mcp", "slm-mesh", "enabled"],
                off: Off::Flag(false),
            },
        ],
        ..NO_SETTINGS
    },
    wakeups: &[Wakeup {
        channel: "plugin prompt",
        means: Means::BackgroundHook { answer: HookAnswer::JsonLine, needs: &[] },
    }],
    support: Support { wakes_idle: Evidence::Run, ..Support::run("1.18.33").with_shield(Evidence::Run) },
    ..Agent::new("opencode", "OpenCode")
};
