"""Replicate's signed calls over real sockets: framing, limits, and never a 2xx too early."""

import asyncio
import json

import pytest

from receiver.core.delivery import DeliveryState
from receiver.core.errors import LedgerFull, LedgerUnavailable, SecretUnknown
from receiver.web.bodies import BODY_BYTES_MAX, Bodies
from receiver.web.hooks import Hooks, is_hook
from tests.receiver.web.conftest import signed, told, until

PATH = "/webhooks/replicate"


async def raw(site, *pieces, gap_s=0.0):
    """Send bytes as they are; gives all that comes back until the connection ends."""
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
    try:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(gap_s)
        return await asyncio.wait_for(reader.read(), 10)
    finally:
        writer.close()
        await writer.wait_closed()


def head(headers, *more, path=PATH, method="POST"):
    lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, *more, "", ""]).encode()


@pytest.mark.parametrize("path", [PATH, f"{PATH}/", f"{PATH}/some-token", f"{PATH}/some-token/", f"{PATH}?customId=1"])
async def test_a_signed_call_is_on_disk_when_it_is_answered(site, path):
    body = json.dumps(told()).encode()
    answer = await site.client.post(path, content=body, headers=signed(body))
    assert answer.status_code == 200
    assert answer.content == b""
    kept = await site.house.ledger.delivery("msg_1")
    assert kept.body == body
    assert kept.state is DeliveryState.ACCEPTED
    assert kept.token == ("some-token" if "some" in path else None)
    assert (b"webhook-id", b"msg_1") in kept.headers


async def test_a_call_needs_no_key_and_a_wrong_key_changes_nothing(site):
    body = b"{}"
    answer = await site.client.post(PATH, content=body, headers=signed(body) | {"Authorization": "Bearer wrong"})
    assert answer.status_code == 200


@pytest.mark.parametrize(
    "spoil",
    [
        lambda headers: headers.pop("webhook-id"),
        lambda headers: headers.update({"webhook-timestamp": "1614265330"}),
        lambda headers: headers.update({"webhook-signature": "v1,AAAA"}),
        lambda headers: headers.update(signed(b"other")),
        lambda headers: headers.update(signed(b"{}", "msg_1", "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD")),
    ],
)
async def test_what_the_signature_does_not_cover_gets_401_without_a_word_and_is_read_by_nobody(site, spoil):
    headers = signed(b"{}")
    spoil(headers)
    answer = await site.client.post(PATH, content=b"{}", headers=headers)
    assert (answer.status_code, answer.content) == (401, b"")
    await site.house.accept.quarantine._task
    assert await site.house.observe.step() == 0
    (kept,) = (await site.house.ledger.deliveries()).items
    assert kept.state is DeliveryState.UNVERIFIED


async def test_a_refusal_waits_for_no_ledger(site):
    async with site.house.ledger.transaction():
        await asyncio.sleep(0.3)
        for number in range(100):
            answer = await asyncio.wait_for(site.client.post(PATH, headers=signed(b"other", f"msg_{number}")), 1)
            assert (answer.status_code, answer.content) == (401, b"")
        assert (await site.house.ledger.deliveries()).items == []


async def test_headers_that_nobody_can_print_are_kept_and_shown(site):
    odd = b"x-odd: caf\xe9\t\x80\xff: x\r\nx-empty:\r\n"
    whole = head(signed(b"other"), "Content-Length: 2", "Connection: close")[:-2] + odd + b"\r\n{}"
    assert (await raw(site, whole)).startswith(b"HTTP/1.1 401 ")
    await site.house.accept.quarantine._task
    (item,) = (await site.get("/api/deliveries?state=quarantined")).json()["items"]
    shown = (await site.get(f"/api/deliveries/{item['id']}")).json()
    assert dict(shown["headers"])["x-odd"] == "caf\xe9\t\x80\xff: x"
    assert dict(shown["headers"])["x-empty"] == ""


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "OPTIONS"])
async def test_other_methods_get_405_and_hear_which_one_is_right(site, method):
    answer = await site.client.request(method, PATH)
    assert answer.status_code == 405
    assert answer.headers["allow"] == "POST"


@pytest.mark.parametrize("encoding", ["gzip", "br", "identity, gzip", "GZIP"])
async def test_a_compressed_body_is_refused(site, encoding):
    answer = await site.client.post(PATH, content=b"{}", headers=signed(b"{}") | {"Content-Encoding": encoding})
    assert answer.status_code == 415


async def test_a_body_that_says_it_is_not_compressed_is_taken(site):
    answer = await site.client.post(PATH, content=b"{}", headers=signed(b"{}") | {"Content-Encoding": "Identity"})
    assert answer.status_code == 200


async def test_a_chunked_body_is_taken_byte_for_byte(site):
    body = json.dumps(told(logs="x" * 300_000)).encode()

    async def pieces():
        for start in range(0, len(body), 7_001):
            yield body[start : start + 7_001]

    answer = await site.client.post(PATH, content=pieces(), headers=signed(body))
    assert answer.status_code == 200
    assert (await site.house.ledger.delivery("msg_1")).body == body


async def test_a_body_at_the_limit_is_taken(site):
    body = bytes(BODY_BYTES_MAX)
    answer = await site.client.post(PATH, content=body, headers=signed(body))
    assert answer.status_code == 200


async def test_a_body_announced_as_too_long_is_refused_before_it_is_read(site):
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
    writer.write(head(signed(b""), f"Content-Length: {BODY_BYTES_MAX + 1}"))
    answer = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
    writer.close()
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"connection: close" in answer


@pytest.mark.parametrize("announced", [True, False])
async def test_a_client_that_sends_too_much_hears_413(site, announced):
    body = bytes(BODY_BYTES_MAX + 1)

    async def pieces():
        for start in range(0, len(body), 1 << 20):
            yield body[start : start + (1 << 20)]

    answer = await site.client.post(PATH, content=body if announced else pieces(), headers=signed(body))
    assert answer.status_code == 413


async def test_an_endless_body_is_cut_off(site):
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
    writer.write(head(signed(b""), "Transfer-Encoding: chunked"))
    piece = b"100000\r\n" + bytes(1 << 20) + b"\r\n"
    answer = asyncio.ensure_future(reader.readline())

    async def pour():
        for _ in range(128):
            writer.write(piece)
            await writer.drain()

    with pytest.raises(ConnectionError):
        await pour()
    assert (await answer).startswith(b"HTTP/1.1 413")
    writer.close()


async def test_a_client_that_leaves_in_the_middle_of_a_body_has_no_effect(site):
    _, writer = await asyncio.open_connection("127.0.0.1", site.port)
    writer.write(head(signed(b"{}"), "Content-Length: 2") + b"{")
    await writer.drain()
    writer.close()
    await writer.wait_closed()
    await until(lambda: site.house.metrics.registry.get_sample_value("outkeep_webhooks_total", {"outcome": "gone"}))
    assert (await site.house.ledger.deliveries()).items == []


async def test_headers_of_64_kib_are_read(site):
    headers = signed(b"{}") | {f"x-filler-{number}": "y" * 1000 for number in range(62)}
    assert (await site.client.post(PATH, content=b"{}", headers=headers)).status_code == 200


async def test_a_repeated_header_is_not_verified(site):
    headers = [*signed(b"{}").items(), ("webhook-id", "msg_2")]
    assert (await site.client.post(PATH, content=b"{}", headers=headers)).status_code == 401


async def test_a_trailer_can_not_smuggle_a_second_id(site):
    body = b"2\r\n{}\r\n0\r\nwebhook-id: msg_2\r\n\r\n"
    answer = await raw(site, head(signed(b"{}"), "Transfer-Encoding: chunked", "Connection: close") + body)
    assert answer.split(b" ", 2)[1] in (b"200", b"401")
    assert await site.house.ledger.delivery("msg_2") is None


async def test_a_repeat_is_acknowledged_and_kept_once(site):
    for _ in range(3):
        assert (await site.client.post(PATH, content=b"{}", headers=signed(b"{}"))).status_code == 200
    assert len((await site.house.ledger.deliveries()).items) == 1


async def test_a_token_that_is_no_text_is_dropped_and_the_call_taken(site):
    for number, token in enumerate(["%00", "a%2Fb", "x" * 500, "%F0%9F%90%88"]):
        answer = await site.client.post(f"{PATH}/{token}", content=b"{}", headers=signed(b"{}", f"msg_{number}"))
        assert answer.status_code == 200
        assert (await site.house.ledger.delivery(f"msg_{number}")).token is None


async def test_before_any_secret_is_known_the_caller_is_asked_to_come_back(build):
    site = await build(OUTKEEP_WEBHOOK_SECRETS="")
    answer = await site.client.post(PATH, content=b"{}", headers=signed(b"{}"))
    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) > 0


async def call(hooks, body=b"{}", headers=(), pieces=None):
    """One call of the ASGI function; gives the messages that it sent."""
    sent = []
    waiting = list(pieces or [{"type": "http.request", "body": body}])

    async def receive():
        return waiting.pop(0) if waiting else await asyncio.sleep(60)

    async def send(message):
        sent.append(message)

    await hooks({"method": "POST", "path": PATH, "headers": list(headers)}, receive, send)
    return sent


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (LedgerFull("full"), 503),
        (LedgerUnavailable("down"), 503),
        (SecretUnknown("none"), 503),
        (RuntimeError("a mistake of ours"), 500),
    ],
)
async def test_what_can_not_be_kept_is_never_acknowledged(error, status):
    async def accept(body, headers, token=None):
        raise error

    counted: list[str] = []
    sent = await call(Hooks(accept=accept, count=counted.append, bodies=Bodies(linger_s=0.05)))
    assert sent[0]["status"] == status
    assert (b"retry-after" in dict(sent[0]["headers"])) == (status == 503)
    assert len(counted) == 1


async def accepting(body, headers, token=None):
    """An edge that takes everything."""


async def test_a_body_that_does_not_come_in_time_is_given_up():
    hooks = Hooks(accept=accepting, count=lambda _: None, bodies=Bodies(body_s=0.05, linger_s=0.05))
    sent = await call(hooks, pieces=[{"type": "http.request", "body": b"{", "more_body": True}])
    assert sent[0]["status"] == 408


async def test_bodies_in_memory_have_a_limit_together():
    bodies = Bodies(held_bytes_max=100)
    hooks = Hooks(accept=accepting, count=lambda _: None, bodies=bodies)
    pieces = [{"type": "http.request", "body": bytes(101), "more_body": True}, {"type": "http.disconnect"}]
    sent = await call(hooks, pieces=pieces)
    assert sent[0]["status"] == 503
    assert dict(sent[0]["headers"])[b"retry-after"] == b"1"
    assert bodies.held_bytes == 0


async def test_a_length_that_is_no_number_is_refused():
    hooks = Hooks(accept=accepting, count=lambda _: None, bodies=Bodies(linger_s=0.05))
    for told_length in (b"-1", b"1e3", b"9" * 40):
        sent = await call(hooks, headers=[(b"content-length", told_length)], pieces=[{"type": "http.disconnect"}])
        assert sent[0]["status"] == 413


async def test_a_long_body_in_one_piece_is_refused_too():
    hooks = Hooks(accept=accepting, count=lambda _: None, bodies=Bodies(linger_s=0.05))
    sent = await call(hooks, body=bytes(BODY_BYTES_MAX + 1), pieces=None)
    assert sent[0]["status"] == 413


def test_only_the_path_of_the_webhook_is_one():
    assert is_hook(PATH)
    assert is_hook(f"{PATH}/token")
    assert not is_hook(f"{PATH}s")
    assert not is_hook("/webhooks")
