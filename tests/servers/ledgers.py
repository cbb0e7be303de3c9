"""Ledgers of their own for the tests, on both databases, with a clock that can be put ahead."""

import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from receiver.ledger import Ledger
from tests.servers import postgres


class Ledgers:
    """One database; `open` as many ledgers on it as it takes (SQLite: one). `forward` moves the clock of them all."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.opened: list[Ledger] = []
        self._ahead_ms = 0

    @property
    def dialect(self) -> str:
        return self.url.partition(":")[0]

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000 + self._ahead_ms

    def forward(self, by_ms: int) -> None:
        self._ahead_ms += by_ms
        for ledger in self.opened:
            ledger._database.clock.skew_ms = self._ahead_ms

    async def open(self) -> Ledger:
        ledger = await Ledger.open(self.url, now_ms=self.now_ms, skew_ms=self._ahead_ms)
        self.opened.append(ledger)
        return ledger

    async def close(self) -> None:
        for ledger in self.opened:
            await ledger.close()
        self.opened.clear()


async def make(kind: str, folder: Path) -> Ledgers:
    """A new, empty database of a kind: `sqlite` or `postgresql`."""
    return Ledgers(f"sqlite:///{folder}/ledger.db" if kind == "sqlite" else await postgres.server().database())


@pytest.fixture(params=["sqlite", "postgresql"])
async def ledgers(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Ledgers]:
    """A database of each kind."""
    made = await make(request.param, tmp_path)
    yield made
    await made.close()


@pytest.fixture
async def ledger(ledgers: Ledgers) -> Ledger:
    """A ledger on each kind of database."""
    return await ledgers.open()
