"""A call in one piece: how Replicate's sender writes is not published, and a receiver may treat the two differently.

httpx writes the head of a request and then its body; here both go out by one write.
"""

import asyncio

import httpx

WHOLE = "whole"  # among the extensions of a request: it is to go out in one piece
PORTS = {"http": 80, "https": 443}


class Transport(httpx.AsyncHTTPTransport):
    """httpx's own, but for requests that are to go out in one piece, each on a connection of its own."""

    def __init__(self, *, connections_max: int, keepalive_max: int) -> None:
        limits = httpx.Limits(max_connections=connections_max, max_keepalive_connections=keepalive_max)
        super().__init__(limits=limits, trust_env=False)
        self._room = asyncio.Semaphore(connections_max)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if WHOLE not in request.extensions or request.url.scheme not in PORTS:
            try:
                return await super().handle_async_request(request)
            except AttributeError as error:  # from anyio, on uvloop, of a peer that is gone as soon as it was reached
                raise httpx.ConnectError("Nobody is there any more.", request=request) from error
        async with self._room:
            try:
                async with asyncio.timeout(request.extensions["timeout"]["read"]):
                    return await _asked(request)
            except TimeoutError as error:
                raise httpx.ReadTimeout("No answer in time.", request=request) from error
            except OSError as error:
                raise httpx.ConnectError(str(error), request=request) from error
            except (ValueError, IndexError) as error:  # of a line that is no status line, or too long for one
                raise httpx.RemoteProtocolError("No answer in HTTP.", request=request) from error


async def _asked(request: httpx.Request) -> httpx.Response:
    """Send it, and hear the status; nobody wants more."""
    url = request.url
    secure = True if url.scheme == "https" else None
    reader, writer = await asyncio.open_connection(url.host, url.port or PORTS[url.scheme], ssl=secure)
    try:
        writer.write(_head(request) + await request.aread())
        await writer.drain()
        return httpx.Response(int((await reader.readline()).split()[1]))
    finally:
        writer.close()


def _head(request: httpx.Request) -> bytes:
    lines = [b"%b: %b\r\n" % header for header in request.headers.raw]
    return b"POST %b HTTP/1.1\r\n%b\r\n" % (request.url.raw_path, b"".join(lines))
