"""Fetch what is behind a URL, whole: counted, hashed, compared with what the server said, resumed where it broke off.

Blocking code for worker threads; `Fetcher.run` is the async door to them.
"""

import asyncio
import ssl
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from storage.address import AllowedHosts
from storage.answer import Cut
from storage.claims import Claims, read_claims, read_content_range
from storage.connection import Connections
from storage.dial import Resolve
from storage.errors import Cancelled, SourceUnavailable
from storage.exchange import Exchange, ask
from storage.intake import Intake
from storage.media import HEAD_BYTES, is_out_of_place
from storage.watch import SLICE_S, Patience, Stalled, Watch, never

COMPLETE_FETCHES_MAX = 3
"""Of a file that contradicts what its server says: two must agree, and one may have been broken."""
RESUMES_MAX = 16
STALLS_MAX = 3
"""Resumes in a row that brought no byte; longer troubles are for the caller's own retries."""
STALL_S = 0.25
PAGE_S = 0.5
"""Before asking again where a page came instead of a file: what made the server send it may pass."""
STOP_WAIT_S = 2.0
"""How long a cancelled caller waits for its thread, which looks up every SLICE_S."""
NOTHING_CLAIMED = read_claims({}, None)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Proof:
    """What speaks for a fetched file: the answer's headers, and whether its bytes agree with them."""

    headers: dict[str, str]
    verified: bool


class Fetcher:
    """Threads, kept connections and limits of all transfers. `close` ends them."""

    def __init__(
        self,
        hosts: AllowedHosts,
        *,
        patience: Patience | None = None,
        user_agent: str = "outkeep",
        threads: int = 16,
        tls: ssl.SSLContext | None = None,
        resolve: Resolve | None = None,
    ) -> None:
        self.hosts = hosts
        self._patience = patience or Patience()
        self._agent = user_agent
        self._connections = Connections(resolve=resolve, tls=tls)
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="storage-fetch")
        self._closing = threading.Event()
        self._jobs = set[Future[Any]]()

    async def run(
        self,
        work: Callable[[Callable[[], bool]], T],
        cancelled: Callable[[], bool],
        *,
        abandoned: Callable[[T], None] = lambda _: None,
    ) -> T:
        """Run blocking work in a thread; it is handed a function that says whether to stop.

        A cancelled caller sets that, and waits a moment for the work to clean up after itself; a result that comes all
        the same is handed to `abandoned`.
        """
        stop = threading.Event()
        if self._closing.is_set():
            raise Cancelled("The transfer was stopped.")
        job = self._threads.submit(work, lambda: stop.is_set() or self._closing.is_set() or cancelled())
        self._jobs.add(job)
        job.add_done_callback(self._jobs.discard)
        future = asyncio.wrap_future(job)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            stop.set()
            caller = asyncio.current_task()
            if future.cancelled() and not (caller and caller.cancelling()):
                # It was `close` that dropped the job from the queue, nobody cancelled the caller.
                raise Cancelled("The transfer was stopped.") from None
            if not job.cancel():
                await asyncio.wait([future], timeout=STOP_WAIT_S)
            future.add_done_callback(lambda done: _bury(done, abandoned))
            raise

    def fetch(
        self, url: str, intake: Intake, cancelled: Callable[[], bool], crowded: Callable[[], bool] = never
    ) -> Proof:
        """Fetch a file into `intake`, whole. Blocks. Raises Gone, Refused, Unavailable, Cancelled.

        A slow server is given up while `crowded`. Two complete fetches with equal bytes are enough where the server
        contradicts itself, or sends a page where a picture should be.
        """
        download = _Download(self, url, intake, Watch(self._patience, cancelled, crowded))
        seen = set[tuple[int, str]]()
        for _ in range(COMPLETE_FETCHES_MAX):
            claims, framed = download.whole()
            intake.finish()
            page = is_out_of_place(intake.first_bytes(), whole=intake.size <= HEAD_BYTES, url=url)
            if framed and not page and not claims.contradicts(intake.size, intake.md5):
                return Proof(claims.headers, verified=True)
            if (intake.size, intake.sha256) in seen:
                return Proof(claims.headers, verified=False)
            seen.add((intake.size, intake.sha256))
            if page:
                download.pause(PAGE_S)
        raise SourceUnavailable("The server sent other bytes each time than it said it would.")

    def ask(self, url: str, watch: Watch, extra: dict[str, str]) -> Exchange:
        """One GET, redirects followed. Blocks. Raises Gone, Refused, SourceUnavailable, Cancelled."""
        return ask(url, hosts=self.hosts, connections=self._connections, watch=watch, agent=self._agent, extra=extra)

    def close(self) -> None:
        """Stop all transfers and close the connections.

        Waits STOP_WAIT_S for their threads and no longer: one may be held by a bucket that does not answer.
        """
        self._closing.set()
        self._threads.shutdown(wait=False, cancel_futures=True)
        wait(tuple(self._jobs), timeout=STOP_WAIT_S)
        self._connections.close()


class _Download:
    """One file on its way from one URL."""

    def __init__(self, fetcher: Fetcher, url: str, intake: Intake, watch: Watch) -> None:
        self._fetcher, self._url, self._intake, self._watch = fetcher, url, intake, watch
        self._claims = NOTHING_CLAIMED
        self._resumes = 0
        self._stalls = 0

    def whole(self) -> tuple[Claims, bool]:
        """Bring the whole file from zero; what was claimed of it, and whether its end was announced."""
        exchange = self._begin(self._fetcher.ask(self._url, self._watch, {}))
        while True:
            before = self._intake.size
            try:
                self._copy(exchange)
            except Cut as cut:
                brought = self._intake.size > before and not isinstance(cut.__cause__, Stalled)
                self._stalls = 0 if brought else self._stalls + 1
                exchange = self._resume(cut)
                continue
            return self._claims, exchange.answer.framed

    def pause(self, seconds: float) -> None:
        """Wait, unless nobody wants the file any more."""
        until = time.monotonic() + seconds
        while (left := until - self._watch.check()) > 0:
            time.sleep(min(left, SLICE_S))

    def _begin(self, exchange: Exchange) -> Exchange:
        try:
            self._claims = read_claims(exchange.answer.headers, exchange.answer.size)
            header = self._claims.headers.get("content-type", "")
            self._intake.start(exchange.answer.size, want_md5=self._claims.wants_md5, header=header)
        except BaseException:
            exchange.drop()
            raise
        return exchange

    def _copy(self, exchange: Exchange) -> None:
        answer, intake, watch = exchange.answer, self._intake, self._watch
        try:
            while not answer.ended:
                count = answer.read_into(intake.room())
                intake.took(count)
                watch.resumed()
        except Stalled as stalled:
            exchange.drop()
            raise Cut from stalled
        except BaseException:
            exchange.drop()
            raise
        exchange.finish()

    def _resume(self, cut: Cut) -> Exchange:
        """Ask for what is missing; from zero if the file changed or the server cannot do it."""
        while True:
            self._resumes += 1
            if not self._claims.validator or self._resumes > RESUMES_MAX or self._stalls > STALLS_MAX:
                raise SourceUnavailable(f"The file broke off after {self._intake.size} bytes.") from cut
            self.pause(STALL_S * (2**self._stalls - 1))
            wanted = {"Range": f"bytes={self._intake.size}-", "If-Range": self._claims.validator}
            try:
                exchange = self._fetcher.ask(self._url, self._watch, wanted if self._intake.size else {})
            except SourceUnavailable:
                if self._stalls >= STALLS_MAX:
                    raise
                self._stalls += 1
                self._watch.check()
                continue
            if exchange.answer.status == 200:
                return self._begin(exchange)
            if exchange.answer.status == 206 and self._continues(exchange):
                return exchange
            exchange.drop()
            return self._begin(self._fetcher.ask(self._url, self._watch, {}))

    def _continues(self, exchange: Exchange) -> bool:
        """Is this 206 the rest of the very same file (RFC 9110 15.3.7)."""
        headers, answer = exchange.answer.headers, exchange.answer
        content_range = read_content_range(headers.get("content-range", ""))
        if content_range is None:
            return False
        first, last, total = content_range
        expected = self._claims.size
        if first != self._intake.size or (answer.size is not None and answer.size != last - first + 1):
            return False
        if expected is None:
            # The first answer came in chunks: the range now tells how long the file is.
            if total is None or last != total - 1 or not self._same_etag(headers):
                return False
            self._claims = replace(self._claims, size=total)
            return True
        return last == expected - 1 and total in {None, expected} and self._same_etag(headers)

    def _same_etag(self, headers: dict[str, str]) -> bool:
        validator = self._claims.validator
        return not validator.startswith('"') or headers.get("etag", validator) == validator


def _bury(future: "asyncio.Future[T]", abandoned: Callable[[T], None]) -> None:
    """Take note of how abandoned work ended, so that nothing is left open and nobody complains."""
    if not future.cancelled() and future.exception() is None:
        abandoned(future.result())
