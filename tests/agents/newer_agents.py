"""The agents that followed the first five: Qwen Code, Factory Droid, Kilo, Kimi Code and Cline."""

from agent import Agent, change, put
from first_agents import OpenCode


class Qwen(Agent):
    name, program, package, version = "qwen", "qwen", "@qwen-code/qwen-code", "0.24.4"
    needs = ["node@22"]

    def settings(self, home, work, port):
        put(home / ".qwen/settings.json", {
            "security": {"auth": {"selectedType": "openai"}, "folderTrust": {"enabled": False}},
            "privacy": {"usageStatisticsEnabled": False},
            "general": {"disableAutoUpdate": True, "disableUpdateNag": True, "enableAutoUpdate": False},
            "model": {"name": "mock"},
        })

    def environment(self, port):
        return {"OPENAI_BASE_URL": f"http://127.0.0.1:{port}/v1", "OPENAI_API_KEY": "dummy", "OPENAI_MODEL": "mock"}

    def command(self, prompt, again):
        return [self.program, "--approval-mode", "yolo", "-p", prompt]

    def write(self, path, text):
        read = [("read_file", {"file_path": str(path)})] if path.exists() else []
        return [*read, ("write_file", {"file_path": str(path), "content": text})]

    def shell(self, command):
        return "run_shell_command", {"command": command, "is_background": False}


class Droid(Agent):
    name, program, package, version = "droid", "droid", "droid", "0.215.0"
    lacks = {"prompt": "droid exec runs no hook for its prompt"}
    has_shield = fails_at_rule = True

    def settings(self, home, work, port):
        put(home / ".factory/settings.json", {
            "customModels": [{"displayName": "mock", "model": "mock", "baseUrl": f"http://127.0.0.1:{port}/v1",
                              "apiKey": "dummy", "provider": "generic-chat-completion-api", "maxOutputTokens": 8000}],
            "cloudSessionSync": False, "enableHooks": True,
        })
        put(home / ".factory/config.json", {
            "custom_models": [{"model_display_name": "mock", "model": "mock",
                               "base_url": f"http://127.0.0.1:{port}/v1", "api_key": "dummy",
                               "provider": "generic-chat-completion-api", "max_tokens": 8000}],
        })

    def environment(self, port):
        here = f"http://127.0.0.1:{port}"
        return {"FACTORY_API_KEY": "fk-dummy", "FACTORY_API_BASE_URL": here, "FACTORY_APP_BASE_URL": here,
                "FACTORY_DROID_AUTO_UPDATE_ENABLED": "false", "DROID_DISABLE_AUTO_UPDATE": "1"}

    def command(self, prompt, again):
        return [self.program, "exec", "--auto", "high", "-m", "custom:mock", prompt]

    def write(self, path, text):
        return [("Create", {"file_path": str(path), "content": text})]

    def shell(self, command):
        return "Execute", {"command": command, "summary": "a test", "riskLevel": "low", "riskLevelReason": "a test"}

    def forbid(self, home, program):
        change(home / ".factory/settings.json", lambda settings: settings.update(commandDenylist=[program]))


class Kilo(OpenCode):
    """Kilo grew out of OpenCode and still has its settings and tools."""

    name, program, package, version = "kilo", "kilo", "@kilocode/cli", "7.7.7"
    config = ".config/kilo/kilo.json"
    run = ["run", "--auto"]

    def environment(self, port):
        return {"KILO_DISABLE_AUTOUPDATE": "1", "KILO_DISABLE_MODELS_FETCH": "1", "KILO_TELEMETRY_LEVEL": "off",
                "SHELL": "/bin/bash"}


class Kimi(Agent):
    name, program, package, version = "kimi", "kimi", "@moonshot-ai/kimi-code", "2.1.0"
    needs = ["node@22"]
    lacks = {"tool": "it drops what a hook after a tool says"}

    def settings(self, home, work, port):
        put(home / ".kimi-code/config.toml", "\n".join([
            'default_model = "mock"',
            'default_permission_mode = "auto"',
            "telemetry = false",
            "[models.mock]",
            'provider = "mock"',
            'model = "mock"',
            "max_context_size = 200000",
            "[providers.mock]",
            'type = "openai"',
            f'base_url = "http://127.0.0.1:{port}/v1"',
            'api_key = "dummy"',
            "",
        ]))

    def environment(self, port):
        return {"KIMI_CODE_NO_AUTO_UPDATE": "1", "DO_NOT_TRACK": "1"}

    def command(self, prompt, again):
        return [self.program, "-p", prompt]

    def write(self, path, text):
        read = [("Read", {"path": str(path)})] if path.exists() else []
        return [*read, ("Write", {"path": str(path), "content": text})]

    def shell(self, command):
        return "Bash", {"command": command}


class Cline(Agent):
    name, program, package, version = "cline", "cline", "cline", "3.0.65"
    lacks = dict.fromkeys(["start", "prompt", "tool", "denied", "edit", "stop", "shell", "report"],
                          "its hooks end the whole run instead of denying one edit, so set-up leaves them alone")

    def settings(self, home, work, port):
        # The file has the form in which `cline auth` writes it.
        put(home / ".cline/data/settings/providers.json", {
            "version": 1, "lastUsedProvider": "openai-compatible",
            "providers": {"openai-compatible": {
                "settings": {"provider": "openai-compatible", "apiKey": "dummy", "model": "mock",
                             "baseUrl": f"http://127.0.0.1:{port}/v1"},
                "updatedAt": "2026-11-27T00:00:00.000Z", "tokenSource": "manual",
            }},
        })

    def environment(self, port):
        return {"CLINE_TELEMETRY_DISABLED": "1", "CLINE_NO_AUTO_UPDATE": "1"}

    def command(self, prompt, again):
        return [self.program, "--auto-approve", "true", "-P", "openai-compatible", "-m", "mock", prompt]

    def write(self, path, text):
        old = {"old_text": path.read_text()} if path.exists() else {}
        return [("editor", {"path": str(path), "new_text": text, **old})]

    def shell(self, command):
        return "run_commands", {"commands": [command]}


NEWER = [Qwen(), Droid(), Kilo(), Kimi(), Cline()]
