"""Shared by the tests: a separate mesh in a temporary directory, which ends with the test."""

import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from slm_mesh import paths  # noqa: E402

PORT_FIRST = 20_000
_SETTINGS = (
    "SLM_MESH_DATA_DIR", "SLM_MESH_PORT", "SLM_MESH_PEER", "SLM_MESH_NAME", "SLM_MESH_HOST", "SLM_MESH_ROLE",
    "SLM_MESH_SHARED_SECRET", "SLM_MESH_SESSION", "AI_AGENT",
)


class MeshTest(unittest.TestCase):
    """A test with a data directory and a port of its own. No broker runs until the test starts one."""

    maxDiff = None
    n_meshes = 0

    def setUp(self):
        self.root = Path(tempfile.mkdtemp(prefix="slm-mesh-py-")).resolve()
        self.dir = self.root / "mesh"
        before, cwd = {name: os.environ.get(name) for name in _SETTINGS}, os.getcwd()
        MeshTest.n_meshes += 1
        port = PORT_FIRST + (os.getpid() * 37 + MeshTest.n_meshes * 11) % 12_700
        for name in _SETTINGS:
            os.environ.pop(name, None)
        os.environ.update(SLM_MESH_DATA_DIR=str(self.dir), SLM_MESH_PORT=str(port))
        work = self.root / "work"
        work.mkdir()
        os.chdir(work)
        self.addCleanup(self._end, before, cwd)

    def _end(self, before, cwd):
        if self.broker_pid():
            self.verb("stop")
        os.chdir(cwd)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        shutil.rmtree(self.root, ignore_errors=True)

    def broker_pid(self):
        """The process id of the running broker, or None."""
        try:
            return int((self.dir / "broker.pid").read_text())
        except (OSError, ValueError):
            return None

    def port(self):
        """The HTTP port of the broker."""
        return int((self.dir / "port").read_text())

    def verb(self, *words):
        """The output of the program itself, for an independent check."""
        done = subprocess.run([paths.program(), *words], capture_output=True, check=False)
        return done.returncode, done.stdout.decode() + done.stderr.decode()

    def until(self, what, holds):
        """Waits until a condition holds."""
        ends_at = time.monotonic() + 20
        while not holds():
            self.assertLess(time.monotonic(), ends_at, f"waited in vain until {what}")
            time.sleep(0.002)

    def behind(self, work):
        """Runs a function in a thread; ``result`` has its return value after the join."""
        thread = Background(work)
        thread.start()
        self.addCleanup(thread.join, 20)
        return thread


class Background(threading.Thread):
    def __init__(self, work):
        super().__init__(daemon=True)
        self.work, self.result, self.error = work, None, None

    def run(self):
        try:
            self.result = self.work()
        except Exception as error:  # raised again by get()
            self.error = error

    def get(self):
        self.join(20)
        assert not self.is_alive(), "it goes on"
        if self.error is not None:
            raise self.error
        return self.result
