"""Readiness is about webhooks: 503 as soon as the ledger takes none, and only then."""

import sqlite3
from typing import Any

from receiver.core.errors import LedgerBroken


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
