"""How a service is found and asked, and what its refusals and failures become; the other side says anything."""

import asyncio
import json
import re
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from receiver.cli import service as services
from receiver.cli.commands import events, predict
from receiver.cli.frame import run
from receiver.cli.service import Refused, Service, Unreachable, service_url
from receiver.core.errors import Misconfigured


@pytest.mark.parametrize(
    ("environ", "url"),
    [
        ({}, "http://127.0.0.1:8080"),
        ({"OUTKEEP_PORT": "9000"}, "http://127.0.0.1:9000"),
        ({"OUTKEEP_HOST": "0.0.0.0"}, "http://127.0.0.1:8080"),
        ({"OUTKEEP_HOST": "::"}, "http://[::1]:8080"),
        ({"OUTKEEP_HOST": "outkeep.internal"}, "http://outkeep.internal:8080"),
        (
            {"OUTKEEP_URL": "https://outkeep.example.com/below/", "OUTKEEP_PORT": "1"},
            "https://outkeep.example.com/below",
        ),
    ],
)
def test_a_service_is_where_it_is_told_to_be_or_where_the_settings_have_it(environ, url):
    assert service_url(environ) == url


@pytest.mark.parametrize(
    ("environ", "told"),
    [
        ({"OUTKEEP_URL": "outkeep.example.com"}, "OUTKEEP_URL is wrong: 'outkeep.example.com' is not an http"),
        ({"OUTKEEP_URL": "https://me:hush@outkeep.example.com"}, "is wrong: 'https://…@outkeep.example.com' is not"),
        ({"OUTKEEP_PORT": "http"}, "OUTKEEP_PORT is wrong"),
        ({"OUTKEEP_KEY": "k\u00fchler"}, r"OUTKEEP_KEY is wrong: its value \(not shown\)"),
    ],
)
def test_a_wrong_address_or_key_is_told(environ, told):
    with pytest.raises(Misconfigured, match=told):
        Service(environ)


@contextmanager
def answering(*answers: tuple[int, bytes]) -> Iterator[tuple[str, list[str]]]:
    """A server that gives these answers in turn, the last one for ever; a status of 0 tears the connection."""
    left, heard = list(answers), []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            heard.append(self.path)
            status, body = left.pop(0) if len(left) > 1 else left[0]
            if status:
                self.send_response(status)
                self.send_header("Location", "/elsewhere")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)
            else:
                self.connection.shutdown(socket.SHUT_RDWR)

        def do_POST(self) -> None:
            self.do_GET()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", heard
        finally:
            server.shutdown()
            thread.join()


def as_answer(value: object, status: int = 200) -> tuple[int, bytes]:
    return status, json.dumps(value).encode()


@pytest.mark.parametrize(
    ("answer", "kind", "told"),
    [
        ((200, b"<html>"), Unreachable, "it is not Outkeep: see OUTKEEP_URL"),
        ((301, b""), Refused, "answers with a redirect: set OUTKEEP_URL"),
        ((401, b""), Refused, "asks for a key"),
        ((404, b"<html>"), Refused, "The service refused: it answered 404."),
        ((403, b"[]"), Refused, "The service refused: it answered 403."),
        (as_answer({"title": "Forbidden.", "detail": "No admin."}, 403), Refused, "refused: Forbidden: No admin."),
        (as_answer({"title": "Same", "detail": "Same"}, 400), Refused, "refused: Same."),
        ((429, b""), Unreachable, "can't do this now: it answered 429."),
        (as_answer({"title": "Busy", "detail": None}, 503), Unreachable, "can't do this now: Busy."),
        ((0, b""), Unreachable, "broke off the connection or took too long"),
    ],
)
async def test_every_answer_that_is_no_success_is_a_sentence(answer, kind, told):
    with answering(answer) as (url, _):
        async with Service({"OUTKEEP_URL": url}) as service:
            with pytest.raises(kind, match=re.escape(told)):
                await service.get("/api/predictions")


async def test_an_answer_that_cannot_be_unpacked_is_told():
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nnope")
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(talk, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with Service({"OUTKEEP_URL": url}) as service:
            with pytest.raises(Unreachable, match=r"can't be understood \(DecodingError\)"):
                await service.get("/x")


async def test_nobody_there_says_how_to_start_one():
    async with Service({"OUTKEEP_PORT": "1"}) as service:
        with pytest.raises(
            Unreachable, match=r"No service answers at http://127\.0\.0\.1:1: start one with `outkeep serve`"
        ):
            await service.get("/x")


def feed(cursor: str, *numbers: int) -> tuple[int, bytes]:
    return as_answer({"events": [{"sequence": number} for number in numbers], "next": cursor})


def sequences(told: str) -> Sequence[int]:
    return [json.loads(line)["sequence"] for line in told.splitlines()]


def test_follow_outlives_a_lost_connection_without_a_gap(monkeypatch, capsys):
    monkeypatch.setattr(events, "RETRY_S", 0.01)
    answers = (feed("2", 1, 2), (0, b""), (503, b""), feed("2"), feed("3", 3), feed("4", 4))
    with answering(*answers) as (url, heard):
        monkeypatch.setenv("OUTKEEP_URL", url)
        assert run(["events", "--follow", "--after", "0", "--limit", "4"]) == 0
    told = capsys.readouterr()
    assert sequences(told.out) == [1, 2, 3, 4]
    assert told.err.count("Trying again.") == 1
    assert [re.search(r"after=(\w+)", path)[1] for path in heard] == ["0", "2", "2", "2", "2", "3"]  # type: ignore[index]
    assert "wait=30" in heard[0]


def test_follow_needs_a_first_answer(monkeypatch, capsys):
    with answering((503, b"")) as (url, _):
        monkeypatch.setenv("OUTKEEP_URL", url)
        assert run(["events", "--follow"]) == 1
    assert "can't do this now" in capsys.readouterr().err


def test_a_refusal_ends_following(monkeypatch, capsys):
    with answering(feed("1", 1), (401, b"")) as (url, _):
        monkeypatch.setenv("OUTKEEP_URL", url)
        assert run(["events", "--follow"]) == 1
    told = capsys.readouterr()
    assert sequences(told.out) == [1]
    assert "asks for a key" in told.err


def test_a_service_that_restarts_while_we_wait_is_borne_with(monkeypatch, capsys):
    monkeypatch.setattr(predict, "POLL_S", 0.01)
    done = as_answer({"status": "succeeded", "archived_at": "x", "outputs": [], "output": None})
    with answering(as_answer({"id": "a"}, 201), (0, b""), (502, b""), done) as (url, _):
        monkeypatch.setenv("OUTKEEP_URL", url)
        assert run(["predict", "o/n", "--wait"]) == 0
    assert capsys.readouterr().out == ""


def test_a_service_that_stays_away_while_we_wait_is_an_error(monkeypatch, capsys):
    monkeypatch.setattr(predict, "POLL_S", 0.01)
    monkeypatch.setattr(predict, "OUTAGE_S_MAX", 0.02)
    with answering(as_answer({"id": "a"}, 201), (502, b"")) as (url, _):
        monkeypatch.setenv("OUTKEEP_URL", url)
        assert run(["predict", "o/n", "--wait"]) == 1
    assert "can't do this now" in capsys.readouterr().err


def test_patience_is_longer_than_the_service_ever_waits():
    assert services.ANSWER_S > 60 > events.WAIT_S
