// written by slm-mesh setup; slm-mesh setup {agent} --remove takes it out.
// Asks the mesh before an edit, and shows mail to the model. If the mesh is down, the agent can still work.
import { spawn } from "node:child_process"

const program = "{program}"
const limitMs = 2000
const events = {
  start: "SessionStart",
  prompt: "UserPromptSubmit",
  edit: "PreToolUse",
  tool: "PostToolUse",
  stop: "Stop",
  subagentStop: "SubagentStop",
  end: "SessionEnd",
}

// Runs one hook. Returns the answer, or an empty object if there is none.
function ask(event, session, directory, more) {
  return new Promise((resolve) => {
    let text = ""
    const nothing = () => resolve({})
    try {
      const child = spawn(program, ["hook", "{agent}"], { stdio: ["pipe", "pipe", "ignore"], timeout: limitMs })
      child.on("error", nothing)
      child.stdin.on("error", () => {})
      child.stdout.on("data", (part) => (text += part))
      child.on("close", () => {
        try {
          resolve(text.trim() ? JSON.parse(text) : {})
        } catch {
          nothing()
        }
      })
      child.stdin.end(
        JSON.stringify({ hook_event_name: events[event], session_id: session, cwd: directory, ...more }),
      )
    } catch {
      nothing()
    }
  })
}

// Waits in the background of an idle session until the mesh wants to wake it. Returns the wakeup sentence, or nothing.
// Ends at once if the user has not allowed wakeups. A newer wait for the same session ends an older one.
function wake(session, directory) {
  return new Promise((resolve) => {
    let text = ""
    try {
      const child = spawn(program, ["hook", "{agent}", "--wake"], { stdio: ["pipe", "pipe", "ignore"] })
      const end = () => child.kill()
      process.once("exit", end)
      child.unref()
      child.on("error", () => resolve())
      child.stdin.on("error", () => {})
      child.stdout.on("data", (part) => (text += part))
      child.on("close", () => {
        process.removeListener("exit", end)
        try {
          resolve(JSON.parse(text).wake)
        } catch {
          resolve()
        }
      })
      child.stdin.end(JSON.stringify({ hook_event_name: events.stop, session_id: session, cwd: directory }))
    } catch {
      resolve()
    }
  })
}

export const SlmMesh = async ({ client, directory }) => {
  // The task tool runs a subagent in a session of its own. For the mesh, a subagent belongs to the session that started
  // it, so that neither refuses the other's edits. The keys are the sessions of subagents.
  const parents = new Map()
  const askFor = (event, session, more) => {
    const parent = parents.get(session)
    return parent
      ? ask(event, parent, directory, { ...more, agent_id: session })
      : ask(event, session, directory, more)
  }
  // Mail from a hook, kept until it can be shown beside a message of the user or the result of a tool. Mail does not go
  // into the system prompt, because a model would treat it there as instructions from the agent's developers.
  const waiting = new Map()
  const greeted = new Set()
  // The environment variables that the mesh sets for a session's shell commands.
  const environments = new Map()
  // The sessions in which this plugin has prevented a stop, and the sessions whose next prompt comes from this plugin.
  const continued = new Set()
  const prompted = new Set()
  const hold = (session, answer) => {
    const text = answer.hookSpecificOutput?.additionalContext
    if (text) waiting.set(session, [...(waiting.get(session) ?? []), text])
  }
  // Adds the waiting mail to a message, as a separate part at the end.
  const showInMessage = (session, message, parts) => {
    const last = parts?.at(-1)
    if (!last?.id || !waiting.has(session)) return
    const text = waiting.get(session).join("\n\n")
    // Parts are sorted by id, so this id comes last.
    const id = `${last.id}_mesh`
    parts.push({ id, sessionID: session, messageID: message?.id ?? last.messageID, type: "text", text, synthetic: true })
    waiting.delete(session)
  }
  // Appends the waiting mail to the result of a tool.
  const showInResult = (session, result) => {
    if (!waiting.has(session)) return
    const text = waiting.get(session).join("\n\n")
    if (typeof result?.output === "string") result.output += `\n\n${text}`
    else if (Array.isArray(result?.content)) result.content.push({ type: "text", text })
    else return
    waiting.delete(session)
  }
  return {
    "chat.message": async ({ sessionID }, output) => {
      // The prompt of a subagent comes from its parent, not from a person.
      if (parents.has(sessionID)) return
      const ours = prompted.delete(sessionID)
      if (!ours) continued.delete(sessionID)
      const first = !greeted.has(sessionID)
      greeted.add(sessionID)
      // The hook learns that a person wrote a prompt, but not what the prompt says.
      const answer = await ask(first ? "start" : "prompt", sessionID, directory, ours ? {} : { prompt: "" })
      if (answer.env) environments.set(sessionID, answer.env)
      hold(sessionID, answer)
      showInMessage(sessionID, output?.message, output?.parts)
    },
    "tool.execute.before": async ({ tool, sessionID, callID }, { args }) => {
      const call = { tool_name: tool, tool_input: args, tool_use_id: callID }
      const answer = await askFor("edit", sessionID, call)
      const said = answer.hookSpecificOutput
      if (said?.permissionDecision === "deny") throw new Error(said.permissionDecisionReason)
    },
    "tool.execute.after": async ({ tool, sessionID, callID }, result) => {
      hold(sessionID, await askFor("tool", sessionID, { tool_name: tool, tool_use_id: callID }))
      showInResult(sessionID, result)
    },
    "shell.env": async ({ sessionID }, output) => {
      Object.assign(output.env, environments.get(parents.get(sessionID) ?? sessionID))
    },
    event: async ({ event }) => {
      const session = event.properties?.sessionID ?? event.properties?.info?.id
      const parent = event.properties?.info?.parentID
      if (event.type === "session.created" && parent) parents.set(session, parents.get(parent) ?? parent)
      if (event.type === "session.idle" && parents.has(session)) {
        await askFor("subagentStop", session, {})
      } else if (event.type === "session.idle") {
        const answer = await ask("stop", session, directory, { stop_hook_active: continued.has(session) })
        // The model treats a prompt as the user's words, so the prompt of this plugin is a fixed sentence. The hook for
        // this prompt then shows the mail.
        const prompt = (text) => {
          prompted.add(session)
          const parts = [{ type: "text", text }]
          return client.session.promptAsync({ path: { id: session }, body: { parts } }).catch(() => {})
        }
        if (answer.decision === "block") {
          continued.add(session)
          return prompt(answer.reason)
        }
        wake(session, directory).then((text) => text && prompt(text))
      }
      if (event.type === "session.deleted") {
        waiting.delete(session)
        environments.delete(session)
        if (!parents.delete(session)) await ask("end", session, directory, {})
      }
    },
  }
}
