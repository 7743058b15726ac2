"""What the tests must know about an agent: how to install it, how to point it at the model on loopback, how to run it
without a person, and with which tools it edits files."""

import json


class Agent:
    """One agent. `name` is the id that slm-mesh uses, `program` its command, and npm installs `package` in `version`."""

    name = program = package = version = ""
    # Other npm packages that the agent needs, such as a newer node than the machine has.
    needs = []
    # The proofs that the agent cannot pass, each with the reason.
    lacks = {}
    # Whether its session begins only with its first prompt. Then no mail can reach it before the second prompt.
    opens_by_prompt = False

    # Tells it from the same agent that is connected in another way.
    way = ""
    # Whether set-up can keep its shell commands from writing held files.
    has_shield = False

    def title(self):
        """What the report calls it."""
        return f"{self.name}{self.way} {self.version}"

    def settings(self, home, work, port):
        """Writes the settings that the agent needs before slm-mesh sets it up."""

    def connect(self, program):
        """The commands that connect it with slm-mesh."""
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
        """The same in a window, which may run with another model."""
        return self.write(path, text)

    def shell(self, command):
        """The tool call that runs a shell command: a pair of tool and arguments."""
        raise NotImplementedError


def put(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value, indent=2))
