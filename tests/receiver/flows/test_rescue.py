"""A rescue: what was lost and is back is kept, told once more as revision 2; what stays lost is told no second time."""

import json

import pytest

from receiver.core import event as events
from receiver.core.errors import UpstreamError
from receiver.core.output import OutputState
from receiver.flows import rescue
from receiver.flows.rescue import RUN_MS_MAX
from receiver.sandbox.options import Options
from tests.receiver.flows.test_asking import misbehave
from tests.receiver.flows.test_sweep import ended, made

HOUR_MS = 3_600_000


async def lost(home, model: str = "sandbox/image", **given: object) -> str:
    """A prediction all of whose files were given up, and that is archived as such."""
    await misbehave(home, files="500")
    known = await home.create(model, **given)
    await ended(home, [known.id])
    await home.house.ask(known.id)
    home.clock.ahead_ms += HOUR_MS + 60_000
    await home.finish(known.id)
    await misbehave(home)
    assert {output.state for output in await home.house.ledger.outputs(known.id)} == {OutputState.LOST}
    return known.id


async def told(home, prediction_id: str) -> list[tuple[str, int]]:
    """The facts told of a prediction: type and revision."""
    await home.house.relay.step()
    found = await home.house.ledger.events(prediction_id)
    assert len({event.id for event in found}) == len(found)
    return [(event.type, event.body["data"].get("revision", 1)) for event in found]


async def rescued(home, since_ms: int = 0):
    answer = await home.house.rescue(since_ms)
    for _ in range(3):
        await home.steps()
    return answer


async def test_a_lost_output_that_is_had_now_is_archived_and_told_as_revision_2(home):
    number = await lost(home)
    answer = await rescued(home)
    assert [(each.prediction_id, each.path) for each in answer.tried_again] == [(number, "output")]
    (output,) = await home.house.ledger.outputs(number)
    assert (output.state, output.reason) == (OutputState.ARCHIVED, None)
    assert output.history, "the tries in vain stay on record"
    known = await home.house.ledger.prediction(number)
    assert known.revision == 2
    facts = await told(home, number)
    assert facts[-3:] == [(events.ARCHIVED, 1), (events.OUTPUT_ARCHIVED, 1), (events.ARCHIVED, 2)]
    manifest = json.loads((home.folder / "objects" / known.manifest_key).read_bytes())
    assert [each["state"] for each in manifest["outputs"]] == ["archived"]
    again = await rescued(home)
    assert again.tried_again == ()
    assert await told(home, number) == facts


async def test_an_output_that_stays_lost_is_told_no_second_time(home):
    number = await lost(home)
    before = await told(home, number)
    (was,) = await home.house.ledger.outputs(number)
    await misbehave(home, files="404")
    await rescued(home)
    (output,) = await home.house.ledger.outputs(number)
    assert (output.state, output.reason) == (OutputState.LOST, "gone")
    assert output.attempts == was.attempts + 1
    assert len(output.history) == len(was.history) + 1
    assert await told(home, number) == before
    assert (await home.house.ledger.prediction(number)).revision == 1


@pytest.mark.parametrize("back", [0, 3], ids=["the first", "the last"])
async def test_of_several_lost_outputs_one_that_is_back_makes_one_revision(home, back):
    """Whether it is settled before or after those that stay lost."""
    number = await lost(home, "sandbox/four-images")
    await misbehave(home, files=["ok" if place == back else "404" for place in range(4)])
    await home.house.rescue(0)
    for _ in range(6):  # one at a time, so that the order is that of the outputs
        await home.house.archive.step(1)
        await home.house.conclude.step()
    states = [output.state for output in await home.house.ledger.outputs(number)]
    assert states == [OutputState.ARCHIVED if place == back else OutputState.LOST for place in range(4)]
    facts = await told(home, number)
    assert facts.count((events.ARCHIVED, 2)) == 1
    assert facts.count((events.OUTPUT_LOST, 1)) == 4
    assert (await home.house.ledger.prediction(number)).revision == 2


async def test_a_manifest_that_was_due_waits_for_what_is_tried_again(home):
    await misbehave(home, files="500")
    known = await home.create("sandbox/image")
    await ended(home, [known.id])
    await home.house.ask(known.id)
    home.clock.ahead_ms += HOUR_MS + 60_000
    await home.house.archive.step(8)
    (claim,) = await home.house.ledger.claim_manifests(1, lease_ms=15_000)
    await misbehave(home)
    await home.house.rescue(0)
    assert await home.house.conclude.step() == 0
    async with home.house.ledger.transaction() as tx:
        assert await tx.settle_manifest(claim, "x/manifest.json") is False
    archived = await home.finish(known.id)
    assert archived.revision == 1
    assert (await told(home, known.id))[-2:] == [(events.OUTPUT_ARCHIVED, 1), (events.ARCHIVED, 1)]


async def test_a_rescue_finds_what_the_sweep_may_no_longer_look_for(home):
    (number,) = await made(home, 1, "sandbox/image")
    await ended(home, [number])
    home.clock.ahead_ms = 3 * HOUR_MS
    assert (await home.house.sweep.run()).found == []
    answer = await rescued(home, home.clock() - 4 * HOUR_MS)
    assert answer.found == (number,)
    assert answer.next_ms is None
    (output,) = await home.house.ledger.outputs(number)
    assert output.state == OutputState.ARCHIVED


async def test_what_can_not_be_back_is_named_with_its_reason(home):
    await misbehave(home, files="404")
    known = await home.create("sandbox/image", sandbox={"output": "data:image/png;base64,@@@"})
    await ended(home, [known.id])
    await home.house.ask(known.id)
    await home.finish(known.id)
    answer = await rescued(home)
    assert answer.tried_again == ()
    assert [(each.prediction_id, each.path) for each in answer.gone] == [(known.id, "output")]


@pytest.mark.parametrize(("later_ms", "again"), [(RUN_MS_MAX, 1), (RUN_MS_MAX + 1, 0)])
async def test_what_ended_since_then_may_have_begun_half_an_hour_before(home, later_ms, again):
    known = await home.house.ledger.prediction(await lost(home))
    answer = await rescued(home, known.created_ms + later_ms)
    assert len(answer.tried_again) == again


async def test_a_list_that_cannot_be_had_is_the_callers_to_hear(build):
    home = await build(Options(seed=3, mischief={"list": ["401"]}))
    with pytest.raises(UpstreamError) as refusal:
        await home.house.rescue(0)
    assert refusal.value.status == 502


async def test_without_the_list_lost_outputs_are_tried_again_all_the_same(home):
    number = await lost(home)
    await misbehave(home, list=["401"])
    answer = await rescued(home)
    assert ([each.prediction_id for each in answer.tried_again], answer.next_ms) == ([number], None)
    assert "REPLICATE_API_TOKEN" in str(answer.trouble)
    assert (await home.house.ledger.prediction(number)).revision == 2


async def test_lost_outputs_come_back_in_lots_so_that_others_go_between(home, monkeypatch):
    await lost(home, "sandbox/four-images")
    monkeypatch.setattr(rescue, "LOST_MAX", 2)
    await home.house.rescue(0)
    assert await home.house.archive.step(8) == 2
    home.clock.ahead_ms += rescue.LOST_GAP_MS
    assert await home.house.archive.step(8) == 2


async def test_more_lost_outputs_than_are_looked_at_is_told(home, monkeypatch):
    await lost(home, "sandbox/four-images")
    monkeypatch.setattr(rescue, "LOST_SEEN_MAX", 2)
    monkeypatch.setattr(rescue, "LOST_MAX", 2)
    answer = await rescued(home)
    assert (len(answer.tried_again), "look back less far" in str(answer.trouble)) == (2, True)


async def test_a_list_that_breaks_off_says_where_to_go_on(home):
    await made(home, 110)
    await misbehave(home, list=["once:ok", "401"])
    first = await home.house.rescue(0)
    await misbehave(home)
    assert len(first.found) == 100
    second = await home.house.rescue(0, before_ms=first.next_ms)
    assert (len(second.found), second.next_ms) == (10, None)
