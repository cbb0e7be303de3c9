"""HTTP/1.1 answers read off a connection, strictly, straight into the reader's own memory.

RFC 9112. Anything that two readers could frame differently (both a length and chunks, two lengths, folded headers) is
an error instead of a guess.
"""

import re

from storage.connection import Connection
from storage.errors import SourceUnavailable
from storage.watch import Watch

HEAD_BYTES_MAX = 65_536
INTERIM_ANSWERS_MAX = 8
"""`100 Continue` and `103 Early Hints` come before the real answer; nobody sends many."""
CHUNK_LINE_BYTES_MAX = 1024
TRAILER_BYTES_MAX = 16_384
BUFFER_BYTES = 65_536

_STATUS = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9]{2})(?: [^\r\n]*)?")
_HEADER = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\r\n\0]*?)[ \t]*")
_LENGTH = re.compile(r"[0-9]{1,18}")
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\r\n]*)?")


class Dropped(Exception):
    """A kept connection was closed before a byte of the answer came."""


class Cut(Exception):
    """The body ended before its announced end."""


class Answer:
    """One answer: `status`, `headers` (lower-case names, repeated ones joined by commas), and its body.

    `size` is the announced length of the body in bytes, None for chunks and for a body that ends with the connection;
    `framed` is False only for the latter; `ended` says that the body was read to its end.
    """

    def __init__(self, connection: Connection, watch: Watch) -> None:
        self._connection = connection
        self._watch = watch
        self._unread = connection.unread
        self._keep = True
        self.ended = False
        self._in_chunks = False
        self._chunk_left = 0
        self._chunks_begun = False
        self._left = 0
        self.size: int | None = None
        self.framed = True
        self.status, self.headers = self._read_head()
        self._frame()
        watch.begin_body()

    @property
    def reusable(self) -> bool:
        """The body was read to its end, and the connection may serve another request if it stays quiet."""
        return self.ended and self._keep and not self._unread

    def read_into(self, room: memoryview) -> int:
        """The next bytes of the body: at least one, 0 at its proper end. Raises Cut, SourceUnavailable, Cancelled."""
        if self.ended:
            return 0
        if self._in_chunks:
            return self._read_chunked(room)
        if not self.framed:
            return self._some(room) or self._end()
        count = self._some(room[: self._left])
        if not count:
            raise Cut
        self._left -= count
        if not self._left:
            self.ended = True
        return count

    def _end(self) -> int:
        self.ended = True
        return 0

    def _read_chunked(self, room: memoryview) -> int:
        if not self._chunk_left and not self._next_chunk():
            return self._end()
        count = self._some(room[: self._chunk_left], buffered=True)
        if not count:
            raise Cut
        self._chunk_left -= count
        return count

    def _next_chunk(self) -> bool:
        if self._chunks_begun and self._line():
            raise SourceUnavailable("The server's chunks are malformed.")
        self._chunks_begun = True
        match = _CHUNK.fullmatch(self._line())
        if match is None:
            raise SourceUnavailable("The server's chunks are malformed.")
        self._chunk_left = int(match[1], 16)
        if self._chunk_left:
            return True
        trailer_bytes = 0
        while line := self._line():
            trailer_bytes += len(line) + 2
            if trailer_bytes > TRAILER_BYTES_MAX:
                raise SourceUnavailable("The server's trailer is too long.")
        return False

    def _line(self) -> bytes:
        while (end := self._unread.find(b"\r\n")) < 0:
            if len(self._unread) > CHUNK_LINE_BYTES_MAX:
                raise SourceUnavailable("The server's chunks are malformed.")
            if not self._fill():
                raise Cut
        line = bytes(self._unread[:end])
        del self._unread[: end + 2]
        return line

    def _some(self, room: memoryview, *, buffered: bool = False) -> int:
        if not self._unread and buffered and len(room) < BUFFER_BYTES:
            # Small chunks come many to a system call.
            self._fill()
        if self._unread:
            count = min(len(room), len(self._unread))
            room[:count] = memoryview(self._unread)[:count]
            del self._unread[:count]
            return count
        return self._receive(room)

    def _fill(self) -> int:
        buffer = bytearray(BUFFER_BYTES)
        count = self._receive(memoryview(buffer))
        self._unread += memoryview(buffer)[:count]
        return count

    def _receive(self, room: memoryview) -> int:
        try:
            return self._connection.receive_into(room, self._watch)
        except OSError as error:
            raise Cut from error

    def _read_head(self) -> tuple[int, dict[str, str]]:
        for _ in range(INTERIM_ANSWERS_MAX):
            status, headers = self._parse_head(self._head_bytes())
            if status == 101:
                break
            if status >= 200:
                return status, headers
        raise SourceUnavailable("The server never came to its answer.")

    def _head_bytes(self) -> bytes:
        searched = 0
        while (end := self._unread.find(b"\r\n\r\n", max(0, searched - 3))) < 0:
            searched = len(self._unread)
            if searched > HEAD_BYTES_MAX:
                raise SourceUnavailable("The server's header block is too long.")
            self._fill_head()
        head = bytes(self._unread[:end])
        del self._unread[: end + 4]
        return head

    def _fill_head(self) -> None:
        try:
            count = self._fill()
        except Cut:
            count = 0
        if count:
            return
        if self._connection.requests > 1 and not self._unread:
            raise Dropped
        raise SourceUnavailable("The server closed the connection before its answer.")

    def _parse_head(self, head: bytes) -> tuple[int, dict[str, str]]:
        first, *lines = head.split(b"\r\n")
        match = _STATUS.fullmatch(first)
        if match is None:
            raise SourceUnavailable("The server's answer is not HTTP/1.1.")
        headers: dict[str, str] = {}
        for line in lines:
            header = _HEADER.fullmatch(line)
            if header is None:
                raise SourceUnavailable("The server's header block is malformed.")
            name, value = header[1].decode("ascii").lower(), header[2].decode("latin-1")
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
        tokens = {token.strip().lower() for token in headers.get("connection", "").split(",")}
        self._keep = "close" not in tokens and (match[1] == b"1" or "keep-alive" in tokens)
        return int(match[2]), headers

    def _frame(self) -> None:
        coding, length = self.headers.get("transfer-encoding"), self.headers.get("content-length")
        if coding is not None:
            if length is not None or coding.strip().lower() != "chunked":
                raise SourceUnavailable("The server's framing of the body is ambiguous.")
            self._in_chunks = True
        elif length is not None:
            lengths = {part.strip() for part in length.split(",")}
            if len(lengths) != 1 or not _LENGTH.fullmatch(next(iter(lengths))):
                raise SourceUnavailable("The server's Content-Length makes no sense.")
            self.size = self._left = int(lengths.pop())
            self.ended = self._left == 0
        elif self.status in {204, 304}:
            self.size, self.ended = 0, True
        else:
            self.framed = self._keep = False
