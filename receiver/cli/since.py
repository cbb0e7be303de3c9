"""WHEN: how far back something looks, said on the command line."""

import click

from receiver.core.clock import since_ms

METAVAR = "WHEN"


def moment_told(_context: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    """A moment like 2026-11-22T08:00:00Z, or how long ago it was: 90m, 6h, 2d. Handed on as it was written."""
    if value is not None and since_ms(value, now_ms=0) is None:
        raise click.BadParameter(f"{value!r} is neither how long ago (90m, 6h, 2d) nor a moment (2026-11-22T08:00:00Z)")
    return value
