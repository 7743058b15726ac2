"""Times calls of the Python package: reads numbers, makes that many calls, and prints the microseconds of each."""

import json
import os
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "python"))

from slm_mesh import Mesh  # noqa: E402

mesh = Mesh(name="python" if sys.argv[2] == "named" else None)
call = {"get": lambda: mesh.state_get("port"), "set": lambda: mesh.state_set("port", sys.argv[3])}[sys.argv[1]]
for line in sys.stdin:
    times = []
    for _ in range(int(line)):
        began = time.perf_counter()
        call()
        times.append((time.perf_counter() - began) * 1e6)
    print(json.dumps(times), flush=True)
