"""Giving: a permanent link becomes the bytes of the object behind it."""

from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, field

from receiver.core.errors import OutkeepError
from receiver.core.output import Stored
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
        output = await self.ledger.output_by_link(link)
        if output is None or output.stored is None:
            return None
        self._known[link] = output.stored
        if len(self._known) > LINKS_REMEMBERED:
            self._known.popitem(last=False)
        return output.stored

    def open(self, stored: Stored, *, start: int, length: int) -> "Reading":
        """Start reading a part of the object; nothing is asked of the bucket before the first piece is."""
        return Reading(self.bucket.read(stored.key, start=start, length=length), length)


@dataclass(slots=True)
class Reading:
    """A part of an object on its way out; `close` it at the end, whatever happened."""

    _chunks: AsyncIterator[bytes]
    left: int

    async def piece(self) -> bytes:
        """The next bytes; b"" when all were given.

        Raises ObjectGone or ObjectUnavailable, the latter also when there are fewer bytes than the ledger knows of.
        """
        if self.left == 0:
            return b""
        try:
            piece = await anext(self._chunks, b"")
        except ObjectMissing as error:
            raise ObjectGone("The object is no longer in the bucket.") from error
        except StorageError as error:
            raise ObjectUnavailable("The bucket does not give the object just now.") from error
        if not piece or len(piece) > self.left:
            raise ObjectUnavailable("The object in the bucket is not as long as it was when it was stored.")
        self.left -= len(piece)
        return piece

    async def close(self) -> None:
        """Let go of the file or the connection."""
        if isinstance(self._chunks, AsyncGenerator):
            await self._chunks.aclose()
