"""The feed: pages, long polls, streams, and one ring for all readers."""

import asyncio
import json
from contextlib import asynccontextmanager

import pytest

from receiver.core import event as events
from receiver.web import feed, tail
from tests.receiver.web.conftest import told, until


async def grow(site, *numbers):
    """Two events for each number (created and completed), numbered and told."""
    for number in numbers:
        await site.hear(told(f"p{number}", status="failed", error="no"), f"msg_{number}")


async def page(site, **parameters):
    answer = await site.get("/events", params=parameters)
    assert answer.status_code == 200, answer.text
    return answer.json()


@asynccontextmanager
async def stream(site, path="/events", **headers):
    """A stream; gives an iterator over its lines without the comments that open it."""
    headers = {"Accept": "text/event-stream"} | headers
    async with site.client.stream("GET", path, headers=headers) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        yield answer.aiter_lines()


async def messages(lines, count):
    """The next messages: their ids and events."""
    found, fields = [], {}
    async with asyncio.timeout(10):
        async for line in lines:
            name, _, value = line.partition(": ")
            if line.startswith(":"):
                continue
            if line:
                assert name not in fields, "one line of each"
                fields[name] = value
            elif fields:
                assert set(fields) == {"id", "data"}
                found.append((fields["id"], json.loads(fields["data"])))
                fields = {}
            if len(found) == count:
                return found
    raise AssertionError("the stream ended")


async def test_an_empty_feed_says_where_to_go_on(site):
    assert await page(site) == {"events": [], "next": "0"}
    assert await page(site, after="latest") == {"events": [], "next": "0"}
    assert await page(site, after="0") == {"events": [], "next": "0"}


async def test_the_feed_is_read_page_by_page(site):
    await grow(site, 1, 2)
    first = await page(site, limit=3)
    assert [event["sequence"] for event in first["events"]] == [f"{n:016d}" for n in (1, 2, 3)]
    assert first["next"] == "0000000000000003"
    rest = await page(site, after=first["next"])
    assert [event["subject"] for event in rest["events"]] == ["p2"]
    assert rest["next"] == "0000000000000004"
    assert await page(site, after=rest["next"]) == {"events": [], "next": rest["next"]}
    assert await page(site, after="latest") == {"events": [], "next": rest["next"]}
    assert (await page(site, after="99"))["next"] == "99"
    event = first["events"][0]
    assert event["specversion"] == "1.0"
    assert event["type"] == events.CREATED
    assert event["source"] == site.house.links.public_url


async def test_the_feed_is_filtered_by_type(site):
    await grow(site, 1, 2)
    found = await page(site, type=events.COMPLETED)
    assert [(event["type"], event["subject"]) for event in found["events"]] == [
        (events.COMPLETED, "p1"), (events.COMPLETED, "p2")
    ]  # fmt: skip
    both = await page(site, type=f"{events.COMPLETED},{events.CREATED}", limit=2)
    assert len(both["events"]) == 2
    assert await page(site, type=events.OUTPUT_LOST) == {"events": [], "next": "0"}


async def test_a_long_poll_ends_with_the_first_event(site):
    polling = asyncio.ensure_future(page(site, wait=20, type=events.COMPLETED))
    await until(lambda: site.app._feed.tail.readers)
    await grow(site, 1)
    found = await asyncio.wait_for(polling, 5)
    assert [event["type"] for event in found["events"]] == [events.COMPLETED]


async def test_a_long_poll_ends_when_its_time_is_up(site):
    assert (await page(site, wait=1))["events"] == []
    await grow(site, 1)
    assert (await page(site, wait=1, type=events.OUTPUT_LOST))["events"] == []


async def test_a_stream_tells_what_was_and_what_comes(site, monkeypatch):
    monkeypatch.setattr(tail, "TICK_S", 0.1)
    await grow(site, 1)
    async with stream(site) as lines:
        old = await messages(lines, 2)
        assert [place for place, _ in old] == ["0000000000000001", "0000000000000002"]
        assert old[0][1]["sequence"] == old[0][0]
        await grow(site, 2)
        assert [event["subject"] for _, event in await messages(lines, 2)] == ["p2", "p2"]
    await until(lambda: site.app._feed.tail.readers == 0)


async def test_a_stream_resumes_after_the_last_event_that_was_heard(site):
    await grow(site, 1, 2)
    async with stream(site, "/events?after=0", **{"Last-Event-ID": "0000000000000003"}) as lines:
        assert [place for place, _ in await messages(lines, 1)] == ["0000000000000004"]


async def test_a_stream_of_some_types_tells_only_those(site):
    await grow(site, 1)
    async with stream(site, f"/events?type={events.COMPLETED}") as lines:
        assert [event["type"] for _, event in await messages(lines, 1)] == [events.COMPLETED]
        await grow(site, 2)
        assert [event["subject"] for _, event in await messages(lines, 1)] == ["p2"]


async def test_a_wrong_cursor_is_refused(site):
    answer = await site.get("/events", headers={"Accept": "text/event-stream", "Last-Event-ID": "abc"})
    assert answer.status_code == 400
    assert answer.json()["parameter"] == "Last-Event-ID"


async def test_a_silent_stream_has_a_heart(site, monkeypatch):
    monkeypatch.setattr(tail, "TICK_S", 0.02)
    monkeypatch.setattr(feed, "HEARTBEAT_S", 0.1)
    monkeypatch.setattr(feed, "HEARTBEAT_EARLY_S", 0.01)
    async with stream(site) as lines:
        comments = 0
        async with asyncio.timeout(5):
            async for line in lines:
                comments += line == ":"
                if comments == 4:
                    break
        assert comments == 4


async def test_readers_far_behind_read_the_ledger_and_catch_up(site, monkeypatch):
    monkeypatch.setattr(tail, "EVENTS_KEPT", 3)
    monkeypatch.setattr(tail, "MESSAGES_MAX", 2)
    async with stream(site) as late:
        await grow(site, *range(6))
        assert [int(place) for place, _ in await messages(late, 12)] == list(range(1, 13))
        async with stream(site, "/events?after=0") as later:
            assert [int(place) for place, _ in await messages(later, 12)] == list(range(1, 13))
        async with stream(site, f"/events?type={events.COMPLETED}") as filtered:
            assert [int(place) for place, _ in await messages(filtered, 6)] == [2, 4, 6, 8, 10, 12]
        assert len(site.app._feed.tail._lines) == 3
        found = await page(site, limit=100)
        assert len(found["events"]) == 12
        assert len((await page(site, after="10", limit=100))["events"]) == 2


async def test_heavy_events_come_fewer_at_once_and_none_is_skipped(site, monkeypatch):
    monkeypatch.setattr(tail, "BYTES_READ", 1500)
    await grow(site, *range(6))
    place, heard = "0", []
    while (found := await page(site, after=place, limit=100))["events"]:
        assert 1 <= len(found["events"]) <= 3
        heard += [int(each["sequence"]) for each in found["events"]]
        place = found["next"]
    assert heard == list(range(1, 13))
    for path, places in (("/events", range(1, 13)), (f"/events?type={events.COMPLETED}", range(2, 13, 2))):
        async with stream(site, path) as lines:
            assert [int(place) for place, _ in await messages(lines, len(places))] == list(places)


async def test_the_ring_is_bounded_in_bytes_too(site, monkeypatch):
    monkeypatch.setattr(tail, "BYTES_KEPT", 1000)
    async with stream(site) as lines:
        await grow(site, *range(4))
        assert [int(place) for place, _ in await messages(lines, 8)] == list(range(1, 9))
    ring = site.app._feed.tail
    assert len(ring._lines) < 4
    assert ring._bytes == sum(len(item.json) for item in ring._lines)


async def test_many_readers_share_one_read_of_the_ledger(site, monkeypatch):
    reads = []
    read = site.house.ledger.feed

    async def counted(*args, **kwargs):
        reads.append(args)
        return await read(*args, **kwargs)

    monkeypatch.setattr(site.house.ledger, "feed", counted)
    polls = [asyncio.ensure_future(page(site, after="latest", wait=20)) for _ in range(50)]
    await until(lambda: site.app._feed.tail.readers == 50)
    await grow(site, 1)
    found = await asyncio.gather(*polls)
    assert all(len(answer["events"]) >= 1 for answer in found)
    assert len(reads) < 10


async def test_the_feed_survives_a_ledger_that_is_down_for_a_while(site, monkeypatch):
    from receiver.core.errors import LedgerUnavailable

    monkeypatch.setattr(tail, "RETRY_S", 0.01)
    read, troubles = site.house.ledger.feed, [LedgerUnavailable("down"), RuntimeError("a mistake")]

    async def troubled(*args, **kwargs):
        if troubles:
            raise troubles.pop()
        return await read(*args, **kwargs)

    monkeypatch.setattr(site.house.ledger, "feed", troubled)
    monkeypatch.setattr(tail, "TICK_S", 0.05)
    async with stream(site, "/events?after=latest") as lines:
        await grow(site, 1)
        assert len(await messages(lines, 2)) == 2
    assert not troubles


async def test_the_tail_stops_when_nobody_reads_and_starts_again(site, monkeypatch):
    monkeypatch.setattr(tail, "TICK_S", 0.01)
    await page(site)
    ring = site.app._feed.tail
    await until(lambda: ring._running is None)
    await grow(site, 1)
    assert len((await page(site, wait=5))["events"]) == 2


@pytest.mark.parametrize("accept", ["text/event-stream", "application/json"])
async def test_the_end_of_the_service_ends_every_reader(site, accept):
    async def read():
        return await site.get("/events?wait=60", headers={"Accept": accept})

    reading = asyncio.ensure_future(read())
    await until(lambda: site.app._feed.tail.readers)
    await site.app.close()
    assert (await asyncio.wait_for(reading, 5)).status_code == 200
    assert (await site.get("/events")).status_code == 503


async def test_head_and_too_many_readers(site, monkeypatch):
    answer = await site.client.head("/events", headers={"Accept": "text/event-stream"})
    assert (answer.status_code, answer.content) == (200, b"")
    monkeypatch.setattr(feed, "READERS_MAX", 0)
    answer = await site.get("/events")
    assert answer.status_code == 503
    assert "retry-after" in answer.headers
