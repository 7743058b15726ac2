"""What an agent is to the proofs."""

import json


class Agent:
    """One agent. `program` is its command, `package` with `version` what npm installs; `name` is its word for us."""

    name = program = package = version = ""
    # What npm installs beside it, for those that want a newer node than the machine has.
    needs = []
    # Proofs that it has nothing for, each with the reason.
    lacks = {}
    # Its session begins with its first prompt: mail between the two can come in before the second prompt only.
    opens_by_prompt = False

    def settings(self, home, work, port):
        """Writes what it must have before set-up comes."""

    def environment(self, port):
        """What it needs beside HOME and PATH."""
        return {}

    def command(self, prompt, again):
        """Its command line for one prompt; `again` in the second run."""
        raise NotImplementedError

    def settle(self, home, work):
        """Answers beforehand what it would ask a person at its first start."""

    def window(self, env, work, log):
        """Opens it as a person does, so that it stays when a turn is over."""
        raise NotImplementedError

    def write(self, path, text):
        """The tool calls that put `text` into the file: pairs of tool and arguments."""
        raise NotImplementedError

    def shell(self, command):
        """The tool call that runs a shell command, as tool and arguments."""
        raise NotImplementedError


def put(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value, indent=2))
