"""Shell commands that write a file which another peer has locked: whether each of them is denied, reported or stopped
by the shield."""

import re
import subprocess

from model import Call, strings

SHELL = [
    ("verb", "a verb in the agent's shell acts as that session"),
    ("shell", "a shell command that plainly writes a locked file does not run, and the model reads who holds it"),
    ("report", "a command that hid what it wrote is reported to the holder, and to the model where hooks can"),
    ("shield", "after set-up with --shield, such a command can't write the locked file, and it can write others; the "
               "agent's own rules apply to the command as the model wrote it"),
]

HELD = "as it was\n"
DENIED = "The file was not changed"
# Each of these commands writes held.txt, in a way that agents use.
PLAIN = [
    ("echo >", "echo changed > held.txt"),
    ("sed -i", "sed -i s/was/changed/ held.txt"),
    ("python3 -c", "python3 -c \"open('held.txt', 'w').write('changed')\""),
    ("git checkout", "git checkout -- held.txt"),
    ("here-document", "cat > held.txt <<'EOF'\nchanged\nEOF"),
    ("formatter", "prettier --write held.txt"),
]
# The text of this command does not show that it writes the file.
HIDDEN = ("script", "sh ./build.sh")
# Stands in for a formatter, so that none need be installed.
PRETTIER = "#!/bin/sh\nshift\necho changed > \"$1\"\n"


def prepare(stage):
    """Prepares a commit to check out, a formatter, and a script that writes."""
    held = stage.work / "held.txt"
    before = held.read_text()
    held.write_text("as committed\n")
    identity = ["-c", "user.name=tester", "-c", "user.email=tester@localhost"]
    for words in (["add", "held.txt"], [*identity, "commit", "-qm", "Start"]):
        subprocess.run(["git", *words], cwd=stage.work, env=stage.env, check=True)
    held.write_text(before)
    (stage.work / "build.sh").write_text("echo changed > held.txt\n")
    (stage.bin / "prettier").write_text(PRETTIER)
    (stage.bin / "prettier").chmod(0o755)


def said(request):
    """The last text in a request that contains `session=`, which is what the shell printed about its session."""
    return "".join([text for text in strings(request.body) if re.search(r"session=[0-9a-f-]*\.", text)][-1:])


def say_who(stage, proof):
    """A play in which a verb (subcommand) in the agent's shell prints which peer it acts as. Returns the request with
    its output."""
    request = yield stage.agent.run_command(f"{stage.bin}/slm-mesh whoami; echo session=$SLM_MESH_SESSION.")
    proof("verb", f"{stage.peer} (" in said(request), f"whoami did not say {stage.peer}: {said(request)}")
    return request


def play(stage, proof, tiers):
    """One turn with all the commands. The outcome of each goes into `tiers`."""
    held = stage.work / "held.txt"
    yield
    request = yield from say_who(stage, proof)
    tiers["SLM_MESH_SESSION"] = "set" if re.search(r"session=[0-9a-f-]{36}\.", said(request)) else "unset"
    for name, command in [*PLAIN, HIDDEN] if "shell" not in stage.agent.lacks else []:
        denials = request.count(DENIED)
        request = yield Call(*stage.agent.shell(command))
        was_written = held.read_text() != HELD
        tiers[name] = "written" if was_written else "denied" if request.count(DENIED) > denials else "nothing"
        held.write_text(HELD)
    if "shell" in stage.agent.lacks:
        yield "Done."
        return
    for name, _ in PLAIN:
        proof("shell", tiers[name] == "denied", f"{name}: {tiers[name]}")
    told = [message["payload"] for message in stage.mesh("inbox", "--filter", "all")["messages"]]
    proof("report", any("held.txt" in text and "build.sh" in text for text in told), "the holder was not told")
    if "tool" not in stage.agent.lacks:
        proof("report", request.count("that another agent has locked:") > 0, "the model was not told")
    yield "Done."


def shielded_play(stage, proof):
    """One turn with a command whose text hides that it writes the locked file and a free file, and with a command that
    a rule of the agent forbids."""
    held, free, forbidden = (stage.work / name for name in ("held.txt", "shielded.txt", "forbidden.txt"))
    yield
    yield Call(*stage.agent.shell("sh ./build.sh; echo free > shielded.txt"))
    proof("shield", held.read_text() == HELD, "the locked file was written")
    proof("shield", free.exists() and free.read_text() == "free\n", "the free file was not written")
    yield Call(*stage.agent.shell("touch forbidden.txt"))
    proof("shield", not forbidden.exists(), "a rule of the agent did not apply")
    yield "Done."
