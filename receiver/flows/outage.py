"""Whether the bucket takes objects. While it does not, one at a time tries it; everything else waits in the spool."""

import logging

from storage.errors import BucketMisconfigured, BucketUnavailable, StorageError

log = logging.getLogger("outkeep.archive")


class Outage:
    """What this process knows of its bucket. Places are for what can vanish: a bucket that hangs must not hold them."""

    def __init__(self) -> None:
        self.lasts = False
        self._trying = 0

    def room(self, limit: int) -> int:
        """How many more may go to the bucket now, of `limit`."""
        return max(0, min(limit, 1 - self._trying)) if self.lasts else limit

    def begin(self) -> bool:
        """Whether the next output may go to the bucket; then `end` must follow."""
        tries = bool(self.room(1))
        self._trying += tries
        return tries

    def end(self, error: StorageError | None = None, *, done: bool = False) -> None:
        """What became of a try: `done` when the bucket took the object."""
        self._trying -= 1
        if isinstance(error, BucketUnavailable | BucketMisconfigured):
            if not self.lasts:
                log.warning("the bucket takes nothing, outputs wait in the spool: %s", error)
            self.lasts = True
        elif done:
            if self.lasts:
                log.warning("the bucket takes objects again")
            self.lasts = False
