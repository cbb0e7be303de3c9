"""`outkeep demo`: the whole job, with a stand-in for Replicate, on this machine alone."""

import asyncio
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from receiver.cli.environment import called
from receiver.cli.frame import FAILED, Failure, command
from receiver.cli.showing import as_text, console, extent, plain, say, size, style

if TYPE_CHECKING:
    from receiver.cli.acts import Played
    from receiver.cli.stage import Stage

TEXT_LENGTH_MAX = 48  # characters of a text output, beside what else stands in its line


@command("demo", ["outkeep demo", "outkeep demo --once", "outkeep demo --dir ./kept"])
@click.option("--once", is_flag=True, help="End as soon as every output is archived; exit status 1 if one was not.")
@click.option(
    "--dir", "kept", type=click.Path(path_type=Path, file_okay=False), metavar="PATH", help="Keep the data there."
)
def run(kept: Path | None, *, once: bool) -> int:
    """Show the whole job: a stand-in for Replicate, a service, predictions of every shape, all archived.

    Needs no account and touches none: settings and .env are ignored. Goes on serving until Ctrl-C.
    """
    with ExitStack() as stack:
        if kept is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="outkeep-demo-")))
        else:
            folder = _made(kept)
        say("Starting a stand-in for Replicate and the service …")
        from receiver.cli import running

        with running.loading():
            from receiver.cli import acts  # noqa: F401 - and with it everything else
            from receiver.runtime import logs

        logs.configure("console", level=30)  # warnings: the progress is the news here

        async def main(stop: asyncio.Event) -> int:
            return await _demo(folder, stop, once=once)

        status = running.run(main)
    say(f"The data lies in {plain(str(folder))}." if kept else f"{folder} is removed; --dir PATH keeps the data.")
    return status


def _made(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Failure(f"--dir can't be used: {error.strerror} ({folder}).") from None
    return folder.absolute()


async def _demo(folder: Path, stop: asyncio.Event, *, once: bool) -> int:
    from receiver.cli.acts import play
    from receiver.cli.stage import stage

    async with stage(folder) as up:
        played = await _unless_ended(up, play(up, stop))
        missing = [words for words in (one.missing() for one in played) if words]
        _tell(up, played)
        for words in missing:
            say(f"outkeep: {plain(words)}.")
        if not once:
            _tell_urls(up, played)
            await _unless_ended(up, stop.wait())
            return 0
    return FAILED if missing else 0


async def _unless_ended(up: "Stage", work: Any) -> Any:
    """The work's result, or the error of the service when that ends before."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait((task, up.service), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            await up.service
        return await task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _tell(up: "Stage", played: Sequence["Played"]) -> None:
    """What was archived and where: the folder of each prediction in the bucket, and what lies in it."""
    from rich.text import Text

    from receiver.cli.stage import objects

    out = console()

    def line(*parts: tuple[str, str]) -> None:
        out.print(Text.assemble(*parts), no_wrap=True, overflow="ignore", crop=False)

    line((f"Archived in {plain(str(objects(up.folder)))}/", "bold"))
    for one in played:
        prediction = one.prediction
        state = str(prediction.get("status"))
        line()
        line((one.act.model, "bold"), (f" ({one.act.shows}) ", "dim"), (plain(state), style(state)))
        manifest = prediction.get("manifest_key")
        line((f"  {str(manifest or prediction['id']).removesuffix('manifest.json')}", "cyan"))
        for output in prediction.get("outputs") or ():
            name = str(output.get("key") or output["path"]).rpartition("/")[2]
            facts = f"{size(output.get('size')):>9}  {output.get('content_type') or '':<17}  {extent(output):<9} "
            line((f"    {name:<27}", ""), (facts, "dim"), (output["state"], style(output["state"])))
        if not prediction.get("outputs") and prediction.get("output") is not None:
            line(("    (no files)".ljust(31), ""), (f"{_short(prediction['output'])}", "dim"))
        if manifest:
            line((f"    {'manifest.json':<27}", ""), (" " * 41, ""), ("written", "green"))


def _short(output: Any) -> str:
    """Output without files, on the rest of a line."""
    text = " ".join(plain(as_text(output)).split())
    return text if len(text) <= TEXT_LENGTH_MAX else f"{text[: TEXT_LENGTH_MAX - 1]}…"


def _tell_urls(up: "Stage", played: Sequence["Played"]) -> None:
    files = [output["url"] for one in played for output in one.prediction.get("outputs") or () if output.get("url")]
    looks = [
        ("Gallery", f"{up.url}/"),
        ("Predictions", f"{up.url}/api/predictions"),
        ("Events", f"{up.url}/events"),
        *([("A file", files[0])] if files else []),
        ("Folder", str(up.folder)),
        ("Stand-in", f"{up.sandbox.url}/_sandbox/predictions"),
    ]
    click.echo()
    for name, place in looks:
        click.echo(f"{name:<12} {plain(place)}")
    click.echo()
    click.echo(f"Try it yourself:  OUTKEEP_URL={up.url} {called()} list")
    click.echo("Ctrl-C ends it.")
