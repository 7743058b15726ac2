//! Recognises calls of our own tools among the calls that hooks report. The hooks announce these calls to the broker,
//! because some MCP clients do not say which of their sessions makes a call.

use crate::core::mcp_tools::{TOOLS, Tool, actions, name};
use serde_json::Value;

/// A call of one of our tools, in the form in which the broker will receive it.
#[derive(Debug, Clone, PartialEq)]
pub struct MeshCall {
    /// The name of the operation.
    pub operation: &'static str,
    /// The arguments of the operation.
    pub arguments: Value,
}

/// Recognises a call of one of our tools; `None` for any other tool. Agents prefix the tool's name with the server's
/// name in different ways: `mcp__slm-mesh__mesh_send`, `slm-mesh_mesh_send`, `mesh_send`.
pub fn mesh_call(tool: &str, arguments: &Value) -> Option<MeshCall> {
    let is_it = |known: &&Tool| {
        let rest = tool.strip_suffix(name(known).as_str());
        rest.is_some_and(|rest| !rest.ends_with(|c: char| c.is_ascii_alphanumeric()))
    };
    let tool = TOOLS.iter().find(is_it)?;
    let mut arguments = arguments.as_object().cloned().unwrap_or_default();
    let action = arguments.remove("action");
    let action = action.as_ref().and_then(Value::as_str).or(tool.default);
    let (op, _) = actions(tool.noun).find(|(_, word)| *word == action || word.is_none())?;
    Some(MeshCall { operation: op.name, arguments: Value::Object(arguments) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn each_agents_name_for_our_tools_is_known_and_no_other() {
        let text = json!({ "summary": "x" });
        for tool in ["mcp__slm-mesh__mesh_summary", "slm-mesh_mesh_summary", "MCP:mesh_summary", "mesh_summary"] {
            assert_eq!(mesh_call(tool, &text).unwrap().operation, "summary", "{tool}");
        }
        for tool in ["mesh_summary_2", "premesh_summary", "summary", "mcp__other__read", ""] {
            assert_eq!(mesh_call(tool, &text), None, "{tool}");
        }
        let set = mesh_call("mesh_state", &json!({ "action": "set", "key": "a", "value": "b" })).unwrap();
        assert_eq!((set.operation, set.arguments), ("state.set", json!({ "key": "a", "value": "b" })));
        assert_eq!(mesh_call("mesh_events", &Value::Null).unwrap().operation, "events.read");
        assert_eq!(mesh_call("mesh_state", &json!({ "action": "burn" })), None);
    }
}
