"""What a model says about its outputs: asked for once, and asked for again only when asking failed."""

import random
from collections.abc import AsyncIterator

import pytest

from receiver.core.files import FileRule
from receiver.core.prediction import Source, Update
from receiver.flows.schemas import TROUBLE_S, Schemas
from receiver.replicate.client import Replicate
from receiver.sandbox.options import Options
from receiver.sandbox.server import Running, running
from tests.receiver.flows.test_asking import misbehave

FOREIGN = Update(
    "p", Source.POLL, 0, {"status": "succeeded", "model": "sandbox/image", "output": "https://a.test/b.png"}
)
RULE = FileRule(lambda _url: False)


class Desk:
    """Schemas of a sandbox, and a clock."""

    def __init__(self, sandbox: Running) -> None:
        self.sandbox, self.now_s = sandbox, 0.0
        self.replicate = Replicate(
            base_url=sandbox.api_url, token=sandbox.token, clock=lambda: 0.0, rng=random.Random(1), sleep=self._sleep
        )
        self.schemas = Schemas(self.replicate, clock=lambda: self.now_s)

    async def _sleep(self, _seconds: float) -> None:
        return


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    async with running(Options(seed=3)) as sandbox:
        made = Desk(sandbox)
        yield made
        await made.replicate.aclose()


async def test_a_schema_is_learned_once(desk):
    await desk.schemas.learn(*desk.schemas.missing(FOREIGN, RULE))
    assert desk.schemas.missing(FOREIGN, RULE) is None
    assert desk.schemas.files(FOREIGN) == {"output"}


async def test_a_schema_that_could_not_be_had_is_asked_for_again_after_a_while(desk):
    missing = desk.schemas.missing(FOREIGN, RULE)
    await misbehave(desk, api="500")
    await desk.schemas.learn(*missing)
    assert desk.schemas.missing(FOREIGN, RULE) is None, "nothing waits for it meanwhile"
    assert desk.schemas.files(FOREIGN) == frozenset()
    await misbehave(desk)
    desk.now_s = TROUBLE_S + 1
    assert desk.schemas.missing(FOREIGN, RULE) == missing
    await desk.schemas.learn(*missing)
    assert desk.schemas.files(FOREIGN) == {"output"}


async def test_while_replicate_does_not_answer_no_other_model_is_asked_about(desk):
    other = Update("q", Source.POLL, 0, {**FOREIGN.told, "model": "sandbox/video"})
    await misbehave(desk, api="500")
    await desk.schemas.learn(*desk.schemas.missing(FOREIGN, RULE))
    assert desk.schemas.missing(other, RULE) is None


async def test_a_model_that_there_is_not_is_asked_about_no_more(desk):
    unknown = Update("p", Source.POLL, 0, {**FOREIGN.told, "model": "sandbox/no-such-model"})
    await desk.schemas.learn(*desk.schemas.missing(unknown, RULE))
    desk.now_s = TROUBLE_S + 1
    assert desk.schemas.missing(unknown, RULE) is None
    assert desk.schemas.missing(FOREIGN, RULE) is not None
