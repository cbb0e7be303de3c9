"""What is repeated, what is not, how long is waited, and how many go at once. Time passes only by sleeping here."""

import asyncio
import logging

import pytest

from receiver.replicate import wire as wire_module
from receiver.replicate.calls import ASKING_MAX, ATTEMPTS_MAX, BURST_S, CREATING_MAX, DEADLINE_S
from receiver.replicate.errors import Rejected, ReplicateError, Throttled, Unauthenticated, Unavailable

OK = {"id": "abc", "status": "starting"}
LOW_CREDIT = {"detail": "Request was throttled. Your rate limit resets in ~5s.", "status": 429, "retry_after": 5}


@pytest.mark.parametrize("status", [408, 500, 502, 503, 504, 524])
async def test_asking_is_repeated_while_replicate_is_down(scripted, client_of, said, passing, status):
    server = await scripted(said(status), said(status), said(200, OK))
    assert await (await client_of(server.url)).get("abc") == OK
    assert len(server.heard) == 3
    assert 0 <= passing.slept[0] <= 0.5
    assert 0 <= passing.slept[1] <= 1.0


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 410, 422, 501])
async def test_a_plain_no_is_not_repeated(scripted, client_of, said, passing, status):
    server = await scripted(said(status))
    with pytest.raises(ReplicateError) as caught:
        await (await client_of(server.url)).get("abc")
    assert caught.value.status == status
    assert len(server.heard) == 1
    assert passing.slept == []


async def test_repeating_ends_after_a_few_attempts(scripted, client_of, said):
    server = await scripted(said(503, {"title": "down"}))
    with pytest.raises(Unavailable, match=r"answered 503 \(down\)"):
        await (await client_of(server.url)).get("abc")
    assert len(server.heard) == ATTEMPTS_MAX


async def test_repeating_ends_at_the_deadline(scripted, client_of, said, passing):
    server = await scripted(said(503, retry_after="20"))
    with pytest.raises(Unavailable) as caught:
        await (await client_of(server.url)).get("abc")
    assert caught.value.retry_after_s == 20
    assert len(server.heard) == 2
    assert passing.now_s <= 1000 + DEADLINE_S


@pytest.mark.parametrize(
    "trouble", ["CUT", b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\nconnection: close\r\n\r\n{", b"\x00\r\n\r\n"]
)
async def test_asking_is_repeated_after_a_lost_connection(scripted, client_of, said, trouble):
    server = await scripted(trouble, said(200, OK))
    assert await (await client_of(server.url)).get("abc") == OK


@pytest.mark.parametrize(
    "trouble", ["CUT", b"HTTP/1.1 201 Created\r\ncontent-length: 99\r\nconnection: close\r\n\r\n{"]
)
async def test_a_create_that_may_have_been_done_is_never_repeated(scripted, client_of, said, trouble):
    server = await scripted(trouble, said(201, OK))
    with pytest.raises(Unavailable) as caught:
        await (await client_of(server.url)).create(version="v", input={})
    assert caught.value.maybe_done
    assert len(server.heard) == 1


@pytest.mark.parametrize("status", [408, 500, 502, 503, 504, 524])
async def test_a_create_is_not_repeated_after_a_server_error(scripted, client_of, said, status):
    server = await scripted(said(status), said(201, OK))
    with pytest.raises(Unavailable) as caught:
        await (await client_of(server.url)).create(version="v", input={})
    assert caught.value.maybe_done
    assert len(server.heard) == 1


async def test_a_create_is_repeated_after_a_429(scripted, client_of, said, passing):
    server = await scripted(said(429, LOW_CREDIT), said(201, OK))
    assert await (await client_of(server.url)).create(version="v", input={}) == OK
    assert len(server.heard) == 2
    assert 5 <= sum(passing.slept) <= 5 * 1.25


async def test_without_a_connection_even_a_create_is_repeated(client_of, passing):
    unused = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    port = unused.sockets[0].getsockname()[1]
    unused.close()
    with pytest.raises(Unavailable, match="no connection") as caught:
        await (await client_of(f"http://127.0.0.1:{port}")).create(version="v", input={})
    assert not caught.value.maybe_done
    assert caught.value.status is None
    assert len(passing.slept) == ATTEMPTS_MAX - 1


async def test_a_cancel_is_repeated_since_twice_is_once(scripted, client_of, said):
    server = await scripted("CUT", said(200, OK))
    assert await (await client_of(server.url)).cancel("abc") == OK


async def test_other_posts_are_repeated_only_when_told_so(scripted, client_of, said):
    server = await scripted(said(500), said(200, OK))
    client = await client_of(server.url)
    with pytest.raises(Unavailable):
        await client.request("POST", "/files", content=b"x")
    server.script[:] = [said(500), said(200, OK)]
    assert (await client.request("POST", "/files", content=b"x", repeatable=True)).status == 200


async def test_a_body_that_flows_can_not_be_repeated(scripted, client_of, said):
    async def pieces():
        yield b"x"

    server = await scripted(said(429), said(200, OK))
    with pytest.raises(Throttled):
        await (await client_of(server.url)).request("POST", "/files", content=pieces(), repeatable=True)
    assert len(server.heard) == 1


async def test_after_a_429_the_whole_lane_waits(scripted, client_of, said, passing):
    server = await scripted(said(429, retry_after="8"), said(200, OK))
    client = await client_of(server.url)
    await client.get("first")
    started_s = passing.now_s
    assert started_s >= 1008
    server.script[:] = [said(429, retry_after="50"), said(200, OK)]
    with pytest.raises(Throttled):
        await client.get("second")
    with pytest.raises(Throttled, match="was not asked") as caught:
        await client.get("third")
    assert 40 < (caught.value.retry_after_s or 0) <= 50
    assert [heard.target for heard in server.heard].count("/v1/predictions/third") == 0
    passing.now_s += 45
    assert await client.get("fourth") == OK


async def test_short_calls_do_not_keep_the_lane_closed(scripted, client_of, said, passing):
    server = await scripted(said(429, retry_after="10"), said(200, OK))
    client = await client_of(server.url)
    for _ in range(30):
        with pytest.raises(Throttled):
            await client.request("GET", "/account", deadline_s=0.2)
        passing.now_s += 0.3
    passing.now_s += 2
    assert (await client.request("GET", "/account", deadline_s=0.2)).status == 200


async def test_throttled_creates_hold_up_no_polls(scripted, client_of, said, passing):
    server = await scripted(said(429, retry_after="50"), said(200, OK))
    client = await client_of(server.url)
    with pytest.raises(Throttled):
        await client.create(version="v", input={})
    assert await client.get("abc") == OK
    assert passing.slept == []


async def test_only_so_many_go_at_once(scripted, client_of, said):
    server = await scripted(said(200, OK))
    server.pause_s = 0.3
    client = await client_of(server.url)
    await asyncio.gather(*(client.get(f"p{number}") for number in range(2 * ASKING_MAX)))
    assert server.at_once_most == ASKING_MAX
    server.at_once_most = 0
    await asyncio.gather(*(client.create(version="v", input={}) for _ in range(CREATING_MAX + 20)))
    assert ASKING_MAX < server.at_once_most <= CREATING_MAX


async def test_asking_stays_below_the_limit_that_replicate_publishes(scripted, client_of, said, passing):
    server = await scripted(said(200, OK))
    client = await client_of(server.url)
    for number in range(400):
        await client.get(f"p{number}")
    assert len(server.heard) == 400
    assert passing.now_s - 1000 == pytest.approx(400 * 60 / 3000 - BURST_S, abs=0.1)
    passing.now_s += 60
    await client.get("again")
    assert passing.slept[-1] < 0.1


async def test_a_hanging_replicate_ends_with_the_deadline(scripted, client_of):
    server = await scripted("HANG")
    client = await client_of(server.url)
    with pytest.raises(Unavailable, match="TimeoutError") as caught:
        await client.request("GET", "/account", deadline_s=0.1)
    assert caught.value.maybe_done


async def test_who_finds_no_place_in_time_is_told_so(scripted, client_of):
    server = await scripted("HANG")
    client = await client_of(server.url)
    holding = [asyncio.create_task(client.request("GET", "/account", deadline_s=0.5)) for _ in range(ASKING_MAX)]
    await asyncio.sleep(0.1)
    with pytest.raises(Unavailable, match=r"was not asked \(too many") as caught:
        await client.request("GET", "/account", deadline_s=0.1)
    assert not caught.value.maybe_done
    await asyncio.gather(*holding, return_exceptions=True)


async def test_a_call_that_is_given_up_gives_its_place_back(scripted, client_of, said):
    server = await scripted("HANG")
    client = await client_of(server.url)
    hanging = [asyncio.create_task(client.get("abc")) for _ in range(2 * ASKING_MAX)]
    await asyncio.sleep(0.1)
    for task in hanging:
        task.cancel()
    await asyncio.gather(*hanging, return_exceptions=True)
    server.script[:] = [said(200, OK)]
    assert await client.get("abc") == OK


async def test_an_encoding_that_nobody_asked_for_is_refused(scripted, client_of, said):
    server = await scripted(said(200, b"\x1f\x8b", content_encoding="gzip"))
    with pytest.raises(Unavailable, match="encoding"):
        await (await client_of(server.url)).get("abc")
    assert server.heard[0].headers["accept-encoding"] == "identity"
    assert len(server.heard) == 1


async def test_an_answer_beyond_the_cap_is_dropped(scripted, client_of, said, monkeypatch):
    monkeypatch.setattr(wire_module, "ANSWER_BYTES_MAX", 1000)
    server = await scripted(said(200, b'"' + b"x" * 2000 + b'"'))
    with pytest.raises(Unavailable, match="cap"):
        await (await client_of(server.url)).get("abc")


async def test_the_token_is_in_no_error_and_no_log_of_ours(scripted, client_of, said, token, caplog):
    caplog.set_level(logging.INFO)
    echo = {"title": f"Unauthenticated {token}", "detail": f"Bearer {token} is not valid", "echo": [token]}
    server = await scripted(said(401, echo))
    client = await client_of(server.url)
    with pytest.raises(Unauthenticated) as caught:
        await client.account()
    error = caught.value
    assert token not in f"{error} {error!r} {error.title} {error.detail} {error.body} {vars(client)} {client!r}"
    assert token not in caplog.text


async def test_a_token_of_any_shape_is_taken_out_of_an_error(scripted, client_of, said):
    server = await scripted(said(400, {"detail": "no: plain-words-as-a-token"}))
    with pytest.raises(Rejected) as caught:
        await (await client_of(server.url, token="plain-words-as-a-token")).account()
    assert caught.value.detail == "no: [redacted]"


async def test_an_unconnected_client_opens_one_wire_for_many_first_calls(scripted, client_of, said):
    server = await scripted(said(200, OK))
    client = await client_of(server.url)
    assert len(await asyncio.gather(*(client.get("abc") for _ in range(10)))) == 10
