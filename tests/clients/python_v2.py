"""The scenario with PyPI mcp 2.x: python_v2.py PROGRAM MODE, MODE being auto, legacy or a version."""

import asyncio

import scenario
from mcp import Client, MCPError, StdioServerParameters
from mcp.client.stdio import stdio_client


class Agent:
    def __init__(self, client):
        self.client = client

    async def tools(self):
        return [tool.name for tool in (await self.client.list_tools()).tools]

    async def call(self, name, arguments, on_progress=None):
        try:
            result = await self.client.call_tool(name, arguments, progress_callback=on_progress)
        except MCPError as error:
            raise scenario.Refused(error.error.code, error.error.message) from error
        return scenario.read_result(result.content, result.is_error)

    async def abandon(self, task):
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()


async def main(arguments):
    program, mode = arguments

    def connect(name):
        server = StdioServerParameters(command=program, env=scenario.mesh_env(), cwd=scenario.folder(name))
        return Client(stdio_client(server), mode=mode)

    async with connect("alpha") as a, connect("beta") as b:
        wanted = "2025-11-25" if mode == "legacy" else "2026-07-28"
        assert a.protocol_version == wanted and b.protocol_version == wanted, a.protocol_version
        await scenario.play(Agent(a), Agent(b))


scenario.run(main)
