"""What the tests must know about an agent: how to install it, how to point it at the model on loopback, how to run it
without a person, and with which tools it edits files."""

import json
import subprocess

from model import Call


class Agent:
    """One agent. `name` is the id that slm-mesh uses, `program` its command, and npm installs `package` in `version`."""

    name = program = package = version = ""
    # Other npm packages that the agent needs, such as a node that is newer than the one on this machine.
    needs = []
    # The proofs that the agent cannot pass, each with the reason.
    lacks = {}
    # Whether the session begins only with its first prompt. Then no mail can reach it before the second prompt.
    opens_by_prompt = False

    # Part of the title, if the agent is tested with several ways of connecting it to slm-mesh.
    way = ""
    # Whether set-up can keep the agent's shell commands from writing locked files.
    has_shield = False
    # Whether a run ends with an error when one of the agent's own rules forbids a command.
    fails_at_rule = False
    # Whether the agent uses tools of MCP servers. An agent that does not can only run our verbs (subcommands).
    has_tools = True
    # Whether a user registers our server by hand, because set-up does not know the agent.
    is_registered_by_hand = False
    # The answers to the questions of the agent, in order, for its standard input.
    answers = None

    def peer(self):
        """The name of the agent's first session in a folder named work."""
        return f"{self.name}-work"

    def programs(self, base):
        """The folder with the agent's command."""
        return base / self.name / "node_modules/.bin"

    def is_installed(self, base):
        """Whether this version is installed."""
        manifest = base / self.name / "node_modules" / self.package / "package.json"
        return manifest.exists() and json.loads(manifest.read_text())["version"] == self.version

    def install(self, folder):
        """Installs the agent from its registry. Returns the last line of the error if that failed."""
        return last_error(["npm", "install", "--prefix", str(folder), "--no-audit", "--no-fund", "--loglevel=error",
                           f"{self.package}@{self.version}", *self.needs])

    def title(self):
        """The name of the agent in the report."""
        return f"{self.name}{self.way} {self.version}"

    def settings(self, home, work, port):
        """Writes the settings that the agent needs before slm-mesh sets it up."""

    def connect(self, program):
        """The commands that connect the agent with slm-mesh."""
        return [[program, "setup", self.name]]

    def environment(self, port):
        """The environment variables that the agent needs in addition to HOME and PATH."""
        return {}

    def command(self, prompt, again):
        """The command line for one prompt. In the second run, `again` is true."""
        raise NotImplementedError

    def settle(self, home, work):
        """Writes the answers to what the agent asks a person at its first start."""

    def window(self, env, work, log):
        """Opens the agent as a person does, so that it stays open after a turn."""
        raise NotImplementedError

    def write(self, path, text):
        """The tool calls that put `text` into the file: pairs of tool and arguments."""
        raise NotImplementedError

    def write_in_window(self, path, text):
        """Like `write`, but for an agent in a window, which may run with another model."""
        return self.write(path, text)

    def shell(self, command):
        """The tool call that runs a shell command: a pair of tool and arguments."""
        raise NotImplementedError

    def run_command(self, command):
        """The answer of the model that makes the agent run a shell command."""
        return Call(*self.shell(command))

    def forbid(self, home, program):
        """Writes a rule into the agent's settings that forbids shell commands that run the program."""
        raise NotImplementedError


class PythonAgent(Agent):
    """An agent from PyPI, in a virtual environment with the newest Python that it supports."""

    python = ""

    def programs(self, base):
        return base / self.name / "venv/bin"

    def is_installed(self, base):
        name = f"{self.package.replace('-', '_')}-{self.version}.dist-info"
        return any((base / self.name / "venv/lib").glob(f"python*/site-packages/{name}"))

    def install(self, folder):
        return (last_error([f"python{self.python}", "-m", "venv", str(folder / "venv")])
                or last_error([str(folder / "venv/bin/pip"), "install", "--quiet", f"{self.package}=={self.version}"]))


def last_error(command):
    """Runs a command. Returns the last line that it printed if it failed."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return (done.stderr.strip().splitlines() or [f"{command[0]} failed"])[-1] if done.returncode else None


def change(path, change_settings):
    """Changes the settings in a JSON file."""
    settings = json.loads(path.read_text())
    change_settings(settings)
    put(path, settings)


def put(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value, indent=2))
