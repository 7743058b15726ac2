"""The examples in the documentation run as written, and every public name is documented."""

import ast
import contextlib
import doctest
import io
import re
import unittest
from pathlib import Path

from support import MeshTest

import slm_mesh
from slm_mesh import client, connection, errors, follow, held, launcher, mesh, paths, rpc, types

HERE = Path(__file__).resolve().parent.parent
ELLIPSIS = doctest.ELLIPSIS


class Documentation(MeshTest):
    def test_the_examples_in_the_docstrings_run(self):
        slm_mesh.start_broker()
        run = 0
        for module in (client, connection, errors, follow, held, launcher, mesh, paths, rpc, types):
            found = doctest.testmod(module, extraglobs={"PORT": self.port()}, optionflags=ELLIPSIS)
            self.assertEqual(found.failed, 0, module.__name__)
            run += found.attempted
        self.assertGreater(run, 20)

    def test_the_examples_of_the_readme_run(self):
        for readme, n_least in ((HERE / "README.md", 4), (HERE.parent / "README.md", 1)):
            examples = re.findall(r"```python\n(.*?)```", readme.read_text(encoding="utf-8"), re.DOTALL)
            self.assertGreaterEqual(len(examples), n_least, readme)
            for example in examples:
                with contextlib.redirect_stdout(io.StringIO()):
                    exec(compile(example, str(readme), "exec"), {"__name__": "example"})

    def test_every_public_name_has_its_line(self):
        self.assertEqual(sorted(slm_mesh.__all__), slm_mesh.__all__)
        for name in slm_mesh.__all__:
            thing = getattr(slm_mesh, name)
            self.assertTrue((thing.__doc__ or "").strip(), name)
            for word, member in vars(thing).items() if isinstance(thing, type) else ():
                if callable(member) and not word.startswith("_"):
                    self.assertTrue((member.__doc__ or "").strip(), f"{name}.{word}")

    def test_the_version_is_the_programs(self):
        version = re.search(r'^version = "(.*)"', (HERE.parent / "Cargo.toml").read_text(), re.MULTILINE).group(1)
        project = re.search(r'^version = "(.*)"', (HERE / "pyproject.toml").read_text(), re.MULTILINE).group(1)
        self.assertEqual((project, slm_mesh.__version__), (version, version))
        self.assertTrue((HERE / "slm_mesh" / "py.typed").exists())

    def test_the_oldest_python_that_is_promised_can_read_it(self):
        project = (HERE / "pyproject.toml").read_text(encoding="utf-8")
        oldest = re.search(r'requires-python = ">=3\.(\d+)"', project).group(1)
        for file in (HERE / "slm_mesh").glob("*.py"):
            ast.parse(file.read_text(encoding="utf-8"), str(file), feature_version=(3, int(oldest)))

    def test_lines_and_files_are_short_enough_to_read(self):
        for file in [*(HERE / "slm_mesh").glob("*.py"), *(HERE / "tests").glob("*.py")]:
            lines = file.read_text(encoding="utf-8").splitlines()
            self.assertLessEqual(len(lines), 500, file)
            self.assertLessEqual(max(map(len, lines), default=0), 120, file)


if __name__ == "__main__":
    unittest.main()
