//! Tells a lock's holder that a shell command of another peer has changed the locked file. A hook sends one message to
//! each holder.

use super::arguments_that_identify_session::{NAMING, session_args};
use super::hook_operations::session_of_hook;
use super::op_definition::ArgKind;
use super::{Arg, Args, Auth, CallContext, CliPlace, Mesh, Op, Outcome};
use crate::base::error::Error;
use crate::base::{limits, untrusted_text};
use crate::core::op_behavior::OpBehavior;
use crate::core::op_definition::Runner;
use crate::store::Message;
use serde_json::json;

/// The message contains at most this many characters of the command's first line.
const COMMAND_SHOWN: usize = 200;
/// Maximum number of files that the message lists.
const FILES_SHOWN: usize = 10;

/// Reports that a command changed files that another peer has locked.
pub static CHANGED: Op = Op {
    name: "hook.changed",
    summary: "Send a message to the holder of locked files that a command of this session has changed",
    args: session_args![
        NAMING;
        Arg::new("holder", ArgKind::Text { min: 1, max: limits::WORD_MAX }, "Id of the peer that holds the files")
            .required()
            .at(CliPlace::Hidden),
        Arg::new("files", ArgKind::Texts { items: limits::WATCHED_FILES_MAX, max: limits::PATH_MAX }, "Absolute paths")
            .required()
            .at(CliPlace::Hidden),
        Arg::new("command", ArgKind::Text { min: 0, max: limits::PATH_MAX }, "First line of the command")
            .at(CliPlace::Hidden),
        Arg::new("isCertain", ArgKind::Flag, "No other command ran at the same time").at(CliPlace::Hidden),
        Arg::new("isKept", ArgKind::Flag, "A copy of the former content was saved").at(CliPlace::Hidden),
    ],
    actor: Auth::Hook,
    verb: None,
    tool: None,
    repeatable: false,
    behavior: OpBehavior::USUAL,
    run: Runner::Rule(changed),
};

fn changed(mesh: &mut Mesh, ctx: &CallContext, args: &Args) -> Result<Outcome, Error> {
    let id = session_of_hook(&mut mesh.session_parts(), ctx, args)?;
    let Mesh { turn, peers, mail, journal, federation, rates, .. } = mesh;
    let holder = peers.with_id(args.word("holder")).map(|peer| peer.row.id.clone());
    let Some(holder) = holder.filter(|holder| *holder != id) else {
        return Ok(Outcome::Ready(json!({ "ok": true, "sent": false })));
    };
    rates.charge(peers, id.as_str(), 10, ctx.now)?;
    let draft = Message { sender: id, body: report_text(args), ..Message::default() };
    let sent = mail.post(turn, peers, journal, federation, draft, &[holder], ctx.now)?;
    Ok(Outcome::Ready(json!({ "ok": true, "sent": !sent.is_empty() })))
}

/// Returns the text of the message that the holder of the locks gets. The message lists the first files, and contains
/// the number of the remaining files.
fn report_text(args: &Args) -> String {
    let files = args.texts("files");
    let shown: Vec<String> = files.iter().take(FILES_SHOWN).map(|path| untrusted_text::shown_path(path)).collect();
    let more = files.len().saturating_sub(FILES_SHOWN);
    let more = if more > 0 { format!("\nand {more} more") } else { String::new() };
    let head = if args.flag("isCertain") == Some(true) {
        "My shell command changed files that you have locked:"
    } else {
        "While my shell command ran, it or another command changed files that you have locked:"
    };
    let command = args.text("command").unwrap_or("").lines().next().unwrap_or("");
    let command = untrusted_text::quoted(command, COMMAND_SHOWN);
    let kept = if args.flag("isKept") == Some(true) {
        "\nThe previous content is kept for an hour. To see the difference, run slm-mesh lock restore FILE; to restore \
         that content, add --yes."
    } else {
        ""
    };
    format!("{head}\n{}{more}\nThe command: {command}{kept}", shown.join("\n"))
}
