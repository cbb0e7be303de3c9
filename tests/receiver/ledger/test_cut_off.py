"""A connection to Postgres that is cut anywhere around a COMMIT: nothing is promised falsely, lost or doubled."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from urllib.parse import urlsplit

import psycopg
import pytest

from receiver.core.errors import LedgerUnavailable
from receiver.ledger import Ledger
from tests.contract.ledger_nouns import delivery, file, given, prediction
from tests.servers import postgres
from tests.servers.cutting import Cut, Proxy

COMMIT = b"COMMIT\0"  # as the driver says it; "READ COMMITTED" is another thing
CUTS = [
    *[Cut(COMMIT, ask=count) for count in (-1, 0, 3, 6, 7)],
    *[Cut(COMMIT, answer=count) for count in (0, 1, 5, 12, 13, 17)],
]


@pytest.fixture
async def between() -> AsyncIterator[tuple[Proxy, Ledger]]:
    """A ledger that reaches its database through a proxy."""
    url = await postgres.server().database()
    parts = urlsplit(url)
    proxy = Proxy("127.0.0.1", parts.port or 0)
    await proxy.start()
    ledger = await Ledger.open(url.replace(f":{parts.port}/", f":{proxy.listens}/"), now_ms=lambda: 0)
    yield proxy, ledger
    await ledger.close()
    await proxy.close()


async def test_a_delivery_whose_commit_was_cut_off_is_there_once_whatever_was_answered(
    between: tuple[Proxy, Ledger],
) -> None:
    proxy, ledger = between
    for number, cut in enumerate(CUTS):
        await ledger.accept(delivery("before"))  # so that there is a connection, whose own beginning ends in a COMMIT
        proxy.cut = Cut(cut.trigger, cut.ask, cut.answer)
        together = [ledger.accept(delivery(f"msg_{number}_{place}", body=b"%d" % number)) for place in range(3)]
        outcomes = await asyncio.wait_for(asyncio.gather(*together, return_exceptions=True), 20)
        assert proxy.cut.done
        for place, outcome in enumerate(outcomes):
            name = f"msg_{number}_{place}"
            kept = await ledger.delivery(name)
            assert isinstance(outcome, bool | LedgerUnavailable)
            assert kept is not None or isinstance(outcome, LedgerUnavailable), f"{cut}: {name} was promised and is lost"
            await ledger.accept(delivery(name, body=b"%d" % number))
    kept_ones = (await ledger.deliveries(limit=1000)).items
    assert sorted(each.id for each in kept_ones if each.id != "before") == sorted(
        f"msg_{n}_{place}" for n in range(len(CUTS)) for place in range(3)
    )
    assert await ledger.ready()


async def test_work_whose_commit_was_cut_off_and_is_done_again_is_done_once(between: tuple[Proxy, Ledger]) -> None:
    proxy, ledger = between
    for number, cut in enumerate(CUTS):
        await given(ledger, prediction("before"), [])
        proxy.cut = Cut(cut.trigger, cut.ask, cut.answer)
        told = False
        for _ in range(3):
            try:
                await given(ledger, prediction(f"p{number}"), [file("output.0"), file("output.1")])
            except LedgerUnavailable:
                continue
            told = True
            break
        assert told, cut
        assert proxy.cut.done
        assert [each.path for each in await ledger.outputs(f"p{number}")] == ["output.0", "output.1"]


async def test_connections_that_the_server_ends_are_made_anew(between: tuple[Proxy, Ledger]) -> None:
    _, ledger = between
    taken, refused = set(), 0
    for turn in range(5):
        for number in range(20):
            try:
                await ledger.accept(delivery(f"msg_{turn}_{number}"))
            except LedgerUnavailable:
                refused += 1
            else:
                taken.add(f"msg_{turn}_{number}")
            if number == 7:
                _end_all(str(ledger._database.writing.url.database))
    with suppress(LedgerUnavailable):  # whoever reads hears of it once, too
        await ledger.deliveries(limit=1)
    assert {each.id for each in (await ledger.deliveries(limit=1000)).items} >= taken
    assert len(taken) + refused == 100
    assert refused <= 5
    assert await ledger.ready()


def _end_all(database: str) -> None:
    with psycopg.connect(postgres.server().url("postgres"), autocommit=True) as connection:
        connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (database,))
