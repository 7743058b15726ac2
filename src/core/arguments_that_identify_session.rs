//! The arguments by which a hook, a subcommand or a wakeup channel identifies its session. All operations about a
//! session accept these arguments, so a hook can send the same arguments to all operations.

use super::op_definition::ArgKind;
use super::{Arg, CliPlace};
use crate::base::limits;

const fn arg(name: &'static str, max: usize, help: &'static str) -> Arg {
    Arg::new(name, ArgKind::Text { min: 0, max }, help).at(CliPlace::Hidden)
}

const fn flag(name: &'static str, help: &'static str) -> Arg {
    Arg::new(name, ArgKind::Flag, help).at(CliPlace::Hidden)
}

pub(crate) const KEYED_CALLS: Arg = flag("keyedCalls", "Tool calls of this agent carry the session's key");

/// The arguments that identify the session of a call.
pub(crate) const NAMING: [Arg; 14] = [
    arg("agent", limits::WORD_MAX, "Agent type").required(),
    arg("session", limits::WORD_MAX, "The agent's own id for this session, if there is one"),
    arg("project", limits::PATH_MAX, "Absolute path of the working directory").required(),
    arg("gitRoot", limits::PATH_MAX, "Root of the git work tree"),
    arg("gitBranch", limits::PATH_MAX, "Git branch"),
    arg("repo", limits::PATH_MAX, "Repository id"),
    arg(
        "shortName",
        limits::WORD_MAX,
        "What people call the agent; the default name of its session begins with this word",
    ),
    arg("name", limits::WORD_MAX, "The name that the user chose for the session"),
    flag("sharedHooks", "The hooks of other agents use this agent's dialect, too"),
    flag("continues", "The agent has said that its session continues under this key"),
    KEYED_CALLS,
    flag(
        "mayBeLate",
        "The hook reports something that has already happened, so its report may arrive after the session has ended",
    ),
    arg("transcript", limits::PATH_MAX, "Path of the session's transcript"),
    flag("hidesTranscript", "The user lets nobody read the session's transcript"),
];

/// The same arguments as [`NAMING`]. Here, all arguments are optional, because the connection of the call may already
/// identify the session.
pub(crate) const OPTIONAL_NAMING: [Arg; 14] = {
    let mut all = NAMING;
    let mut n = 0;
    while n < all.len() {
        all[n].required = false;
        n += 1;
    }
    all
};

/// Concatenates two lists: the arguments that identify a session, and the operation's own arguments. `ALL` is the total
/// number of arguments.
pub(crate) const fn joined<const ALL: usize>(naming: &[Arg], own: &[Arg]) -> [Arg; ALL] {
    let mut all = [naming[0]; ALL];
    let mut n = 0;
    while n < ALL {
        all[n] = if n < naming.len() { naming[n] } else { own[n - naming.len()] };
        n += 1;
    }
    all
}

/// Makes the argument list of an operation about a session. First come the arguments that identify the session, then
/// the operation's own arguments.
macro_rules! session_args {
    ($naming:expr; $($own:expr),* $(,)?) => {{
        const NAMED_BY: &[$crate::core::Arg] = &$naming;
        const OWN: &[$crate::core::Arg] = &[$($own),*];
        const ALL: usize = NAMED_BY.len() + OWN.len();
        static ARGS: [$crate::core::Arg; ALL] = $crate::core::arguments_that_identify_session::joined(NAMED_BY, OWN);
        &ARGS
    }};
}
pub(in crate::core) use session_args;
