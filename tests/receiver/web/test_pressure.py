"""A disk that does not answer: who is turned away, how soon, and what is there afterwards."""

import asyncio
import sqlite3
from contextlib import closing

import pytest

from tests.receiver.web.conftest import signed
from tests.receiver.web.test_express import answered, call

AT_ONCE_S = 0.5  # generous, since this machine has other things to do


@pytest.fixture
async def stuck(site):
    """The service while another program holds its file, for longer than any delivery waits."""
    assert (await site.client.post("/webhooks/replicate", content=b"{}", headers=signed(b"{}", "before"))).is_success
    with closing(sqlite3.connect(site.folder / "ledger.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield site, other


async def timed(doing):
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    return await doing, loop.time() - began_s


def post(site, webhook_id, body=b"{}"):
    return site.client.post("/webhooks/replicate", content=body, headers=signed(body, webhook_id))


async def taken_again(site, webhook_id, body=b"{}"):
    """The call is made until it is taken, as Replicate does; the disk is well again, so that is soon."""
    async with asyncio.timeout(3):
        while (await post(site, webhook_id, body)).status_code != 200:  # noqa: ASYNC110 - nothing rings
            await asyncio.sleep(0.05)


async def test_who_waits_for_a_disk_that_does_not_answer_hears_so_in_time(stuck):
    site, other = stuck
    answer, took_s = await timed(post(site, "waits"))
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert took_s < 2.0 + AT_ONCE_S
    other.execute("ROLLBACK")
    await taken_again(site, "after")
    kept = {delivery.id for delivery in (await site.house.ledger.deliveries()).items}
    assert {"before", "after"} <= kept


async def test_who_comes_while_the_disk_does_not_answer_hears_so_at_once_and_others_make_room(stuck):
    site, other = stuck
    waiting = asyncio.ensure_future(post(site, "waits"))
    await asyncio.sleep(1.3)
    answer, took_s = await timed(post(site, "late"))
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert took_s < AT_ONCE_S
    for path in ("/api/predictions", "/", "/events", "/v1/predictions", "/files/AAAAAAAAAAAAAAAAAAAAAA/output.png"):
        answer, took_s = await timed(site.get(path))
        assert (path, answer.status_code, answer.headers.get("retry-after")) == (path, 503, "1")
        assert took_s < AT_ONCE_S
    assert (await site.get("/healthz")).status_code == 200
    assert (await site.get("/metrics")).status_code == 200
    other.execute("ROLLBACK")
    assert (await waiting).status_code == 200
    await taken_again(site, "after")
    async with asyncio.timeout(5):
        while (await site.get("/api/predictions")).status_code != 200:  # noqa: ASYNC110 - nothing rings
            await asyncio.sleep(0.1)
    known = {delivery.id for delivery in (await site.house.ledger.deliveries()).items}
    assert known == {"before", "waits", "after"}


async def test_calls_behind_each_other_on_one_connection_are_refused_in_order(stuck):
    site, other = stuck
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
    writer.write(call("first") + call("second") + call("third"))
    for _ in range(3):
        status, headers, _ = await answered(reader)
        assert (status, headers["retry-after"]) == (503, "1")
    other.execute("ROLLBACK")
    await taken_again(site, "fourth")
    writer.write(call("second"))
    assert (await answered(reader))[0] == 200
    writer.close()


async def test_what_was_taken_in_vain_is_taken_once_all_the_same(stuck):
    site, other = stuck
    body = b'{"id": "p1", "status": "starting", "input": {}}'
    assert (await post(site, "waits", body)).status_code == 503
    other.execute("ROLLBACK")
    await taken_again(site, "waits", body)
    while await site.house.observe.step():
        pass
    known = await site.house.ledger.prediction("p1")
    assert known is not None
    assert known.status == "starting"
    assert len([one for one in (await site.house.ledger.deliveries()).items if one.id == "waits"]) == 1
