"""`outkeep sandbox`: the stand-in for Replicate alone."""

import asyncio
import json
from typing import TYPE_CHECKING, Any

import click

from receiver.cli.frame import Failure, command

if TYPE_CHECKING:
    from receiver.sandbox.options import Options

SPEED_MAX = 1000.0  # times faster or slower; beyond it nothing could be told apart


@command(
    "sandbox",
    [
        "outkeep sandbox",
        "outkeep sandbox --port 9100 --speed 0.1 --seed 7",
        "outkeep sandbox --mischief webhook=drop --mischief files=once:500",
        'outkeep sandbox --mischief \'files=["truncated", "404"]\'',
    ],
)
@click.option("--host", metavar="ADDRESS", default="127.0.0.1", show_default=True, help="Listen here.")
@click.option("--port", type=click.IntRange(0, 65535), default=9100, show_default=True, help="0 is any free one.")
@click.option(
    "--speed",
    type=click.FloatRange(1 / SPEED_MAX, SPEED_MAX),
    default=1.0,
    show_default=True,
    help="0.1 makes everything ten times faster.",
)
@click.option(
    "--retention",
    type=click.FloatRange(min=0, min_open=True),
    default=3600.0,
    show_default=True,
    metavar="SECONDS",
    help="Outputs are removed so long after completion.",
)
@click.option("--seed", type=int, help="The same seed and calls give the same ids, secrets and files.")
@click.option(
    "--mischief",
    multiple=True,
    metavar="KIND=WORD",
    help="Misbehave: webhook=drop, files=once:500, api=429:5, status=failed … May be repeated.",
)
def run(host: str, port: int, speed: float, retention: float, seed: int | None, mischief: tuple[str, ...]) -> None:
    """Run a stand-in for Replicate: its API, its signed webhooks, its files, and its misbehaviour on request.

    It takes any token, keeps everything in memory and forgets it at the end. `GET /_sandbox` tells what it believes.
    """
    from receiver.cli import running
    from receiver.sandbox.options import Options

    asked = _mischief(mischief)
    options = Options(seed=seed, speed=speed, retention_s=retention, mischief=asked)

    async def main(stop: asyncio.Event) -> None:
        await _sandbox(options, host, port, stop)

    running.run(main)


async def _sandbox(options: "Options", host: str, port: int, stop: asyncio.Event) -> None:
    from contextlib import AsyncExitStack

    from receiver.sandbox.server import running

    async with AsyncExitStack() as stack:
        try:
            sandbox = await stack.enter_async_context(running(options, host, port))
        except OSError as error:
            raise Failure(f"--host {host} --port {port} can't be listened on: {error.strerror or error}.") from None
        click.echo(
            f"The sandbox listens on {sandbox.url} (its API is {sandbox.api_url}, its state {sandbox.url}/_sandbox)"
        )
        click.echo("Have a service use it; any token will do, and the signing secret is fetched by itself:")
        click.echo(f"  REPLICATE_API_TOKEN={sandbox.token} OUTKEEP_REPLICATE_URL={sandbox.api_url} \\")
        click.echo(f"    OUTKEEP_OUTPUT_HOSTS={sandbox.url} outkeep serve")
        await stop.wait()


def _mischief(words: tuple[str, ...]) -> dict[str, Any]:
    """`kind=word` pairs; the word is JSON where it is JSON. Raises click.BadParameter."""
    from receiver.sandbox import mischief

    asked: dict[str, Any] = {}
    for word in words:
        kind, equals, text = word.partition("=")
        if not equals:
            raise click.BadParameter(f"{word!r} is not KIND=WORD", param_hint="--mischief")
        value = _value(text)
        if kind in asked:  # the same kind again: a list of words, tried in turn
            known = asked[kind] if isinstance(asked[kind], list) else [asked[kind]]
            value = [*known, *(value if isinstance(value, list) else [value])]
        asked[kind] = value
    try:
        mischief.read(asked)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--mischief") from None
    return asked


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
