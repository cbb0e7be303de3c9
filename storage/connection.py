"""Connections to checked addresses, kept alive between requests."""

import ipaddress
import select
import socket
import ssl
import threading
import time

from storage.address import Target, forbidden
from storage.dial import Resolve, connect, look_up, resolve_name, secure
from storage.errors import Refused, SourceUnavailable
from storage.watch import SLICE_S, Watch

IDLE_S = 15.0
"""Longest that an unused connection is kept: below the keep-alive of common servers, so that few drop at re-use."""
AT_ONCE_BYTES = 4096
"""A request up to this fits into the buffer of a connection that is quiet, whatever the system's settings."""
KEPT_MAX = 32
SEND_S = 10.0
"""A request of a few KiB fits into the socket's own buffer at once."""


class Connection:
    """One socket, plain or TLS, and what of the next answer was already read from it."""

    def __init__(self, raw: socket.socket, origin: tuple[str, str, int]) -> None:
        self._socket = raw
        self.origin = origin
        self.requests = 0
        self.kept_since = 0.0
        self.unread = bytearray()

    def send(self, request: bytes) -> None:
        """Send a whole request. Raises OSError."""
        self.requests += 1
        if self.requests > 1 and len(request) <= AT_ONCE_BYTES:
            self._socket.sendall(request)  # without a system call for each new time-out
            return
        self._socket.settimeout(SEND_S)
        self._socket.sendall(request)
        self._socket.settimeout(SLICE_S)

    def receive_into(self, room: memoryview, watch: Watch) -> int:
        """Wait for bytes: at least one, 0 at the end of the stream. Raises OSError, and what `watch` raises."""
        while True:
            begun = time.monotonic()
            try:
                count = self._socket.recv_into(room)
            except (TimeoutError, ssl.SSLWantReadError):
                watch.received(0, time.monotonic() - begun)
                continue
            watch.received(count, time.monotonic() - begun)
            return count

    def is_quiet(self) -> bool:
        """Nothing waits to be read: neither a stray byte nor the other side's goodbye."""
        if self.unread:
            return False
        poll = select.poll()
        poll.register(self._socket, select.POLLIN | select.POLLHUP | select.POLLERR)
        return not poll.poll(0)

    def close(self) -> None:
        self._socket.close()


class Connections:
    """Opens connections and keeps those that may be used again. Safe to share between threads."""

    def __init__(self, *, resolve: Resolve | None = None, tls: ssl.SSLContext | None = None) -> None:
        self._resolve = resolve or resolve_name
        self._tls = tls
        self._lock = threading.Lock()
        self._kept: list[Connection] = []
        self._closed = False

    def take(self, target: Target) -> Connection | None:
        """A kept connection to the same origin, whose address was checked when it was opened."""
        while True:
            with self._lock:
                found = next((one for one in reversed(self._kept) if one.origin == target.origin), None)
                if found is None:
                    return None
                self._kept.remove(found)
            if time.monotonic() - found.kept_since < IDLE_S and found.is_quiet():
                return found
            found.close()

    def give(self, connection: Connection) -> None:
        """Keep a connection whose last answer was read to its end; the oldest goes when there are too many."""
        connection.kept_since = time.monotonic()
        with self._lock:
            if not self._closed:
                self._kept.append(connection)
            surplus = [connection] if self._closed else self._kept[:-KEPT_MAX]
            self._kept = self._kept[-KEPT_MAX:]
        for one in surplus:
            one.close()

    def open(self, target: Target, watch: Watch) -> Connection:
        """Resolve once, check every answer, connect to a checked address.

        Raises Refused, SourceUnavailable, Cancelled.
        """
        until = watch.check() + watch.patience.connect_s
        addresses = self._addresses(target, until, watch)
        error: OSError = TimeoutError("timed out")
        for index, address in enumerate(addresses):
            # Each address gets its share of what time is left: the first may be a road that leads nowhere.
            now = watch.check()
            try:
                raw = connect(address, target.port, until=now + (until - now) / (len(addresses) - index), watch=watch)
            except OSError as failed:
                error = failed
                continue
            return Connection(self._secured(raw, target, until, watch), target.origin)
        raise SourceUnavailable(f"No connection to {target.host}: {_plain(error)}.") from error

    def close(self) -> None:
        """Close what is kept; connections in use are closed when they come back."""
        with self._lock:
            kept, self._kept, self._closed = self._kept, [], True
        for one in kept:
            one.close()

    def _addresses(self, target: Target, until: float, watch: Watch) -> list[str]:
        try:
            addresses = [str(ipaddress.ip_address(target.host))]
        except ValueError:
            try:
                found = look_up(self._resolve, target.host, target.port, until=until, watch=watch)
            except OSError as error:
                raise SourceUnavailable(f"The name {target.host} could not be resolved: {_plain(error)}.") from error
            addresses = list(dict.fromkeys(found))
        if not addresses:
            raise SourceUnavailable(f"The name {target.host} has no address.")
        for address in () if target.private_allowed else addresses:
            reason = forbidden(address)
            if reason:
                raise Refused(f"The host {target.host} leads to an address that is not public ({reason}).")
        return addresses

    def _secured(self, raw: socket.socket, target: Target, until: float, watch: Watch) -> socket.socket:
        if target.scheme != "https":
            return raw
        try:
            return secure(raw, self._context(), target.host, until=until, watch=watch)
        except OSError as error:
            raise SourceUnavailable(f"No secure connection to {target.host}: {_plain(error)}.") from error

    def _context(self) -> ssl.SSLContext:
        with self._lock:
            if self._tls is None:
                self._tls = _trusting_context()
            return self._tls


def _trusting_context() -> ssl.SSLContext:
    import certifi  # noqa: PLC0415 - read once, at the first https fetch

    # The system's authorities and certifi's: slim container images have none of their own.
    context = ssl.create_default_context()
    context.load_verify_locations(certifi.where())
    context.set_alpn_protocols(["http/1.1"])
    return context


def _plain(error: OSError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate refused ({error.verify_message})"
    return (error.strerror or str(error) or type(error).__name__).strip().rstrip(".")
