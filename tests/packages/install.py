#!/usr/bin/env python3
"""Installs what `make npm wheels deb` packed, in each way, into a clean folder and home, and lets agents use it. Prints
a table of seconds and bytes. Called by the script `run` in namespaces of its own, without a network, as root.

    install.py TOOLS [WAY…]      TOOLS contains uv and setuptools, if they could be downloaded"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import agents
import npm_registry

TOP = Path(__file__).resolve().parent.parent.parent
NPM, WHEELS = TOP / "target/npm", TOP / "target/wheels"
BUILD = ["cargo", "make install"]
IS_ALL = os.environ.get("SLM_MESH_TEST_ALL") == "1"
PATH = os.environ["PATH"]
TOOLS = Path(sys.argv[1])


class Missing(Exception):
    """A tool that this machine lacks."""


class Place:
    """A clean home and an empty prefix."""

    def __init__(self, root):
        self.prefix, self.work = root / "prefix", root / "work"
        for folder in (self.prefix, self.work, root / "home"):
            folder.mkdir()
        self.env = {"HOME": str(root / "home"), "PATH": PATH, "npm_config_update_notifier": "false",
                    "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_ROOT_USER_ACTION": "ignore", "UV_PYTHON_DOWNLOADS": "never"}

    def run(self, *command, status=0, **env):
        done = subprocess.run([str(word) for word in command], env={**self.env, **env}, cwd=self.work, text=True,
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        assert done.returncode == status, f"{command}: status {done.returncode}\n{done.stdout}"
        return done.stdout

    def npm(self, *words):
        """Installs the local npm packages below the prefix, without a registry."""
        platforms = [file for file in packages(NPM) if file != main_package()]
        self.run("npm", "install", "--global", "--offline", "--no-audit", "--no-fund", "--prefix", self.prefix, *words,
                 main_package(), *platforms)
        return self.prefix / "bin/slm-mesh"

    def venv(self):
        self.run(sys.executable, "-m", "venv", self.prefix)
        return self.prefix / "bin/python"


def packages(folder):
    found = sorted(path for path in folder.iterdir() if path.is_file())
    assert len(found) > 1, f"{folder} has no package for this platform"
    return found


def main_package():
    return min(NPM.glob("*.tgz"), key=lambda file: len(file.name))


def needs(*names):
    for name in names:
        if not shutil.which(name) and not Path(name).exists():
            raise Missing(name)


# Each function below installs slm-mesh in one way, and returns the command with which an agent starts it and the files
# that were downloaded.


def by_npm(place):
    needs("npm")
    program = place.npm()
    assert program.read_bytes()[:4] != b"#!/u", "the script is still in place of the program"
    # An agent that was started from a desktop may not have node on PATH.
    place.env["PATH"] = "/nowhere"
    place.run(program, "--version")
    place.env["PATH"] = f"{place.prefix}/bin:{PATH}"
    return ["slm-mesh"], packages(NPM)


def by_npm_without_scripts(place):
    """Without npm's scripts, the command stays a script that runs the program, here below a read-only prefix."""
    needs("npm")
    program = place.npm("--ignore-scripts")
    assert program.read_bytes()[:4] == b"#!/u"
    script_passes_on_how_the_program_ended(place, program)
    script_says_why_there_is_no_program(place, program)
    place.run("mount", "--bind", place.prefix, place.prefix)
    place.run("mount", "-o", "remount,ro,bind", place.prefix)
    place.env["PATH"] = f"{place.prefix}/bin:{PATH}"
    return ["slm-mesh"], packages(NPM)


def by_npx(place):
    """Installs as if from the registry: npm finds the package for the platform by itself. The packages for other
    platforms are missing."""
    needs("npx")
    place.env["npm_config_registry"] = npm_registry.serve(NPM)
    return ["npx", "--yes", "slm-mesh"], packages(NPM)


def by_pip(place):
    python = place.venv()
    place.run(python, "-m", "pip", "install", "--no-index", "--find-links", WHEELS, "--only-binary", ":all:", "slm-mesh")
    place.env["PATH"] = "/nowhere"
    python_client_works(place, python)
    place.env["PATH"] = f"{place.prefix}/bin:{PATH}"
    return ["slm-mesh"], WHEELS.glob("*.whl")


def by_pip_from_source(place):
    """The Python client without the program. Its command says how to get the program, or runs the program that is on
    PATH."""
    needs(*(sorted(TOOLS.glob("setuptools*.whl")) or ["setuptools"]))
    python = place.venv()
    command = [python, "-m", "pip", "install", "--no-index", "--find-links", TOOLS, *WHEELS.glob("*.tar.gz")]
    said = place.run(*command)
    assert "deprecat" not in said.lower(), said
    licence = next(place.prefix.glob("lib/python*/site-packages/slm_mesh-*.dist-info/licenses/LICENSE"))
    assert licence.read_bytes() == (TOP / "LICENSE").read_bytes()
    place.env["PATH"] = f"{place.prefix}/bin"
    said = place.run("slm-mesh", "status", status=1)
    assert len(said.splitlines()) == 1 and all(word in said for word in BUILD), said
    program = place.prefix / "elsewhere"
    program.mkdir()
    shutil.copy(next(TOP.glob("target/programs/*/slm-mesh")), program)
    place.env["PATH"] = f"{place.prefix}/bin:{program}:{PATH}"
    python_client_works(place, python)
    return ["slm-mesh"], WHEELS.glob("*.tar.gz")


def by_uvx(place):
    needs(TOOLS / "uv/bin/uvx")
    place.env["PATH"] = f"{TOOLS}/uv/bin:{PATH}"
    return ["uvx", "--offline", "--no-index", "--find-links", str(WHEELS), "slm-mesh"], WHEELS.glob("*.whl")


def by_deb(place):
    needs("dpkg-deb", *(sorted(TOP.glob("target/deb/*.deb")) or ["target/deb/*.deb"]))
    packed = next(TOP.glob("target/deb/*.deb"))
    place.run("dpkg-deb", "--extract", packed, place.prefix)
    place.env["PATH"] = f"{place.prefix}/usr/bin:{PATH}"
    return ["slm-mesh"], [packed]


def by_make_install(place):
    program = next(TOP.glob("target/programs/*/slm-mesh"))
    place.run("make", "-C", TOP, "install", "BUILD=:", f"BIN={program}", f"PREFIX={place.prefix}")
    place.env["PATH"] = f"{place.prefix}/bin:{PATH}"
    return ["slm-mesh"], []


def script_passes_on_how_the_program_ended(place, program):
    place.run(program, "no-such-verb", status=2)
    server = subprocess.Popen([program, "mcp"], env=place.env, cwd=place.work, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    server.stdin.write(b'{"jsonrpc":"2.0","id":1,"method":"ping"}\n')
    server.stdin.flush()
    assert server.stdout.readline()
    server.send_signal(signal.SIGTERM)
    # The output ends only when the program behind the script has ended, too.
    server.stdout.read()
    status = server.wait(agents.PATIENCE_SECONDS)
    assert status in (0, -signal.SIGTERM), status


def script_says_why_there_is_no_program(place, program):
    for set_up, words in (("arch", BUILD), ("platform", BUILD)):
        fake = place.work / "fake.js"
        fake.write_text(f"Object.defineProperty(process, '{set_up}', {{ value: 'other' }});")
        said = place.run("node", "--require", fake, program, "peers", status=1)
        assert len(said.splitlines()) == 1 and all(word in said for word in words), said
    hidden = next(place.prefix.glob("lib/node_modules/@slm-mesh"))
    hidden.rename(hidden.with_name("hidden"))
    said = place.run(program, "peers", status=1)
    assert len(said.splitlines()) == 1 and "optional" in said, said
    hidden.with_name("hidden").rename(hidden)


def python_client_works(place, python):
    script = ("from slm_mesh import Mesh, SLMMeshClient; mesh = Mesh(name='script'); mesh.state_set('a', 'b'); "
              "print(mesh.state_get('a').value, SLMMeshClient.__name__)")
    assert place.run(python, "-c", script) == "b SLMMeshClient\n"


def speaks_tls_to_etcd(place, command):
    """Checks that the program has TLS: only then does it read the file of the authority."""
    hub = {"SLM_MESH_DATA_DIR": str(place.work / "hub"), "SLM_MESH_HOST": "0.0.0.0",
           "SLM_MESH_SHARED_SECRET": "a secret of several hubs", "SLM_MESH_DISCOVERY": "off",
           "SLM_MESH_STORE": "etcds://etcd.invalid/slm", "SLM_MESH_STORE_CA": str(TOP / "LICENSE")}
    said = place.run(*command, "start", status=2, **hub)
    assert "contains no certificate" in said, said


WAYS = [by_npm, by_npm_without_scripts, by_npx, by_pip, by_pip_from_source, by_uvx, by_deb, by_make_install]


@contextmanager
def clean_place():
    root = Path(tempfile.mkdtemp(prefix="slm-mesh-install-"))
    try:
        yield Place(root)
    finally:
        subprocess.run(["umount", "--quiet", str(root / "prefix")], check=False)
        shutil.rmtree(root, ignore_errors=True)


def n_bytes(folder):
    """What an installation occupies, each file counted once, however many links it has."""
    files = {path.lstat().st_ino: path.lstat().st_size for path in folder.rglob("*") if path.is_file()}
    return sum(files.values())


def main():
    wanted = sys.argv[2:]
    n_failed = 0
    print(f"{'way':24}{'packed MB':>10}{'installed MB':>14}{'install s':>11}{'first result s':>16}{'again s':>9}")
    for way in WAYS:
        name = way.__name__[len("by_"):].replace("_", " ")
        if wanted and name not in wanted:
            continue
        with clean_place() as place:
            try:
                begun = time.monotonic()
                command, packed = way(place)
                seconds = time.monotonic() - begun
                first, again = agents.prove(command, place.env, place.work)
                speaks_tls_to_etcd(place, command)
                sizes = [sum(path.stat().st_size for path in packed), n_bytes(place.prefix.parent)]
                packed_mb, installed_mb = (f"{size / 1e6:.2f}" for size in sizes)
                print(f"{name:24}{packed_mb:>10}{installed_mb:>14}{seconds:>11.2f}{first:>16.3f}{again:>9.3f}", flush=True)
            except Missing as missing:
                n_failed += IS_ALL
                print(f"{'failed' if IS_ALL else 'skipped'}: {name}: there is no {missing}", flush=True)
    sys.exit(1 if n_failed else 0)


main()
