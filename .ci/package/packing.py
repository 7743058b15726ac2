"""What the npm packages and the wheels share: the platforms, their programs, the texts that every package
contains, and archives that are the same bytes each time."""

import gzip
import io
import os
import re
import struct
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import NamedTuple

TOP = Path(__file__).resolve().parent.parent.parent
CARGO_TOML = (TOP / "Cargo.toml").read_text(encoding="utf-8")
VERSION = re.search(r'^version = "(.*)"', CARGO_TOML, re.MULTILINE).group(1)
DESCRIPTION = re.search(r'^description = "(.*)"', CARGO_TOML, re.MULTILINE).group(1)
LICENSE = re.search(r'^license = "(.*)"', CARGO_TOML, re.MULTILINE).group(1)
# The name in the MCP registry, which both packages must state to prove that they belong to the entry. In the registry,
# owners may publish only below their own names; make OWNER=… sets another owner.
REGISTRY_NAME = f"io.github.{os.environ.get('OWNER') or 'slm-mesh'}/slm-mesh"
DATE = int(os.environ.get("SOURCE_DATE_EPOCH", "0"))

MUSL = """
Files: musl
Copyright: 2005-2020 Rich Felker, et al.
License: Expat
Comment: The program also contains parts of musl, the C library.
"""


class Platform(NamedTuple):
    name: str
    """The name that node uses: system and processor."""
    target: str
    """The name that rustc uses."""
    magic: bytes
    """The bytes with which programs for this platform begin."""
    processor: "tuple[int, bytes]"
    """The offset at which the header of a program names the processor, and the bytes there."""
    tags: str
    """The name that PyPI uses. A static program runs with any C library, so this name states the oldest one that pip
    knows; on macOS, it states the oldest release for which Rust links programs."""


PLATFORMS = [
    Platform("linux-x64", "x86_64-unknown-linux-musl", b"\x7fELF", (18, b"\x3e\x00"),
             "manylinux_2_17_x86_64.manylinux2014_x86_64.musllinux_1_1_x86_64"),
    Platform("linux-arm64", "aarch64-unknown-linux-musl", b"\x7fELF", (18, b"\xb7\x00"),
             "manylinux_2_17_aarch64.manylinux2014_aarch64.musllinux_1_1_aarch64"),
    Platform("darwin-x64", "x86_64-apple-darwin", b"\xcf\xfa\xed\xfe", (4, b"\x07\x00\x00\x01"), "macosx_10_12_x86_64"),
    Platform("darwin-arm64", "aarch64-apple-darwin", b"\xcf\xfa\xed\xfe", (4, b"\x0c\x00\x00\x01"), "macosx_11_0_arm64"),
]


def programs(what):
    """Each platform with its program. A platform without one is skipped, with a line that says so."""
    for platform in PLATFORMS:
        file = TOP / "target/programs" / platform.name / "slm-mesh"
        if file.exists():
            program = file.read_bytes()
            check(platform, program, file)
            yield platform, program
        else:
            print(f"{what}: skipped {platform.name}, because {file.relative_to(TOP)} does not exist")


def check(platform, program, file):
    """Refuses a program of another platform or version, or one that depends on the C library of the user."""
    at, processor = platform.processor
    if not program.startswith(platform.magic) or program[at : at + len(processor)] != processor:
        sys.exit(f"{file}: this is not a program for {platform.name}")
    if platform.magic == b"\x7fELF" and 3 in segments(program):
        sys.exit(f"{file}: this program is not static; build it with .ci/package/program")
    # A program of another platform can't be run to print its version, but it must contain the version as text.
    if VERSION.encode() not in program:
        sys.exit(f"{file}: this is not version {VERSION} of the program")


def segments(program):
    """The types of the segments of an ELF program. A segment of type 3 names the dynamic linker."""
    start, size, count = struct.unpack_from("<Q14xHH", program, 32)
    return [struct.unpack_from("<I", program, start + n * size)[0] for n in range(count)]


def licence():
    return (TOP / "LICENSE").read_bytes()


def copyright_notices(platform, program):
    """The copyright file: whose code is in a program, and the texts of its licences."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([TOP / ".ci/package/papers", folder, platform.target], check=True, cwd=TOP)
        text = (Path(folder) / "copyright").read_text(encoding="utf-8")
    is_musl = platform.magic == b"\x7fELF" and b"GNU C Library" not in program
    return (text + (MUSL if is_musl else "")).encode()


def write_tar(path, files):
    """Writes a .tar.gz of (name, mode, content). The files are sorted, belong to root, and have one date."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, mode, content in sorted(files):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode, entry.mtime = len(content), mode, DATE
            tar.addfile(entry, io.BytesIO(content))
    path.write_bytes(gzip.compress(raw.getvalue(), mtime=0))
    report(path)


def report(path):
    print(f"{path.relative_to(TOP)}: {path.stat().st_size} bytes")
