"""What is sent to S3: in memory, or part of a file and never in memory as a whole."""

import hashlib
import os
import socket
import ssl
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

PIECE_BYTES = 1024 * 1024  # between two looks at the clock and at whether we are still wanted
CHUNK_BYTES = 256 * 1024


class WireError(Exception):
    """The exchange broke: nobody knows whether it took effect. `lost`: the connection was, a fresh one may help."""

    def __init__(self, message: str, *, lost: bool = False) -> None:
        super().__init__(message)
        self.lost = lost


class CertificateRefused(WireError):
    """Whoever answered could not show that it is the server."""


class Stopped(Exception):
    """The caller does not want the exchange any more."""


class Body(Protocol):
    """What is sent: its size in bytes is known beforehand, and it can be sent again."""

    @property
    def size(self) -> int: ...

    def send(self, sock: socket.socket, check: Callable[[], None]) -> None: ...

    def md5(self) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Data:
    """Bytes in memory."""

    data: bytes

    @property
    def size(self) -> int:
        return len(self.data)

    def send(self, sock: socket.socket, check: Callable[[], None]) -> None:
        view = memoryview(self.data)
        for start in range(0, len(view), PIECE_BYTES):
            check()
            sock.sendall(view[start : start + PIECE_BYTES])

    def md5(self) -> bytes:
        return hashlib.md5(self.data, usedforsecurity=False).digest()


@dataclass(frozen=True, slots=True)
class Slice:
    """A part of a file, sent by the kernel; through TLS in small pieces."""

    file: Path
    start: int
    size: int

    def send(self, sock: socket.socket, check: Callable[[], None]) -> None:
        with self.file.open("rb", buffering=0) as file:
            at, end = self.start, self.start + self.size
            while at < end:
                check()
                if isinstance(sock, ssl.SSLSocket):
                    piece = os.pread(file.fileno(), min(CHUNK_BYTES, end - at), at)
                    sock.sendall(piece)
                    sent = len(piece)
                else:
                    sent = sock.sendfile(file, at, min(PIECE_BYTES, end - at))
                if not sent:
                    raise WireError("the file to send is shorter than it was said to be")
                at += sent

    def md5(self) -> bytes:
        digest = hashlib.md5(usedforsecurity=False)
        for piece in self._pieces():
            digest.update(piece)
        return digest.digest()

    def crc32(self) -> bytes:
        crc32 = 0
        for piece in self._pieces():
            crc32 = zlib.crc32(piece, crc32)
        return crc32.to_bytes(4, "big")

    def _pieces(self) -> Iterator[memoryview]:
        """The bytes, each piece to be done with before the next."""
        buffer = memoryview(bytearray(min(CHUNK_BYTES, self.size)))
        with self.file.open("rb", buffering=0) as file:
            at, end = self.start, self.start + self.size
            while at < end:
                count = os.preadv(file.fileno(), [buffer[: end - at]], at)
                if not count:
                    raise WireError("the file to send is shorter than it was said to be")
                yield buffer[:count]
                at += count
