"""The edge against a hostile client: raw sockets, the real `outkeep serve`."""

import asyncio
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.journey.wire import PATH, SECRET, Wire, ask, call, resident_bytes, signature, told
from tests.journey.world import World, until

MIB = 2**20
BODY = b'{"id": "p1", "status": "processing"}'
LENGTH = f"Content-Length: {len(BODY)}"
CHUNKED = "Transfer-Encoding: chunked"
QUIET = {"OUTKEEP_WEBHOOK_SECRETS": SECRET, "OUTKEEP_SWEEP_EVERY_S": "0", "OUTKEEP_RECONCILE_AFTER_S": "3600"}


def request(*lines: str, body: bytes = b"", target: str = f"POST {PATH} HTTP/1.1", webhook_id: str = "odd") -> bytes:
    """A request with a genuine signature for `BODY`, and whatever else."""
    signed = [f"{name}: {value}" for name, value in signature(BODY, webhook_id).items()]
    return "\r\n".join([target, "Host: 127.0.0.1", *signed, *lines, "", ""]).encode("latin-1") + body


def chunked(*, size: str | None = None, extension: str = "", trailer: str = "") -> bytes:
    told_size = f"{len(BODY):x}" if size is None else size
    return f"{told_size}{extension}\r\n".encode() + BODY + f"\r\n0\r\n{trailer}\r\n".encode()


def line(target: str, *lines: str) -> bytes:
    return "\r\n".join([target, "Host: 127.0.0.1", "Connection: close", *lines, "", ""]).encode("latin-1")


REFUSED = {
    "two lengths": (400, request(LENGTH, LENGTH, body=BODY)),
    "a list of lengths": (400, request(f"{LENGTH}, {len(BODY)}", body=BODY)),
    "a signed length": (400, request(f"Content-Length: +{len(BODY)}", body=BODY)),
    "a negative length": (400, request("Content-Length: -1", body=BODY)),
    "a length beyond all numbers": (400, request("Content-Length: " + "9" * 30, body=BODY)),
    "a length beyond the limit": (413, request(f"Content-Length: {32 * MIB + 1}")),
    "length and chunks": (400, request(LENGTH, CHUNKED, body=b"0\r\n\r\n")),
    "chunks and length": (400, request(CHUNKED, LENGTH, body=b"0\r\n\r\n")),
    "chunks with a space before the colon": (400, request("Transfer-Encoding : chunked", LENGTH, body=BODY)),
    "chunks twice": (400, request(CHUNKED, CHUNKED, body=chunked())),
    "chunks that are not last": (400, request("Transfer-Encoding: chunked, gzip", body=chunked())),
    "a coding that nobody knows": (400, request("Transfer-Encoding: xchunked", body=BODY)),
    "a chunk without a size": (400, request(CHUNKED, body=chunked(size="zz"))),
    "a chunk of a negative size": (400, request(CHUNKED, body=chunked(size="-1"))),
    "a chunk beyond all numbers": (400, request(CHUNKED, body=chunked(size="f" * 17))),
    "a chunk longer than it says": (400, request(CHUNKED, body=chunked(size="1"))),
    "a compressed body": (415, request(LENGTH, "Content-Encoding: gzip", body=BODY)),
    "an old signature": (401, call(BODY, "old", ("Connection", "close"), named=signature(BODY, "old", ago_s=301))),
    "nonsense": (400, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),
    "another protocol": (400, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    "a tunnel": (400, line("CONNECT 127.0.0.1:443 HTTP/1.1")),
    "bytes in a target": (400, line("GET /api/\xc3\xa9 HTTP/1.1")),
    "a nul in a target": (400, line("GET /api/\x00 HTTP/1.1")),
    "a nul behind a percent sign": (403, line("GET /files/%00/%00 HTTP/1.1")),
    "a nul in a header": (400, line("GET /healthz HTTP/1.1", "X: a\x00b")),
    "a folded header": (400, line("GET /healthz HTTP/1.1", "X: a\r\n b")),
    "a header that hides another": (400, line("GET /healthz HTTP/1.1", "X: a\rY: b")),
    "a gigantic method": (400, line("G" * 100_000 + " / HTTP/1.1")),
    "a gigantic target": (431, line("GET /" + "a" * 200_000 + " HTTP/1.1")),
    "a gigantic header": (431, line("GET /healthz HTTP/1.1", "X: " + "a" * 200_000)),
    "a head just too long": (431, line("GET /healthz HTTP/1.1", "X: " + "a" * 65_536)),
    "somebody else's host in the target": (403, line("GET http://evil.example/api/predictions HTTP/1.1")),
}


def taken() -> dict[str, bytes]:
    """Signed now: a signature is good for five minutes."""
    return {
        "plain": request(LENGTH, "Connection: close", body=BODY, webhook_id="plain"),
        "chunked": request(CHUNKED, "Connection: close", body=chunked(extension=";a=b"), webhook_id="chunked"),
        "trailed": request(
            CHUNKED, "Connection: close", body=chunked(trailer="webhook-id: evil\r\n"), webhook_id="trailed"
        ),
        "old": request(LENGTH, target=f"POST {PATH} HTTP/1.0", body=BODY, webhook_id="old"),
        "whole": request(LENGTH, "Connection: close", target=f"POST http://other{PATH} HTTP/1.1", body=BODY, webhook_id="whole"),
        "headed": request(LENGTH, "Connection: close", "X: " + "a" * 65_000, body=BODY, webhook_id="headed"),
        "nonsensed": request(LENGTH, body=BODY, webhook_id="nonsensed") + b"NONSENSE\r\n\r\n",
    }  # fmt: skip


async def ids(world: World) -> set[str]:
    """Of the deliveries that were verified, as soon as the API is not shed for others."""

    async def answer() -> httpx.Response | None:
        given = await world.http.get("/api/deliveries", params={"limit": "1000"})
        return given if given.status_code == 200 else None

    return {each["id"] for each in (await until(answer)).json()["items"] if "." not in each["id"]}


def port(world: World) -> int:
    return int(world.environ["OUTKEEP_PORT"])


async def test_what_is_no_proper_request_is_refused_and_changes_nothing(start: Any) -> None:
    world = await start(**QUIET)
    await world.serve()
    answers = await asyncio.gather(*(ask(port(world), sent) for _, sent in REFUSED.values()))
    told_statuses = {name: answer[9:12].decode() for name, answer in zip(REFUSED, answers, strict=True)}
    assert told_statuses == {name: str(status) for name, (status, _) in REFUSED.items()}
    assert all(answer.count(b"HTTP/1.1 ") == 1 for answer in answers)
    assert await ids(world) == set()
    await kept_line(world)
    assert "Traceback" not in world.log()


async def kept_line(world: World) -> None:
    """On a connection that has carried other requests, a head that is too long is refused as well."""
    wire = await Wire.to(port(world))
    for _ in range(2):
        await wire.send(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert await wire.status() == 200
    await wire.send(line("GET /healthz HTTP/1.1", "X: " + "a" * 200_000))
    assert await wire.status() == 431
    assert await wire.rest() == b""
    wire.close()


async def test_what_is_odd_and_genuine_is_taken_once_and_as_it_was_signed(start: Any) -> None:
    world = await start(**QUIET)
    await world.serve()
    calls = taken()
    for name, sent in calls.items():
        answer = await ask(port(world), sent)
        assert answer.startswith(b"HTTP/1.1 200 "), (name, answer)
    wire = await Wire.to(port(world))
    await wire.send(call(BODY, "expected", ("Expect", "100-continue"))[: -len(BODY)])
    assert (await asyncio.wait_for(wire.reader.readuntil(b"\r\n\r\n"), 5)).startswith(b"HTTP/1.1 100 ")
    await wire.send(BODY)
    assert await wire.status() == 200
    wire.close()
    assert await ids(world) == {*calls, "expected"}


async def test_who_closes_its_half_hears_the_answer_and_who_leaves_harms_nobody(start: Any) -> None:
    world = await start(**QUIET)
    await world.serve()
    for number, pieces in enumerate([1, 3]):
        wire = await Wire.to(port(world))
        whole = call(told(f"p{number}"), f"half{number}")
        step = -(-len(whole) // pieces)
        await wire.send(*(whole[place : place + step] for place in range(0, len(whole), step)), gap_s=0.01)
        wire.writer.write_eof()
        assert await wire.status() == 200
        assert f"half{number}" in await ids(world), "what is answered is there"
        assert await wire.rest() == b""
        wire.close()
    for cut in range(0, 700, 50):
        wire = await Wire.to(port(world))
        await wire.send(call(told(f"c{cut}"), f"cut{cut}")[: -1 - cut])
        (wire.close if cut % 100 else wire.writer.close)()
    for number in range(20):
        wire = await Wire.to(port(world))
        await wire.send(call(told(f"q{number}"), f"gone{number}"))
        wire.close()
    await until(lambda: all_there(world, {f"gone{number}" for number in range(20)}))
    assert not any(name.startswith("cut") for name in await ids(world))
    assert "Traceback" not in world.log()


async def all_there(world: World, wanted: Iterable[str]) -> bool:
    return set(wanted) <= await ids(world)


TRIES_MAX = 20  # a final webhook is tried again for about a minute
ANSWER_S_MAX = 5.0  # we say no after two seconds at most; a busy machine may add to that

SLOW_BYTES_MAX = 100 * MIB
"""What a thousand slow connections may cost: 100 KiB each."""

SLOW = {
    "a head": [b"GET /healthz HTTP/1.1\r\nX-Slow: ", b"x"],
    "a head of many lines": [b"GET /healthz HTTP/1.1\r\n", b"X-Slow: x\r\n"],
    "a long head": [b"GET /healthz HTTP/1.1\r\nX-Slow: " + b"x" * 60_000, b"x"],
    "a body": [request("Content-Length: 30000000", body=b"x" * 1000), b"x"],
    "a chunk's extension": [request(CHUNKED, body=b"5;"), b"x"],
    "chunks of one byte": [request(CHUNKED), b"1\r\nx\r\n"],
    "a trailer": [request(CHUNKED, body=b"0\r\nX-Slow: "), b"x"],
    "nothing between two requests": [b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", b""],
}


async def test_a_thousand_slow_connections_cost_little_and_hold_up_nobody(start: Any) -> None:
    world = await start(**QUIET)
    pid = (await world.serve()).pid
    await took_s(world, "before")
    before = resident_bytes(pid)
    wires = await asyncio.gather(*(Wire.to(port(world)) for _ in range(1000)))
    slow = list(SLOW.values())
    times: list[float] = []
    for turn in range(8):
        for number, wire in enumerate(wires):
            wire.writer.write(slow[number % len(slow)][turn > 0])
        times += [await took_s(world, f"between{turn}_{number}") for number in range(10)]
    cost = resident_bytes(pid) - before
    assert cost < SLOW_BYTES_MAX, f"{cost / MIB:.0f} MiB"
    assert statistics.median(times) < 0.1, times
    assert max(times) < 1.0, times
    for wire in wires:
        wire.close()


async def took_s(world: World, webhook_id: str, body: bytes = BODY) -> float:
    """Seconds until a genuine webhook was taken. Every try has its own connection, and its answer in time."""
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    for _ in range(TRIES_MAX):
        wire = await Wire.to(port(world))
        await wire.send(call(body, webhook_id))
        status = await wire.status(ANSWER_S_MAX)
        wire.close()
        if status == 200:
            return loop.time() - began_s
        assert status == 503
        await asyncio.sleep(0.5)
    raise AssertionError(f"{webhook_id} was refused {TRIES_MAX} times")


HUGE_BYTES = 32 * MIB - 4096
HUGE_COST_MAX = 640 * MIB
"""Of bodies on their way and waiting for the disk, the copies that the disk's and the reader's libraries make included."""


async def test_huge_bodies_at_once_hold_up_nobody_and_memory_is_bounded(start: Any, tmp_path: Path) -> None:
    world = await start(**QUIET)
    pid = (await world.serve()).pid
    await took_s(world, "before")
    before, most = resident_bytes(pid), 0
    body = told("huge", logs="x" * (HUGE_BYTES - len(told("huge"))))
    sending = [asyncio.ensure_future(huge(world, f"huge{number}", body)) for number in range(6)]
    times: list[float] = []
    while not all(one.done() for one in sending):
        times.append(await took_s(world, f"between{len(times)}"))
        most = max(most, resident_bytes(pid) - before)
        await asyncio.sleep(0.01)
    statuses = [one.result() for one in sending]
    assert set(statuses) <= {200, 503}
    assert 200 in statuses
    assert most < HUGE_COST_MAX, f"{most / MIB:.0f} MiB"
    assert statistics.median(times) < 1.0, times
    assert max(times) < 15.0, times
    assert {f"huge{number}" for number, status in enumerate(statuses) if status == 200} <= await ids(world)


async def huge(world: World, webhook_id: str, body: bytes) -> int:
    """The status that a huge body gets; a service that refuses it closes when it has heard enough."""
    wire = await Wire.to(port(world))
    sent = call(body, webhook_id)
    try:
        for place in range(0, len(sent), MIB):
            await wire.send(sent[place : place + MIB])
            if wire.reader._buffer:  # type: ignore[attr-defined]
                break
        return await wire.status(60)
    finally:
        wire.close()


@pytest.mark.parametrize("more", [b"", b"x" * 100_000])
async def test_who_asks_for_another_protocol_is_answered_in_ours(start: Any, more: bytes) -> None:
    world = await start(**QUIET)
    await world.serve()
    upgrade = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    answer = await ask(port(world), upgrade + more)
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.count(b"HTTP/1.1 ") == 1
