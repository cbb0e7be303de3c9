"""Readiness is about webhooks: 503 as soon as the ledger takes none, and only then."""

import asyncio
import sqlite3
from typing import Any

import pytest

from receiver.core.errors import LedgerBroken
from receiver.runtime import health
from tests.receiver.flows.test_asking import misbehave


def failed_sync() -> sqlite3.OperationalError:
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = sqlite3.SQLITE_IOERR_FSYNC
    return error


async def test_readiness_ends_and_webhooks_get_503_the_moment_the_disk_has_failed(site: Any) -> None:
    assert (await site.get("/readyz")).status_code == 200
    site.house.ledger._database.trust.judge(failed_sync())
    answer = await site.get("/readyz")
    assert (answer.status_code, answer.json()) == (503, {"status": "unavailable", "failing": ["ledger"]})
    body = b'{"id":"p1"}'
    answer = await site.post("/webhooks/replicate", content=body, headers=site.signed(body))
    assert answer.status_code == 503
    assert int(answer.headers["Retry-After"]) > 0
    assert (await site.get("/healthz")).status_code == 200
    assert (await site.get("/api/predictions")).status_code == 200, "what can be read may be read"
    assert isinstance(await site.house.ledger.broken(), LedgerBroken)


async def test_what_a_long_look_has_found_is_told_to_who_asks_long_afterwards(
    stage: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "LOOK_S_MAX", 0.8)
    monkeypatch.setattr(health, "LOOK_EVERY_S", 0.0)
    await misbehave(stage, api="hang")
    assert (await stage.get("/readyz")).json() == {"status": "ok"}
    await asyncio.sleep(1.2)
    assert (await stage.get("/readyz")).json() == {"status": "degraded", "failing": ["replicate"]}
