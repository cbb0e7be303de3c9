"""A peer that resets each connection as soon as it is made, heard on the loop that the service runs on."""

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Iterator

import httpx
import uvloop

from receiver.replicate.errors import Unavailable
from receiver.replicate.request import Request
from receiver.replicate.wire import Wire
from receiver.sandbox.whole import Transport

TRIES = 200  # the reset comes early enough for about one in five


@contextlib.contextmanager
def resetting() -> Iterator[str]:
    """The URL of it."""
    listening = socket.create_server(("127.0.0.1", 0), backlog=TRIES)

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                taken, _ = listening.accept()
                taken.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                taken.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        listening.shutdown(socket.SHUT_RDWR)
        thread.join()
        listening.close()


def test_a_replicate_that_is_gone_as_it_is_reached_is_unavailable() -> None:
    async def outcomes(url: str) -> list[object]:
        wire = Wire(base_url=url, token="r8_token", user_agent="test")
        asked = (wire.send(Request("GET", "/predictions"), wait_s=0, within_s=20) for _ in range(TRIES))
        return list(await asyncio.gather(*asked, return_exceptions=True))

    with resetting() as url:
        assert {type(each) for each in uvloop.run(outcomes(url))} == {Unavailable}


def test_a_receiver_that_is_gone_as_it_is_reached_is_a_failed_try_of_the_sandbox() -> None:
    async def outcomes(url: str) -> list[object]:
        transport = Transport(connections_max=TRIES, keepalive_max=0)
        async with httpx.AsyncClient(transport=transport) as client:
            return list(await asyncio.gather(*(client.post(url) for _ in range(TRIES)), return_exceptions=True))

    with resetting() as url:
        assert all(isinstance(each, httpx.TransportError) for each in uvloop.run(outcomes(url)))
