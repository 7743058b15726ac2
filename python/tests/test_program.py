"""Which program the package runs: the user's choice, the program that came with the package, or the program on PATH. A
command that another installation of the package put on PATH is passed over, because it would only look for the program,
too.
"""

import os
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path
from unittest import mock

from slm_mesh import Unavailable, paths

SOURCE = Path(paths.__file__).resolve().parent.parent
LAUNCHER = f"#!{sys.executable}\nimport sys\nfrom slm_mesh.launcher import main\nsys.exit(main())\n"


class Program(unittest.TestCase):
    def setUp(self):
        self.root = tempfile.TemporaryDirectory()
        self.addCleanup(self.root.cleanup)
        self.folders = [Path(self.root.name) / name for name in ("first", "second", "third")]
        for folder in self.folders:
            folder.mkdir()
        search = os.pathsep.join(map(str, self.folders))
        environment = mock.patch.dict(os.environ, {"PATH": search, "PYTHONPATH": str(SOURCE)})
        environment.start()
        self.addCleanup(environment.stop)
        os.environ.pop("SLM_MESH_BIN", None)

    def put(self, folder, text, mode=0o755):
        file = self.folders[folder] / "slm-mesh"
        file.write_text(text)
        file.chmod(mode)
        return str(file)

    def test_a_launcher_runs_the_program_behind_it_with_its_arguments_and_status(self):
        launchers = [self.put(n, LAUNCHER) for n in (0, 1)]
        program = self.put(2, "#!/bin/sh\necho \"$@\"; exit 7\n")
        self.assertEqual(paths.program(), program)
        for launcher in launchers:
            done = subprocess.run([launcher, "send", "a b"], capture_output=True, text=True)
            self.assertEqual((done.returncode, done.stdout, done.stderr), (7, "send a b\n", ""))

    def test_launchers_alone_say_how_to_get_the_program_and_do_not_call_each_other(self):
        launcher = self.put(0, LAUNCHER)
        self.put(1, LAUNCHER)
        for name, value in (("UNUSED", ""), ("SLM_MESH_BIN", launcher)):
            with mock.patch.dict(os.environ, {name: value}):
                self.assertRaises(Unavailable, paths.program)
                done = subprocess.run([launcher, "peers"], capture_output=True, text=True, timeout=60)
                self.assertEqual((done.returncode, done.stdout), (1, ""))
                self.assertRegex(done.stderr, r"\Aslm-mesh: .* build the program with cargo, gcc and make.*\n\Z")

    def test_what_is_no_program_is_passed_over(self):
        self.put(0, "#!/bin/sh\n", mode=0o644)
        (self.folders[1] / "slm-mesh").mkdir()
        program = self.put(2, "#!/bin/sh\n")
        self.assertEqual(paths.program(), program)

    def test_the_program_that_came_with_the_package_is_preferred_and_the_user_decides(self):
        self.put(0, "#!/bin/sh\n")
        own = self.put(2, "#!/bin/sh\n")
        installed = mock.Mock(files=[mock.Mock(locate=lambda: Path(own))])
        installed.files[0].name = "slm-mesh"
        with mock.patch("importlib.metadata.distribution", return_value=installed):
            self.assertEqual(paths.program(), own)
            with mock.patch.dict(os.environ, {"SLM_MESH_BIN": "/some/program"}):
                self.assertEqual(paths.program(), "/some/program")


if __name__ == "__main__":
    unittest.main()
