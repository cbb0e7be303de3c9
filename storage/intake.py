"""Bytes coming in: counted and hashed on the way, in memory while they are few, in the spool when they are many."""

import hashlib
import threading
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue

from storage.bucket import Upload
from storage.errors import Refused
from storage.signatures import HEAD_BYTES
from storage.spool import Spool, SpoolFile

MEMORY_BYTES_MAX = 4 * 1024 * 1024
"""Files up to this stay in memory all the way: eight at once are 32 MiB."""
PIECE_BYTES = 1024 * 1024
PIECES = 4
"""Memory of one large transfer: this many pieces, being received, hashed and written in turn."""
GROW_BYTES = 16 * 1024 * 1024
"""Room asked for at a time where the size is not announced."""

Begin = Callable[[bytes, Path, int, str], Upload | None]
"""The file's first bytes, its path, its announced size and type: start sending it, or not."""


class Intake:
    """Where one file arrives. `room` and `took` alternate; `finish` ends it; `discard` at any time.

    Raises Refused above `bytes_max`, and SpoolUnavailable, Cancelled from `took` and `start`.
    """

    def __init__(
        self, *, spool: Spool, name: str, bytes_max: int, cancelled: Callable[[], bool], begin: Begin | None = None
    ) -> None:
        self._spool, self._name, self._cancelled, self._begin = spool, name, cancelled, begin
        self.bytes_max = bytes_max
        self._announced: int | None = None
        self._header = ""
        self._memory = bytearray()
        self._hasher: SideHasher | None = None
        self._want_md5 = False
        self._piece = bytearray()
        self._filled = 0
        self._reserved = 0
        self.size = 0
        self.sha256 = ""
        self.md5 = ""
        self.file: SpoolFile | None = None
        self.upload: Upload | None = None

    def start(self, announced: int | None, *, want_md5: bool, header: str = "") -> None:
        """Begin from zero, whatever came before; `announced` is the size to expect in bytes or None."""
        self._stop()
        self.size, self._filled, self._reserved = 0, 0, 0
        self._announced, self._want_md5, self._header = announced, want_md5, header
        self._memory = bytearray()
        if self.file is not None:
            self.file.restart()
        if announced is not None and announced > self.bytes_max:
            raise Refused(f"The file has {announced} bytes, more than the {self.bytes_max} that are allowed.")
        if self.file is not None or (announced is not None and announced > MEMORY_BYTES_MAX):
            self._to_file()
        else:
            self._memory = bytearray(HEAD_BYTES if announced is None else announced)

    def room(self) -> memoryview:
        """Where the next bytes may be put; never empty."""
        if self._hasher is not None:
            return memoryview(self._piece)[self._filled :]
        if self.size == len(self._memory):
            self._memory = self._memory + bytes(max(HEAD_BYTES, min(self.size, MEMORY_BYTES_MAX)))
        return memoryview(self._memory)[self.size :]

    def took(self, count: int) -> None:
        """`count` bytes were put into the room."""
        self.size += count
        if self.size > self.bytes_max:
            raise Refused(f"The file has more than the {self.bytes_max} bytes that are allowed.")
        if self._hasher is None:
            if self.size > MEMORY_BYTES_MAX:
                self._spill()
            return
        self._filled += count
        if self._filled == PIECE_BYTES:
            self._flush()

    def feed(self, data: bytes) -> None:
        """Take bytes from elsewhere."""
        at = 0
        while at < len(data):
            room = self.room()
            count = min(len(room), len(data) - at)
            room[:count] = memoryview(data)[at : at + count]
            del room
            self.took(count)
            at += count

    def finish(self) -> None:
        """The file is whole: `size`, `sha256` and `md5` (hex; "" unless wanted) are final."""
        if self._hasher is not None:
            self._flush()
            self.sha256, self.md5 = self._hasher.finish()
            self._hasher = None
            return
        data = self.data()
        self.sha256 = hashlib.sha256(data).hexdigest()
        self.md5 = hashlib.md5(data, usedforsecurity=False).hexdigest() if self._want_md5 else ""

    def data(self) -> memoryview:
        """The bytes, while they are in memory (`file` is None)."""
        return memoryview(self._memory)[: self.size]

    def first_bytes(self) -> bytes:
        """Up to HEAD_BYTES from the beginning."""
        if self.file is None:
            return bytes(self.data()[:HEAD_BYTES])
        with self.file.path.open("rb") as file:
            return file.read(HEAD_BYTES)

    def discard(self) -> None:
        """Forget everything. Never raises."""
        self._stop()
        if self.file is not None:
            self.file.remove()

    def _stop(self) -> None:
        if self.upload is not None:
            self.upload.abort()
            self.upload = None
        if self._hasher is not None:
            self._hasher.finish()
            self._hasher = None

    def _to_file(self) -> None:
        if self.file is None:
            self.file = self._spool.open(self._name)
            self.file.restart()
        self._reserve(self._announced or 0)
        self._hasher = SideHasher(want_md5=self._want_md5)
        self._piece = self._hasher.free_piece()

    def _reserve(self, size: int) -> None:
        if self.file is not None and size > self._reserved:
            self._reserved = size
            self.file.reserve(size, self._cancelled)

    def _spill(self) -> None:
        """More came than memory may hold: go on in the spool."""
        data = self.data()
        self._to_file()
        for start in range(0, self.size, PIECE_BYTES):
            part = data[start : start + PIECE_BYTES]
            self._piece[: len(part)] = part
            self._filled = len(part)
            if self._filled == PIECE_BYTES:
                self._flush()
        self._memory = bytearray()

    def _flush(self) -> None:
        if self.file is None or self._hasher is None or not self._filled:
            return
        if self.size > self._reserved:
            self._reserve(self.size + min(GROW_BYTES, self.bytes_max - self.size))
        written = memoryview(self._piece)[: self._filled]
        self.file.write(written)
        if self._announced is not None and self._begin is not None and self.size == self._filled:
            self.upload = self._begin(bytes(written[:HEAD_BYTES]), self.file.path, self._announced, self._header)
        self._hasher.add(self._piece, self._filled)
        self._piece, self._filled = self._hasher.free_piece(), 0
        if self.upload is not None:
            self.upload.advance(self.size)


class SideHasher:
    """Hashes in a thread of its own, which runs beside the transfer since hashing gives up the interpreter's lock."""

    def __init__(self, *, want_md5: bool) -> None:
        self._sha256 = hashlib.sha256()
        self._md5 = hashlib.md5(usedforsecurity=False) if want_md5 else None
        self._full: SimpleQueue[tuple[bytearray, int] | None] = SimpleQueue()
        self._free: SimpleQueue[bytearray] = SimpleQueue()
        for _ in range(PIECES):
            self._free.put(bytearray(PIECE_BYTES))
        self._thread = threading.Thread(target=self._run, name="storage-hash", daemon=True)
        self._thread.start()

    def free_piece(self) -> bytearray:
        """A piece of PIECE_BYTES to fill; waits until one is hashed."""
        return self._free.get()

    def add(self, piece: bytearray, size: int) -> None:
        """Hash the first `size` bytes of a piece, in the order of the calls; the piece is given back."""
        self._full.put((piece, size))

    def finish(self) -> tuple[str, str]:
        """SHA-256 and MD5 ("" unless wanted) of everything added, as hex. Ends the thread."""
        self._full.put(None)
        self._thread.join()
        return self._sha256.hexdigest(), self._md5.hexdigest() if self._md5 is not None else ""

    def _run(self) -> None:
        while (full := self._full.get()) is not None:
            piece, size = full
            view = memoryview(piece)[:size]
            self._sha256.update(view)
            if self._md5 is not None:
                self._md5.update(view)
            self._free.put(piece)
