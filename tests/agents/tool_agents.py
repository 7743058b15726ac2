"""Agents that have only our MCP tools: OpenHands, Continue and Mistral Vibe. Set-up does not edit the files of the last
two, so their users register our server by hand."""

from agent import Agent, PythonAgent, put

# No hooks are written for them, so nothing works for them that only hooks can do.
NO_HOOKS = dict.fromkeys(["start", "prompt", "tool", "denied", "edit", "stop", "shell", "report"],
                         "it has the tools only: slm-mesh has no hooks for it")


class Continue(Agent):
    name, program, package, version = "continue", "cn", "@continuedev/cli", "1.5.47"
    is_registered_by_hand, lacks = True, NO_HOOKS

    def settings(self, home, work, port):
        self.config = home / ".continue/config.yaml"
        put(self.config, f"""name: mock
version: 1.0.0
schema: v1
models:
  - name: mock
    provider: openai
    model: gpt-4o
    apiKey: dummy
    apiBase: http://127.0.0.1:{port}/v1
    roles: [chat]
    capabilities: [tool_use]
mcpServers:
  - name: slm-mesh
    command: slm-mesh
    args: [mcp]
""")

    def environment(self, port):
        return {"CONTINUE_TELEMETRY_ENABLED": "0", "CONTINUE_CLI_ENABLE_TELEMETRY": "0"}

    def command(self, prompt, again):
        return [self.program, "--config", str(self.config), "--auto", "-p", prompt]

    def write(self, path, text):
        read = [("Read", {"filepath": str(path)})] if path.exists() else []
        return [*read, ("Write", {"filepath": str(path), "content": text})]

    def shell(self, command):
        return "Bash", {"command": command}


class OpenHands(PythonAgent):
    name, program, package, version, python = "openhands", "openhands", "openhands", "1.16.0", "3.12"
    lacks = {**NO_HOOKS, "verb": "its shell runs in tmux, whose processes are not below its own"}

    def environment(self, port):
        return {"LLM_API_KEY": "dummy", "LLM_BASE_URL": f"http://127.0.0.1:{port}/v1", "LLM_MODEL": "openai/mock",
                "OPENHANDS_SUPPRESS_BANNER": "1", "LITELLM_LOCAL_MODEL_COST_MAP": "True", "DO_NOT_TRACK": "1"}

    def command(self, prompt, again):
        return [self.program, "--headless", "--override-with-envs", "--always-approve", "--exit-without-confirmation",
                "-t", prompt]

    def write(self, path, text):
        return [("file_editor", {"command": "create", "path": str(path), "file_text": text})]

    def shell(self, command):
        return "terminal", {"command": command}


class Vibe(PythonAgent):
    name, program, package, version, python = "vibe", "vibe", "mistral-vibe", "3.0.3", "3.12"
    is_registered_by_hand, lacks = True, NO_HOOKS

    def settings(self, home, work, port):
        put(home / ".vibe/config.toml", f"""active_model = "mock"
enable_telemetry = false
enable_update_checks = false
enable_auto_update = false
[[providers]]
name = "mock"
api_base = "http://127.0.0.1:{port}/v1"
api_key_env_var = "MOCK_KEY"
backend = "generic"
[[models]]
name = "mock"
provider = "mock"
alias = "mock"
[[mcp_servers]]
name = "slm-mesh"
transport = "stdio"
command = "slm-mesh"
args = ["mcp"]
""")

    def environment(self, port):
        return {"MOCK_KEY": "dummy", "MISTRAL_API_KEY": "dummy", "VIBE_ENABLE_TELEMETRY": "false"}

    def command(self, prompt, again):
        return [self.program, "--agent", "auto-approve", "-p", prompt]

    def write(self, path, text):
        return [("write_file", {"path": str(path), "content": text, "overwrite": True})]

    def shell(self, command):
        return "bash", {"command": command}


TOOL_AGENTS = [Continue(), OpenHands(), Vibe()]
