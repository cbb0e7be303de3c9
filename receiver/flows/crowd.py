"""Who gives way when all places are taken: slow sources, though never the one whose file vanishes first. And whoever
found no room in the spool, to one whose bytes lie there: otherwise it would never be emptied.
"""

from collections.abc import Callable


class Crowd:
    """Outputs in hand, by their leases. Set from outside: `waits`, whether others wait for a place; `lacks_room`,
    whether one of them found none in the spool.
    """

    def __init__(self) -> None:
        self.waits = False
        self.lacks_room = False
        self._deadlines: dict[str, int] = {}

    def enter(self, lease: str, expires_ms: int) -> Callable[[], bool]:
        """Take a place; gives the question whether to give way, which may be asked in any thread."""
        self._deadlines[lease] = expires_ms
        return lambda: self.waits and self._gives_way(expires_ms)

    def leave(self, lease: str) -> None:
        """Free the place."""
        self._deadlines.pop(lease, None)

    def to_make_room(self) -> int:
        """How many of those in the spool are to go before all others now: one after one that found no room."""
        count, self.lacks_room = int(self.lacks_room), False
        return count

    def _gives_way(self, expires_ms: int) -> bool:
        # Else a line on which everybody is slow would bring nobody's file.
        deadlines = list(self._deadlines.values())
        return len(deadlines) == 1 or expires_ms > min(deadlines)
