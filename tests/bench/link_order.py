"""Writes src/link_order.ld, which makes the linker put the functions of short-lived processes beside each other.

A verb or a hook lives for less than a millisecond, and each part of the program that it touches costs a page fault when
it starts and time when it ends. The linker would spread the functions that a verb calls over the whole program.

`make link-order` builds the program with symbols, runs verbs, hooks and a session under callgrind, and writes down the
functions that they call. Run it after a new compiler, or when `make count` shows more page faults than before. Names
that no longer exist do no harm.
"""

import argparse
import json
import os
import pathlib
import re
import subprocess
import tempfile

HEAD = """\
/* The functions that verbs, hooks and sessions call, in the order of their first calls. They are linked beside each
   other, so that a process which lives for a millisecond has few page faults. `make link-order` writes this file. */
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
    ["unlock", "src/a.rs"], ["inbox"], ["peers"],
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


def called_functions(program, words, stdin, env, folder):
    """The symbols of the functions that a process calls, in the order in which callgrind lists them."""
    output = pathlib.Path(folder, "callgrind.out")
    command = ["valgrind", "--tool=callgrind", "--demangle=no", f"--callgrind-out-file={output}", program, *words]
    subprocess.run(command, input=stdin, text=True, env=env, cwd=folder, capture_output=True, check=True)
    return [line.split("'")[0] for line in re.findall(r"^c?fn=\(\d+\) (.+)$", output.read_text(), re.M)]


def libc_members():
    """The member of the C library's archive that defines each function."""
    archive = subprocess.run(["cc", "-print-file-name=libc.a"], text=True, capture_output=True, check=True).stdout.strip()
    table = subprocess.run(["nm", "-A", "--defined-only", archive], text=True, capture_output=True).stdout
    return {name: member for member, name in re.findall(r":([^:\s]+):\S+ [TtWwi] (\S+)$", table, re.M)}


def section_patterns(symbol, members):
    """What the linker script calls the section of a function. A compiler's hashes in the name become wildcards."""
    if symbol.startswith(("_ZN", "_R")):
        name = re.sub(r"17h[0-9a-f]{16}E", "17h*", symbol)
        name = re.sub(r"Cs[0-9A-Za-z]+_", "Cs*_", name)
        return [f"*(.text.{name} .text.unlikely.{name})"]
    if symbol in members:
        # Valgrind's processor lacks AVX-512, so the C library chooses other functions there than on most machines.
        names = dict.fromkeys([members[symbol], re.sub("avx2?", "evex", members[symbol])])
        return [f"*libc.a:{name}(.text .text.*)" for name in names]
    return [f"*(.text.{symbol})"] if re.fullmatch(r"[A-Za-z_][\w.]*", symbol) else []


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--program", required=True, help="the program, linked statically, with symbols")
    parser.add_argument("--output", required=True, help="the linker script")
    options = parser.parse_args()
    program = os.path.abspath(options.program)
    members = libc_members()
    with tempfile.TemporaryDirectory(prefix="slm-mesh-order-") as folder:
        env = {"HOME": folder, "PATH": os.environ["PATH"], "SLM_MESH_PORT": str(20_000 + os.getpid() % 40_000)}
        subprocess.run([program, "start", "--detach"], env=env, check=True, capture_output=True)
        base = {"session_id": "order", "cwd": folder, "tool_use_id": "toolu_01"}
        runs = [(words, "") for words in VERBS]
        runs += [(["hook", "claude"], json.dumps(base | hook)) for hook in HOOKS]
        runs.append((["mcp"], session_input()))
        symbols = [symbol for words, stdin in runs for symbol in called_functions(program, words, stdin, env, folder)]
        subprocess.run([program, "stop"], env=env, check=True, capture_output=True)
    patterns = dict.fromkeys(pattern for symbol in symbols for pattern in section_patterns(symbol, members))
    lines = "".join(f"    {pattern}\n" for pattern in patterns)
    pathlib.Path(options.output).write_text(HEAD + lines + TAIL)
    print(f"{options.output}: {len(patterns)} patterns")


if __name__ == "__main__":
    main()
