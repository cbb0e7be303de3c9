"""Several processes on one ledger sweep at once: what each reads and notes takes nothing from the others."""

import asyncio
from contextlib import AsyncExitStack

import pytest

from receiver.core import event as events
from receiver.flows.sweep import REST
from receiver.runtime import settings as settings_of
from receiver.runtime.wiring import open_house
from tests.receiver.flows.test_asking import misbehave
from tests.receiver.flows.test_sweep import ended, made
from tests.servers import postgres

BREAKS = {"whole": [], "broken off": ["once:ok", "once:401", "2x:ok", "once:401", "once:ok", "once:401"]}


@pytest.mark.parametrize("breaks", BREAKS)
async def test_three_workers_that_sweep_at_once_find_everything_and_tell_it_once(build, breaks):
    database = await postgres.server().database()
    home = await build(OUTKEEP_DATABASE_URL=database)
    ids = await made(home, 230)
    await ended(home, ids)
    async with AsyncExitStack() as stack:
        houses = [home.house]
        for place in (1, 2):
            environ = {
                "REPLICATE_API_TOKEN": home.sandbox.token,
                "OUTKEEP_REPLICATE_URL": home.sandbox.api_url,
                "OUTKEEP_DATABASE_URL": database,
                "OUTKEEP_BUCKET_URL": f"file:{home.folder}/objects",
                "OUTKEEP_SPOOL_DIR": f"{home.folder}/spool-{place}",
            }
            houses.append(await stack.enter_async_context(open_house(settings_of.read(environ))))
        await misbehave(home, list=BREAKS[breaks])
        await asyncio.gather(*(house.sweep.run() for house in houses))
        await misbehave(home)
        late = await made(home, 3)
        await asyncio.gather(*(house.sweep.run() for house in houses))
        assert await home.house.ledger.fact(REST) == ""
        assert set(await home.house.ledger.statuses([*ids, *late])) == {*ids, *late}
        told = [event.type for number in ids[:20] for event in await home.house.ledger.events(number)]
        assert (told.count(events.CREATED), told.count(events.COMPLETED)) == (20, 20)
