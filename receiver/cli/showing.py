"""How things look on a terminal or in a pipe: safe text, sizes, moments, tables within 80 columns."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import click

WIDTH = 80  # columns, when the output is not a terminal
_UNSHOWN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_STYLES = {
    "archived": "green",
    "succeeded": "green",
    "pending": "yellow",
    "starting": "yellow",
    "processing": "yellow",
    "lost": "red",
    "failed": "red",
    "canceled": "magenta",
    "aborted": "magenta",
    "quarantined": "red",
}


def plain(text: str) -> str:
    """Text from outside, harmless to a terminal: control and direction characters are written out, not obeyed."""
    return _UNSHOWN.sub(
        lambda found: f"\\x{ord(found[0]):02x}" if ord(found[0]) < 256 else f"\\u{ord(found[0]):04x}", text
    )


def size(count: int | None) -> str:
    """`48.1 kB`: 1 kB is 1,000 bytes."""
    if count is None:
        return ""
    number = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if number < 999.95 or (unit == "B" and count < 1000):
            return f"{count} B" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} TB"


def moment(told: Any) -> str:
    """`2026-11-22 08:00:03` (UTC) of an ISO 8601 text; whatever else it is, as it is."""
    if not isinstance(told, str):
        return ""
    match = re.match(r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:\d\d)", told, re.ASCII)
    return f"{match[1]} {match[2]}" if match else plain(told)


def extent(output: Mapping[str, Any]) -> str:
    """`1024×1024` or `2.0 s` where it is known."""
    if output.get("width") and output.get("height"):
        return f"{output['width']}×{output['height']}"
    return f"{output['duration_s']:.1f} s" if isinstance(output.get("duration_s"), int | float) else ""


def style(state: Any) -> str:
    """The colour of a state."""
    return _STYLES.get(str(state), "")


def as_json(value: Any) -> str:
    """One line, ASCII only: lone surrogates must not crash an answer."""
    return json.dumps(value, ensure_ascii=True, allow_nan=False)


def as_text(output: Any) -> str:
    """An output without files: text as it is, tokens put together, anything else as JSON."""
    if isinstance(output, list) and output and all(isinstance(part, str) for part in output):
        output = "".join(output)
    return output if isinstance(output, str) else as_json(output)


def say(text: str = "") -> None:
    """A line for whoever watches: on standard error, so that standard output holds results alone."""
    click.echo(text, err=True)


def table(
    title: str,
    columns: Sequence[tuple[str, Mapping[str, Any]]],
    rows: Sequence[Sequence[str]],
    *,
    states: Sequence[int] = (),
) -> None:
    """Print a table. `columns` are names with rich's options; cells in the columns `states` take their colour."""
    from rich.table import Table
    from rich.text import Text

    drawn = Table(
        title=title or None, title_justify="left", title_style="bold", box=None, pad_edge=False, padding=(0, 2, 0, 0)
    )
    for name, options in columns:
        drawn.add_column(name, header_style="dim", **options)
    for row in rows:
        drawn.add_row(
            *(Text(plain(cell), style=style(cell) if index in states else "") for index, cell in enumerate(row))
        )
    out = console()
    with out.capture() as drawing:
        out.print(drawn)
    for line in drawing.get().splitlines():
        click.echo(line.rstrip())


ID: Mapping[str, Any] = {"no_wrap": True, "overflow": "ignore"}  # ids are copied: never cut, never broken
FOLDED: Mapping[str, Any] = {"overflow": "fold"}
SHORT: Mapping[str, Any] = {"no_wrap": True}


def console(*, stderr: bool = False) -> Any:
    """rich's console: as wide as the terminal, 80 columns elsewhere; no markup, no guessing at highlights."""
    from rich.console import Console

    class Piped(Console):
        def on_broken_pipe(self) -> None:
            """Called while the error is handled. The frame ends every command alike; rich would exit by itself."""
            raise  # noqa: PLE0704

    found = Piped(stderr=stderr, markup=False, highlight=False, emoji=False, soft_wrap=False)
    if not found.is_terminal:
        found = Piped(stderr=stderr, markup=False, highlight=False, emoji=False, width=WIDTH, no_color=True)
    return found
