"""A mock model on loopback, which speaks the protocols of coding agents: Anthropic Messages, OpenAI Responses and Chat
Completions, and Gemini. A generator, called a play here, decides what it answers. Each request is logged as a
line."""

import http.server
import json
import re
import sys
import threading


class Call:
    """A tool call by the model: to the tool with this name, or else to the first tool whose name ends with it."""

    def __init__(self, tool, arguments):
        self.tool, self.arguments = tool, arguments


class Request:
    """One request of an agent's main loop."""

    def __init__(self, body, tools):
        self.body, self.tools = body, tools
        self.text = "\n".join(strings(body))

    def offers(self):
        """The names of the offered tools, without the prefix that an agent adds to the tools of a server. Includes the
        names of our tools if the agent does not list them, but lets the model call them through another tool."""
        names = [tool["name"] for tool in self.tools]
        names += self.deferred() if CALLS_DEFERRED in names else []
        names += re.findall(r"mcp_slm_mesh\.(mesh_[a-z]+)", self.text) if RUNS_CODE in names else []
        return [name[max(name.rfind("mesh_"), 0):] for name in names]

    def deferred(self):
        """The full names of our tools that occur anywhere in the request."""
        return sorted(set(re.findall(r"[\w-]*slm-mesh_+mesh_[a-z]+", self.text)))

    def count(self, word):
        return self.text.count(word)


def strings(value):
    """All strings in a JSON value. A string that contains JSON is not parsed."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for one in value.values():
            yield from strings(one)
    elif isinstance(value, list):
        for one in value:
            yield from strings(one)


# The tool with which a model calls tools that its agent does not list.
CALLS_DEFERRED = "tool_call"
# The tool with which a model runs code that calls the tools of servers.
RUNS_CODE = "run_typescript"
SEARCHES = ("tool_search", "ToolSearch", "search_tool_functions")


def looked_for(request):
    """Searches for our tools, if the agent lists them only after the model has searched for them."""
    search = next((tool for tool in request.tools if tool["name"] in SEARCHES), None)
    if search is None or "mesh_status" in [tool["name"][-11:] for tool in request.tools]:
        return request
    if search.get("type") == "tool_search":
        words = {"query": "mesh peers status inbox send lock state events summary", "limit": 20}
    elif search["name"] == "search_tool_functions":
        words = {"mode": "all_connector_capabilities", "connectors": ["mcp_slm_mesh"]}
    else:
        words = {"query": "select:" + ",".join(request.deferred())}
    return (yield Call(search["name"], words))


def by_word(plays):
    """The play of a model that serves several sessions: each play has a word, and a request goes to the first play of
    which it contains the word. What a session asks after the end of its play does not matter."""
    for play in plays.values():
        next(play)
    answer = None
    while True:
        request = yield answer
        word = next((word for word in plays if request.count(word)), None)
        try:
            answer = plays[word].send(request) if word else "Done."
        except StopIteration:
            answer = "Done."


class Model(http.server.ThreadingHTTPServer):
    """Answers each request of the main loop with what the play yields, and "Done." once the play has ended. A request
    that offers at most three tools is not part of the main loop, but asks for a title or a summary: it gets a fixed
    answer, and the play does not see it."""

    daemon_threads = True

    def __init__(self, log, offers_tools=True):
        super().__init__(("127.0.0.1", 0), Door)
        # If an agent offers its model no tools, all of its requests count as requests of the main loop.
        self.offers_tools = offers_tools
        self.lock, self.log = threading.Lock(), open(log, "a", buffering=1)
        self.requests, self.play, self.number, self.trouble = [], None, 0, None
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def handle_error(self, request, client_address):
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)  # an OSError means that the agent ended during a request

    def perform(self, play):
        """Sets the play for the next run: a generator that takes requests and yields answers."""
        with self.lock:
            self.requests, self.play, self.trouble = [], play, None
            next(play)

    def note(self, **facts):
        self.log.write(json.dumps(facts) + "\n")

    def answer(self, path, body, tools):
        """The answer, which is a text or a Call, and a number that makes ids unique."""
        with self.lock:
            self.number += 1
            main = len(tools) > 3 or not self.offers_tools
            self.note(n=self.number, path=path, main=main, body=body)
            if not main:
                return "{}", self.number
            request = Request(body, tools)
            self.requests.append(request)
            try:
                answer = self.play.send(request)
            except StopIteration:
                answer = "Done."
            except Exception as error:
                self.trouble, answer = repr(error), "Done."
            if isinstance(answer, Call):
                fits = [tool for tool in tools if tool["name"].endswith(answer.tool)]
                found = min(fits, key=lambda tool: tool["name"] != answer.tool, default=None)
                deferred = [name for name in request.deferred() if name.endswith(answer.tool)]
                if found is None and deferred and any(tool["name"] == CALLS_DEFERRED for tool in tools):
                    answer = Call(CALLS_DEFERRED, {"name": deferred[0], "arguments": answer.arguments})
                    found = {"name": CALLS_DEFERRED}
                if found is None and any(tool["name"] == RUNS_CODE for tool in tools):
                    call = f"tools.mcp_slm_mesh.{answer.tool}({json.dumps(answer.arguments)})"
                    answer = Call(RUNS_CODE, {"code": f"async function main() {{ return await {call}; }}"})
                    found = {"name": RUNS_CODE}
                if found is None:
                    self.trouble = f"no tool {answer.tool} among {sorted(tool['name'] for tool in tools)}"
                    answer = "There is no such tool."
                else:
                    answer.offered = found
            self.note(n=self.number, answer=vars(answer) if isinstance(answer, Call) else answer)
            return answer, self.number


class Door(http.server.BaseHTTPRequestHandler):
    """The four protocols: each has its own form of tools, and its own form of stream."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.give({})

    def do_GET(self):
        self.server.note(get=self.path)
        self.give({"object": "list", "data": [{"id": "mock", "object": "model"}], "models": []})

    def do_POST(self):
        raw = self.rfile.read(int(self.headers.get("content-length") or 0))
        try:
            body = json.loads(raw)
        except ValueError:
            body = None
        path = self.path.split("?")[0]
        if not isinstance(body, dict):
            self.server.note(path=path, unread=len(raw), encoding=self.headers.get("content-encoding"))
            return self.give({})
        for end, serve in ROADS:
            if path.endswith(end):
                return serve(self, path, body)
        self.server.note(path=path, body=body)
        return self.give({})

    def give(self, value):
        self.send(json.dumps(value).encode(), "application/json")

    def stream(self, events):
        """Sends server-sent events. An event with a type is named after the type."""
        lines = []
        for event in events:
            name = f"event: {event['type']}\n" if isinstance(event, dict) and "type" in event else ""
            lines.append(f"{name}data: {event if isinstance(event, str) else json.dumps(event)}\n\n")
        self.send("".join(lines).encode(), "text/event-stream")

    def send(self, data, kind):
        self.send_response(200)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        try:
            self.wfile.write(data)
        except OSError:
            pass  # the agent has hung up


def anthropic(door, path, body):
    answer, n = door.server.answer(path, body, [{"name": tool.get("name", "")} for tool in body.get("tools") or []])
    if isinstance(answer, Call):
        whole = {"type": "tool_use", "id": f"toolu_{n:024}", "name": answer.offered["name"], "input": answer.arguments}
        empty = {**whole, "input": {}}
        delta = {"type": "input_json_delta", "partial_json": json.dumps(answer.arguments)}
        reason = "tool_use"
    else:
        whole, empty = {"type": "text", "text": answer}, {"type": "text", "text": ""}
        delta, reason = {"type": "text_delta", "text": answer}, "end_turn"
    message = {"id": f"msg_{n:024}", "type": "message", "role": "assistant", "model": body.get("model"),
               "stop_sequence": None, "usage": {"input_tokens": 1, "output_tokens": 1}}
    if not body.get("stream"):
        return door.give({**message, "content": [whole], "stop_reason": reason})
    return door.stream([
        {"type": "message_start", "message": {**message, "content": [], "stop_reason": None}},
        {"type": "content_block_start", "index": 0, "content_block": empty},
        {"type": "content_block_delta", "index": 0, "delta": delta},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": reason, "stop_sequence": None},
         "usage": {"output_tokens": 1}},
        {"type": "message_stop"},
    ])


def responses(door, path, body):
    # Tools that the model searched for and found are offered from then on.
    found = [tool for item in body.get("input") or [] for tool in item.get("tools") or []]
    tools = []
    for tool in [*(body.get("tools") or []), *found]:
        for inner in tool["tools"] if tool.get("type") == "namespace" else [tool]:
            space = tool["name"] if inner is not tool else None
            tools.append({"name": inner.get("name") or inner["type"], "type": inner.get("type"), "space": space})
    answer, n = door.server.answer(path, body, tools)
    if not isinstance(answer, Call):
        item = {"type": "message", "id": f"msg_{n}", "role": "assistant",
                "content": [{"type": "output_text", "text": answer}]}
    elif answer.offered["type"] == "tool_search":
        item = {"type": "tool_search_call", "id": f"tsc_{n}", "call_id": f"call_{n}", "execution": "client",
                "status": "completed", "arguments": answer.arguments}
    elif answer.offered["type"] == "custom":
        item = {"type": "custom_tool_call", "id": f"ctc_{n}", "call_id": f"call_{n}", "name": answer.offered["name"],
                "input": answer.arguments["input"]}
    else:
        item = {"type": "function_call", "id": f"fc_{n}", "call_id": f"call_{n}", "name": answer.offered["name"],
                "arguments": json.dumps(answer.arguments)}
        if answer.offered["space"]:
            item["namespace"] = answer.offered["space"]
    usage = {"input_tokens": 1, "input_tokens_details": None, "output_tokens": 1, "output_tokens_details": None,
             "total_tokens": 2}
    return door.stream([
        {"type": "response.created", "response": {"id": f"resp_{n}"}},
        {"type": "response.output_item.done", "output_index": 0, "item": item},
        {"type": "response.completed", "response": {"id": f"resp_{n}", "usage": usage}},
    ])


def completions(door, path, body):
    functions = [tool["function"] for tool in body.get("tools") or [] if "function" in tool]
    tools = [{"name": one["name"], "required": one.get("parameters", {}).get("required", [])} for one in functions]
    answer, n = door.server.answer(path, body, tools)
    if isinstance(answer, Call):
        # OpenHands wants the model to judge each call.
        judged = {"security_risk": "LOW"} if "security_risk" in answer.offered.get("required", []) else {}
        call = {"index": 0, "id": f"call_{n}", "type": "function",
                "function": {"name": answer.offered["name"], "arguments": json.dumps({**judged, **answer.arguments})}}
        said, reason = {"role": "assistant", "content": None, "tool_calls": [call]}, "tool_calls"
    else:
        said, reason = {"role": "assistant", "content": answer}, "stop"
    head = {"id": f"chat_{n}", "created": 1, "model": body.get("model")}
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    if not body.get("stream"):
        choice = {"index": 0, "message": said, "finish_reason": reason}
        return door.give({**head, "object": "chat.completion", "choices": [choice], "usage": usage})
    part = {**head, "object": "chat.completion.chunk"}
    return door.stream([
        {**part, "choices": [{"index": 0, "delta": said, "finish_reason": None}]},
        {**part, "choices": [{"index": 0, "delta": {}, "finish_reason": reason}], "usage": usage},
        "[DONE]",
    ])


def gemini(door, path, body):
    tools = [{"name": one["name"]} for tool in body.get("tools") or [] for one in tool.get("functionDeclarations", [])]
    answer, _ = door.server.answer(path, body, tools)
    if isinstance(answer, Call):
        part = {"functionCall": {"name": answer.offered["name"], "args": answer.arguments}}
    else:
        part = {"text": answer}
    candidate = {"content": {"role": "model", "parts": [part]}, "finishReason": "STOP", "index": 0}
    usage = {"promptTokenCount": 1, "candidatesTokenCount": 1, "totalTokenCount": 2}
    whole = {"candidates": [candidate], "usageMetadata": usage, "modelVersion": "mock"}
    return door.stream([whole]) if "stream" in path else door.give(whole)


ROADS = [
    ("/count_tokens", lambda door, *_: door.give({"input_tokens": 1})),
    (":countTokens", lambda door, *_: door.give({"totalTokens": 1})),
    ("/messages", anthropic),
    ("/responses", responses),
    ("/chat/completions", completions),
    ("enerateContent", gemini),
]
