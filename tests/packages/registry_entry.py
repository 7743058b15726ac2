"""Checks target/plugins/server.json as the MCP registry does before it publishes an entry: the rules of its schema of
2025-12-11 for all fields that we use, and that each package claims the entry's name."""

import json
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
SCHEMA = "https://static.modelcontextprotocol.io/schemas/2025-12-11/server.schema.json"
# For each field: whether the field must be there, and a pattern for its whole text, or a function that checks its
# value.
TEXT = r"[^\0]+"
VERSION = r"\d+\.\d+\.\d+"


def is_list_of(fields):
    return lambda values: isinstance(values, list) and all(check(value, fields) is None for value in values)


def is_object_of(fields):
    return lambda value: check(value, fields) is None


TRANSPORT = {"type": (True, "stdio")}
ARGUMENT = {"type": (True, "positional"), "value": (True, TEXT)}
PACKAGE = {
    "registryType": (True, "npm|pypi|mcpb"),
    "identifier": (True, TEXT),
    "version": (False, VERSION),
    "runtimeHint": (False, "npx|uvx"),
    "fileSha256": (False, "[a-f0-9]{64}"),
    "packageArguments": (False, is_list_of(ARGUMENT)),
    "transport": (True, is_object_of(TRANSPORT)),
}
ENTRY = {
    "$schema": (True, re.escape(SCHEMA)),
    "name": (True, r"(?=.{3,200}$)[a-zA-Z0-9.-]+/[a-zA-Z0-9._-]+"),
    "title": (False, ".{1,100}"),
    "description": (True, ".{1,100}"),
    "version": (True, VERSION),
    "packages": (False, is_list_of(PACKAGE)),
}


def check(value, fields):
    """What is wrong with an object; None if nothing is."""
    if not isinstance(value, dict):
        return f"{value!r} is not an object"
    for name in value.keys() - fields.keys():
        return f"{name} is unknown"
    for name, (is_required, rule) in fields.items():
        if name not in value:
            if is_required:
                return f"{name} is missing"
        elif not (rule(value[name]) if callable(rule) else re.fullmatch(rule, str(value[name]))):
            return f"{name} is {value[name]!r}"
    if value.get("registryType") == "mcpb" and "fileSha256" not in value:
        return "fileSha256 is missing"
    return None


def claims(folder):
    """The name of the entry that each package claims, by which the registry knows its owner."""
    for path in (folder / "npm").glob("slm-mesh-[0-9]*.tgz"):
        with tarfile.open(path) as archive:
            yield path.name, json.load(archive.extractfile("package/package.json"))["mcpName"]
    for path in (folder / "wheels").glob("*.whl"):
        with zipfile.ZipFile(path) as archive:
            about = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
            found = re.findall(r"<!-- mcp-name: (\S+) -->", archive.read(about).decode())
            yield path.name, "".join(found)


def main():
    entry = json.loads((TOP / "target/plugins/server.json").read_text())
    wrong = check(entry, ENTRY)
    assert wrong is None, f"server.json: {wrong}"
    # The rules must notice what they are meant to refuse.
    for name, value in [("name", "no slash"), ("description", "x" * 101), ("version", "^2.0.0"), ("else", 1),
                        ("packages", [{"registryType": "npm", "identifier": "slm-mesh"}])]:
        assert check({**entry, name: value}, ENTRY), name
    found = dict(claims(TOP / "target"))
    assert len(found) >= 2, f"packages: {list(found)}"
    for path, name in found.items():
        assert name == entry["name"], f"{path} claims {name}"


main()
