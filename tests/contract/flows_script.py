"""A Replicate whose every answer is chosen by a test: predictions go on when told to, and files misbehave when told to."""

import asyncio
import base64
import contextlib
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from receiver.core.clock import iso

RETENTION_MS = 3_600_000
MODEL = "script/model"
DATA = 6
# Of an output: the path of each file, and the name under which it is served. The first has no output, the second words.
SHAPES: tuple[dict[str, str], ...] = (
    {},
    {},
    {"output": "one"},
    {"output.0": "first", "output.1": "second"},
    {"output.image": "deep"},
    {"output.0": "same", "output.1": "same"},
    {"output": "within"},
)


def content(story: str, name: str) -> bytes:
    return f"{story} {name} ".encode() * 50


@dataclass
class Story:
    """One prediction as Replicate knows it. `files` are the bytes served by path; `bad` counts wrong answers by path."""

    id: str
    shape: int
    created_ms: int
    webhook: str | None = None
    status: str = "starting"
    completed_ms: int | None = None
    files: dict[str, bytes] = field(default_factory=dict)
    bad: Counter[tuple[str, str]] = field(default_factory=Counter)

    @property
    def final(self) -> bool:
        return self.completed_ms is not None

    def removed(self, now_ms: int) -> bool:
        return self.completed_ms is not None and now_ms >= self.completed_ms + RETENTION_MS


@dataclass(frozen=True)
class Word:
    """Something that Replicate said by webhook, to be said again at any time."""

    id: str
    body: bytes


class Script:
    """`asking`, `listing`, `creating` and `serving` say how the next calls of a kind are answered; `ok` is as it should.

    asking, listing: ok, 501, 404, nonsense. creating: ok, lost, refused. serving: ok, 404, 500, cut.
    """

    def __init__(self, now_ms: Callable[[], int]) -> None:
        self.now_ms = now_ms
        self.stories: dict[str, Story] = {}
        self.words: list[Word] = []
        self.asking = self.listing = self.creating = self.serving = "ok"
        self.held: asyncio.Event | None = None  # files that are asked for now are answered once it is set
        self.hidden = False  # the list's items lack what only a question brings
        self.origin = ""
        self._server: asyncio.Server

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.origin = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def stop(self) -> None:
        self._server.close()

    def heal(self) -> None:
        self.asking = self.listing = self.creating = self.serving = "ok"
        self.hidden = False

    def begin(self, shape: int, webhook: str | None = None) -> Story:
        story = Story(f"story{len(self.stories):04d}", shape, self.now_ms(), webhook)
        self.stories[story.id] = story
        self._speak(story)
        return story

    def go_on(self, story: Story, *, ends: str) -> None:
        """From starting to processing, or to its end."""
        if story.final:
            return
        story.status = "processing" if story.status == "starting" and ends == "processing" else ends
        if story.status in ("succeeded", "failed", "canceled"):
            story.completed_ms = self.now_ms()
        self._speak(story)

    def told(self, story: Story) -> dict[str, Any]:
        """The prediction as an answer or a webhook would have it now."""
        removed = story.removed(self.now_ms())
        return {
            "id": story.id,
            "model": MODEL,
            "version": "hidden",
            "input": {} if removed else {"prompt": story.id},
            "output": None if removed else self._output(story),
            "logs": None if removed else f"{story.status}\n",
            "error": "It broke." if story.status == "failed" else None,
            "status": story.status,
            "data_removed": removed,
            "created_at": iso(story.created_ms),
            "completed_at": None if story.completed_ms is None else iso(story.completed_ms),
            "urls": {"get": f"{self.origin}/v1/predictions/{story.id}"},
        }

    def _output(self, story: Story) -> Any:
        """In the order of `SHAPES`. While it runs a list grows; anything else comes at the end."""
        if story.status in ("starting", "failed", "canceled"):
            return None
        early = story.status == "processing"
        files = {path: name for path, name in SHAPES[story.shape].items() if not early or path == "output.0"}
        story.files |= {path: content(story.id, name) for path, name in files.items()}
        urls = {path: f"{self.origin}/files/{story.id}/{name}" for path, name in files.items()}
        if urls.keys() & {"output.0"}:
            return list(urls.values())
        if early:
            return None
        if story.shape == DATA:
            return f"data:text/plain;base64,{base64.b64encode(story.files['output']).decode('ascii')}"
        if "output.image" in urls:
            return {"image": urls["output.image"], "text": "words"}
        return urls.get("output", "just words" if story.shape else None)

    def _speak(self, story: Story) -> None:
        self.words.append(Word(f"msg_{len(self.words)}", json.dumps(self.told(story)).encode()))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            method, path, _ = head.split(" ", 2)
            length = next(
                (int(line[15:]) for line in head.lower().split("\r\n") if line.startswith("content-length:")), 0
            )
            body = await reader.readexactly(length)
            answer, held = self._answer(method, path.partition("?")[0], body), self.held
            if held is not None and path.startswith("/files/"):
                await held.wait()
            writer.write(answer)
            await writer.drain()
        writer.close()

    def _answer(self, method: str, path: str, body: bytes) -> bytes:
        if path.startswith("/files/"):
            return self._served(*path.removeprefix("/files/").split("/"))
        if method == "POST":
            return self._created(json.loads(body))
        if path == "/v1/predictions":
            return self._odd(self.listing) or _json(200, self._listed())
        story = self.stories.get(path.removeprefix("/v1/predictions/"))
        return self._odd(self.asking) or (_json(200, self.told(story)) if story else _json(404, {"detail": "no"}))

    def _listed(self) -> dict[str, Any]:
        items = [self.told(story) for story in reversed(self.stories.values())]
        if self.hidden:
            items = [{name: item[name] for name in ("id", "status", "created_at", "completed_at")} for item in items]
        return {"next": None, "previous": None, "results": items}

    def _created(self, asked: dict[str, Any]) -> bytes:
        if self.creating == "refused":
            return _json(422, {"title": "No", "detail": "No.", "status": 422})
        story = self.begin(asked["input"]["shape"], asked.get("webhook"))
        return b"" if self.creating == "lost" else _json(201, self.told(story))

    def _served(self, number: str, name: str) -> bytes:
        story = self.stories[number]
        gone = story.removed(self.now_ms())
        odd = "404" if gone else self.serving
        data = content(number, name)
        if odd == "ok":
            return _whole(200, "application/octet-stream", data)
        story.bad[name, odd] += 1
        if odd == "cut":
            return _whole(200, "application/octet-stream", data)[: -len(data) // 2]
        return _whole(int(odd), "text/html", b"<h1>no</h1>")

    @staticmethod
    def _odd(word: str) -> bytes | None:
        if word == "ok":
            return None
        return _whole(200, "application/json", b'{"id":') if word == "nonsense" else _json(int(word), {"detail": "no"})


def _json(status: int, told: Any) -> bytes:
    return _whole(status, "application/json", json.dumps(told).encode())


def _whole(status: int, content_type: str, body: bytes) -> bytes:
    head = f"HTTP/1.1 {status} Said\r\ncontent-type: {content_type}\r\ncontent-length: {len(body)}\r\nconnection: close"
    return f"{head}\r\n\r\n".encode() + body
