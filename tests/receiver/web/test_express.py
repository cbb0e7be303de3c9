"""The short way for webhooks, byte for byte: the same answers as on the long one, in order, and connections kept."""

import asyncio

import pytest

from receiver.core.errors import LedgerUnavailable
from receiver.core.ring import Ring
from tests.receiver.web.conftest import signed

BODY = b'{"id": "p1", "status": "processing"}'


def call(webhook_id="msg_1", body=BODY, path="/webhooks/replicate", version="1.1", secret=None, **more):
    named = signed(body, webhook_id) if secret is None else signed(body, webhook_id, secret)
    headers = {"Host": "127.0.0.1", **named, "Content-Length": str(len(body)), **more}
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    return f"POST {path} HTTP/{version}\r\n{lines}\r\n".encode() + body


async def answered(reader):
    """Status, headers and body of one answer."""
    status, *lines = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)).decode().split("\r\n")[:-2]
    headers = dict(line.lower().split(": ", 1) for line in lines)
    return int(status.split()[1]), headers, await reader.readexactly(int(headers.get("content-length", 0)))


@pytest.fixture
async def wire(site):
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
    yield reader, writer
    writer.close()


async def taken(site):
    return {delivery.id for delivery in (await site.house.ledger.deliveries()).items}


async def test_one_connection_carries_call_after_call(site, wire):
    reader, writer = wire
    for number in range(5):
        writer.write(call(f"msg_{number}", path=f"/webhooks/replicate/token-{number}"))
        status, headers, body = await answered(reader)
        assert (status, body, headers["content-length"]) == (200, b"", "0")
        assert "date" in headers
    assert await taken(site) == {f"msg_{number}" for number in range(5)}
    kept = await site.house.ledger.delivery("msg_3")
    assert (kept.body, kept.token) == (BODY, "token-3")


@pytest.mark.parametrize("pieces", [1, 2])
async def test_a_new_call_wakes_the_worker_and_a_repeated_one_does_not(site, wire, pieces):
    reader, writer = wire
    for rung in (1, 1):
        sent = call()
        for part in (sent[:-5], sent[-5:]) if pieces == 2 else (sent,):
            writer.write(part)
            await asyncio.sleep(0.05)
        assert (await answered(reader))[0] == 200
        assert site.house.bell.count(Ring.DELIVERIES) == rung


async def test_calls_in_one_piece_with_others_are_answered_in_order(site, wire):
    reader, writer = wire
    health = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    writer.write(call("a") + health + call("b") + call("c", secret="whsec_" + "A" * 32) + health + call("d"))
    statuses = [(await answered(reader))[0] for _ in range(6)]
    assert statuses == [200, 200, 200, 401, 200, 200]
    assert await taken(site) == {"a", "b", "d"}


async def test_a_call_in_pieces_takes_the_long_way_to_the_same_end(site, wire):
    reader, writer = wire
    whole = call("pieces")
    for place in range(0, len(whole), 40):
        writer.write(whole[place : place + 40])
        await asyncio.sleep(0.005)
    assert (await answered(reader))[0] == 200
    assert await taken(site) == {"pieces"}


@pytest.mark.parametrize("more", [{"version": "1.0"}, {"Connection": "close"}])
async def test_who_wants_the_connection_closed_gets_it_closed(site, wire, more):
    reader, writer = wire
    writer.write(call("last", **more))
    assert (await answered(reader))[0] == 200
    assert await asyncio.wait_for(reader.read(), 5) == b""


@pytest.mark.parametrize(
    ("more", "status"),
    [({"Content_Encoding": "gzip"}, 415), ({"webhook_timestamp": "1"}, 401), ({"Expect": "100-continue"}, 100)],
)
async def test_what_is_not_simple_is_told_by_the_long_way(site, wire, more, status):
    reader, writer = wire
    writer.write(call("odd", **more).replace(b"webhook-timestamp: 1\r\n", b"webhook-timestamp: 1\r\n", 1))
    assert (await answered(reader))[0] == status


async def test_a_call_that_the_disk_did_not_take_is_never_acknowledged(site, wire, monkeypatch):
    def failing(_delivery):
        future = asyncio.get_running_loop().create_future()
        future.set_exception(LedgerUnavailable("The disk is broken."))
        return future

    async def down(_delivery):
        raise LedgerUnavailable("The disk is broken.")

    monkeypatch.setattr(site.house.ledger, "begin", failing)
    monkeypatch.setattr(site.house.ledger, "accept", down)
    reader, writer = wire
    writer.write(call("lost"))
    status, headers, _ = await answered(reader)
    assert (status, int(headers["retry-after"]) > 0) == (503, True)


async def test_a_full_buffer_sheds_at_once(site, wire, monkeypatch):
    monkeypatch.setattr("receiver.ledger.committer.WAITING_MAX", 0)
    reader, writer = wire
    writer.write(call("shed"))
    status, headers, _ = await answered(reader)
    assert (status, headers["retry-after"]) == (503, "1")


async def test_a_client_that_leaves_takes_nothing_back(site):
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
    writer.write(call("gone"))
    await writer.drain()
    writer.transport.abort()
    for _ in range(100):
        if await taken(site) == {"gone"}:
            break
        await asyncio.sleep(0.02)
    assert await taken(site) == {"gone"}
    del reader
