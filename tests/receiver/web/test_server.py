"""Listening: addresses that can't be had, deadlines, limits, and an end in time."""

import asyncio
import resource
import time

import httpx
import pytest

from receiver.core.errors import Misconfigured
from receiver.web import connection, server
from receiver.web.app import create_app
from receiver.web.server import serve
from tests.receiver.web.conftest import served, signed
from tests.receiver.web.test_hooks import head, raw


async def refused(site, **where):
    with pytest.raises(Misconfigured) as caught:
        await serve(site.app, **where, stop=asyncio.Event(), on_listening=lambda *_: None)
    sentence = str(caught.value)
    assert sentence.endswith(".")
    return sentence


async def test_a_taken_port_is_one_sentence(site):
    sentence = await refused(site, host="127.0.0.1", port=site.port)
    assert sentence.startswith(f"OUTKEEP_PORT {site.port} is taken")


async def test_an_address_of_somebody_else_is_one_sentence(site):
    assert (await refused(site, host="192.0.2.1", port=0)).startswith("OUTKEEP_HOST '192.0.2.1'")
    assert (await refused(site, host="no.such.host.invalid", port=0)).startswith("OUTKEEP_HOST 'no.such.host.invalid'")


async def test_a_port_that_is_not_ours_to_take_is_one_sentence(site, monkeypatch):
    def denied(*_):
        raise PermissionError(13, "denied")

    monkeypatch.setattr(server, "_bound", denied)
    assert "above 1023" in await refused(site, host="127.0.0.1", port=80)


async def test_a_host_name_listens_on_all_its_addresses_with_one_port(site):
    stop, heard = asyncio.Event(), asyncio.get_running_loop().create_future()
    serving = asyncio.ensure_future(
        serve(
            create_app(site.house), host="localhost", port=0, stop=stop,
            on_listening=lambda host, port: heard.set_result((host, port)),
        )
    )  # fmt: skip
    host, port = await heard
    assert host == "localhost"
    async with httpx.AsyncClient(trust_env=False) as client:
        assert (await client.get(f"http://127.0.0.1:{port}/healthz")).status_code == 200
    stop.set()
    await serving


async def test_the_answer_names_no_server(site):
    answer = await site.get("/healthz")
    assert "server" not in answer.headers
    assert "date" in answer.headers


async def test_a_stop_ends_streams_polls_and_idle_connections_at_once(site):
    stop, heard = asyncio.Event(), asyncio.get_running_loop().create_future()
    app = create_app(site.house)
    serving = asyncio.ensure_future(
        serve(app, host="127.0.0.1", port=0, stop=stop, on_listening=lambda _, port: heard.set_result(port))
    )
    client = httpx.AsyncClient(base_url=f"http://127.0.0.1:{await heard}", headers=site.client.headers, trust_env=False)
    _, idle = await asyncio.open_connection("127.0.0.1", heard.result())
    async with client, client.stream("GET", "/events", headers={"Accept": "text/event-stream"}) as stream:
        polling = asyncio.ensure_future(client.get("/events?wait=60", timeout=20))
        while app._feed.tail.readers < 2:  # noqa: ASYNC110 - nothing rings for a reader
            await asyncio.sleep(0.01)
        began = time.monotonic()
        stop.set()
        assert [line async for line in stream.aiter_lines() if line.startswith("data")] == []
        assert (await polling).json()["events"] == []
        await serving
        assert time.monotonic() - began < 5
    idle.close()


async def test_an_answer_that_does_not_end_is_cut_at_the_stop(site, monkeypatch):
    monkeypatch.setattr(server, "GRACE_S", 1)
    release = asyncio.Event()

    async def stuck(_body, _headers, _token=None):
        await release.wait()

    app = create_app(site.house)
    app._hooks._accept, app._hooks._begin = stuck, None
    async with served(app) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(head(signed(b"{}"), "Content-Length: 2") + b"{}")
        await asyncio.sleep(0.1)
        began = time.monotonic()
    assert time.monotonic() - began < 5
    with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
        await reader.readexactly(1)
    writer.close()


async def test_a_connection_that_says_nothing_is_closed(site, monkeypatch):
    monkeypatch.setattr(connection, "HEAD_S", 0.1)
    assert await raw(site) == b""


@pytest.mark.parametrize("start", [b"GET /heal", b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Slow: "])
async def test_headers_that_dribble_are_given_up(site, monkeypatch, start):
    monkeypatch.setattr(connection, "HEAD_S", 0.2)
    answer = await raw(site, start, *[b"x"] * 3, gap_s=0.02)
    assert answer.startswith(b"HTTP/1.1 408 ")


async def test_headers_that_dribble_on_a_kept_connection_are_given_up_too(site, monkeypatch):
    monkeypatch.setattr(connection, "HEAD_S", 0.2)
    whole = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    answer = await raw(site, whole, b"GET /healthz HTTP/1.1\r\nX-Slow: ", gap_s=0.1)
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b"HTTP/1.1 408 " in answer


async def test_a_dribbling_second_request_never_spoils_the_answer_to_the_first(site, monkeypatch):
    monkeypatch.setattr(connection, "HEAD_S", 0.1)
    first = b"GET /events?wait=5 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer test-key-of-twenty-six-char\r\n\r\n"
    assert await raw(site, first, b"GET /heal", b"th", gap_s=0.02) == b""


async def test_headers_without_end_are_431(site):
    pieces = [b"GET /healthz HTTP/1.1\r\n", *[b"X-Filler: " + b"y" * 16_000 + b"\r\n"] * 20]
    answer = await raw(site, *pieces)
    assert answer.startswith(b"HTTP/1.1 431 ")


async def test_headers_of_64_kib_are_read_in_any_pieces(site):
    header = (
        b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nX-Filler: " + b"y" * 65_000 + b"\r\n\r\n"
    )
    pieces = [header[start : start + 5000] for start in range(0, len(header), 5000)]
    assert (await raw(site, *pieces, gap_s=0.001)).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"NONSENSE\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        b"CONNECT x:443 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST /webhooks/replicate HTTP/1.1\r\nContent-Length: x\r\n\r\n",
        b"POST /webhooks/replicate HTTP/1.1\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n{}",
        b"POST /webhooks/replicate HTTP/1.1\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
    ],
)
async def test_what_is_no_proper_request_is_400_or_404_and_closes(site, request_bytes, monkeypatch):
    monkeypatch.setattr(server, "KEEP_ALIVE_S", 1)
    answer = await raw(site, request_bytes, b"", gap_s=0.05)
    assert answer[9:12] in (b"400", b"401", b"404", b"405"), answer
    assert not answer.startswith(b"HTTP/1.1 2")


async def test_a_body_that_nobody_reads_does_not_hold_the_connection(site):
    answer = await raw(site, b"GET /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\nxxx")
    assert answer.startswith(b"HTTP/1.1 200 ")


async def test_pipelined_requests_are_all_answered(site):
    request = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    last = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
    answer = await raw(site, request * 3 + last)
    assert answer.count(b"HTTP/1.1 200 ") == 4


async def test_where_connections_are_too_many_the_oldest_that_asks_for_nothing_makes_room(site, monkeypatch):
    monkeypatch.setattr(server, "CONNECTIONS_MAX", 3)
    async with served(create_app(site.house)) as port:
        idle = []
        for _ in range(3):
            idle.append(await asyncio.open_connection("127.0.0.1", port))
            await asyncio.sleep(0.02)
        async with httpx.AsyncClient(trust_env=False) as client:
            taken = await client.post(
                f"http://127.0.0.1:{port}/webhooks/replicate", content=b"{}", headers=signed(b"{}")
            )
        assert taken.status_code == 200
        assert await asyncio.wait_for(idle[0][0].read(), 5) == b""
        idle[2][1].write(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert (await asyncio.wait_for(idle[2][0].readline(), 5)).startswith(b"HTTP/1.1 200 ")
        for _, writer in idle:
            writer.close()


async def test_a_continue_is_said_only_to_those_whose_body_is_wanted(site):
    expecting = head(signed(b""), "Expect: 100-continue", "Content-Length: 99999999")
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
    writer.write(expecting)
    assert (await reader.readline()).startswith(b"HTTP/1.1 413 ")
    writer.close()


async def test_open_files_are_raised_to_what_the_system_allows(monkeypatch):
    asked = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, 4096))
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: asked.append(limits))
    server._allow_files()
    assert asked == [(4096, 4096)]
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, resource.RLIM_INFINITY))
    server._allow_files()
    assert asked[-1][0] == server.FILES_MAX
    monkeypatch.setattr(resource, "getrlimit", lambda _: (4096, 4096))
    server._allow_files()
    assert len(asked) == 2


async def test_ipv6_is_listened_on_where_there_is_any(site):
    stop, heard = asyncio.Event(), asyncio.get_running_loop().create_future()
    serving = asyncio.ensure_future(
        serve(
            create_app(site.house), host="::1", port=0, stop=stop, on_listening=lambda _, port: heard.set_result(port)
        )
    )
    await asyncio.wait([serving, heard], return_when=asyncio.FIRST_COMPLETED)
    if serving.done():  # a machine without IPv6
        with pytest.raises(Misconfigured, match="OUTKEEP_HOST '::1'"):
            serving.result()
        return
    async with httpx.AsyncClient(trust_env=False) as client:
        assert (await client.get(f"http://[::1]:{heard.result()}/healthz")).status_code == 200
    stop.set()
    await serving
