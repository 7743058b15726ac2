//! Checks how an agent's settings register our MCP server: that the file can be read, that it names our program, and
//! that the server starts.

use super::Check;
use crate::agents::generated_file_texts::{NAME, is_our_program};
use crate::agents::server_trial_start::RegisteredServer;
use crate::agents::setup_environment::Environment;
use crate::known_agents::Agent;
use crate::known_agents::settings_file_types::{EntryShape, ServerFile};

/// Checks the entry of our server in an agent's settings, and tries to start the server.
pub(super) fn check_registration(environment: &Environment, agent: &Agent, cure: &str) -> Vec<Check> {
    let about = format!("{} server", agent.id);
    let Some(server) = environment.scope(agent).server else {
        return vec![Check::well(&about, "the agent does not read MCP servers from these settings")];
    };
    let shown = environment.shown(&environment.server_path(agent, &server));
    let is_named = || environment.registered_program(agent, &server).is_ok_and(|program| program.is_some());
    if server.entry == EntryShape::YamlLine && is_named() {
        return vec![Check::well(&about, format!("{shown} names the file that setup wrote"))];
    }
    let registration = match find_registered(environment, agent, &server, cure) {
        Err(fault) => fault,
        Ok(None) => Check::error(&about, format!("{NAME} is not registered in {shown}"), cure),
        Ok(Some(server)) => check_start(&about, &shown, &server, cure),
    };
    let mut checks = vec![registration];
    for switch in environment.switched_off_server(agent) {
        let cure = "switch the server on in this file; until then, the agent has no mesh tools";
        checks.push(Check::error(&about, switch, cure));
    }
    checks
}

/// Tries to start a registered server.
fn check_start(about: &str, shown: &str, server: &RegisteredServer, cure: &str) -> Check {
    let line = server.command_line();
    if server.runs_our_package() {
        // The server is not started, because its first start may download the package. The result would then depend on
        // the network.
        let found = format!(
            "{shown} registers \"{line}\", which doctor does not run; sessions would start faster if you registered an \
             installed program: run {cure}"
        );
        return Check::well(about, found);
    }
    match server.try_start() {
        Ok(()) => Check::well(about, format!("{shown} registers \"{line}\", which starts and answers")),
        Err(why) => Check::error(about, format!("{shown} registers \"{line}\", but {why}"), cure),
    }
}

/// Finds the command with which an agent starts our server. Returns `None` if the server is not registered.
///
/// # Errors
/// If the file can't be read, or if it registers another program under our name. The error is the result of the check.
pub(super) fn find_registered(
    environment: &Environment,
    agent: &Agent,
    server: &ServerFile,
    cure: &str,
) -> Result<Option<RegisteredServer>, Check> {
    let about = format!("{} server", agent.id);
    let shown = environment.shown(&environment.server_path(agent, server));
    match environment.registered_server(agent, server) {
        Err(why) => {
            let cure = format!("correct this file, and run {cure}");
            Err(Check::error(&about, format!("{shown} can't be checked, because {why}"), cure))
        }
        Ok(Some(found)) if !is_our_program(&found.program) && !found.runs_our_package() => {
            let found = format!("{shown} registers another program as slm-mesh: {}", found.command_line());
            Err(Check::error(&about, found, cure))
        }
        Ok(found) => Ok(found),
    }
}
