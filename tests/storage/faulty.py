"""A server that answers byte for byte as it is told, however wrong that is."""

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Request:
    line: str
    headers: dict[str, str]

    @property
    def path(self) -> str:
        return self.line.split(" ")[1]


Send = Callable[[bytes], None]
Reply = Callable[[Request, Send], bool | None]
"""Sends what it likes; True keeps the connection for another request."""


class FaultyServer:
    """The nth request gets the nth reply, the last one again and again."""

    def __init__(self, *replies: Reply | bytes, tls: ssl.SSLContext | None = None) -> None:
        self.replies = list(replies)
        self.requests: list[Request] = []
        self.connections = 0
        self._tls = tls
        self._lock = threading.Lock()
        self._stopped = False
        self._open: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(0.05)
        self.port = self._listener.getsockname()[1]
        self.origin = f"http://127.0.0.1:{self.port}" if tls is None else f"https://localhost:{self.port}"
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    def url(self, path: str = "/file") -> str:
        return self.origin + path

    def stop(self) -> None:
        self._stopped = True
        self._accepting.join()
        self._listener.close()
        for sock in self._open:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        while not self._stopped:
            try:
                sock, _ = self._listener.accept()
            except TimeoutError:
                continue
            sock.settimeout(10)
            self._open.append(sock)
            self.connections += 1
            thread = threading.Thread(target=self._serve, args=(sock,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, sock: socket.socket) -> None:
        try:
            if self._tls is not None:
                sock = self._tls.wrap_socket(sock, server_side=True)
                self._open.append(sock)
            buffer = b""
            while True:
                while b"\r\n\r\n" not in buffer:
                    data = sock.recv(65536)
                    if not data:
                        return
                    buffer += data
                head, _, buffer = buffer.partition(b"\r\n\r\n")
                if not self._answer(sock, head.decode("latin-1")):
                    return
        except OSError:
            pass
        finally:
            sock.close()

    def _answer(self, sock: socket.socket, head: str) -> bool:
        line, *rows = head.split("\r\n")
        request = Request(line, {name.lower(): value for name, _, value in (row.partition(": ") for row in rows)})
        with self._lock:
            reply = self.replies[min(len(self.requests), len(self.replies) - 1)]
            self.requests.append(request)
        if isinstance(reply, bytes):
            sock.sendall(reply)
            return False
        return bool(reply(request, sock.sendall))


@contextlib.contextmanager
def serving(*replies: Reply | bytes, tls: ssl.SSLContext | None = None) -> Iterator[FaultyServer]:
    server = FaultyServer(*replies, tls=tls)
    try:
        yield server
    finally:
        server.stop()


def head(status: int = 200, /, **headers: str | int) -> bytes:
    rows = [f"HTTP/1.1 {status} Said", *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items())]
    return "\r\n".join([*rows, "", ""]).encode("latin-1")


def good(body: bytes, status: int = 200, /, **headers: str | int) -> Reply:
    """A right answer on a connection that stays."""

    def reply(_: Request, send: Send) -> bool:
        send(head(status, Content_Length=len(body), **headers) + body)
        return True

    return reply


def cut(body: bytes, after: int, /, **headers: str | int) -> bytes:
    """Announces the whole body and sends its beginning."""
    return head(Content_Length=len(body), **headers) + body[:after]


def chunked(body: bytes, *, size: int = 1000, end: bytes = b"0\r\n\r\n", **headers: str | int) -> bytes:
    parts = [body[at : at + size] for at in range(0, len(body), size)]
    return (
        head(200, Transfer_Encoding="chunked", **headers) + b"".join(b"%x\r\n%b\r\n" % (len(p), p) for p in parts) + end
    )


def ranged(body: bytes, *, etag: str = '"tag"', validator: str | None = None) -> Reply:
    """Honours `Range` and `If-Range` as a server should."""

    def reply(request: Request, send: Send) -> bool:
        wanted = request.headers.get("range", "")
        if wanted and request.headers.get("if-range") == (validator or etag):
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            where = f"bytes {start}-{len(body) - 1}/{len(body)}"
            send(head(206, Content_Length=len(body) - start, Content_Range=where, ETag=etag) + body[start:])
        else:
            send(head(Content_Length=len(body), ETag=etag) + body)
        return True

    return reply


def trickle(data: bytes, *, every_s: float, at_first: int = 0) -> Reply:
    """Byte by byte."""

    def reply(_: Request, send: Send) -> None:
        send(data[:at_first])
        for at in range(at_first, len(data)):
            time.sleep(every_s)
            send(data[at : at + 1])

    return reply


def silent(data: bytes, seconds: float) -> Reply:
    """Sends something and then nothing."""

    def reply(_request: Request, send: Send) -> None:
        send(data)
        for _ in range(int(seconds / 0.05)):
            time.sleep(0.05)

    return reply
