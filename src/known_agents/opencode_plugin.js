// written by slm-mesh setup; slm-mesh setup {agent} --remove takes it out.
// Asks the mesh before an edit and shows mail to the model. A mesh that is down stops nothing.
import { spawn } from "node:child_process"

const program = "{program}"
const limitMs = 2000
const events = {
  start: "SessionStart",
  prompt: "UserPromptSubmit",
  edit: "PreToolUse",
  tool: "PostToolUse",
  stop: "Stop",
  end: "SessionEnd",
}

// One hook: its answer, or nothing.
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

// Waits behind an idle session until the mesh would wake it: the sentence, or nothing. Ends at once
// where the user did not allow that; a newer wait for the same session ends an older one.
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
  // Mail that a hook gave out waits here until it can stand beside the user's or a tool's words. It does
  // not go into the system prompt, whose words a model takes for its maker's.
  const waiting = new Map()
  const greeted = new Set()
  // What the mesh wants in the environment of a session's shell commands.
  const environments = new Map()
  // Sessions that go on because of us, and those whose next prompt is ours.
  const continued = new Set()
  const prompted = new Set()
  const hold = (session, answer) => {
    const text = answer.hookSpecificOutput?.additionalContext
    if (text) waiting.set(session, [...(waiting.get(session) ?? []), text])
  }
  // Puts what waits as a part of its own behind the parts of a message.
  const showInMessage = (session, message, parts) => {
    const last = parts?.at(-1)
    if (!last?.id || !waiting.has(session)) return
    const text = waiting.get(session).join("\n\n")
    // Parts are sorted by their ids.
    const id = `${last.id}_mesh`
    parts.push({ id, sessionID: session, messageID: message?.id ?? last.messageID, type: "text", text, synthetic: true })
    waiting.delete(session)
  }
  // Puts what waits behind the result of a tool.
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
      const ours = prompted.delete(sessionID)
      if (!ours) continued.delete(sessionID)
      const first = !greeted.has(sessionID)
      greeted.add(sessionID)
      // What a person wrote is nobody's business here; that a person wrote is.
      const answer = await ask(first ? "start" : "prompt", sessionID, directory, ours ? {} : { prompt: "" })
      if (answer.env) environments.set(sessionID, answer.env)
      hold(sessionID, answer)
      showInMessage(sessionID, output?.message, output?.parts)
    },
    "tool.execute.before": async ({ tool, sessionID, callID }, { args }) => {
      const call = { tool_name: tool, tool_input: args, tool_use_id: callID }
      const answer = await ask("edit", sessionID, directory, call)
      const said = answer.hookSpecificOutput
      if (said?.permissionDecision === "deny") throw new Error(said.permissionDecisionReason)
    },
    "tool.execute.after": async ({ tool, sessionID, callID }, result) => {
      hold(sessionID, await ask("tool", sessionID, directory, { tool_name: tool, tool_use_id: callID }))
      showInResult(sessionID, result)
    },
    "shell.env": async ({ sessionID }, output) => {
      Object.assign(output.env, environments.get(sessionID))
    },
    event: async ({ event }) => {
      const session = event.properties?.sessionID ?? event.properties?.info?.id
      if (event.type === "session.idle") {
        const answer = await ask("stop", session, directory, { stop_hook_active: continued.has(session) })
        // A prompt has the user's voice, so it is a fixed sentence; its own hook has the mail.
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
        await ask("end", session, directory, {})
      }
    },
  }
}
