"""The scenario with PyPI mcp 1.x: python_v1.py PROGRAM."""

import asyncio
from contextlib import AsyncExitStack

import scenario
from mcp import ClientSession, StdioServerParameters, types
from mcp.client.stdio import stdio_client
from mcp.shared.exceptions import McpError


class Agent:
    def __init__(self, session):
        self.session = session
        self.ids = {}

    async def tools(self):
        return [tool.name for tool in (await self.session.list_tools()).tools]

    async def call(self, name, arguments, on_progress=None):
        self.ids[asyncio.current_task()] = self.session._request_id
        try:
            result = await self.session.call_tool(name, arguments, progress_callback=on_progress)
        except McpError as error:
            raise scenario.Refused(error.error.code, error.error.message) from error
        return scenario.read_result(result.content, result.isError)

    async def abandon(self, task):
        # This client does not notify the server by itself when a call is cancelled.
        request_id = self.ids[task]
        task.cancel()
        await asyncio.wait([task])
        params = types.CancelledNotificationParams(requestId=request_id, reason="given up")
        notice = types.CancelledNotification(method="notifications/cancelled", params=params)
        await self.session.send_notification(types.ClientNotification(notice))


async def main(arguments):
    [program] = arguments
    async with AsyncExitStack() as stack:
        agents = []
        for name in ("alpha", "beta"):
            server = StdioServerParameters(command=program, env=scenario.mesh_env(), cwd=scenario.folder(name))
            streams = await stack.enter_async_context(stdio_client(server))
            session = await stack.enter_async_context(ClientSession(*streams))
            hello = await session.initialize()
            assert hello.protocolVersion == "2025-11-25" and hello.instructions, hello
            agents.append(Agent(session))
        await scenario.play(*agents)


scenario.run(main)
