//! Runs the plugin for OpenCode and Kilo under Node.js, with the events that these agents send.

mod support;

use std::fs;
use std::process::{Command, Stdio};
use support::{BIN, Place};

/// A session edits a file, and starts a subagent, which edits the same file. Then the subagent ends.
const DRIVER: &str = r#"
import { SlmMesh } from "./plugin.mjs"
const directory = process.cwd()
const plugin = await SlmMesh({ client: { session: { promptAsync: async () => {} } }, directory })
const edit = (sessionID, callID) =>
  plugin["tool.execute.before"]({ tool: "edit", sessionID, callID }, { args: { filePath: `${directory}/b.rs` } })
    .then(() => console.log(sessionID, "may edit"), (error) => console.log(sessionID, error.message))
const created = (info) => plugin.event({ event: { type: "session.created", properties: { info } } })
await plugin["chat.message"]({ sessionID: "parent" }, { message: { id: "m" }, parts: [] })
await edit("parent", "1")
await created({ id: "child", parentID: "parent" })
await plugin["chat.message"]({ sessionID: "child" }, { message: { id: "m" }, parts: [] })
await edit("child", "2")
await created({ id: "grandchild", parentID: "child" })
await edit("grandchild", "3")
await plugin.event({ event: { type: "session.idle", properties: { sessionID: "child" } } })
await created({ id: "stranger" })
await edit("stranger", "4")
process.exit(0)
"#;

#[test]
fn a_subagent_may_edit_the_files_of_its_session_and_a_stranger_may_not() {
    let place = Place::new();
    let plugin = include_str!("../src/known_agents/opencode_plugin.js").replace("{program}", BIN);
    let folder = place.root.join("p");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("plugin.mjs"), plugin.replace("{agent}", "opencode")).unwrap();
    fs::write(folder.join("driver.mjs"), DRIVER).unwrap();
    let ours = place.command(&[]);
    let variables = ours.get_envs().filter_map(|(name, value)| Some((name, value?)));
    let mut node = Command::new("node");
    node.arg("driver.mjs").current_dir(folder).env_clear().envs(variables);
    let Ok(out) = node.stdin(Stdio::null()).output() else {
        return println!("skipped: node is not installed, so the plugin was not run");
    };
    let said = String::from_utf8(out.stdout).unwrap();
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines[..2], ["parent may edit", "child may edit"], "{said}");
    assert!(lines[3].starts_with("stranger") && lines[3].contains("is locked by opencode-p"), "{said}");
    let peers = place.json(&["peers", "--all"])["peers"].clone();
    let agents = peers.as_array().unwrap().iter().filter(|peer| peer["agentType"] == "opencode").count();
    assert_eq!(agents, 2, "the session and the stranger, but no subagent, are peers: {peers}");
}
