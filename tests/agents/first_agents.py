"""The first five agents: Codex, OpenCode, Gemini, Claude Code and Copilot."""

import sys
from pathlib import Path

from agent import Agent, change, put
from windows import Served, Terminal

TOP = Path(__file__).resolve().parents[2]


class Codex(Agent):
    name, program, package, version = "codex", "codex", "@openai/codex", "0.169.0"

    def settings(self, home, work, port):
        put(home / ".codex/config.toml", "\n".join([
            'model = "gpt-5.5"',
            'model_provider = "mock"',
            "check_for_update_on_startup = false",
            "[model_providers.mock]",
            'name = "mock"',
            f'base_url = "http://127.0.0.1:{port}/v1"',
            'wire_api = "responses"',
            'env_key = "MOCK_KEY"',
            "supports_websockets = false",
            "",
        ]))

    def environment(self, port):
        return {"MOCK_KEY": "dummy"}

    def command(self, prompt, again):
        return [self.program, "exec", "--skip-git-repo-check", "--dangerously-bypass-hook-trust",
                "--dangerously-bypass-approvals-and-sandbox", prompt]

    def settle(self, home, work):
        with open(home / ".codex/config.toml", "a") as file:
            file.write(f'[projects."{work}"]\ntrust_level = "trusted"\n')

    def window(self, env, work, log, server=None):
        # The name of a model that Codex does not know, because for a model that it knows, Codex recommends a newer one
        # and waits.
        command = [self.program, "--model", "mock", "--dangerously-bypass-hook-trust",
                   "--dangerously-bypass-approvals-and-sandbox", *(["--remote", server] if server else [])]
        return Terminal(command, env, work, log)

    def server(self, folder):
        """The command of a server that several windows share, and the address that the windows connect to."""
        address = f"unix://{folder}/server.sock"
        return [self.program, "--dangerously-bypass-hook-trust", "app-server", "--listen", address], address

    def write(self, path, text):
        kind = "Update" if path.exists() else "Add"
        body = f"@@\n-{path.read_text().rstrip()}\n+{text}" if path.exists() else f"+{text}"
        patch = f"*** Begin Patch\n*** {kind} File: {path.name}\n{body}\n*** End Patch\n"
        return [("apply_patch", {"input": patch})]

    def write_in_window(self, path, text):
        # Codex offers its patch tool only to models that it knows, so the patch goes through the shell.
        [(tool, arguments)] = self.write(path, text)
        return [self.shell(f"{tool} <<'EOF'\n{arguments['input']}EOF")]

    def shell(self, command):
        return "exec_command", {"cmd": command}


class OpenCode(Agent):
    name, program, package, version = "opencode", "opencode", "opencode-ai", "1.18.33"
    opens_by_prompt = has_shield = True
    config = ".config/opencode/opencode.json"
    run = ["run"]

    def settings(self, home, work, port):
        # OpenCode fetches the types of its plugins. Without a network it would try for over a minute.
        put(home / ".npmrc", "fetch-retries=0\n")
        put(home / self.config, {
            "model": "mock/mock",
            "autoupdate": False,
            "provider": {"mock": {
                "npm": "@ai-sdk/openai-compatible",
                "options": {"baseURL": f"http://127.0.0.1:{port}/v1", "apiKey": "dummy"},
                "models": {"mock": {"name": "mock"}},
            }},
        })

    def environment(self, port):
        # OpenCode runs commands with this shell. The shield needs bash.
        return {"OPENCODE_DISABLE_AUTOUPDATE": "1", "OPENCODE_DISABLE_MODELS_FETCH": "1", "SHELL": "/bin/bash"}

    def command(self, prompt, again):
        if again:
            return [self.program, *self.run, prompt]
        return [sys.executable, str(Path(__file__).with_name("opencode_serve.py")), self.program, "Hello.", prompt]

    def window(self, env, work, log):
        return Served([self.program, "serve", "--port", "0"], env, work, log)

    def write(self, path, text):
        read = [("read", {"filePath": str(path)})] if path.exists() else []
        return [*read, ("write", {"filePath": str(path), "content": text})]

    def shell(self, command):
        return "bash", {"command": command, "description": "a test"}

    def forbid(self, home, program):
        rules = {"bash": {"*": "allow", f"{program} *": "deny"}}
        change(home / self.config, lambda settings: settings.update(permission=rules))


class Gemini(Agent):
    name, program, package, version = "gemini", "gemini", "@google/gemini-cli", "0.61.0"

    def settings(self, home, work, port):
        put(home / ".gemini/settings.json", {
            "security": {"auth": {"selectedType": "gemini-api-key"}, "folderTrust": {"enabled": False}},
            "privacy": {"usageStatisticsEnabled": False},
            "general": {"disableAutoUpdate": True, "disableUpdateNag": True},
        })

    def environment(self, port):
        return {"GOOGLE_GEMINI_BASE_URL": f"http://127.0.0.1:{port}", "GEMINI_API_KEY": "dummy",
                "GEMINI_CLI_NO_RELAUNCH": "true"}

    def command(self, prompt, again):
        return [self.program, "-m", "gemini-2.5-pro", "--approval-mode", "yolo", "-p", prompt]

    def write(self, path, text):
        return [("write_file", {"file_path": str(path), "content": text})]

    def shell(self, command):
        return "run_shell_command", {"command": command}


class Claude(Agent):
    name, program, package, version = "claude", "claude", "@anthropic-ai/claude-code", "2.1.330"
    has_shield = True

    def environment(self, port):
        return {"ANTHROPIC_BASE_URL": f"http://127.0.0.1:{port}", "ANTHROPIC_API_KEY": "dummy",
                "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1", "DISABLE_AUTOUPDATER": "1"}

    def command(self, prompt, again):
        return [self.program, "-p", prompt, "--allowedTools", "mcp__slm-mesh", "Read", "Write", "Edit", "Bash"]

    def settle(self, home, work):
        put(home / ".claude.json", {
            "hasCompletedOnboarding": True, "theme": "dark",
            "customApiKeyResponses": {"approved": ["dummy"], "rejected": []},
            "projects": {str(work): {"hasTrustDialogAccepted": True, "hasCompletedProjectOnboarding": True}},
        })

    def window(self, env, work, log):
        return Terminal([self.program, "--allowedTools", "mcp__slm-mesh"], env, work, log)

    def write(self, path, text):
        # Claude Code refuses to overwrite a file that it has not read, before it calls any hook.
        read = [("Read", {"file_path": str(path)})] if path.exists() else []
        return [*read, ("Write", {"file_path": str(path), "content": text})]

    def shell(self, command):
        return "Bash", {"command": command}

    def forbid(self, home, program):
        rules = {"deny": [f"Bash({program}:*)"]}
        change(home / ".claude/settings.json", lambda settings: settings.update(permissions=rules))


class ClaudePlugin(Claude):
    """Claude Code, connected by our plugin instead of our set-up."""

    way = "-plugin"
    has_shield = False

    def connect(self, program):
        return [[sys.executable, str(TOP / ".ci/package/plugins"), "--program", program],
                [self.program, "plugin", "marketplace", "add", str(TOP / "target/plugins/claude")],
                [self.program, "plugin", "install", "slm-mesh@slm-mesh"]]

    def command(self, prompt, again):
        return [self.program, "-p", prompt, "--allowedTools", "mcp__plugin_slm-mesh_slm-mesh", "Read", "Write", "Edit",
                "Bash"]


class Copilot(Agent):
    name, program, package, version = "copilot", "copilot", "@github/copilot", "1.0.102"

    def environment(self, port):
        return {"COPILOT_OFFLINE": "true", "COPILOT_PROVIDER_BASE_URL": f"http://127.0.0.1:{port}/v1",
                "COPILOT_PROVIDER_API_KEY": "dummy", "COPILOT_MODEL": "mock", "COPILOT_AUTO_UPDATE": "false"}

    def command(self, prompt, again):
        return [self.program, "-p", prompt, "--allow-all-tools"]

    def write(self, path, text):
        if path.exists():
            return [("edit", {"path": str(path), "old_str": path.read_text().rstrip(), "new_str": text})]
        return [("create", {"path": str(path), "file_text": text})]

    def shell(self, command):
        return "bash", {"command": command, "description": "a test"}


FIRST = [Codex(), OpenCode(), Gemini(), Claude(), ClaudePlugin(), Copilot()]
