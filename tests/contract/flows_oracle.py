"""What must hold of a house after every step, and what once everything has come to rest."""

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

from receiver.core.delivery import DeliveryState
from receiver.core.output import Output, OutputState
from receiver.core.prediction import Prediction
from receiver.runtime.house import House
from storage.errors import StorageError
from tests.contract.flows_script import SHAPES, Script, Story

RANK = {"starting": 0, "processing": 1, "succeeded": 2, "failed": 2, "canceled": 2}
ABSENCES_MIN = 6  # a file is given up before its time only after so many 404


@dataclass
class Oracle:
    """What was seen so far, to be compared with what is seen next."""

    script: Script
    accepted: set[str] = field(default_factory=set)
    fed: list[dict[str, Any]] = field(default_factory=list)
    states: dict[str, str] = field(default_factory=dict)
    archived: dict[str, int] = field(default_factory=dict)
    settled: dict[tuple[str, str], OutputState] = field(default_factory=dict)
    unread: list[dict[str, Any]] = field(default_factory=list)

    async def look(self, house: House, *, bucket_up: bool) -> None:
        """After every step."""
        await self._feed(house)
        if bucket_up:
            for told in self.unread:
                await self._readable(house, told)
            self.unread.clear()
        known = await predictions(house)
        for each in known:
            before = self.states.get(each.id, "starting")
            assert RANK[each.status] > RANK[before] or each.status == before, f"{each.id}: {each.status} after {before}"
            self.states[each.id] = each.status
            if each.id in self.archived:
                assert each.archived_ms == self.archived[each.id], f"{each.id} was archived already"
            if each.archived_ms is not None:
                self.archived[each.id] = each.archived_ms
        assert {each.id for each in known} >= self.states.keys(), "a prediction was forgotten"
        await self._outputs(house, known)

    async def _feed(self, house: House) -> None:
        for event in await house.ledger.feed(len(self.fed), 1000):
            assert event.sequence == len(self.fed) + 1, "a gap or a repeat in the feed"
            told = {"id": event.id, "type": event.type.removeprefix("outkeep."), "subject": event.prediction_id}
            told |= {"data": event.body["data"]}
            assert event.id not in {each["id"] for each in self.fed}, "a fact was told twice"
            if told["type"] == "output.archived":
                self.unread.append(told)
            self.fed.append(told)

    async def _readable(self, house: House, told: dict[str, Any]) -> None:
        output, story = told["data"]["output"], self.script.stories[told["subject"]]
        try:
            data = b"".join([piece async for piece in house.bucket.read(output["key"])])
        except StorageError as error:
            raise AssertionError(f"{output['key']} was told of and can't be read: {error}") from error
        assert data == story.files[output["path"]], f"{output['key']} holds other bytes"

    async def _outputs(self, house: House, known: list[Prediction]) -> None:
        for number, outputs in (await house.ledger.outputs_of([each.id for each in known])).items():
            for each in outputs:
                before = self.settled.get((number, each.path))
                assert before in (None, each.state), f"{number} {each.path} was {before} and is {each.state}"
                if each.state != OutputState.PENDING:
                    self.settled[number, each.path] = each.state

    async def rest(self, house: House, objects: list[str]) -> None:
        """Once nothing is left to be done; `objects` are the keys of all that the bucket holds."""
        for name in self.accepted:
            assert await house.ledger.delivery(name) is not None, f"{name} was promised and is not there"
        assert (await house.ledger.deliveries(state=DeliveryState.ACCEPTED)).items == [], "a delivery was never read"
        known = {each.id: each for each in await predictions(house)}
        assert known.keys() == self.script.stories.keys(), "a prediction of the account is not known, or a wrong one is"
        outputs = await house.ledger.outputs_of(list(known))
        for number, story in self.script.stories.items():
            assert known[number].archived_ms is not None, f"{number} is neither archived nor lost: {outputs[number]}"
            self._kept(story, known[number], outputs[number])
        self._told(known, outputs)
        wanted = [each.stored.key for several in outputs.values() for each in several if each.stored is not None]
        wanted += [str(each.manifest_key) for each in known.values()]
        assert len(set(objects)) == len(objects) >= len(wanted)
        for key in {*objects} ^ {*wanted}:  # a worker that came too late may have put what was given up meanwhile
            number, name = key.rsplit("/", 2)[-2:]
            given_up = [each.path for each in outputs.get(number, ()) if each.state == OutputState.LOST]
            assert key in objects, f"{key} is not there"
            assert name.rpartition(".")[0] in given_up, f"{key} is there, and nobody knows of it"

    def _kept(self, story: Story, known: Prediction, outputs: list[Output]) -> None:
        assert known.status == story.status
        by_path = {each.path: each for each in outputs}
        lost = {path: each for path, each in by_path.items() if each.state == OutputState.LOST}
        if "output" in lost and lost["output"].reason == "removed":
            assert story.removed(self.script.now_ms()), f"{story.id} is said to be removed"
            del lost["output"], by_path["output"]
        elif story.status == "succeeded":
            assert by_path.keys() == story.files.keys(), f"{story.id}: {sorted(by_path)} of {sorted(story.files)}"
        assert by_path.keys() <= story.files.keys(), f"{story.id}: {sorted(by_path)} of {sorted(story.files)}"
        for path, each in lost.items():
            name = SHAPES[story.shape][path]
            late = story.removed(self.script.now_ms())
            assert each.reason in ("gone", "unavailable"), f"{story.id} {path}: {each.reason}"
            assert late or story.bad[name, "404"] >= ABSENCES_MIN, f"{story.id} {path} was given up too early"
            assert each.history, f"{story.id} {path} was lost without an attempt on record"

    def _told(self, known: dict[str, Prediction], outputs: dict[str, list[Output]]) -> None:
        facts: dict[str, list[str]] = defaultdict(list)
        for told in self.fed:
            path = told["data"]["output"]["path"] if told["type"].startswith("output.") else ""
            facts[told["subject"]].append(f"{told['type']} {path}".strip())
        for number in known:
            wanted = Counter(f"output.{each.state} {each.path}" for each in outputs[number])
            wanted.update(["prediction.created", "prediction.completed", "prediction.archived"])
            assert Counter(facts[number]) == wanted, f"{number}: {facts[number]}"
            assert facts[number][0] == "prediction.created"
            assert facts[number][-1] == "prediction.archived"


async def predictions(house: House) -> list[Prediction]:
    return list((await house.ledger.predictions(limit=1000)).items)
