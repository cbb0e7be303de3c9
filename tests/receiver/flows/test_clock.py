"""A machine whose clock was an hour ahead and is set right while an output waits for its next attempt."""

import logging

import pytest

from tests.receiver.flows.conftest import Home

HOUR_MS = 3_600_000


async def test_an_output_that_waited_when_the_clock_was_put_back_is_archived_well_before_it_vanishes(
    home: Home, caplog: pytest.LogCaptureFixture
) -> None:
    home.clock.ahead_ms = HOUR_MS
    made = await home.create(sandbox={"files": ["once:503"]})
    while not await home.house.ledger.outputs(made.id):
        await home.house.ask(made.id)
    assert await home.house.archive.step(8) == 1
    home.clock.ahead_ms = 0
    assert await home.house.archive.step(8) == 0
    with caplog.at_level(logging.WARNING, "outkeep.tidy"):
        await home.house.tidy.step()
    assert "the clock was put back: 1 " in caplog.text
    assert (await home.finish(made.id)).archived_ms is not None
