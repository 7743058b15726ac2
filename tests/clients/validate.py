"""Checks the lines of a server against the schema of their protocol version.

validate.py FOLDER-OF-SCHEMAS < lines; each line is {"version", "method", "message"}. The method is that of the request
which the message answers, or null if it answers none. Prints what is wrong, or "checked N".
"""

import json
import os
import sys

from jsonschema import Draft7Validator, Draft202012Validator

RESULTS = {
    "initialize": "InitializeResult",
    "ping": "EmptyResult",
    "server/discover": "DiscoverResult",
    "tools/list": "ListToolsResult",
    "tools/call": "CallToolResult",
}
MODERN = "2026-07-28"
MODERN_ERRORS = {-32022: "UnsupportedProtocolVersionError", -32021: "MissingRequiredClientCapabilityError"}


class Schema:
    def __init__(self, folder, version):
        with open(os.path.join(folder, version + ".json"), encoding="utf-8") as file:
            self.whole = json.load(file)
        self.version = version
        self.is_old = "definitions" in self.whole
        self.where = "definitions" if self.is_old else "$defs"
        self.defs = self.whole[self.where]

    def errors(self, name, value):
        if name not in self.defs:
            return [f"{self.version} has no {name}"]
        kind = Draft7Validator if self.is_old else Draft202012Validator
        checker = kind({"$ref": f"#/{self.where}/{name}", self.where: self.defs})
        found = (next(iter(error.context), error) for error in checker.iter_errors(value))
        return [f"{name}: {'/'.join(map(str, error.absolute_path))}: {error.message[:300]}" for error in found]

    def notification(self, method):
        """The name of the definition of the notification with this method."""
        def says(definition):
            return definition.get("properties", {}).get("method", {}).get("const") == method

        names = [name for name, definition in self.defs.items() if says(definition)]
        return next((name for name in names if name.endswith("Notification")), f"notification {method}")


def check_error(schema, message):
    name = "JSONRPCErrorResponse" if "JSONRPCErrorResponse" in schema.defs else "JSONRPCError"
    found = schema.errors(name, message)
    special = MODERN_ERRORS.get(message["error"].get("code")) if schema.version == MODERN else None
    return found + (schema.errors(special, message) if special else [])


def check_result(schema, method, message):
    result = message["result"]
    name = RESULTS.get(method)
    if name is None:
        return [f"a result for {method}, which no test expects"]
    found = schema.errors(name, result)
    if schema.version == MODERN:
        found += schema.errors(name + "Response", message)
    else:
        strange = {"resultType", "ttlMs", "cacheScope"} & result.keys()
        found += [f"{name}: {sorted(strange)} belong to a later version"] if strange else []
    for tool in result.get("tools", []):
        try:
            Draft202012Validator.check_schema(tool["inputSchema"])
        except Exception as error:
            found.append(f"{tool['name']}: inputSchema: {error}")
    return found


def check(schema, method, message):
    if isinstance(message, list):
        # For a batch, `method` maps ids to methods.
        found = schema.errors("JSONRPCMessage", message)
        return found + [text for one in message for text in check(schema, method.get(str(one.get("id"))), one)]
    found = schema.errors("JSONRPCMessage", message)
    if "method" in message:
        if "id" in message:
            return found + ["a server of ours sends no requests"]
        return found + schema.errors(schema.notification(message["method"]), message)
    if "error" in message:
        return found + check_error(schema, message)
    return found + check_result(schema, method, message)


def main():
    schemas, n_wrong, n = {}, 0, 0
    for line in sys.stdin:
        given = json.loads(line)
        version = given["version"]
        schema = schemas.setdefault(version, None) or Schema(sys.argv[1], version)
        schemas[version] = schema
        n += 1
        for text in check(schema, given["method"], given["message"]):
            n_wrong += 1
            print(f"{version}: {text}\n  {json.dumps(given['message'])[:400]}")
    print(f"checked {n}")
    sys.exit(1 if n_wrong else 0)


main()
