"""Die anywhere: a real kill before every single effect of each way through the house, and nothing is lost."""

import asyncio
import signal

import pytest

from tests.journey.dying import Dying, dying
from tests.journey.world import until
from tests.servers import postgres
from tests.servers.seaweedfs import SeaweedFS

pytestmark = pytest.mark.timeout(900)
LARGE_BYTES = 17_000_000  # goes through the spool, and to S3 in parts
ACCEPT_EFFECTS = 30  # writes included, of taking in and reading two webhooks; what follows dies elsewhere
START_EFFECTS = 24  # of a start until it answers and has looked for what others made; what follows dies elsewhere


@pytest.fixture
async def place(tmp_path):
    """The service in files."""
    async with dying(tmp_path) as made:
        yield made


@pytest.fixture
async def far_place(tmp_path, seaweedfs: SeaweedFS):
    """The service on servers: there only what leaves the process can be lost on its way."""
    environ = {
        "OUTKEEP_DATABASE_URL": await postgres.server().database(),
        "OUTKEEP_BUCKET_URL": seaweedfs.url(),
    }
    async with dying(tmp_path, **seaweedfs.environ, **environ) as made:
        yield made


async def create(place: Dying, model: str, **given) -> str:
    prediction_id = await place.world.create(f"sandbox/{model}", **given)
    place.proof.acknowledged.add(prediction_id)
    return prediction_id


async def archived(place: Dying, prediction_id: str) -> None:
    await until(lambda: place.reader.archived(prediction_id))


async def completed(place: Dying, prediction_id: str) -> None:
    """Until Replicate is done; its webhooks are told to be late."""
    await until(lambda: place.world.sandbox.sandbox.predictions[prediction_id].final)


async def creating(place: Dying, word: str) -> None:
    """The whole of the main job: create, webhooks, fetch, bucket, manifest, feed."""
    place.arm()
    await archived(place, await create(place, "image", prompt=word))


async def spooling(place: Dying, word: str) -> None:
    """A large file, from the last webhook on: to the spool, and in parts to the bucket."""
    given = {"bytes": LARGE_BYTES, "prompt": word, "sandbox": {"webhook": "delay:0.3"}}
    prediction_id = await create(place, "big", **given)
    await completed(place, prediction_id)
    place.arm()
    await archived(place, prediction_id)


async def accepting(place: Dying, word: str) -> None:
    """A webhook is taken in: here every single write into a file counts, too."""
    prediction_id = await create(place, "numbers", prompt=word, sandbox={"webhook": "delay:0.3"})
    await completed(place, prediction_id)
    place.arm(writes=True)
    await archived(place, prediction_id)


async def unpacking(place: Dying, word: str) -> None:
    """A file that comes within the webhook itself."""
    prediction_id = await create(place, "data-uri", prompt=word, sandbox={"webhook": "delay:0.3"})
    await completed(place, prediction_id)
    place.arm()
    await archived(place, prediction_id)


async def asking(place: Dying, word: str) -> None:
    """No webhook ever comes: reconcile asks."""
    prediction_id = await create(place, "numbers", prompt=word, sandbox={"webhook": "never"})
    place.arm()
    await archived(place, prediction_id)


async def canceling(place: Dying, word: str) -> None:
    """Canceled while it runs."""
    prediction_id = await create(place, "image", prompt=word, sandbox={"duration_s": 60})
    place.arm()
    await place.world.http.post(f"/v1/predictions/{prediction_id}/cancel")
    await archived(place, prediction_id)


async def ending(place: Dying, word: str) -> None:
    """Asked to end with a fetch under way, which it finishes."""
    prediction_id = await create(place, "image", prompt=word, sandbox={"files": ["stall:0.5"]})
    await until(lambda: any(file.served for file in place.world.sandbox.sandbox.predictions[prediction_id].artifacts))
    place.arm()
    place.process.send_signal(signal.SIGTERM)
    assert await place.process.wait() in (0, -signal.SIGKILL)


async def starting(place: Dying, word: str) -> None:
    """Started with all sorts of work left over, and with something that was made elsewhere meanwhile."""
    await asyncio.gather(
        create(place, "layers", prompt=f"left {word}", sandbox={"files": ["slow:0.2"]}),
        create(place, "big", prompt=f"big {word}", bytes=LARGE_BYTES),
    )
    await asyncio.sleep(0.01 * (place.words % 10))
    place.process.kill()
    await place.process.wait()
    await place.world.create_elsewhere("sandbox/numbers", prompt=f"elsewhere {word}")
    place.arm()
    await place.serve()
    await until(lambda: all(place.reader.archived(one) for one in place.world.sandbox.sandbox.predictions))


async def test_dying_before_any_effect_of_the_main_job_loses_nothing(place):
    await place.die_everywhere(creating)
    kinds = {kind.split()[0] for kind in place.died_before}
    assert {"send", "fdatasync", "fsync", "mkdir", "link", "unlink", "make"} <= kinds


async def test_dying_before_any_effect_of_the_main_job_loses_nothing_on_servers(far_place):
    await far_place.die_everywhere(creating)
    assert {f"send to {whom}" for whom in ("Postgres", "S3", "Replicate", "a caller")} <= set(far_place.died_before)


async def test_dying_before_any_effect_of_a_large_file_loses_nothing(place):
    await place.die_everywhere(spooling)


async def test_dying_before_any_effect_of_a_large_file_loses_nothing_on_servers(far_place):
    await far_place.die_everywhere(spooling)


async def test_dying_before_any_write_of_taking_a_webhook_in_loses_nothing(place):
    await place.die_everywhere(accepting, upto=ACCEPT_EFFECTS)
    assert {"write ledger.db-wal", "fdatasync ledger.db-wal", "send to a caller"} <= set(place.died_before)


async def test_dying_before_any_effect_of_a_file_within_a_webhook_loses_nothing(place):
    await place.die_everywhere(unpacking)


async def test_dying_before_any_effect_of_asking_ourselves_loses_nothing(place):
    await place.die_everywhere(asking)


async def test_dying_before_any_effect_of_a_cancellation_loses_nothing(place):
    await place.die_everywhere(canceling)


async def test_dying_before_any_effect_of_an_orderly_end_loses_nothing(place):
    await place.die_everywhere(ending)


async def test_dying_before_any_effect_of_a_start_loses_nothing(place):
    await place.die_everywhere(starting, upto=START_EFFECTS)


async def test_dying_before_any_effect_of_a_start_loses_nothing_on_servers(far_place):
    await far_place.die_everywhere(starting, upto=START_EFFECTS)
