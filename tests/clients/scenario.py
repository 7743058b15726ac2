"""Two agents at work: what every official client must be able to do through slm-mesh.

A client is anything with `tools()`, `call(name, arguments, on_progress=None)` that answers (value, is_error), and
`abandon(task, …)` that cancels a call in flight. Nothing here sleeps: if something takes time, the scenario asks again
until a condition holds, or makes the server itself wait.
"""

import asyncio
import json
import os
import sys

TOOLS = ["mesh_peers", "mesh_summary", "mesh_send", "mesh_inbox", "mesh_state", "mesh_lock", "mesh_events", "mesh_status"]
LIMIT_SECONDS = 60


class Refused(Exception):
    """The server answered with an error of the protocol."""

    def __init__(self, code, text):
        super().__init__(text)
        self.code, self.text = code, text


def read_result(content, is_error):
    """The JSON in a result, and whether it is an error. A result consists of one text."""
    assert len(content) == 1 and content[0].type == "text", content
    return json.loads(content[0].text), bool(is_error)


def mesh_env():
    """The variables that a client must pass on, because an SDK does not pass its own environment to a server."""
    return {name: value for name, value in os.environ.items() if name.startswith("SLM_MESH_")}


def folder(name):
    """Where an agent works."""
    path = os.path.join(os.getcwd(), name)
    os.makedirs(path, exist_ok=True)
    return path


def run(main):
    """Runs a scenario, which fails if it takes too long."""
    asyncio.run(asyncio.wait_for(main(sys.argv[1:]), LIMIT_SECONDS))
    print("passed")


async def ok(client, name, **arguments):
    value, is_error = await client.call(name, arguments)
    assert not is_error, (name, arguments, value)
    return value


async def is_under_way(client):
    """Makes two calls, so that the call of an earlier task has certainly reached the server: calls arrive in the order
    in which they are written, and the task wrote its call at the latest while the first of the two was under way."""
    await ok(client, "mesh_status")
    await ok(client, "mesh_status")


async def until(what, ask):
    """Asks again until the answer is true, or until the time limit of `run` is over."""
    while not (answer := await ask()):
        await asyncio.sleep(0)
    assert answer, what
    return answer


async def play(a, b):
    """The whole scenario."""
    names = await find_each_other(a, b)
    await talk(a, b, names)
    await share(a, b)
    await contend(a, b, names)
    await watch(a, b)
    await cancel(a, b, names)
    await go_wrong(a)


async def find_each_other(a, b):
    for client in (a, b):
        assert await client.tools() == TOOLS
        await ok(client, "mesh_status")
    await ok(b, "mesh_summary", summary="writing the parser")
    seen = {}
    for client, other in ((a, "beta"), (b, "alpha")):
        peers = await ok(client, "mesh_peers", scope="machine")
        [peer] = [peer for peer in peers["peers"] if peer["projectPath"] == folder(other)]
        seen[other] = peer
        assert peers["you"]["id"] != peer["id"], peers
    assert seen["beta"]["summary"] == "writing the parser", seen
    return {"alpha": seen["alpha"]["name"], "beta": seen["beta"]["name"]}


async def talk(a, b, names):
    text = "which port? \u2013 \u00fc \U0001f980"
    sent = await ok(a, "mesh_send", to=names["beta"], message=text)
    inbox = await ok(b, "mesh_inbox", waitSeconds=20)
    [message] = inbox["messages"]
    assert message["payload"] == text and message["fromName"] == names["alpha"], message
    assert message["id"] == sent["messageId"] and inbox["remaining"] == 0, (message, sent)

    async def receipt():
        rows = (await ok(a, "mesh_inbox", filter="sent"))["messages"]
        [row] = [row for row in rows if row["id"] == sent["messageId"]]
        return row["receipt"]

    async def is_read():
        return await receipt() == "read"

    await until("the receipt says read", is_read)
    await ok(b, "mesh_send", to=names["alpha"], message="7899", replyTo=sent["messageId"])
    assert await receipt() == "acked"
    [reply] = (await ok(a, "mesh_inbox"))["messages"]
    assert reply["payload"] == "7899" and reply["replyTo"] == sent["messageId"], reply


async def share(a, b):
    first = await ok(a, "mesh_state", action="set", key="port", value="1", expect=0)
    again, is_error = await b.call("mesh_state", {"action": "set", "key": "port", "value": "2", "expect": 0})
    assert is_error and again["kind"] == "conflict", again
    version = first["version"]
    second = await ok(b, "mesh_state", action="set", key="port", value="2", expect=version)
    assert second["version"] > version, (first, second)
    late, is_error = await a.call("mesh_state", {"action": "set", "key": "port", "value": "3", "expect": version})
    assert is_error and late["kind"] == "conflict", late
    got = await ok(a, "mesh_state", action="get", key="port")
    assert "2" in json.dumps(got) and str(second["version"]) in json.dumps(got), got


async def contend(a, b, names):
    path = os.path.join(os.getcwd(), "shared.rs")
    lock = {"action": "lock", "filePath": path}
    held = await ok(a, "mesh_lock", reason="refactoring", **lock)
    refused, is_error = await b.call("mesh_lock", lock)
    assert is_error and refused["kind"] == "held", refused
    for word in (path, names["alpha"], "refactoring"):
        assert word in refused["error"], (word, refused)
    # The first progress notification comes after ten seconds; the file is unlocked only then.
    alive = asyncio.Event()
    seen = []

    async def on_progress(progress, total=None, message=None):
        seen.append(progress)
        alive.set()

    waiting = asyncio.create_task(b.call("mesh_lock", {**lock, "waitSeconds": 50}, on_progress=on_progress))
    waiting.add_done_callback(lambda _: alive.set())
    await alive.wait()
    assert not waiting.done(), waiting.result()
    assert seen[0] > 0, seen
    in_line = await ok(a, "mesh_lock", action="query", filePath=path)
    assert names["beta"] in json.dumps(in_line["locks"][0]["queue"]), in_line
    await ok(a, "mesh_lock", action="unlock", filePath=path)
    granted, is_error = await waiting
    assert not is_error and granted["token"] > held["token"], (held, granted)
    await ok(b, "mesh_lock", action="unlock", filePath=path)


async def watch(a, b):
    stand = (await ok(a, "mesh_events", limit=1))["seq"]
    news = asyncio.create_task(a.call("mesh_events", {"after": stand, "types": ["build.done"], "waitSeconds": 20}))
    await is_under_way(a)
    await ok(b, "mesh_state", action="set", key="done", value="yes")
    await ok(b, "mesh_events", action="emit", type="build.done", payload={"commit": "abc"})
    value, is_error = await news
    assert not is_error and value["events"][0]["payload"] == {"commit": "abc"}, value
    seen = await ok(a, "mesh_events", after=stand)
    types = [event["type"] for event in seen["events"]]
    assert types.index("state_changed") < types.index("build.done"), types


async def cancel(a, b, names):
    waiting = asyncio.create_task(b.call("mesh_inbox", {"waitSeconds": 50}))
    await is_under_way(b)
    await b.abandon(waiting)
    await ok(b, "mesh_status")
    await ok(a, "mesh_send", to=names["beta"], message="still there?")
    [message] = (await ok(b, "mesh_inbox"))["messages"]
    assert message["payload"] == "still there?" and not message.get("redelivered"), message


async def go_wrong(a):
    try:
        value = await a.call("mesh_teleport", {})
    except Refused as refused:
        assert refused.code == -32602 and "mesh_teleport" in refused.text, refused
    else:
        raise AssertionError(f"an unknown tool was answered: {value}")
    for arguments in ({"to": "x"}, {"to": "x", "message": 7}, {"to": "x", "message": "y", "mesage": "z"}):
        value, is_error = await a.call("mesh_send", arguments)
        assert is_error and "mes" in value["error"] and value["kind"] == "usage", value
