//! Factory Droid, as of 0.215.0. Droid has hooks like Claude Code's.

use super::vocabulary::*;
use serde_json::json;

const SETTINGS: FilePath = FilePath::Settings("settings.json");

pub(super) const AGENT: Agent = Agent {
    identity: Identity {
        client_names: &["factory-cli"],
        processes: &[ProcessSign::Name("droid"), ProcessSign::ArgumentsHave("/droid/")],
        ..UNSEEN
    },
    dialect: Some(Dialect {
        edit_tools: &["create", "edit", "multiedit", "applypatch"],
        shell_lines: Some(ShellLines::BashEnv),
        // Droid reads the file in `CLAUDE_ENV_FILE` into its own environment, so its hooks also get the variables from
        // this file. This does no harm, because Droid runs hooks with sh, which ignores BASH_ENV.
        shell_environment: Some(ShellEnvironment::File("CLAUDE_ENV_FILE")),
        proof: ProofScript {
            input: |event, file| named_input(event, "Create", &json!({ "file_path": file, "content": "" })),
            ..CLAUDE_SHAPED.proof
        },
        ..CLAUDE_SHAPED
    }),
    files: Files {
        programs: &["droid"],
        directory: &[Directory::Variable("FACTORY_HOME_OVERRIDE", ".factory"), Directory::Home(".factory")],
        user: Scope {
            server: edited(&[FilePath::Settings("mcp.json")], "mcpServers", EntryShape::Stdio),
            hooks: Some(CLAUDE_HOOKS),
            ..NO_FILES
        },
        project: Scope {
            server: edited(&[FilePath::Project(".factory/mcp.json")], "mcpServers", EntryShape::Stdio),
            hooks: Some(HookFile { path: FilePath::Project(".factory/settings.json"), ..CLAUDE_HOOKS }),
            ..NO_FILES
        },
        switches: &[
            Switch { file: SETTINGS, keys: &["enableHooks"], off: Off::Flag(false) },
            Switch { file: FilePath::Project(".factory/settings.json"), keys: &["enableHooks"], off: Off::Flag(false) },
        ],
        ..NO_SETTINGS
    },
    // `droid exec` does not run the prompt hook, so our tests cannot check that mail arrives with a prompt.
    support: Support { mail_at_prompt: Evidence::Docs, ..Support::run("0.215.0").with_shield(Evidence::Run) },
    ..Agent::new("droid", "Factory Droid")
};
