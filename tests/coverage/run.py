"""Runs all tests, and prints the share of lines that they ran for each folder or file directly below src.

`make coverage` runs this. As root, it also runs the tests of several machines (`make test-machines`).

Most tests run the program itself, and many end it with SIGKILL. So all processes keep their counters in one file that
each of them maps (%c and %m below), and the tests pass the file's name to every process. Lines of unit tests do not
count as lines of the program. Neither do lines of const functions, most of which run in the compiler, where nothing
counts them.
"""

import argparse
import collections
import os
import pathlib
import re
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
TARGET = ROOT / "target/coverage"
GOAL = 95
PROFILE = "slm-mesh-%m%c.profraw"
# The number of files to list: those with the most lines that no test ran.
N_FILES = 40


def environment():
    """The environment of cargo-llvm-cov. Debian names LLVM's tools after their version, which must fit the compiler's."""
    env = dict(os.environ)
    version = re.search(r"LLVM version: (\d+)", subprocess.check_output(["rustc", "-vV"], text=True))[1]
    for variable, tool in [("LLVM_COV", "llvm-cov"), ("LLVM_PROFDATA", "llvm-profdata")]:
        found = shutil.which(f"{tool}-{version}")
        if found:
            env.setdefault(variable, found)
    # Allows the counters to be in a mapped file, because %c works only if they can be relocated.
    flags = "-C llvm-args=-runtime-counter-relocation"
    env["RUSTFLAGS"] = f"{env.get('RUSTFLAGS', '')} {flags}".strip()
    env |= {"CARGO_LLVM_COV_TARGET_DIR": str(TARGET), "LLVM_PROFILE_FILE_NAME": PROFILE, "CARGO_INCREMENTAL": "0"}
    # LLVM's runtime sets this in the environment of each program that a counted process starts. Some tests compare
    # environments, so all processes get it.
    env["__LLVM_PROFILE_RT_INIT_ONCE"] = "__LLVM_PROFILE_RT_INIT_ONCE"
    return env


def run_tests(env, words):
    """Runs the tests; returns whether all passed."""
    command = ["cargo", "llvm-cov", "test", "--no-report", "--no-fail-fast", "--locked", *words]
    passed = subprocess.run(command, cwd=ROOT, env=env).returncode == 0
    # The process that announces a hub by mDNS gets no environment and works in /, so its counters land there when root
    # runs the tests.
    for stray in pathlib.Path("/").glob("default_*.profraw"):
        stray.unlink()
    return passed


def run_machines(env):
    """Runs the tests of several machines with the program that the tests built; returns whether all passed."""
    if os.geteuid() != 0 or not shutil.which("ip"):
        print("skipped: the tests of several machines need root and ip")
        return True
    programs = ["--program", TARGET / "debug/slm-mesh", "--announcer", TARGET / "debug/examples/announcer"]
    env = env | {"LLVM_PROFILE_FILE": str(TARGET / PROFILE)}
    return subprocess.run([sys.executable, "tests/machines/run.py", *programs], cwd=ROOT, env=env).returncode == 0


def lines_by_file(report):
    """For each file below src, its lines with how often they ran, from a report in lcov's format."""
    files = collections.defaultdict(dict)
    counts = {}
    for line in report.splitlines():
        if line.startswith("SF:"):
            path = pathlib.Path(line[3:])
            is_ours = path.is_relative_to(ROOT / "src")
            counts = files[path.relative_to(ROOT / "src")] if is_ours else {}
        elif line.startswith("DA:"):
            number, count = map(int, line[3:].split(",")[:2])
            counts[number] = counts.get(number, 0) + count
    return {path: program_lines(path, counts) for path, counts in sorted(files.items())}


def program_lines(path, counts):
    """The lines before the unit tests (which are at the end of a file), without the lines of const functions."""
    lines = (ROOT / "src" / path).read_text().split("\n#[cfg(test)]\nmod ")[0].split("\n")
    skipped, end = set(), None
    for number, line in enumerate(lines, 1):
        if end is None and (found := re.match(r"(\s*)(?:pub(?:\([^)]*\))? )?const fn ", line)):
            end = found[1] + "}"
        if end is not None:
            skipped.add(number)
            # A short function may be one line.
            end = None if line == end or line.count("{") == line.count("}") > 0 else end
    return {number: count for number, count in counts.items() if number <= len(lines) and number not in skipped}


def share(counts):
    """The lines that ran, in per cent."""
    return 100 * sum(count > 0 for count in counts) / max(1, len(counts))


def show(files):
    rooms = collections.defaultdict(list)
    for path, counts in files.items():
        rooms[path.parts[0] if len(path.parts) > 1 else path.stem].extend(counts.values())
    print(f"\n{'room':<14}{'lines':>7}{'run':>9}")
    for room, counts in sorted(rooms.items()):
        print(f"{room:<14}{len(counts):>7}{share(counts):>8.1f} %{'' if share(counts) >= GOAL else '  below'}")
    counts = [count for room in rooms.values() for count in room]
    print(f"{'all':<14}{len(counts):>7}{share(counts):>8.1f} %\n\nThe files with the most lines that did not run:")
    missed = {path: sorted(number for number, count in counts.items() if not count) for path, counts in files.items()}
    for path, numbers in sorted(missed.items(), key=lambda row: -len(row[1]))[:N_FILES]:
        print(f"{len(numbers):>5}  {path}: {spans(numbers)}")


def spans(numbers):
    """Line numbers, with consecutive numbers written as FIRST-LAST."""
    found = []
    for number in numbers:
        if found and found[-1][1] == number - 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    return " ".join(str(first) if first == last else f"{first}-{last}" for first, last in found)


def main():
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("words", nargs="*", help="which tests to run, in the words of cargo test")
    options = options.parse_args()
    env = environment()
    passed = run_tests(env, options.words)
    if not options.words:
        passed = run_machines(env) and passed
    report = subprocess.run(["cargo", "llvm-cov", "report", "--lcov"], cwd=ROOT, env=env, capture_output=True, text=True)
    if report.returncode:
        sys.exit(report.stderr)
    show(lines_by_file(report.stdout))
    if not passed:
        sys.exit("some tests failed; the figures are those of the lines that ran")


if __name__ == "__main__":
    main()
