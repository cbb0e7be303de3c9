"""Names into addresses, addresses into sockets: blocking steps that a cancelled transfer still leaves at once."""

import os
import select
import socket
import ssl
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue

from storage.watch import SLICE_S, Watch

Resolve = Callable[[str, int], list[str]]
"""A name and a port into addresses; raises OSError."""


def resolve_name(host: str, port: int) -> list[str]:
    """All addresses of a name, in the order the system prefers. Raises OSError."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except UnicodeError as error:
        raise OSError("the name cannot be encoded") from error
    return [str(entry[4][0]) for entry in found]


def look_up(resolve: Resolve, host: str, port: int, *, until: float, watch: Watch) -> list[str]:
    """Resolve in a thread of its own, since the system's resolver can neither be stopped nor given a deadline.

    `until` is on the watch's clock. Raises OSError, and what `watch` raises.
    """
    answers: SimpleQueue[list[str] | OSError] = SimpleQueue()

    def ask() -> None:
        try:
            answers.put(resolve(host, port))
        except OSError as error:
            answers.put(error)

    threading.Thread(target=ask, name="storage-resolve", daemon=True).start()
    while watch.check() < until:
        try:
            answer = answers.get(timeout=SLICE_S)
        except Empty:
            continue
        if isinstance(answer, OSError):
            raise answer
        return answer
    raise TimeoutError("timed out")


def connect(address: str, port: int, *, until: float, watch: Watch) -> socket.socket:
    """A connected socket. `address` is an IP address: nothing is looked up. Raises OSError, and what `watch` raises."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.connect_ex((address, port))
        _await(sock, select.POLLOUT, until, watch)
        _raise_for(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except BaseException:
        sock.close()
        raise
    return sock


def secure(raw: socket.socket, context: ssl.SSLContext, host: str, *, until: float, watch: Watch) -> ssl.SSLSocket:
    """TLS over a connected socket, which it takes over; the certificate must be for `host`.

    Raises OSError, and what `watch` raises.
    """
    try:
        wrapped = context.wrap_socket(raw, server_hostname=host, do_handshake_on_connect=False)
    except BaseException:
        raw.close()
        raise
    try:
        wrapped.setblocking(False)
        while True:
            try:
                wrapped.do_handshake()
            except ssl.SSLWantReadError:
                _await(wrapped, select.POLLIN, until, watch)
            except ssl.SSLWantWriteError:
                _await(wrapped, select.POLLOUT, until, watch)
            else:
                return wrapped
    except BaseException:
        wrapped.close()
        raise


def _await(sock: socket.socket, event: int, until: float, watch: Watch) -> None:
    poll = select.poll()
    poll.register(sock, event)
    while watch.check() < until:
        if poll.poll(SLICE_S * 1000):
            return
    raise TimeoutError("timed out")


def _raise_for(error: int) -> None:
    if error:
        raise OSError(error, os.strerror(error))
