"""Misbehaviour of the API, played."""

from starlette.requests import Request
from starlette.responses import Response

from receiver.sandbox import errors
from receiver.sandbox.mischief import Prank
from receiver.sandbox.sandbox import of
from receiver.sandbox.wire import HANG_S, Reset

CUT_SHORT = b'HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2000\r\n\r\n{"id":"'


async def pranked(request: Request, scope: str, pranks: tuple[Prank, ...]) -> Response | None:
    """The answer that the next of these pranks gives instead of the right one; None when there is none."""
    return await played(request, of(request).strike(scope, pranks))


async def played(request: Request, prank: Prank | None) -> Response | None:
    if prank is None:
        return None
    match prank.kind:
        case "hang":
            await of(request).nap(prank.value_or(HANG_S))
            return Reset(request)
        case "reset":
            return Reset(request)
        case "html":
            return Response(b"<!doctype html><title>502</title><h1>Bad gateway</h1>", media_type="text/html")
        case "truncated":
            return Reset(request, CUT_SHORT, abort=False)
        case "redirect":
            return Response(status_code=302, headers={"location": f"{of(request).origin}/elsewhere"})
    return None if prank.status is None else errors.of_status(prank.status, prank.value).response()
