"""Who gives way when all places are taken: slow sources, though never the one whose file vanishes first."""

from collections.abc import Callable


class Crowd:
    """Outputs in hand, by their leases. `waits` is set from outside: whether others wait for a place."""

    def __init__(self) -> None:
        self.waits = False
        self._deadlines: dict[str, int] = {}

    def enter(self, lease: str, expires_ms: int) -> Callable[[], bool]:
        """Take a place; gives the question whether to give way, which may be asked in any thread."""
        self._deadlines[lease] = expires_ms
        return lambda: self.waits and self._gives_way(expires_ms)

    def leave(self, lease: str) -> None:
        """Free the place."""
        self._deadlines.pop(lease, None)

    def _gives_way(self, expires_ms: int) -> bool:
        # Else a line on which everybody is slow would bring nobody's file.
        deadlines = list(self._deadlines.values())
        return len(deadlines) == 1 or expires_ms > min(deadlines)
