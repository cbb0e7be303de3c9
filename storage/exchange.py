"""One request for a file: checked address, redirects followed by hand, statuses sorted by what to do about them."""

from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from urllib.parse import urljoin

from storage.address import AllowedHosts, Target
from storage.answer import Answer, Cut, Dropped
from storage.connection import Connection, Connections
from storage.errors import Gone, Refused, SourceUnavailable
from storage.watch import Watch

REDIRECTS_MAX = 3
DRAIN_BYTES_MAX = 64 * 1024
"""An error page up to this is read so that its connection can be kept."""
RETRY_AFTER_S_MAX = 3600.0
"""Beyond this a `Retry-After` says nothing useful: the files are gone by then."""

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_GONE = frozenset({404, 410})


@dataclass(slots=True)
class Exchange:
    """An answer on its connection; ends with `finish` or `drop`."""

    answer: Answer
    connection: Connection
    connections: Connections

    def finish(self) -> None:
        """Give the connection back if the body was read to its end, else close it."""
        if self.answer.reusable:
            self.connections.give(self.connection)
        else:
            self.connection.close()

    def drop(self) -> None:
        self.connection.close()


def ask(
    url: str, *, hosts: AllowedHosts, connections: Connections, watch: Watch, agent: str, extra: dict[str, str]
) -> Exchange:
    """GET a file: an answer of 200, or of 206 or 416 if `extra` holds a `Range`.

    No credentials are ever sent, no encoding is accepted. Raises Gone, Refused, SourceUnavailable, Cancelled.
    """
    target = hosts.check(url)
    for _ in range(REDIRECTS_MAX + 1):
        exchange = _send(target, connections, watch, agent, extra)
        if exchange.answer.status not in _REDIRECTS:
            return _sorted(exchange, target, ranged="Range" in extra)
        location = exchange.answer.headers.get("location", "")
        _drain(exchange)
        if not location:
            raise SourceUnavailable("The server redirects without saying where to.")
        target = _followed(target, location, hosts)
    raise Refused(f"The server redirects more than {REDIRECTS_MAX} times.")


def _followed(target: Target, location: str, hosts: AllowedHosts) -> Target:
    try:
        # Header bytes beyond ASCII are UTF-8 in practice (RFC 9110 5.5 only says opaque).
        return hosts.check(urljoin(target.url, location.encode("latin-1").decode("utf-8")))
    except ValueError as error:
        raise Refused("The server redirects to something that is no URL.") from error
    except Refused as error:
        raise Refused(f"The server redirects to where we do not go: {error}") from error


def _send(target: Target, connections: Connections, watch: Watch, agent: str, extra: dict[str, str]) -> Exchange:
    headers = {"Host": target.host_header, "User-Agent": agent, "Accept": "*/*", "Accept-Encoding": "identity"} | extra
    lines = [f"GET {target.path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    request = "\r\n".join([*lines, "", ""]).encode("latin-1")
    watch.check()
    kept = connections.take(target)
    if kept is not None:
        try:
            return _answered(kept, request, watch, connections)
        except Dropped:
            pass  # The other side closed an idle connection: no answer to a GET is lost by asking again.
    return _answered(connections.open(target, watch), request, watch, connections)


def _answered(connection: Connection, request: bytes, watch: Watch, connections: Connections) -> Exchange:
    try:
        try:
            connection.send(request)
        except OSError as error:
            if connection.requests > 1:
                raise Dropped from error
            raise SourceUnavailable("The server closed the connection before its answer.") from error
        watch.begin_head()
        return Exchange(Answer(connection, watch), connection, connections)
    except BaseException:
        connection.close()
        raise


def _sorted(exchange: Exchange, target: Target, *, ranged: bool) -> Exchange:
    status, headers = exchange.answer.status, exchange.answer.headers
    if status == 200 or (ranged and status in {206, 416}):
        coding = headers.get("content-encoding", "identity").strip().lower()
        if coding in {"identity", ""}:
            return exchange
        exchange.drop()
        raise Refused("The server sends the file in an encoding that we did not ask for.")
    _drain(exchange)
    if status in _GONE:
        raise Gone(f"{target.host} answered {status}: the file is not there (any more).")
    raise SourceUnavailable(f"{target.host} answered {status}.", retry_after_s=_retry_after_s(headers))


def _retry_after_s(headers: dict[str, str]) -> float | None:
    text = headers.get("retry-after", "").strip()
    if text.isascii() and text.isdigit():
        return min(float(text[:10]), RETRY_AFTER_S_MAX)
    try:
        # A date counts from the server's own clock, so ours need not be asked.
        wanted = parsedate_to_datetime(text) - parsedate_to_datetime(headers.get("date", ""))
    except (ValueError, TypeError):
        return None
    return min(max(wanted.total_seconds(), 0.0), RETRY_AFTER_S_MAX)


def _drain(exchange: Exchange) -> None:
    size = exchange.answer.size
    if size is None or size > DRAIN_BYTES_MAX:
        exchange.drop()
        return
    room = memoryview(bytearray(size or 1))
    try:
        while exchange.answer.read_into(room):
            pass
    except (Cut, SourceUnavailable):
        exchange.drop()
        return
    except BaseException:
        exchange.drop()
        raise
    exchange.finish()
