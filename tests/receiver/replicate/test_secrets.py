"""Secrets are fetched when needed, again with restraint, and remembered for a while after a rotation."""

import asyncio
import base64

import pytest

from receiver.replicate.errors import Unauthenticated
from receiver.replicate.secrets import KEPT_S, PREVIOUS_MAX, REFETCH_EVERY_S, SigningSecrets
from receiver.replicate.signature import Secret


def secret(number):
    return Secret.parse("whsec_" + base64.b64encode(bytes([number]) * 24).decode())


class Upstream:
    """Gives out what `now` holds: a secret, or an error to raise."""

    def __init__(self, now=None):
        self.now = secret(1) if now is None else now
        self.asked = 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def __call__(self):
        self.asked += 1
        await self.gate.wait()
        if isinstance(self.now, Exception):
            raise self.now
        return self.now


def keeper_of(upstream, clock, **more):
    return SigningSecrets(fetch=upstream, clock=clock, **more)


async def test_configured_secrets_are_the_only_ones(passing):
    upstream = Upstream(secret(9))
    keeper = keeper_of(upstream, passing, configured=[secret(1), secret(2)])
    assert await keeper.known() == (secret(1), secret(2))
    assert not await keeper.refetched()
    assert upstream.asked == 0


async def test_the_secret_is_fetched_at_first_need_and_then_kept(passing):
    upstream = Upstream()
    keeper = keeper_of(upstream, passing)
    assert upstream.asked == 0
    for _ in range(5):
        assert await keeper.known() == (secret(1),)
        passing.now_s += 1000
    assert upstream.asked == 1


async def test_while_none_is_known_replicate_is_asked_at_a_bounded_rate(passing):
    upstream = Upstream(Unauthenticated(status=401, title="Unauthenticated"))
    keeper = keeper_of(upstream, passing)
    for _ in range(100):
        assert await keeper.known() == ()
    assert upstream.asked == 1
    assert keeper.retry_after_s == REFETCH_EVERY_S
    assert "401" in (keeper.problem or "")
    upstream.now = secret(1)
    passing.now_s += REFETCH_EVERY_S - 1
    assert await keeper.known() == ()
    assert keeper.retry_after_s == 1
    passing.now_s += 1
    assert await keeper.known() == (secret(1),)
    assert keeper.problem is None


async def test_a_flood_of_forgeries_costs_one_request_in_ten_seconds(passing):
    upstream = Upstream()
    keeper = keeper_of(upstream, passing)
    await keeper.known()
    for _ in range(1000):
        passing.now_s += 0.1
        await keeper.refetched()
    assert upstream.asked <= 1 + 100 / REFETCH_EVERY_S


async def test_those_who_ask_at_the_same_time_share_one_fetch(passing):
    upstream = Upstream()
    upstream.gate.clear()
    keeper = keeper_of(upstream, passing)
    asking = [asyncio.create_task(keeper.known()) for _ in range(50)]
    await asyncio.sleep(0)
    upstream.gate.set()
    assert await asyncio.gather(*asking) == [(secret(1),)] * 50
    assert upstream.asked == 1


async def test_a_rotated_secret_is_found_and_the_old_one_still_counts(passing):
    upstream = Upstream()
    keeper = keeper_of(upstream, passing)
    await keeper.known()
    upstream.now = secret(2)
    passing.now_s += REFETCH_EVERY_S
    assert await asyncio.gather(*(keeper.refetched() for _ in range(5))) == [True] * 5
    assert upstream.asked == 2
    assert await keeper.known() == (secret(2), secret(1))


async def test_who_verified_before_the_fetch_ended_hears_of_it_afterwards(passing):
    upstream = Upstream()
    keeper = keeper_of(upstream, passing)
    await keeper.known()
    upstream.now = secret(2)
    passing.now_s += REFETCH_EVERY_S
    assert await keeper.refetched()
    passing.now_s += 1
    assert await keeper.refetched()
    assert upstream.asked == 2
    passing.now_s += REFETCH_EVERY_S
    assert not await keeper.refetched()


async def test_replaced_secrets_are_forgotten_after_a_day_and_beyond_a_number(passing):
    upstream = Upstream()
    keeper = keeper_of(upstream, passing)
    await keeper.known()
    for number in range(2, 9):
        upstream.now = secret(number)
        passing.now_s += REFETCH_EVERY_S
        assert await keeper.refetched()
    assert await keeper.known() == tuple(secret(number) for number in (8, 7, 6, 5)[: PREVIOUS_MAX + 1])
    passing.now_s += KEPT_S
    assert await keeper.known() == (secret(8),)


async def test_a_secret_that_comes_back_is_no_news(passing):
    upstream = Upstream()
    keeper = keeper_of(upstream, passing)
    await keeper.known()
    for number, news in ((2, True), (1, False), (2, False)):
        upstream.now = secret(number)
        passing.now_s += REFETCH_EVERY_S
        assert await keeper.refetched() is news
    assert await keeper.known() == (secret(2), secret(1))


async def test_a_failed_refetch_leaves_what_is_known(passing):
    upstream = Upstream()
    keeper = keeper_of(upstream, passing)
    await keeper.known()
    upstream.now = Unauthenticated(status=401)
    passing.now_s += REFETCH_EVERY_S
    assert not await keeper.refetched()
    assert await keeper.known() == (secret(1),)


async def test_a_fetch_that_hangs_is_given_up(passing, monkeypatch):
    monkeypatch.setattr("receiver.replicate.secrets.FETCH_S_MAX", 0.05)
    upstream = Upstream()
    upstream.gate.clear()
    keeper = keeper_of(upstream, passing)
    assert await keeper.known() == ()
    assert "within" in (keeper.problem or "")


async def test_a_caller_who_leaves_does_not_take_the_fetch_along(passing):
    upstream = Upstream()
    upstream.gate.clear()
    keeper = keeper_of(upstream, passing)
    leaving, staying = asyncio.create_task(keeper.known()), asyncio.create_task(keeper.known())
    await asyncio.sleep(0)
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    upstream.gate.set()
    assert await staying == (secret(1),)
    await keeper.aclose()


async def test_closing_ends_a_fetch_under_way(passing):
    upstream = Upstream()
    upstream.gate.clear()
    keeper = keeper_of(upstream, passing)
    waiting = asyncio.create_task(keeper.known())
    await asyncio.sleep(0)
    await keeper.aclose()
    with pytest.raises(asyncio.CancelledError):
        await waiting
