"""A sandbox on a free port, a client for it, and somebody who takes its webhooks."""

import asyncio
import contextlib
import json
import socket
from dataclasses import dataclass, field

import httpx
import pytest
import uvicorn

from receiver.sandbox.options import Options
from receiver.sandbox.server import Running, running

FAST = 0.02
FINAL = {"succeeded", "failed", "canceled", "aborted"}
TINY = {"prompt": "a cat", "width": 16, "height": 16, "seed": 1}


@dataclass
class Call:
    headers: list
    body: bytes

    def header(self, name):
        return next((value for key, value in self.headers if key == name), None)

    @property
    def told(self):
        return json.loads(self.body)


@dataclass
class Hook:
    """Takes webhooks at `url`, answers with `statuses` in turn and then 200."""

    url: str
    calls: list = field(default_factory=list)
    statuses: list = field(default_factory=list)
    location: str = ""
    silent_s: float = 0.0

    async def __call__(self, scope, receive, send):
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        headers = [(name.decode(), value.decode()) for name, value in scope["headers"]]
        self.calls.append(Call(headers, body))
        await asyncio.sleep(self.silent_s)
        status = self.statuses.pop(0) if self.statuses else 200
        location = [(b"location", self.location.encode())] if self.location else []
        await send({"type": "http.response.start", "status": status, "headers": location})
        await send({"type": "http.response.body", "body": b""})

    async def until(self, count, seconds=5):
        async with asyncio.timeout(seconds):
            while len(self.calls) < count:  # noqa: ASYNC110 - the calls come from outside
                await asyncio.sleep(0.01)
        return self.calls


@dataclass
class Api:
    """Replicate's API as a client sees it, and the sandbox's own beside it."""

    running: Running
    http: httpx.AsyncClient

    async def make(self, model="sandbox/image", told=None, *, sandbox=None, hook=None, events=None, headers=None):
        """Creates a prediction and waits for nothing; gives the answer's JSON."""
        body = {"version": model, "input": dict(TINY if told is None else told)}
        if sandbox is not None:
            body["input"]["sandbox"] = sandbox
        if hook is not None:
            body["webhook"] = hook if isinstance(hook, str) else hook.url
        if events is not None:
            body["webhook_events_filter"] = events
        answer = await self.http.post("/predictions", json=body, headers=headers)
        assert answer.status_code == 201, answer.text
        return answer.json()

    async def finished(self, told):
        async with asyncio.timeout(10):
            while True:
                now = (await self.http.get(f"/predictions/{told['id']}")).json()
                if now["status"] in FINAL:
                    return now
                await asyncio.sleep(0.01)

    async def run(self, model="sandbox/image", told=None, **more):
        return await self.finished(await self.make(model, told, **more))

    async def belief(self, told):
        answer = await self.http.get(f"{self.running.url}/_sandbox/predictions", params={"id": told["id"]})
        return answer.json()["predictions"][0]

    async def control(self, path, told=None):
        return await self.http.post(f"{self.running.url}/_sandbox{path}", json=told or {})


@pytest.fixture
async def stack():
    async with contextlib.AsyncExitStack() as held:
        yield held


@pytest.fixture
def start(stack):
    """Starts a sandbox with the given options and gives its `Api`."""

    async def started(**options):
        found = await stack.enter_async_context(running(Options(**{"seed": 7, "speed": FAST, **options})))
        headers = {"authorization": f"Bearer {found.token}"}
        client = httpx.AsyncClient(base_url=found.api_url, headers=headers, timeout=10, trust_env=False)
        return Api(found, await stack.enter_async_context(client))

    return started


@pytest.fixture
async def api(start):
    return await start()


@pytest.fixture
async def hook(stack):
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    stack.callback(listening.close)
    listening.bind(("127.0.0.1", 0))
    made = Hook(f"http://127.0.0.1:{listening.getsockname()[1]}/hook?customId=123")
    config = uvicorn.Config(made, lifespan="off", log_config=None, access_log=False, timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server._serve([listening]))
    while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
        await asyncio.sleep(0.005)
    yield made
    server.should_exit = True
    await serving
