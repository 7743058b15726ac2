//! Pi, as of 0.73.1. Pi does not support MCP, by design. Set-up gives Pi a skill that describes our commands.

use super::vocabulary::*;

const SKILL: &str = include_str!("pi_skill.md");

pub(super) const AGENT: Agent = Agent {
    // Pi sets the title of its own process. So the process has the name `pi`, although it runs Node.
    identity: Identity {
        processes: &[ProcessSign::Name("pi"), ProcessSign::ArgumentsHave("/pi-coding-agent/")],
        ..UNSEEN
    },
    files: Files {
        programs: &["pi"],
        directory: &[Directory::Variable("PI_CODING_AGENT_DIR", ""), Directory::Home(".pi/agent")],
        user: Scope {
            own_file: Some(OwnFile {
                path: FilePath::Settings("skills/slm-mesh/SKILL.md"),
                text: SKILL,
                runs_hooks: false,
            }),
            ..NO_FILES
        },
        project: Scope {
            own_file: Some(OwnFile {
                path: FilePath::Project(".pi/skills/slm-mesh/SKILL.md"),
                text: SKILL,
                runs_hooks: false,
            }),
            ..NO_FILES
        },
        approve: "Pi has neither MCP nor hooks. It reads the skill that setup wrote, and runs slm-mesh commands.",
        ..NO_SETTINGS
    },
    support: Support { version: "0.73.1", set_up: Evidence::Run, ..NO_HOOKS },
    ..Agent::new("pi", "Pi")
};
