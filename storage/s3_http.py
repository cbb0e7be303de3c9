"""HTTP/1.1 as bulk transfer to S3 wants it: no body is ever in memory that is not there already."""

import select
import socket
import ssl
import time
from base64 import b64encode
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from io import BufferedReader
from typing import cast
from urllib.parse import unquote, urlsplit

from storage.s3_body import CHUNK_BYTES, Body, CertificateRefused, Data, Stopped, WireError

CONNECT_S = 10.0
SILENCE_S = 60.0  # without a byte in either direction: a server may think this long about a big part
RATE_MIN = 32 * 1024  # bytes a second, below which an exchange is given up however lively it looks
LINE_BYTES_MAX = 16 * 1024
HEADERS_MAX = 100
TEXT_BYTES_MAX = 64 * 1024


@dataclass(frozen=True, slots=True)
class Origin:
    """Where the bucket answers. `tls` is None for plain http; `proxy` is the URL of a proxy, or ""."""

    host: str
    port: int
    tls: ssl.SSLContext | None
    proxy: str = ""

    @property
    def authority(self) -> str:
        """The value of the `Host` header."""
        name = f"[{self.host}]" if ":" in self.host else self.host
        return name if self.port == (443 if self.tls else 80) else f"{name}:{self.port}"


class Answer:
    """An answer whose body is still to be read. `left` is None where it ends with the connection."""

    def __init__(self, status: int, headers: dict[str, str], connection: "Connection", left: int | None) -> None:
        self.status, self.headers, self.connection = status, headers, connection
        self._chunked = left is None and "transfer-encoding" in headers
        self._left = 0 if self._chunked else left

    @property
    def whole(self) -> bool:
        """Whether the body was read to its end."""
        return self._left == 0 and not self._chunked

    def read(self, count: int) -> bytes:
        """Up to `count` bytes of the body, b"" at its end. Raises WireError where it is cut short."""
        if self._chunked and self._left == 0:
            self._left = self._next_chunk()
        if self._left == 0:
            return b""
        piece = self.connection.read(count if self._left is None else min(count, self._left))
        if self._left is not None:
            if not piece:
                raise WireError("the answer was cut short")
            self._left -= len(piece)
            if self._chunked and self._left == 0:
                self.connection.line()
        return piece

    def text(self) -> str:
        """The body of a short answer, as far as it is of use."""
        body = b""
        while len(body) < TEXT_BYTES_MAX and (piece := self.read(TEXT_BYTES_MAX)):
            body += piece
        return body.decode(errors="replace")

    def _next_chunk(self) -> int:
        try:
            size = int(self.connection.line().split(b";")[0], 16)
        except ValueError as error:
            raise WireError("the answer makes no sense") from error
        if size == 0:
            self._chunked = False
            while self.connection.line():
                pass
        return size


class Connection:
    """One connection, used for one exchange after the other while `keep` holds. Raises WireError."""

    def __init__(self, origin: Origin) -> None:
        self.keep = True
        self.idle_since = 0.0
        self._sock = _connected(origin)
        self._reader = cast("BufferedReader", self._sock.makefile("rb", buffering=CHUNK_BYTES))

    def exchange(self, method: str, head: bytes, body: Body, stop: Callable[[], bool]) -> Answer:
        """Send a request and read the head of its answer. Raises Stopped too."""
        until = time.monotonic() + 2 * SILENCE_S + body.size / RATE_MIN

        def check() -> None:
            if stop():
                raise Stopped
            if time.monotonic() > until:
                raise WireError("it took too long")

        try:
            if isinstance(body, Data) and body.size <= CHUNK_BYTES:
                self._sock.sendall(head + body.data)  # copying it costs less than a second call
            else:
                self._sock.sendall(head)
                body.send(self._sock, check)
        except (BrokenPipeError, ConnectionResetError):
            self.keep = False  # the server may have said why before it hung up
        except OSError as error:
            raise _broken(error) from error
        return self._answer(method)

    def read(self, count: int) -> bytes:
        """What has come, up to `count` bytes."""
        try:
            return self._reader.read1(count)
        except (OSError, ValueError) as error:
            raise _broken(error) from error

    def line(self) -> bytes:
        """The next line without its end."""
        try:
            line = self._reader.readline(LINE_BYTES_MAX)
        except (OSError, ValueError) as error:
            raise _broken(error) from error
        if not line.endswith(b"\n"):
            if len(line) >= LINE_BYTES_MAX:
                raise WireError("the answer makes no sense")
            raise WireError("the connection was lost", lost=True)
        return line.rstrip(b"\r\n")

    def dropped(self) -> bool:
        """Whether the other side hung up, or says something that nobody asked for."""
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        return bool(poll.poll(0))

    def hang_up(self) -> None:
        """Let whoever reads or writes in another thread fail at once."""
        with suppress(OSError):
            socket.socket.shutdown(self._sock, socket.SHUT_RDWR)  # not TLS's own, which is not for two threads

    def close(self) -> None:
        """Hang up and let go; waits for nobody."""
        self.hang_up()
        with suppress(OSError):
            self._reader.close()
        with suppress(OSError):
            self._sock.close()

    def _answer(self, method: str) -> Answer:
        status, version, headers = 100, "", dict[str, str]()
        while 100 <= status < 200:
            first, *lines = self._head()
            version, _, rest = first.partition(" ")
            if not version.startswith("HTTP/1.") or not (rest[:3].isascii() and rest[:3].isdigit()):
                raise WireError("the answer is no HTTP")
            pairs = [line.partition(":") for line in lines]
            status, headers = int(rest[:3]), {name.strip().lower(): value.strip() for name, _, value in pairs}
        length = headers.get("content-length", "")
        left = int(length) if length.isdigit() and "transfer-encoding" not in headers else None
        if method == "HEAD" or status in {204, 304}:
            left = 0
        ends_by_itself = left is not None or "transfer-encoding" in headers
        closing = version == "HTTP/1.0" or "close" in headers.get("connection", "").lower()
        self.keep = self.keep and ends_by_itself and not closing
        return Answer(status, headers, self, left)

    def _head(self) -> list[str]:
        """The lines of a head, at least one; read at once where it came at once."""
        try:
            end = self._reader.peek().find(b"\r\n\r\n")
            at_once = 0 < end <= LINE_BYTES_MAX
            lines = self._reader.read(end + 4)[:end].split(b"\r\n") if at_once else [self.line()]
        except (OSError, ValueError) as error:
            raise _broken(error) from error
        while not at_once and len(lines) <= HEADERS_MAX and (line := self.line()):
            lines.append(line)
        if len(lines) > HEADERS_MAX:
            raise WireError("the answer has too many headers")
        return [line.decode("latin-1") for line in lines]


def _connected(origin: Origin) -> socket.socket:
    try:
        sock = _tunnelled(origin) if origin.proxy else socket.create_connection((origin.host, origin.port), CONNECT_S)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if origin.tls:
            sock = _wrapped(origin.tls, sock, origin.host)
    except OSError as error:
        raise _broken(error) from error
    sock.settimeout(SILENCE_S)
    return sock


def _wrapped(tls: ssl.SSLContext, sock: socket.socket, host: str) -> socket.socket:
    try:
        return tls.wrap_socket(sock, server_hostname=host)
    except OSError:
        sock.close()
        raise


def _tunnelled(origin: Origin) -> socket.socket:
    """A connection through an http proxy, asked for with CONNECT whatever the scheme."""
    proxy = urlsplit(origin.proxy if "://" in origin.proxy else f"http://{origin.proxy}")
    sock = socket.create_connection((proxy.hostname or "", proxy.port or 80), CONNECT_S)
    lines = [f"CONNECT {origin.host}:{origin.port} HTTP/1.1", f"Host: {origin.host}:{origin.port}"]
    if proxy.username is not None:
        login = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
        lines.append(f"Proxy-Authorization: Basic {b64encode(login.encode()).decode()}")
    try:
        sock.sendall("\r\n".join([*lines, "", ""]).encode())
        answer = b""
        while not answer.endswith(b"\r\n\r\n") and len(answer) < LINE_BYTES_MAX:
            piece = sock.recv(1)  # not a byte further: what follows belongs to the tunnel
            if not piece:
                break
            answer += piece
        if answer[9:12] != b"200":
            raise ConnectionError("the proxy refused")
    except OSError:
        sock.close()
        raise
    return sock


def _broken(error: Exception) -> WireError:
    """A few words without addresses or secrets."""
    if isinstance(error, TimeoutError):
        return WireError("time-out")
    if isinstance(error, ssl.SSLCertVerificationError):
        return CertificateRefused("its certificate was refused")
    if isinstance(error, socket.gaierror):
        return WireError("its host name is not known")
    lost = isinstance(error, ConnectionError | ssl.SSLError) and not isinstance(error, ConnectionRefusedError)
    strerror = error.strerror if isinstance(error, OSError) else None
    return WireError((strerror or "the connection was lost").lower(), lost=lost)
