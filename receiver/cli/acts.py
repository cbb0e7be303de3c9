"""What the demo plays: one prediction of every shape of output, created like any program would."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from receiver.cli.progress import Progress, Row, outputs_of, row
from receiver.cli.service import Service
from receiver.cli.stage import Stage

PATIENCE_S = 60.0
LOOK_EVERY_S = 0.1
_PROMPT = {"prompt": "hills under a quiet sky"}


@dataclass(frozen=True, slots=True)
class Act:
    """One prediction. `ends` is the status that it is meant to end with."""

    model: str
    shows: str
    input: Mapping[str, Any] = field(default_factory=lambda: _PROMPT)
    ends: str = "succeeded"


ACTS: tuple[Act, ...] = (
    Act("black-forest-labs/flux-schnell", "one picture"),
    Act("sandbox/four-images", "four pictures"),
    Act("sandbox/layers", "files in an object"),
    Act("sandbox/frames", "files deep within JSON"),
    Act("sandbox/video", "a video"),
    Act("sandbox/audio", "a sound"),
    Act("sandbox/solid", "a solid"),
    Act("sandbox/drawing", "a drawing"),
    Act("sandbox/data-uri", "a picture within the answer"),
    Act("sandbox/duplicate", "the same file in three places"),
    Act("meta/meta-llama-3-8b-instruct", "text, token by token", {"prompt": "Tell me of a fox", "max_tokens": 12}),
    Act("replicate/hello-world", "text", {"text": "Alice"}),
    Act("sandbox/numbers", "numbers"),
    Act("sandbox/fails", "a failure, by design", {}, ends="failed"),
)


@dataclass(frozen=True, slots=True)
class Played:
    """An act and the last that the service told of its prediction."""

    act: Act
    prediction: Mapping[str, Any]

    def missing(self) -> str | None:
        """What is not archived though it should be, in a few words; None when all is well."""
        if self.prediction.get("archived_at") is None:
            return f"{self.act.model} is not archived ({self.prediction.get('status')})"
        lost = [str(output["path"]) for output in outputs_of(self.prediction) if output["state"] != "archived"]
        if lost:
            return f"{self.act.model} lost {', '.join(lost)}"
        if self.prediction.get("status") != self.act.ends:
            return f"{self.act.model} {self.prediction.get('status')} instead of {self.act.ends}"
        return None


async def play(stage: Stage, stop: asyncio.Event) -> list[Played]:
    """Create them all, show how they get on, come back when all are archived, the patience ends or `stop` is set."""
    async with Service({"OUTKEEP_URL": stage.url}) as service:
        created = await asyncio.gather(*(_create(stage, service, act) for act in ACTS))
        with Progress() as progress:
            ends_at = asyncio.get_running_loop().time() + PATIENCE_S
            while True:
                played = await _looked(service, created)
                progress.show([_row(one) for one in played])
                late = asyncio.get_running_loop().time() >= ends_at
                if late or stop.is_set() or all(one.prediction.get("archived_at") for one in played):
                    return played
                await asyncio.sleep(LOOK_EVERY_S)


async def _create(stage: Stage, service: Service, act: Act) -> tuple[Act, str]:
    model = stage.sandbox.sandbox.models[act.model]
    if model.official:
        told = await service.post(f"/v1/models/{act.model}/predictions", {"input": act.input})
    else:
        told = await service.post("/v1/predictions", {"version": f"{act.model}:{model.version}", "input": act.input})
    return act, str(told["id"])


async def _looked(service: Service, created: Sequence[tuple[Act, str]]) -> list[Played]:
    page = await service.get("/api/predictions", limit=1000)
    known = {item["id"]: item for item in page["items"]}
    return [Played(act, known.get(number, {"id": number, "status": "starting"})) for act, number in created]


def _row(played: Played) -> Row:
    told = row(played.act.model, played.prediction)
    return Row(
        told.name, told.state, played.act.shows if played.act.ends != "succeeded" or not told.note else told.note
    )
