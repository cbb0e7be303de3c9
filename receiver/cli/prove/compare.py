"""What was promised against what is there: the ledger by the API, the objects byte for byte in their folder."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from receiver.cli.service import Service
from receiver.core import event as events
from receiver.runtime.findings import Finding, Level, failed

PAGE = 1000
NAMED_MAX = 3  # of what is missing; the rest is counted


@dataclass(frozen=True, slots=True)
class Truth:
    """What was acknowledged to the stand-in, and what it served: SHA-256 by path of each prediction."""

    acknowledged: frozenset[str]
    files: dict[str, dict[str, str]]


@dataclass(frozen=True, slots=True)
class Kept:
    """What the service tells after all the kills: ids of deliveries, predictions by id, the feed."""

    deliveries: frozenset[str]
    predictions: dict[str, dict[str, Any]]
    events: list[dict[str, Any]]


async def kept_by(url: str) -> Kept:
    """Ask for everything. Raises Failure when it does not answer."""
    async with Service({"OUTKEEP_URL": url}) as service:
        deliveries = [each async for each in _pages(service, "/api/deliveries")]
        predictions = [each async for each in _pages(service, "/api/predictions")]
        told: list[dict[str, Any]] = []
        after = "0"
        while page := (await service.get("/events", after=after, limit=PAGE))["events"]:
            told += page
            after = page[-1]["sequence"]
    return Kept(frozenset(each["id"] for each in deliveries), {each["id"]: each for each in predictions}, told)


async def _pages(service: Service, path: str) -> Any:
    after = None
    while True:
        page = await service.get(path, after=after, limit=PAGE)
        for item in page["items"]:
            yield item
        after = page["next"]
        if after is None:
            return


def compared(truth: Truth, kept: Kept, objects: Path) -> Iterator[Finding]:
    """A finding for each promise."""
    missing = truth.acknowledged - kept.deliveries
    yield _finding("webhooks", missing, f"{len(truth.acknowledged)} answered 2xx, all of them in the ledger")
    open_ones = {number for number in truth.files if not kept.predictions.get(number, {}).get("archived_at")}
    yield _finding("predictions", open_ones, f"{len(truth.files)} made, all of them archived")
    yield _outputs(truth, kept, objects)
    yield _objects(kept, objects)
    yield _feed(truth, kept.events)


def _outputs(truth: Truth, kept: Kept, objects: Path) -> Finding:
    wrong = []
    for number, files in truth.files.items():
        outputs = {each["path"]: each for each in kept.predictions.get(number, {}).get("outputs") or ()}
        wrong += [
            f"{number} {path}"
            for path in files.keys() | outputs.keys()
            if _digest(objects, outputs.get(path, {}).get("key")) != files.get(path)
        ]
    count = sum(map(len, truth.files.values()))
    return _finding("outputs", wrong, f"{count} served, all of them in the bucket, byte for byte")


def _digest(objects: Path, key: str | None) -> str | None:
    path = objects / key if key else None
    return hashlib.sha256(path.read_bytes()).hexdigest() if path is not None and path.is_file() else None


def _objects(kept: Kept, objects: Path) -> Finding:
    """No object more than there are outputs and manifests."""
    wanted = Counter(
        key
        for known in kept.predictions.values()
        for key in (known.get("manifest_key"), *(each.get("key") for each in known.get("outputs") or ()))
        if key
    )
    found = {
        path.relative_to(objects).as_posix()
        for path in objects.rglob("*")
        if path.is_file() and path.relative_to(objects).parts[0] != ".tmp"
    }
    odd = [key for key, count in wanted.items() if count > 1] + sorted(found ^ wanted.keys())
    return _finding("objects", odd, f"{len(found)} in the bucket, one for each output and manifest, none half written")


def _feed(truth: Truth, told: list[dict[str, Any]]) -> Finding:
    """Each fact once, numbered without a gap."""
    facts = Counter((each["subject"], each["type"], _path(each)) for each in told)
    wanted = Counter(
        (number, kind, path)
        for number, files in truth.files.items()
        for kind, path in (
            *((kind, "") for kind in (events.CREATED, events.COMPLETED, events.ARCHIVED)),
            *((events.OUTPUT_ARCHIVED, path) for path in files),
        )
    )
    odd = [" ".join(fact) for fact in (facts - wanted) + (wanted - facts)]
    if [int(each["sequence"]) for each in told] != list(range(1, len(told) + 1)):
        odd.append("a gap in the numbers")
    return _finding("events", odd, f"{len(told)} told, each fact once, numbered without a gap")


def _path(event: dict[str, Any]) -> str:
    output = event["data"].get("output")
    known = event["type"] in {events.OUTPUT_ARCHIVED, events.OUTPUT_LOST} and isinstance(output, dict)
    return str(output["path"]) if known else ""


def _finding(about: str, wrong: Iterable[str], says: str) -> Finding:
    named = sorted(wrong)
    if not named:
        return Finding(Level.OK, about, f"{says}.")
    more = f" and {len(named) - NAMED_MAX} more" if len(named) > NAMED_MAX else ""
    return failed(about, f"Not so for {', '.join(named[:NAMED_MAX])}{more}; promised was: {says}.")
