"""The command ``slm-mesh`` of an installation without the program, such as an installation from source. It runs a
program that is installed elsewhere.
"""

import os
import sys

from . import paths
from .errors import Unavailable


def main() -> None:
    """Runs the program in place of this process."""
    try:
        program = paths.program()
        os.execv(program, [program, *sys.argv[1:]])
    except (OSError, Unavailable) as error:
        sys.exit(f"slm-mesh: {error}")
