"""How a prediction runs: it waits, works, tells what it has and ends. One task each."""

import asyncio
import base64
from typing import Any

from receiver.sandbox import webhooks
from receiver.sandbox.mischief import Mischief
from receiver.sandbox.models import Ask, Inline, Made, Model
from receiver.sandbox.predictions import Artifact, Prediction, Truth
from receiver.sandbox.recipes import KINDS, Recipe
from receiver.sandbox.sandbox import Sandbox, seed_of

OUTPUT_EVERY_S = 0.5  # `output` and `logs` are told at most once in 500 ms: docs, topics/webhooks/setup-webhook
LATE_S = 0.05  # between the last output and the end: the moment in which `processing` has outputs
PATH_LENGTH = 48
ASKED_SIDE, ASKED_BYTES = 64, 100_000  # of files in an output that was asked for
STEPS_MAX = 100  # in which a run tells what it has; longer outputs come several at a time


async def play(sandbox: Sandbox, prediction: Prediction) -> None:
    """From `starting` to the end, unless a cancel or the deadline comes first."""
    try:
        await _run(sandbox, prediction)
    except Exception as error:  # noqa: BLE001 - a model may trip over any input, and then its prediction fails
        prediction.error = f"{type(error).__name__}: {error}"
        end(sandbox, prediction, "failed")


async def _run(sandbox: Sandbox, prediction: Prediction) -> None:
    ask = Ask(
        prediction.input, prediction.seed, sandbox.rng("model", prediction.seed), sandbox.origin, prediction.destination
    )
    made = prediction.model.make(ask)
    wanted = prediction.mischief.status or sandbox.general.status
    webhooks.tell(sandbox, prediction, "start")
    await sandbox.doze(_number(sandbox, prediction, "queue_s", prediction.model.queue_s))
    if wanted == "aborted":
        end(sandbox, prediction, "aborted")
        return
    prediction.status, prediction.started_ns = "processing", sandbox.now_ns()
    prediction.changed()
    await _work(sandbox, prediction, made, fails=wanted in ("failed", "canceled"))
    if wanted == "never":
        await sandbox.stopped.wait()
        return
    prediction.error = prediction.mischief.error or sandbox.general.error or made.error
    failed = "failed" if prediction.error or wanted == "failed" else "succeeded"
    end(sandbox, prediction, wanted or failed, made.metrics)


def begin(
    sandbox: Sandbox,
    model: Model,
    told: dict[str, Any],
    body: dict[str, Any],
    own: Mischief,
    *,
    kind: str = "predictions",
    deployment: str | None = None,
) -> Prediction:
    """A new prediction, already on its way."""
    number = sandbox.number("prediction")
    prediction = Prediction(
        id=sandbox.name("prediction", number),
        number=number,
        model=model,
        version=model.shown_version,
        input=told,
        created_ns=sandbox.now_ns(),
        mischief=own,
        seed=seed_of(sandbox, model, told, number),
        kind=kind,
        webhook=body.get("webhook") or body.get("webhook_completed"),
        events=None if body.get("webhook_events_filter") is None else tuple(body["webhook_events_filter"]),
        deployment=deployment,
        destination=body.get("destination"),
        stream_key=sandbox.name("stream", number, 48) if model.streams else None,
    )
    sandbox.add(prediction)
    prediction.task = sandbox.spawn(play(sandbox, prediction))
    return prediction


async def deadline(sandbox: Sandbox, prediction: Prediction) -> None:
    """`Cancel-After`: too late before the start is `aborted`, later `canceled`."""
    assert prediction.deadline_ns is not None
    await sandbox.nap((prediction.deadline_ns - sandbox.now_ns()) / 1e9)
    if not prediction.final and not sandbox.stopped.is_set():
        end(sandbox, prediction, "aborted" if prediction.started_ns is None else "canceled")


def end(sandbox: Sandbox, prediction: Prediction, status: str, metrics: Any = None) -> None:
    """The last word: never taken back. Ends the run if it still goes on."""
    if prediction.final or sandbox.stopped.is_set():
        return
    p = prediction
    p.status, p.completed_ns, p.aged_at_end_s = status, sandbox.now_ns(), sandbox.aged_s
    if status == "failed" and not p.error:
        p.error = "Prediction failed for an unknown reason."
    if status in ("failed", "canceled", "aborted") and not p.model.grows:
        p.output = None
    if status != "aborted":
        run_s = (p.completed_ns - (p.started_ns or p.completed_ns)) / 1e9
        p.metrics = {"predict_time": round(run_s, 9), "total_time": round((p.completed_ns - p.created_ns) / 1e9, 6)}
        p.metrics |= metrics or {}
    if status == "succeeded" and p.destination is not None and isinstance(p.output, dict):
        sandbox.versions[str(p.output.get("version")).rpartition(":")[2]] = sandbox.models[p.destination]
    p.changed()
    for task in (p.task, p.timer):
        if task is not None and task is not asyncio.current_task():
            task.cancel()
    if status != "aborted":  # no document says that an abortion is told, so a receiver must do without
        webhooks.tell(sandbox, p, "completed")


def mint(sandbox: Sandbox, prediction: Prediction, value: Any, path: str = "output") -> Any:
    """The output as JSON: a `Recipe` becomes the URL of a file served from now on, the same one the same URL."""
    if isinstance(value, Recipe):
        return _hosted(sandbox, prediction, value, path)
    if isinstance(value, Inline):
        facts, body = sandbox.pantry.facts(value.recipe), b"".join(sandbox.pantry.pieces(value.recipe))
        content_type = value.recipe.content_type
        prediction.truth.append(Truth(path, f"data:{content_type}", content_type, facts))
        return f"data:{content_type};base64,{base64.b64encode(body).decode('ascii')}"
    if isinstance(value, dict):
        return {key: mint(sandbox, prediction, item, f"{path}.{key}") for key, item in value.items()}
    if isinstance(value, list):
        return [mint(sandbox, prediction, item, f"{path}.{index}") for index, item in enumerate(value)]
    return value


async def _work(sandbox: Sandbox, prediction: Prediction, made: Made, *, fails: bool) -> None:
    """The run itself, in as many steps as there is something to tell."""
    p = prediction
    seconds = _number(sandbox, p, "duration_s", p.model.predict_s)
    general, own = sandbox.general, p.mischief
    shaped = own if own.has_output else general
    output = _asked(shaped.output, p.seed) if shaped.has_output else made.output
    await asyncio.to_thread(bake, sandbox, output)
    parts = list(output) if p.model.grows and isinstance(output, list) else []
    steps = min(STEPS_MAX, max(1, len(parts), len(made.logs)))
    told_ns = 0
    for step in range(steps):
        await sandbox.doze(seconds / steps)
        _step(sandbox, p, made, parts, step, steps)
        if step < steps - 1 and sandbox.now_ns() - told_ns >= OUTPUT_EVERY_S * sandbox.options.speed * 1e9:
            told_ns = sandbox.now_ns()
            webhooks.tell(sandbox, p, "output" if p.output else "logs")
    p.logs = (p.logs or "") + "#" * int(_number(sandbox, p, "logs_bytes", 0))
    if made.error is None and not fails and not parts:
        p.output = mint(sandbox, p, output)
    if p.output is not None:
        p.ready = True
        p.changed()
        webhooks.tell(sandbox, p, "output")
        await sandbox.doze(LATE_S)


def _asked(value: Any, seed: int) -> Any:
    """An output that was asked for, with recipes for what it calls files."""
    if isinstance(value, dict):
        return {key: _asked(item, seed + at) for at, (key, item) in enumerate(value.items(), 1)}
    if isinstance(value, list):
        return [_asked(item, seed + at) for at, item in enumerate(value, 1)]
    how, _, kind = value.partition(":") if isinstance(value, str) else ("", "", "")
    if how not in ("file", "inline") or kind not in KINDS:
        return value
    recipe = Recipe(kind, seed % 2**32, ASKED_SIDE, ASKED_SIDE, ASKED_BYTES)
    return recipe if how == "file" else Inline(recipe)


def _step(sandbox: Sandbox, p: Prediction, made: Made, parts: list[Any], step: int, steps: int) -> None:
    first, last = step * len(parts) // steps, (step + 1) * len(parts) // steps
    for index in range(first, last):
        p.output = [*(p.output or []), mint(sandbox, p, parts[index], f"output.{index}")]
    lines = made.logs[step * len(made.logs) // steps : (step + 1) * len(made.logs) // steps]
    p.logs = (p.logs or "") + "".join(f"{line}\n" for line in lines)
    p.changed()


def _hosted(sandbox: Sandbox, p: Prediction, recipe: Recipe, path: str) -> str:
    known = next((artifact for artifact in p.artifacts if artifact.recipe is recipe), None)
    if known is None:
        index = len(p.artifacts)
        folder = sandbox.name(f"file:{p.id}", index, PATH_LENGTH)
        place = f"/{('pbxt', 'yhqm', 'xezq')[p.number % 3]}/{folder}/out-{index}.{recipe.ending}"
        known = Artifact(place, index, recipe, sandbox.pantry.facts(recipe), p.id, sandbox.now_ns())
        p.artifacts.append(known)
        sandbox.files[place] = known
    url = sandbox.origin + known.path
    p.truth.append(Truth(path, url, recipe.content_type, known.facts))
    return url


def bake(sandbox: Sandbox, value: Any) -> None:
    """Makes all files once, off the loop, so that their hashes are known when they are told."""
    if isinstance(value, Inline):
        value = value.recipe
    if isinstance(value, Recipe):
        sandbox.pantry.facts(value)
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            bake(sandbox, item)


def _number(sandbox: Sandbox, prediction: Prediction, name: str, default: float) -> float:
    own = prediction.mischief.number(name)
    general = sandbox.general.number(name)
    return own if own is not None else general if general is not None else default
