"""Writes src/link_order.ld, which makes the linker put the functions that processes call beside each other.

A verb or a hook lives for less than a millisecond, and each part of the program that it touches costs a page fault when
it starts and time when it ends. The broker lives longer, but each part that it touches costs memory. The linker would
spread the functions that a process calls over the whole program.

`make link-order` builds the program with symbols, runs verbs, hooks, a session and their broker under callgrind, and
writes down the functions that they call. Run it after an update of the compiler, or when `make count` shows more page
faults than before. Names that no longer exist do no harm.
"""

import argparse
import json
import os
import pathlib
import re
import subprocess
import tempfile

HEAD = """\
/* The functions that verbs, hooks, sessions and their broker call. They are linked beside each other, so that a process
   which lives for a millisecond has few page faults, and the broker needs less memory. `make link-order` writes this
   file. */
SECTIONS {
  .text.first : {
"""
TAIL = """\
  }
}
INSERT BEFORE .text;
"""
VERBS = [
    ["state", "set", "port", "8080"], ["state", "get", "port"], ["send", "human", "done"], ["lock", "src/a.rs"],
    ["unlock", "src/a.rs"], ["inbox"], ["peers"], ["status"],
]
HOOKS = [
    {"hook_event_name": "SessionStart", "source": "startup"},
    {"hook_event_name": "PreToolUse", "tool_name": "Edit",
     "tool_input": {"file_path": "src/a.rs", "old_string": "a", "new_string": "b"}},
    {"hook_event_name": "PreToolUse", "tool_name": "Bash", "tool_input": {"command": "sed -i s/a/b/ a.rs && echo x > y"}},
    {"hook_event_name": "PostToolUse", "tool_name": "Bash", "tool_input": {"command": "cargo test"},
     "tool_response": {"stdout": "ok\n" * 300, "stderr": "", "interrupted": False}},
    {"hook_event_name": "Stop"},
]
CALLS = [
    ("mesh_state", {"action": "get", "key": "port"}), ("mesh_state", {"action": "set", "key": "port", "value": "1"}),
    ("mesh_send", {"to": "human", "message": "done"}), ("mesh_inbox", {}), ("mesh_peers", {}),
]


def session_input():
    """The lines of a client that makes some tool calls."""
    client = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "order", "version": "1"}}
    calls = [("tools/call", {"name": name, "arguments": arguments}) for name, arguments in CALLS]
    requests = [("initialize", client), ("tools/list", {}), *calls]
    lines = [{"jsonrpc": "2.0", "id": number, "method": method, "params": params}
             for number, (method, params) in enumerate(requests)]
    return "".join(json.dumps(line) + "\n" for line in lines)


def under_callgrind(program, words, output):
    """The command that runs a process under callgrind."""
    return ["valgrind", "--tool=callgrind", "--demangle=no", f"--callgrind-out-file={output}", program, *words]


def functions_in(output):
    """The symbols of the functions that a process called, in the order in which callgrind lists them."""
    return [line.split("'")[0] for line in re.findall(r"^c?fn=\(\d+\) (.+)$", output.read_text(), re.M)]


def library_members():
    """The archive of the C library, or of its mathematical part, and the member that define each function."""
    found = {}
    place = subprocess.run(["cc", "-print-file-name=libc.a"], text=True, capture_output=True, check=True).stdout.strip()
    # On Debian, libm.a is a linker script, and the functions are in an archive with the version in its name.
    archives = [("libm*.a", path) for path in sorted(pathlib.Path(place).parent.glob("libm-*.a"))]
    for pattern, archive in [*archives, ("libc.a", place)]:
        table = subprocess.run(["nm", "-A", "--defined-only", archive], text=True, capture_output=True).stdout
        members = re.findall(r":([^:\s]+):\S+ [TtWwi] (\S+)$", table, re.M)
        found |= {name: (pattern, member) for member, name in members}
    return found


def section_patterns(symbol, members):
    """What the linker script calls the section of a function. A compiler's hashes in the name become wildcards."""
    if symbol.startswith(("_ZN", "_R")):
        name = re.sub(r"17h[0-9a-f]{16}E", "17h*", symbol)
        name = re.sub(r"Cs[0-9A-Za-z]+_", "Cs*_", name)
        return [f"*(.text.{name} .text.unlikely.{name})"]
    if symbol in members:
        # Valgrind's processor lacks AVX-512, so the C library chooses other functions there than on most machines.
        archive, member = members[symbol]
        other = [re.sub("avx2?|sse2-unaligned", instructions, member) for instructions in ("evex", "avx512")]
        names = dict.fromkeys([member, *other])
        return [f"*{archive}:{name}(.text .text.*)" for name in names]
    return [f"*(.text.{symbol})"] if re.fullmatch(r"[A-Za-z_][\w.]*", symbol) else []


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--program", required=True, help="the program, linked statically, with symbols")
    parser.add_argument("--output", required=True, help="the linker script")
    options = parser.parse_args()
    program = os.path.abspath(options.program)
    members = library_members()
    with tempfile.TemporaryDirectory(prefix="slm-mesh-order-") as folder:
        env = {"HOME": folder, "PATH": os.environ["PATH"], "SLM_MESH_PORT": str(20_000 + os.getpid() % 40_000)}
        output = pathlib.Path(folder, "callgrind.out")
        # People lock files of a repository. A verb reads the repository's settings without git.
        git = pathlib.Path(folder, ".git")
        for name in ("objects", "refs"):
            git.joinpath(name).mkdir(parents=True)
        git.joinpath("HEAD").write_text("ref: refs/heads/main\n")
        git.joinpath("config").write_text(
            '[core]\n\tbare = false\n[remote "origin"]\n\turl = git@example.org:team/project.git\n')
        broker_output = pathlib.Path(folder, "broker.out")
        # The observed broker finds a database that another one has filled.
        subprocess.run([program, "mcp"], input=session_input(), text=True, env=env, cwd=folder, capture_output=True)
        subprocess.run([program, "stop"], env=env, check=True, capture_output=True)
        broker = subprocess.Popen(under_callgrind(program, ["start"], broker_output), env=env, cwd=folder,
                                  stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while subprocess.run([program, "status"], env=env, capture_output=True).returncode != 0:
            if broker.poll() is not None:
                raise SystemExit("the broker ended before it was ready")
        base = {"session_id": "order", "cwd": folder, "tool_use_id": "toolu_01"}
        runs = [(words, "") for words in VERBS]
        runs += [(["hook", "claude"], json.dumps(base | hook)) for hook in HOOKS]
        runs.append((["mcp"], session_input()))
        symbols = []
        for words, stdin in runs:
            subprocess.run(under_callgrind(program, words, output), input=stdin, text=True, env=env, cwd=folder,
                           capture_output=True, check=True)
            symbols += functions_in(output)
        subprocess.run([program, "stop"], env=env, check=True, capture_output=True)
        broker.wait()
        symbols += functions_in(broker_output)
    patterns = dict.fromkeys(pattern for symbol in symbols for pattern in section_patterns(symbol, members))
    lines = "".join(f"    {pattern}\n" for pattern in patterns)
    pathlib.Path(options.output).write_text(HEAD + lines + TAIL)
    print(f"{options.output}: {len(patterns)} patterns")


if __name__ == "__main__":
    main()
