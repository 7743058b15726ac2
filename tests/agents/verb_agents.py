"""Agents without MCP: Aider and Pi. They can only run our verbs (subcommands) in their shell, which set-up describes to
them in a file."""

import time

from agent import Agent, PythonAgent, put

VERBS = [
    ("told", "the description of our verbs that set-up wrote reaches the model"),
    ("mailbox", "a verb in the agent's shell reads the agent's own mail, and never the human's"),
    ("gone", "after its first verb the agent is online until its process ends, and so are its locks"),
]
OWN, HUMANS = "hazel-for-the-agent", "rowan-for-the-human"
# Longer than the time for which locks are kept after their session has ended.
LEAVES_SECONDS = 15


class Pi(Agent):
    name, program, package, version = "pi", "pi", "@mariozechner/pi-coding-agent", "0.73.1"
    has_tools = False

    def settings(self, home, work, port):
        put(home / ".pi/agent/models.json", {"providers": {"mock": {
            "baseUrl": f"http://127.0.0.1:{port}/v1", "api": "openai-completions", "apiKey": "dummy",
            "models": [{"id": "mock", "name": "mock", "contextWindow": 200000, "maxTokens": 4000, "input": ["text"],
                        "reasoning": False, "cost": {"input": 0, "output": 0, "cacheRead": 0, "cacheWrite": 0}}],
        }}})

    def environment(self, port):
        return {"PI_OFFLINE": "1", "PI_SKIP_VERSION_CHECK": "1", "PI_TELEMETRY": "0"}

    def command(self, prompt, again):
        return [self.program, "--provider", "mock", "--model", "mock", "-p", prompt]

    def shell(self, command):
        return "bash", {"command": command}


class Aider(PythonAgent):
    """Aider's model can only propose a command. Its user confirms twice, and then types the next prompt."""

    name, program, package, version, python = "aider", "aider", "aider-chat", "0.86.2", "3.11"
    has_tools = False
    answers = "Look around.\n" + "y\ny\nGo on.\n" * 4

    def environment(self, port):
        return {"OPENAI_API_BASE": f"http://127.0.0.1:{port}/v1", "OPENAI_API_KEY": "dummy",
                "LITELLM_LOCAL_MODEL_COST_MAP": "True"}

    def command(self, prompt, again):
        return [self.program, "--model", "openai/mock", "--edit-format", "diff", "--no-git", "--no-fancy-input",
                "--no-pretty", "--no-stream", "--no-analytics", "--no-check-update", "--no-show-model-warnings",
                "--no-show-release-notes", "--map-tokens", "0"]

    def run_command(self, command):
        return f"I look around.\n\n```bash\n{command}\n```\n"


VERB_AGENTS = [Aider(), Pi()]


def play(stage, proof, say_who):
    """One turn: the agent learns who it is, locks a file, and reads its mail."""
    request = yield
    proof("told", request.count("slm-mesh lock FILE") > 0 or request.count("slm-mesh/SKILL.md") > 0, "not in its request")
    request = yield from say_who(stage, proof)
    stage.mesh("send", "human", HUMANS)
    stage.mesh("send", stage.peer, OWN)
    request = yield stage.agent.run_command(f"{stage.bin}/slm-mesh lock held.txt; {stage.bin}/slm-mesh inbox")
    proof("mailbox", request.count(OWN) > 0, "its own mail was not shown")
    proof("mailbox", request.count(HUMANS) == 0, "the human's mail was shown")
    proof("gone", stage.has_online(stage.peer), "it is not online")
    proof("gone", stage.locks().get("held.txt") == stage.peer, f"locks: {stage.locks()}")
    yield "Done."


def has_left(stage):
    """Whether the agent is offline now, and its lock ends soon."""
    if stage.has_online(stage.peer):
        return False
    end = time.monotonic() + LEAVES_SECONDS
    while stage.locks() and time.monotonic() < end:
        time.sleep(0.2)
    return not stage.locks()
