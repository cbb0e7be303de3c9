"""`outkeep rescue`: everything that may still be had is looked for once more, and what came of it is told."""

import asyncio
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import click

from receiver.cli.environment import environment
from receiver.cli.frame import FAILED, command
from receiver.cli.showing import FOLDED, ID, SHORT, as_json, plain, say, table
from receiver.cli.since import METAVAR, moment_told

LOOK_EVERY_S = 0.5
LOOKS_AT_ONCE = 8  # at predictions: the service has others to serve
PATIENCE_S = 120.0  # without anything being settled; the service goes on by itself after we have left
SILENCE_S = 15.0  # of the service: longer than it takes to start again
_MAY_PASS = frozenset(("unavailable", "conflict"))  # lost for such a reason, it is worth another rescue


@dataclass(slots=True)
class _Going:
    """What the service set going, put together from its answers; `trouble` is a sentence on why it is not all."""

    since: str = ""
    found: list[str] = field(default_factory=list)
    updated: list[str] = field(default_factory=list)
    running: set[str] = field(default_factory=set)
    settled: int = 0
    again: list[tuple[str, str]] = field(default_factory=list)
    gone: list[Mapping[str, Any]] = field(default_factory=list)
    trouble: str | None = None

    def waited_for(self) -> list[str]:
        ids = [*self.found, *self.updated, *(prediction for prediction, _ in self.again)]
        return [each for each in dict.fromkeys(ids) if each not in self.running]

    def paths(self, prediction_id: str) -> Collection[str] | None:
        """The outputs of a prediction that this is about; None for all of them."""
        if prediction_id in self.found or prediction_id in self.updated:
            return None
        return {path for prediction, path in self.again if prediction == prediction_id}


@command("rescue", ["outkeep rescue", "outkeep rescue --since 6h", "outkeep rescue --json | jq .gone"])
@click.option(
    "--since",
    metavar=METAVAR,
    callback=moment_told,
    default="1h",
    show_default=True,
    help="Look back so far: 90m, 6h, 2d, or a moment.",
)
@click.option("--json", "whole", is_flag=True, help="Print what came of it as JSON.")
def run(since: str, *, whole: bool) -> int:
    """Have a running service (OUTKEEP_URL, OUTKEEP_KEY with the scope admin) save all that may still be had.

    It compares the account's own list with the ledger and tries outputs that were lost once more. Waits until what it
    found is settled. Exit status 1 when something was left behind that another try may save.
    """
    return asyncio.run(_rescue(since, whole=whole))


async def _rescue(since: str, *, whole: bool) -> int:
    from receiver.cli.service import Service

    async with Service(environment()) as service:
        going = await _set_going(service, since)
        known = await _settled(service, going.waited_for())
    told = _outcome(going, known)
    if whole:
        click.echo(as_json(told))
    else:
        _show(going, known, told)
    _warn(going, told)
    missed = [each for each in told["gone"] if each["reason"] in _MAY_PASS]
    return FAILED if missed or told["pending"] or not told["complete"] else 0


async def _set_going(service: Any, since: str) -> _Going:
    from receiver.cli.service import Refused, Unreachable

    going, asked = _Going(), {"since": since}
    while True:
        try:
            told = await service.post("/api/rescue", asked)
        except (Unreachable, Refused) as error:
            if not going.since:
                raise
            going.trouble = f"The account's list could not be read to its end: {error}"
            return going
        going.since = going.since or told["since"]
        going.found += told["found"]
        going.updated += told["updated"]
        going.running |= set(told["running"])
        going.settled += told["settled"]
        going.again += [(each["prediction"], each["path"]) for each in told["tried_again"]]
        going.gone += told["gone"]
        going.trouble = going.trouble or told["trouble"]
        if told["next"] is None:
            return going
        if "before" in asked and told["next"] >= asked["before"]:
            going.trouble = "The account's list could not be read to its end: it does not go on."
            return going
        asked = {"since": going.since, "before": told["next"]}


async def _settled(service: Any, ids: Sequence[str]) -> dict[str, Mapping[str, Any]]:
    """Those predictions, once all their outputs are settled or nothing has been for too long."""
    from receiver.cli.progress import Progress, Row

    known: dict[str, Mapping[str, Any]] = {}
    waiting, clock = list(ids), asyncio.get_running_loop().time
    moved_s = heard_s = clock()
    with Progress() as progress:
        while waiting:
            for start in range(0, len(waiting), LOOKS_AT_ONCE):
                some = waiting[start : start + LOOKS_AT_ONCE]
                paths = [f"/api/predictions/{quote(each, safe='')}" for each in some]
                looks = zip(some, await asyncio.gather(*(_look(service, path) for path in paths)), strict=True)
                answered = {each: told for each, told in looks if told is not None}
                known |= answered
                heard_s = clock() if answered else heard_s
            left = [each for each in waiting if each not in known or not _is_settled(known[each])]
            moved_s = clock() if len(left) < len(waiting) else moved_s
            waiting = left
            progress.show([Row("rescue", "archiving", f"{len(ids) - len(left)} of {len(ids)} predictions settled")])
            if clock() > min(moved_s + PATIENCE_S, heard_s + SILENCE_S):
                break
            if waiting:
                await asyncio.sleep(LOOK_EVERY_S)
    return known


async def _look(service: Any, path: str) -> Mapping[str, Any] | None:
    """None while the service has no time for us: what it does meanwhile is told at the end all the same."""
    from receiver.cli.service import Unreachable

    try:
        told: Mapping[str, Any] = await service.get(path)
    except Unreachable:
        return None
    return told


def _is_settled(prediction: Mapping[str, Any]) -> bool:
    pending = any(output["state"] == "pending" for output in prediction["outputs"])
    return prediction.get("archived_at") is not None and not pending


def _outcome(going: _Going, known: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    told = {state: list(_outputs(going, known, state)) for state in ("archived", "lost", "pending")}
    unsettled = [each for each in going.waited_for() if each not in known or not _is_settled(known[each])]
    return {
        "since": going.since,
        "complete": going.trouble is None,
        "found": going.found,
        "updated": going.updated,
        "running": sorted(going.running),
        "saved": told["archived"],
        "settled": going.settled,
        "gone": [*told["lost"], *going.gone],
        "pending": unsettled,
    }


def _outputs(going: _Going, known: Mapping[str, Mapping[str, Any]], state: str) -> Iterator[Mapping[str, Any]]:
    for prediction_id, prediction in known.items():
        wanted = going.paths(prediction_id)
        for output in prediction["outputs"]:
            if output["state"] == state and (wanted is None or output["path"] in wanted):
                about = {"prediction": prediction_id, "path": output["path"]}
                yield about | ({"url": output["url"]} if state == "archived" else {"reason": output["reason"]})


def _show(going: _Going, known: Mapping[str, Mapping[str, Any]], told: Mapping[str, Any]) -> None:
    rows = [(prediction_id, *_row(going, prediction)) for prediction_id, prediction in known.items()]
    if rows:
        table("", (("prediction", ID), ("", SHORT), ("what came of it", FOLDED)), rows)
        click.echo()
    click.echo(f"{len(told['saved']):>7}  files saved")
    click.echo(f"{told['settled']:>7}  predictions whose end was known already")
    click.echo(f"{len(told['gone']):>7}  files gone")
    for each in told["gone"]:
        click.echo(
            f"         {plain(str(each['prediction']))} {plain(str(each['path']))}: {plain(str(each['reason']))}"
        )
    if told["running"]:
        click.echo(f"{len(told['running']):>7}  predictions still running")


def _warn(going: _Going, told: Mapping[str, Any]) -> None:
    from receiver.cli.progress import counted

    if told["pending"]:
        say(f"outkeep: Not settled yet: {counted(len(told['pending']), 'prediction')}; the service goes on.")
    if going.trouble:
        say(f"outkeep: {plain(going.trouble)}")


def _row(going: _Going, prediction: Mapping[str, Any]) -> tuple[str, str]:
    from receiver.cli.progress import counted

    prediction_id = str(prediction["id"])
    how = "found" if prediction_id in going.found else "updated" if prediction_id in going.updated else "tried again"
    wanted = going.paths(prediction_id)
    outputs = [each for each in prediction["outputs"] if wanted is None or each["path"] in wanted]
    if not outputs:
        return how, "no files, kept in the ledger" if _is_settled(prediction) else str(prediction.get("status"))
    counts = {state: sum(each["state"] == state for each in outputs) for state in ("archived", "lost", "pending")}
    words = [(counts["archived"], "saved"), (counts["lost"], "gone"), (counts["pending"], "pending")]
    return how, ", ".join(f"{counted(count, 'file')} {word}" for count, word in words if count)
