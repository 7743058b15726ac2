"""A script whose mesh is on another machine. Here both machines are this one, connected over loopback."""

import os
import subprocess
import unittest

from support import MeshTest

import slm_mesh
from slm_mesh import Mesh, paths

SECRET = "correct horse battery staple"


class Far(MeshTest):
    def setUp(self):
        super().setUp()
        self.hub = self.root / "hub"
        self.far = {"SLM_MESH_HOST": "127.0.0.1", "SLM_MESH_ROLE": "client", "SLM_MESH_SHARED_SECRET": SECRET}
        self.on_hub("start", "--detach")
        self.addCleanup(self.on_hub, "stop")
        os.environ["SLM_MESH_PORT"] = (self.hub / "port").read_text()

    def on_hub(self, *words):
        settings = {"SLM_MESH_DATA_DIR": str(self.hub), "SLM_MESH_HOST": "0.0.0.0", "SLM_MESH_DISCOVERY": "off"}
        environment = {**os.environ, **settings, "SLM_MESH_SHARED_SECRET": SECRET}
        environment.pop("SLM_MESH_ROLE", None)
        return subprocess.run([paths.program(), *words], env=environment, capture_output=True, check=False)

    def test_a_script_far_away_works_as_one_on_the_hub(self):
        os.environ.update(self.far)
        mesh = Mesh("script")
        with mesh.lock("a.py", reason="renaming"):
            self.assertIn(b"renaming", self.on_hub("lock", "list").stdout)
        mesh.state_set("port", "8080")
        self.assertEqual(self.on_hub("state", "get", "port").stdout.strip(), b"8080")
        self.on_hub("send", "script", "over there?")
        self.assertEqual(mesh.wait_for_message(20).payload, "over there?")
        self.assertFalse((self.dir / "mesh.sock").exists(), "there is no broker here")

    def test_the_file_of_settings_leads_there_too(self):
        self.dir.mkdir()
        lines = [f"{name}={value}\n" for name, value in self.far.items()]
        (self.dir / "config").write_text("# the office\n" + "".join(lines))
        self.assertEqual(Mesh("script").peers(), [])
        # A program that this script starts acts as the script, and a list of peers leaves out the peer that asks.
        self.assertIn(b"script", self.on_hub("peers", "--all", "--as", "human").stdout)

    def test_what_the_program_says_reaches_the_script(self):
        os.environ.update(self.far, SLM_MESH_SHARED_SECRET="wrong horse battery staple")
        with self.assertRaisesRegex(slm_mesh.Unavailable, "does not know this secret"):
            Mesh("script").peers()


if __name__ == "__main__":
    unittest.main()
