"""Giving: a permanent link becomes the bytes of the object behind it."""

from collections import OrderedDict
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from receiver.core.errors import OutkeepError
from receiver.core.output import Output, Stored
from receiver.ledger.ledger import Ledger
from storage.bucket import Bucket
from storage.errors import ObjectMissing, StorageError

LINKS_REMEMBERED = 4096
"""Archived outputs never change, so a page of pictures asks the ledger once for each; some kilobytes apiece."""


class ObjectGone(OutkeepError):
    """The object is no longer in the bucket: somebody removed it there."""


class ObjectUnavailable(OutkeepError):
    """The bucket does not give the object just now: try again later."""


@dataclass(slots=True)
class Give:
    """Find what a link stands for, and read it."""

    ledger: Ledger
    bucket: Bucket
    _known: OrderedDict[str, Stored] = field(default_factory=OrderedDict)

    async def find(self, link: str) -> Stored | None:
        """What the bucket holds under a link; None for a link that is none or not archived yet. LedgerUnavailable."""
        known = self._known.get(link)
        if known is not None:
            self._known.move_to_end(link)
            return known
        output: Output | None = await self.ledger.output_by_link(link)
        if output is None or output.stored is None:
            return None
        self._known[link] = output.stored
        if len(self._known) > LINKS_REMEMBERED:
            self._known.popitem(last=False)
        return output.stored

    async def read(self, stored: Stored, *, start: int, length: int) -> AsyncIterator[bytes]:
        """The object's bytes in chunks, beginning with the second step: the first yields b"" once they are at hand.

        Raises ObjectGone or ObjectUnavailable, also in the middle; fewer bytes than `length` are ObjectUnavailable.
        """
        chunks = self.bucket.read(stored.key, start=start, length=length)
        left = length
        while left > 0:
            chunk = await _next(chunks)
            if not chunk or len(chunk) > left:
                raise ObjectUnavailable("The bucket's object is not as long as it was.")
            left -= len(chunk)
            yield chunk


async def _next(chunks: AsyncIterator[bytes]) -> bytes:
    try:
        return await anext(chunks, b"")
    except ObjectMissing as error:
        raise ObjectGone("The object is no longer in the bucket.") from error
    except StorageError as error:
        raise ObjectUnavailable("The bucket does not give the object just now.") from error
