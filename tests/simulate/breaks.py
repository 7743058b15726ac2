#!/usr/bin/env python3
"""Breaks a copy of the program on purpose, in one place after the other, and tells how soon the simulator notices.

Each entry of breaks.json replaces one text in one file. The exit status is 1 if the simulator does not notice a break,
or if a text no longer occurs exactly once. `make sim-breaks` runs it; `breaks.py NAME…` runs only the named breaks.
SEEDS=20 and STEPS=50000 limit the search."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
CARGO = os.environ.get("CARGO", "cargo")
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).resolve()
# The copy is always in the same place, so that the dependencies are built only once. It needs a target directory of its
# own, because cargo gives the files that it builds from the copy the same names as those from the original.
TREE = TARGET / "breaks/tree"
OWN_TARGET = TARGET / "breaks/target"
SEEDS = os.environ.get("SEEDS", "20")
STEPS = os.environ.get("STEPS", "50000")


def copy_tree():
    shutil.rmtree(TREE, ignore_errors=True)
    skipped = shutil.ignore_patterns("target", ".git")
    # Copy without the modification times: cargo would not rebuild a file that is older than the last build.
    shutil.copytree(ROOT, TREE, ignore=skipped, copy_function=shutil.copy)


def apply(entry):
    """Puts the break into the copy; returns whether its text was found exactly once."""
    path = TREE / entry["file"]
    text = path.read_text() if path.exists() else ""
    if text.count(entry["find"]) != 1:
        return False
    path.write_text(text.replace(entry["find"], entry["replace"]))
    return True


def cargo_test(*arguments):
    environment = {
        **os.environ,
        "CARGO_TARGET_DIR": str(OWN_TARGET),
        "RUST_BACKTRACE": "0",
        "SLM_MESH_SIM_SEED": "1",
        "SLM_MESH_SIM_SEEDS": SEEDS,
        "SLM_MESH_SIM_STEPS": STEPS,
    }
    command = [CARGO, "test", "--locked", "--quiet", "--test", "simulate", *arguments]
    return subprocess.run(command, cwd=TREE, env=environment, capture_output=True, text=True)


def try_break(entry):
    """Runs the simulator on one break; returns whether it noticed, and the sentence that reports it."""
    copy_tree()
    if not apply(entry):
        return False, f"the text to replace does not occur exactly once in {entry['file']}"
    built = cargo_test("--no-run")
    if built.returncode != 0:
        return False, f"the broken program does not compile:\n{built.stderr[-2000:]}"
    began = time.monotonic()
    run = cargo_test("the_promises", "--", "--nocapture")
    seconds = time.monotonic() - began
    output = run.stdout + run.stderr
    if run.returncode == 0:
        return False, f"NOT FOUND in {SEEDS} seeds of {STEPS} steps"
    found = re.search(r"seed (\d+) broke a promise at step (\d+)", output)
    if not found:
        return False, f"the run failed, but not because of a promise:\n{output[-2000:]}"
    why = re.search(r"panicked at tests/simulate/.*\n(.*)", output)
    reason = why[1][:110] if why else "no reason was printed"
    return True, f"found by seed {found[1]}, step {found[2]} in {seconds:.1f} s: {reason}"


def main():
    entries = json.loads((HERE / "breaks.json").read_text())
    wanted = sys.argv[1:] or [entry["name"] for entry in entries]
    unknown = set(wanted) - {entry["name"] for entry in entries}
    if unknown:
        sys.exit(f"breaks.json has no break called {', '.join(sorted(unknown))}")
    all_found = True
    try:
        for entry in entries:
            if entry["name"] in wanted:
                is_found, sentence = try_break(entry)
                all_found &= is_found
                print(f"{entry['name']}: {sentence}", flush=True)
    finally:
        shutil.rmtree(TREE, ignore_errors=True)
    sys.exit(0 if all_found else 1)


if __name__ == "__main__":
    main()
