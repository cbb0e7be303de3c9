"""The express for webhooks: taken and answered within the protocol, without a task of the application's.

Starting an ASGI application for a call, and hearing its answer, costs as much as verifying the call and handing it to
the ledger. So a call that came in one piece is tried on the application's short way (`Application.begin`); whatever is
not simple, and whatever is to be refused, goes the ordinary way from its beginning.
"""

import asyncio
from functools import partial
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from receiver.core.errors import LedgerFull

_TAKEN = b"HTTP/1.1 200 OK\r\n%bcontent-length: 0\r\n\r\n"
_FULL = b"HTTP/1.1 503 Service Unavailable\r\n%bcontent-length: 0\r\nretry-after: 1\r\n\r\n"


class Express(HttpToolsProtocol):
    """uvicorn's protocol, with a short way for calls whose body is whole when they begin."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._held: tuple[RequestResponseCycle, Any] | None = None

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        """A request's turn has come: wait for its body if that may be in the piece that is being read."""
        if not cycle.more_body:
            self._choose(cycle, app)
        elif cycle.waiting_for_100_continue or not cycle.keep_alive:
            super()._start_asgi_task(cycle, app)
        else:
            self._held = (cycle, app)

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._release()

    def _release(self) -> None:
        if self._held is not None:
            (cycle, app), self._held = self._held, None
            self._choose(cycle, app)

    def _choose(self, cycle: RequestResponseCycle, app: Any) -> None:
        taken = None
        if cycle.keep_alive and not cycle.more_body and not cycle.disconnected:
            try:
                taken = self.config.app.begin(cycle.scope, bytes(cycle.body))  # type: ignore[union-attr]
            except LedgerFull:
                self._say(cycle, _FULL)
                return
        if taken is None:
            super()._start_asgi_task(cycle, app)
        else:
            taken.add_done_callback(partial(self._answer, cycle, app))

    def _answer(self, cycle: RequestResponseCycle, app: Any, taken: "asyncio.Future[bool]") -> None:
        if cycle.disconnected or self.transport.is_closing():
            return
        problem = asyncio.CancelledError() if taken.cancelled() else taken.exception()
        if problem is None:
            self._say(cycle, _TAKEN)
        elif isinstance(problem, LedgerFull):
            self._say(cycle, _FULL)
        else:
            super()._start_asgi_task(cycle, app)  # the ordinary way tries again, and says what is wrong

    def _say(self, cycle: RequestResponseCycle, answer: bytes) -> None:
        dated = [b"%b: %b\r\n" % header for header in self.server_state.default_headers]
        if not cycle.keep_alive:
            dated.append(b"connection: close\r\n")
        self.transport.write(answer % b"".join(dated))
        cycle.response_started = cycle.response_complete = True
        if not cycle.keep_alive:
            self.transport.close()
        cycle.on_response()
