"""Signed requests to one bucket over kept connections."""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from storage.errors import BucketUnavailable, Cancelled, StorageError
from storage.s3_account import Account
from storage.s3_body import Body, CertificateRefused, Data, Stopped, WireError
from storage.s3_errors import certificate_refused, code_of
from storage.s3_http import Answer, Connection
from storage.sigv4 import UNSIGNED, quoted_path, signed

IDLE_S = 15.0  # kept that long; servers drop idle connections after 20 s or more
IDLE_MAX = 16
NOTHING = Data(b"")


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer that was read. `headers` have lower-case names; `code` is S3's word for an error, or ""."""

    status: int
    headers: dict[str, str]
    code: str


def never() -> bool:
    """For exchanges that nobody stops."""
    return False


class Wire:
    """Requests of one bucket. Every method may be called from any thread and blocks.

    A connection that is lost is replaced once within a request: every request here can be made twice, creating ones
    because they are conditional or compared afterwards. Raises BucketUnavailable, Cancelled,
    BucketMisconfigured.
    """

    def __init__(self, bucket: str, account: Account) -> None:
        self._bucket, self._account = bucket, account
        self._lock = threading.Lock()
        self._idle: list[Connection] = []
        self._busy: set[Connection] = set()
        self._closed = False

    def ask(
        self,
        method: str,
        key: str,
        headers: Mapping[str, str] | None = None,
        *,
        query: str = "",
        body: Body = NOTHING,
        payload: str = UNSIGNED,
        stop: Callable[[], bool] = never,
    ) -> Reply:
        """Make a request whose answer is short."""
        answer = self.open(method, key, headers, query=query, body=body, payload=payload, stop=stop)
        try:
            code = code_of(answer.text())
        except WireError as error:
            raise self._unavailable(error) from error
        finally:
            self.give_back(answer)
        return Reply(answer.status, answer.headers, code)

    def open(
        self,
        method: str,
        key: str,
        headers: Mapping[str, str] | None = None,
        *,
        query: str = "",
        body: Body = NOTHING,
        payload: str = UNSIGNED,
        stop: Callable[[], bool] = never,
    ) -> Answer:
        """Make a request and leave the answer's body to be read; it must be given back."""
        path = quoted_path(self._account.path + key)
        try:
            together = signed(
                method,
                path,
                query,
                {"host": self._account.origin.authority, **(headers or {})},
                keys=self._account.keys(),
                region=self._account.region,
                now=datetime.now(UTC),
                payload=payload,
            )
            target = f"{path}?{query}" if query else path
            lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in together.items())]
            if body.size or method == "PUT":
                lines.append(f"content-length: {body.size}")
            return self._exchanged(method, "\r\n".join([*lines, "", ""]).encode(), body, stop)
        except WireError as error:
            raise self._unavailable(error) from error
        except Stopped as error:
            raise Cancelled("The upload was given up.") from error

    def give_back(self, answer: Answer) -> None:
        """Keep the answer's connection for the next request if it is fit for one."""
        connection = answer.connection
        connection.idle_since = time.monotonic()
        with self._lock:
            self._busy.discard(connection)
            if answer.whole and connection.keep and not self._closed and len(self._idle) < IDLE_MAX:
                self._idle.append(connection)
                return
        connection.close()

    def close(self) -> None:
        """Hang up, also on what is under way: it fails at once."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
            for connection in self._busy:
                connection.hang_up()
        for connection in idle:
            connection.close()

    def _exchanged(self, method: str, head: bytes, body: Body, stop: Callable[[], bool]) -> Answer:
        try:
            return self._once(self._kept() or Connection(self._account.origin), method, head, body, stop)
        except WireError as error:
            if not error.lost:
                raise
        return self._once(Connection(self._account.origin), method, head, body, stop)

    def _once(self, connection: Connection, method: str, head: bytes, body: Body, stop: Callable[[], bool]) -> Answer:
        with self._lock:
            closed = self._closed
            if not closed:
                self._busy.add(connection)
        if closed:
            connection.close()
            raise WireError("it was closed")
        try:
            return connection.exchange(method, head, body, stop)
        except BaseException:
            with self._lock:
                self._busy.discard(connection)
            connection.close()
            raise

    def _kept(self) -> Connection | None:
        while True:
            with self._lock:
                if not self._idle:
                    return None
                connection = self._idle.pop()
            if time.monotonic() - connection.idle_since < IDLE_S and not connection.dropped():
                return connection
            connection.close()

    def _unavailable(self, error: WireError) -> StorageError:
        if isinstance(error, CertificateRefused):
            return certificate_refused(self._bucket)
        return BucketUnavailable(f"The bucket {self._bucket} did not answer ({error}).")
