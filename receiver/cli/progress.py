"""Progress of predictions: one live table on a terminal, a plain line for every change in a pipe."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from receiver.cli.showing import console, plain, say, style

REFRESHES_PER_S = 8.0


@dataclass(frozen=True, slots=True)
class Row:
    """How far one prediction is. `state` is one word, `note` the rest of the sentence."""

    name: str
    state: str
    note: str = ""

    def line(self) -> str:
        return f"{self.name}: {self.state}{f' ({self.note})' if self.note else ''}"


def row(name: str, prediction: Mapping[str, Any]) -> Row:
    """The row of a prediction as `/api/predictions` tells it."""
    status = str(prediction.get("status"))
    outputs = outputs_of(prediction)
    settled = sum(output.get("state") != "pending" for output in outputs)
    lost = [output for output in outputs if output.get("state") == "lost"]
    if lost:
        return Row(name, "lost", f"{len(lost)} of {len(outputs)}: {plain(str(lost[0].get('reason')))}")
    if prediction.get("archived_at") is None:
        return Row(name, status, f"{settled} of {len(outputs)} outputs archived" if outputs else "")
    if status != "succeeded":
        return Row(name, status, plain(str(prediction.get("error") or "")))
    return Row(name, "archived", counted(len(outputs), "output") if outputs else "no files, kept in the ledger")


def counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def outputs_of(prediction: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [output for output in prediction.get("outputs") or () if isinstance(output, dict)]


class Progress:
    """Shows rows on standard error while something goes on; `show` is called with all of them as often as wanted."""

    def __init__(self) -> None:
        self._console = console(stderr=True)
        self._live: Any = None
        self._said: dict[str, str] = {}

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            from rich.live import Live

            self._live = Live(console=self._console, refresh_per_second=REFRESHES_PER_S, transient=True)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, rows: Sequence[Row]) -> None:
        if self._live is not None:
            self._live.update(_grid(rows))
            return
        for told in rows:
            line = told.line()
            if self._said.get(told.name) != line:
                self._said[told.name] = line
                say(line)


def _grid(rows: Iterable[Row]) -> Any:
    from rich.spinner import Spinner
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 1))
    for told in rows:
        over = told.state in {"archived", "failed", "canceled", "aborted", "lost"}
        mark = Text("✓" if told.state == "archived" else "✗", style=style(told.state)) if over else Spinner("dots")
        note = Text(told.note, style="dim", overflow="ellipsis", no_wrap=True)
        grid.add_row(mark, Text(told.name, no_wrap=True), Text(told.state, style=style(told.state)), note)
    return grid
