import base64
import contextlib
import gzip
import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from storage.address import AllowedHosts
from storage.errors import Cancelled, GaveWay, Gone, Refused, SourceUnavailable
from storage.fetch import Fetcher
from storage.intake import Intake
from storage.spool import Spool
from storage.watch import Patience
from tests.storage.faulty import (
    FaultyServer,
    Reply,
    Request,
    Send,
    chunked,
    cut,
    good,
    head,
    ranged,
    serving,
    silent,
    trickle,
)

BODY = os.urandom(20_000)
LARGE = os.urandom(1024) * 6 * 1024
HASTY = Patience(connect_s=1, read_s=0.4, total_s=5, rate_min=1000, rate_window_s=0.5)


@dataclass
class Got:
    body: bytes
    sha256: str
    verified: bool
    headers: dict[str, str]
    server: FaultyServer


def fetch(
    spool: Spool,
    *replies: Reply | bytes,
    patience: Patience = HASTY,
    bytes_max: int = 50_000_000,
    path: str = "/file",
    cancelled: Callable[[], bool] = lambda: False,
    crowded: Callable[[], bool] = lambda: False,
) -> Got:
    with serving(*replies) as server, fetching(server.origin, patience) as fetcher:
        intake = Intake(spool=spool, name="one", bytes_max=bytes_max, cancelled=cancelled)
        try:
            proof = fetcher.fetch(server.url(path), intake, cancelled, crowded)
            body = bytes(intake.data()) if intake.file is None else intake.file.path.read_bytes()
            return Got(body, intake.sha256, proof.verified, proof.headers, server)
        finally:
            intake.discard()


@contextlib.contextmanager
def fetching(hosts: str, patience: Patience = HASTY) -> Iterator[Fetcher]:
    fetcher = Fetcher(AllowedHosts.parse(hosts), patience=patience)
    try:
        yield fetcher
    finally:
        fetcher.close()


def md5_etag(body: bytes) -> str:
    return f'"{hashlib.md5(body).hexdigest()}"'


def goog(body: bytes) -> str:
    return f"crc32c=AAAAAA==, md5={base64.b64encode(hashlib.md5(body).digest()).decode()}"


def test_a_file_arrives_as_it_was_sent(spool: Spool) -> None:
    got = fetch(spool, good(BODY, ETag=md5_etag(BODY), Content_Type="image/png", X_Goog_Hash=goog(BODY), Secret="no"))
    assert got.body == BODY
    assert got.sha256 == hashlib.sha256(BODY).hexdigest()
    assert got.verified
    assert set(got.headers) == {"etag", "content-type", "x-goog-hash", "content-length"}


def test_the_request_asks_for_raw_bytes_and_carries_no_credentials(spool: Spool) -> None:
    request = fetch(spool, good(BODY), path="/a?b=%20c&é=1#part").server.requests[0]
    assert request.line == "GET /a?b=%20c&%C3%A9=1 HTTP/1.1"
    assert request.headers["accept-encoding"] == "identity"
    assert set(request.headers) == {"host", "user-agent", "accept", "accept-encoding"}


@pytest.mark.parametrize("body", [b"", b"x", LARGE, LARGE[: 4 * 1024 * 1024], LARGE[: 4 * 1024 * 1024 + 1]])
def test_every_size_arrives_whole_with_a_length_and_in_chunks(spool: Spool, body: bytes) -> None:
    assert fetch(spool, good(body)).body == body
    got = fetch(spool, chunked(body, size=70_001))
    assert (got.body, got.sha256) == (body, hashlib.sha256(body).hexdigest())
    assert got.verified
    assert spool.used_bytes == 0


def test_chunks_of_any_size_with_extensions_and_trailers_are_understood(spool: Spool) -> None:
    reply = head(Transfer_Encoding="chunked") + b"3;a=b\r\nabc\r\n0002\r\nde\r\n0\r\nX-Trailer: 1\r\n\r\n"
    assert fetch(spool, reply).body == b"abcde"


@pytest.mark.parametrize(
    "chunks",
    [
        b"zz\r\nabc\r\n0\r\n\r\n",
        b"-3\r\nabc\r\n0\r\n\r\n",
        b"3\r\nabcd\r\n0\r\n\r\n",
        b"3" * 2000,
        b"0x3\r\nabc\r\n0\r\n\r\n",
    ],
)
def test_malformed_chunks_are_never_taken_for_a_file(spool: Spool, chunks: bytes) -> None:
    with pytest.raises(SourceUnavailable, match="malformed"):
        fetch(spool, head(Transfer_Encoding="chunked") + chunks)


def test_an_endless_trailer_is_given_up(spool: Spool) -> None:
    reply = head(Transfer_Encoding="chunked") + b"0\r\n" + b"X-More: 1\r\n" * 3000
    with pytest.raises(SourceUnavailable, match="trailer"):
        fetch(spool, reply)


@pytest.mark.parametrize("after", [0, 1, 19_999])
def test_a_cut_body_without_a_validator_is_never_taken(spool: Spool, after: int) -> None:
    with pytest.raises(SourceUnavailable, match=f"broke off after {after} bytes"):
        fetch(spool, cut(BODY, after))


@pytest.mark.parametrize("end", [b"", b"0\r\n", b"0", b"5\r\nab"])
def test_cut_chunks_without_a_validator_are_never_taken(spool: Spool, end: bytes) -> None:
    with pytest.raises(SourceUnavailable, match="broke off"):
        fetch(spool, chunked(BODY, end=end))


def test_a_cut_body_is_resumed_where_it_broke_off(spool: Spool) -> None:
    got = fetch(spool, cut(BODY, 7_000, ETag='"tag"'), ranged(BODY))
    assert (got.body, got.verified) == (BODY, True)
    assert got.sha256 == hashlib.sha256(BODY).hexdigest()
    assert [request.headers.get("range") for request in got.server.requests] == [None, "bytes=7000-"]
    assert got.server.requests[1].headers["if-range"] == '"tag"'


def test_a_large_file_is_resumed_in_the_spool_and_hashed_once(spool: Spool) -> None:
    got = fetch(spool, cut(LARGE, 5_000_001, ETag=md5_etag(LARGE)), ranged(LARGE, etag=md5_etag(LARGE)))
    assert (got.body == LARGE, got.verified) == (True, True)
    assert got.sha256 == hashlib.sha256(LARGE).hexdigest()


def test_last_modified_serves_where_there_is_no_strong_etag(spool: Spool) -> None:
    day = "Sun, 22 Nov 2026 08:00:00 GMT"
    got = fetch(spool, cut(BODY, 10, ETag='W/"weak"', Last_Modified=day), ranged(BODY, etag='W/"weak"', validator=day))
    assert got.body == BODY
    assert got.server.requests[1].headers["if-range"] == day


def test_cut_chunks_are_resumed(spool: Spool) -> None:
    got = fetch(spool, chunked(BODY, end=b"", ETag='"tag"')[:-5000], ranged(BODY))
    assert (got.body, got.verified) == (BODY, True)
    assert len(got.server.requests) == 2


def test_a_file_that_changed_in_between_is_fetched_from_zero(spool: Spool) -> None:
    other = os.urandom(15_000)
    got = fetch(spool, cut(BODY, 7_000, ETag='"tag"'), ranged(other, etag='"new"'))
    assert (got.body, got.verified) == (other, True)


@pytest.mark.parametrize(
    "wrong",
    [
        {"Content_Range": "bytes 6999-19999/20000"},
        {"Content_Range": "bytes 7000-19999/20001"},
        {"Content_Range": "bytes 7000-19998/20000"},
        {"Content_Range": "bytes */20000"},
        {"Content_Range": "nonsense"},
        {},
        {"Content_Range": "bytes 7000-19999/20000", "ETag": '"new"'},
    ],
)
def test_a_wrong_range_is_answered_by_starting_from_zero(spool: Spool, wrong: dict[str, str]) -> None:
    got = fetch(
        spool, cut(BODY, 7_000, ETag='"tag"'), head(206, Content_Length=13_000, **wrong) + BODY[7000:], good(BODY)
    )
    assert (got.body, got.verified) == (BODY, True)
    assert "range" not in got.server.requests[2].headers


def test_a_range_that_cannot_be_had_is_answered_by_starting_from_zero(spool: Spool) -> None:
    got = fetch(spool, chunked(BODY, end=b"", ETag='"tag"'), good(b"", 416), good(BODY))
    assert got.body == BODY


def test_cut_chunks_are_not_joined_with_a_range_of_unknown_end(spool: Spool) -> None:
    first = chunked(BODY[:7000], end=b"", ETag='"tag"')
    unsure = head(206, Content_Length=13_000, Content_Range="bytes 7000-19999/*") + BODY[7000:]
    assert len(fetch(spool, first, unsure, good(BODY)).server.requests) == 3


@pytest.mark.parametrize("rest", [BODY[7000:19_000], BODY[7000:] + b"more"])
def test_cut_chunks_are_not_taken_for_whole_when_the_rest_is_not_what_its_range_says(spool: Spool, rest: bytes) -> None:
    first = chunked(BODY[:7000], end=b"", ETag='"tag"')
    where = b"Content-Range: bytes 7000-19999/20000\r\n\r\n"
    wrong = head(206, Transfer_Encoding="chunked")[:-2] + where + b"%x\r\n%b\r\n0\r\n\r\n" % (len(rest), rest)
    got = fetch(spool, first, wrong, good(BODY))
    assert (got.body, got.verified, len(got.server.requests)) == (BODY, True, 3)


def test_resuming_goes_on_through_many_cuts(spool: Spool) -> None:
    def some(request: Request, send: Send) -> None:
        start = int(request.headers.get("range", "bytes=0-")[6:-1])
        where = f"bytes {start}-{len(BODY) - 1}/{len(BODY)}"
        first = head(206, Content_Length=len(BODY) - start, Content_Range=where, ETag='"tag"')
        send((first if start else head(Content_Length=len(BODY), ETag='"tag"')) + BODY[start : start + 3_000])

    got = fetch(spool, some)
    assert (got.body, len(got.server.requests)) == (BODY, 7)


def test_resuming_without_progress_is_given_up(spool: Spool) -> None:
    nothing = head(206, Content_Length=19_000, Content_Range="bytes 1000-19999/20000")
    with pytest.raises(SourceUnavailable, match="broke off after 1000 bytes"):
        fetch(spool, cut(BODY, 1_000, ETag='"tag"'), nothing, patience=Patience(read_s=1))


def test_trouble_while_resuming_is_waited_out_a_little(spool: Spool) -> None:
    got = fetch(spool, cut(BODY, 1_000, ETag='"tag"'), good(b"", 503), b"", ranged(BODY))
    assert got.body == BODY


def test_a_source_that_stays_in_trouble_while_resuming_is_given_up(spool: Spool) -> None:
    with pytest.raises(SourceUnavailable, match="503"):
        fetch(spool, cut(BODY, 1_000, ETag='"tag"'), good(b"", 503))


def test_a_stalled_body_goes_on_over_another_connection(spool: Spool) -> None:
    got = fetch(spool, silent(cut(BODY, 1_000, ETag='"tag"'), 1), ranged(BODY))
    assert (got.body, got.server.connections) == (BODY, 2)


def test_a_wrong_md5_is_fetched_again_and_a_right_one_verified(spool: Spool) -> None:
    etag = md5_etag(BODY)
    got = fetch(spool, good(os.urandom(20_000), ETag=etag), good(BODY, ETag=etag))
    assert (got.body, got.verified) == (BODY, True)


@pytest.mark.parametrize("headers", [{"ETag": md5_etag(b"other")}, {"X_Goog_Hash": goog(b"other")}])
def test_two_equal_fetches_are_taken_as_unverified_against_a_wrong_hash(spool: Spool, headers: dict[str, str]) -> None:
    got = fetch(spool, good(BODY, **headers))
    assert (got.body, got.verified, len(got.server.requests)) == (BODY, False, 2)


def test_bytes_that_differ_each_time_and_contradict_the_hash_are_not_taken(spool: Spool) -> None:
    replies = [good(os.urandom(100), ETag=md5_etag(b"x")) for _ in range(3)]
    with pytest.raises(SourceUnavailable, match="other bytes"):
        fetch(spool, *replies)


def test_googles_hash_outweighs_an_etag_that_only_looks_like_one(spool: Spool) -> None:
    got = fetch(spool, good(BODY, ETag=md5_etag(b"x"), X_Goog_Hash=goog(BODY)))
    assert (got.verified, len(got.server.requests)) == (True, 1)


def test_googles_hash_of_bytes_stored_compressed_counts_for_nothing(spool: Spool) -> None:
    got = fetch(spool, good(BODY, X_Goog_Hash=goog(b"packed"), X_Goog_Stored_Content_Encoding="gzip"))
    assert (got.verified, len(got.server.requests)) == (True, 1)


def test_a_body_closed_without_a_length_is_fetched_twice_and_unverified(spool: Spool) -> None:
    got = fetch(spool, head() + BODY)
    assert (got.body, got.verified, len(got.server.requests)) == (BODY, False, 2)


def test_a_body_closed_early_without_a_length_loses_against_the_whole_one(spool: Spool) -> None:
    got = fetch(spool, head() + BODY[:5000], head() + BODY)
    assert (got.body, got.verified, len(got.server.requests)) == (BODY, False, 3)


PAGES = [b"<!doctype html><h1>Oops</h1>", b"<?xml version='1.0'?><Error/>", b'{"error": "busy"}', b"Try later", b""]


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("path", ["/out.png", "/a/b.MP4?x=1", "/all.zip"])
def test_a_page_where_a_picture_should_be_is_fetched_again(spool: Spool, page: bytes, path: str) -> None:
    got = fetch(spool, good(page, ETag=md5_etag(page)), good(BODY), path=path)
    assert (got.body, got.verified) == (BODY, True)


def test_a_page_that_comes_twice_where_a_picture_should_be_is_taken_unverified(spool: Spool) -> None:
    got = fetch(spool, good(PAGES[0], Content_Type="text/html"), path="/out.webp")
    assert (got.body, got.verified, len(got.server.requests)) == (PAGES[0], False, 2)


def test_pages_that_differ_each_time_are_not_taken_for_a_picture(spool: Spool) -> None:
    with pytest.raises(SourceUnavailable, match="other bytes"):
        fetch(spool, *[good(b"<html>request %d" % number) for number in range(3)], path="/out.png")


@pytest.mark.parametrize("path", ["/out.html", "/out", "/out.json", "/out.txt", "/out.stl", "/out.svg", "/png"])
def test_a_page_under_any_other_ending_is_a_file_like_others(spool: Spool, path: str) -> None:
    got = fetch(spool, good(PAGES[0]), path=path)
    assert (got.verified, len(got.server.requests)) == (True, 1)


@pytest.mark.parametrize("status", [404, 410])
def test_what_is_not_there_is_gone(spool: Spool, status: int) -> None:
    with pytest.raises(Gone, match=str(status)):
        fetch(spool, good(b"<html>not found</html>", status))


@pytest.mark.parametrize(
    "page", [head(404, Content_Length=100) + b"half", head(404, Content_Length=100_000), head(404) + b"x"]
)
def test_what_is_not_there_is_gone_however_its_page_is_sent(spool: Spool, page: bytes) -> None:
    with pytest.raises(Gone):
        fetch(spool, page)


def test_a_page_that_never_comes_is_not_waited_for_by_who_gave_up(spool: Spool) -> None:
    stop = threading.Event()
    timer = threading.Timer(0.2, stop.set)
    timer.start()
    with pytest.raises(Cancelled):
        fetch(spool, silent(head(404, Content_Length=100), 0.5), cancelled=stop.is_set, patience=Patience())
    timer.join()


@pytest.mark.parametrize("status", [400, 401, 403, 408, 418, 429, 500, 502, 503, 504, 204, 206, 304, 416])
def test_any_other_status_may_pass(spool: Spool, status: int) -> None:
    body = b"" if status in {204, 304} else b"a page"
    with pytest.raises(SourceUnavailable, match=str(status)):
        fetch(spool, good(body, status))


def test_the_wait_that_a_server_asks_for_is_passed_on(spool: Spool) -> None:
    day = "Sun, 22 Nov 2026 08:00:{:02} GMT"
    for headers, expected in (
        ({"Retry_After": "7"}, 7.0),
        ({"Retry_After": "99999999999999"}, 3600.0),
        ({"Retry_After": day.format(30), "Date": day.format(10)}, 20.0),
        ({"Retry_After": day.format(10), "Date": day.format(30)}, 0.0),
        ({"Retry_After": day.format(30)}, None),
        ({"Retry_After": "soon"}, None),
        ({}, None),
    ):
        with pytest.raises(SourceUnavailable) as caught:
            fetch(spool, good(b"", 429, **headers))
        assert caught.value.retry_after_s == expected


def test_redirects_are_followed_up_to_three(spool: Spool) -> None:
    hop = good(b"moved", 302, Location="/next?x=1")
    got = fetch(spool, hop, hop, hop, good(BODY))
    assert got.body == BODY
    assert [request.path for request in got.server.requests] == ["/file", "/next?x=1", "/next?x=1", "/next?x=1"]
    assert got.server.connections == 1
    with pytest.raises(Refused, match="more than 3"):
        fetch(spool, hop)


@pytest.mark.parametrize(
    "location",
    [
        "http://127.0.0.1:1/private",
        "https://example.com/",
        "//169.254.169.254/latest",
        "file:///etc/passwd",
        "http://user@127.0.0.1/",
        "http://[::1",
        "http://\xff/",
        "data:text/plain,x",
    ],
)
def test_redirects_elsewhere_are_refused(spool: Spool, location: str) -> None:
    with pytest.raises(Refused, match="redirects to"):
        fetch(spool, good(b"", 301, Location=location))


def test_a_redirect_to_nowhere_may_pass(spool: Spool) -> None:
    with pytest.raises(SourceUnavailable, match="without saying"):
        fetch(spool, good(b"", 301))


@pytest.mark.parametrize("coding", ["gzip", "br", "identity, gzip", "GZIP"])
def test_an_encoded_body_is_refused_unread(spool: Spool, coding: str) -> None:
    bomb = gzip.compress(bytes(1_000_000))
    with pytest.raises(Refused, match="encoding"):
        fetch(spool, good(bomb, Content_Encoding=coding))


def test_a_file_above_the_cap_is_refused_before_and_while_it_comes(spool: Spool) -> None:
    assert fetch(spool, good(BODY), bytes_max=20_000).body == BODY
    for reply in (good(BODY), chunked(BODY), head() + BODY):
        with pytest.raises(Refused, match="19999"):
            fetch(spool, reply, bytes_max=19_999)
    with pytest.raises(Refused):
        fetch(spool, chunked(LARGE), bytes_max=5_000_000)
    assert spool.used_bytes == 0


@pytest.mark.parametrize(
    "reply",
    [
        b"",
        b"\0\1\2\3\r\n\r\n",
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: b\r\n folded\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nName : x\r\n\r\n",
        b"HTTP/1.1 101 Switching\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" * 20,
        b"HTTP/1.1 200 OK\r\nA: " + b"x" * 70_000,
        head(Content_Length="-1") + BODY,
        head(Content_Length="5, 6") + BODY,
        head(Content_Length="0x10") + BODY,
        head(Content_Length=5, Transfer_Encoding="chunked") + b"0\r\n\r\n",
        head(Transfer_Encoding="gzip, chunked") + b"0\r\n\r\n",
    ],
)
def test_answers_that_could_be_read_in_two_ways_are_not_taken(spool: Spool, reply: bytes) -> None:
    with pytest.raises(SourceUnavailable):
        fetch(spool, reply)


def test_interim_answers_and_repeated_lengths_are_understood(spool: Spool) -> None:
    hints = b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
    assert fetch(spool, hints + head(Content_Length="3, 3") + b"abc").body == b"abc"


def test_headers_that_trickle_are_given_up(spool: Spool) -> None:
    begun = time.monotonic()
    with pytest.raises(SourceUnavailable, match="did not begin"):
        fetch(spool, trickle(head(Content_Length=1, Padding="x" * 1000) + b"x", every_s=0.02))
    assert time.monotonic() - begun < 2


def test_silence_is_given_up(spool: Spool) -> None:
    with pytest.raises(SourceUnavailable, match="sent nothing"):
        fetch(spool, silent(b"", 1))


def test_a_body_that_trickles_is_given_up(spool: Spool) -> None:
    with pytest.raises(SourceUnavailable, match="broke off"):
        fetch(spool, trickle(head(Content_Length=10_000) + bytes(10_000), every_s=0.02, at_first=60))


def test_a_transfer_that_takes_too_long_is_given_up(spool: Spool) -> None:
    patience = Patience(read_s=5, total_s=0.5, rate_min=0)
    with pytest.raises(SourceUnavailable, match=r"within 0\.5 s"):
        fetch(spool, trickle(head(Content_Length=10_000) + bytes(10_000), every_s=0.02), patience=patience)


def test_a_slow_but_steady_body_is_waited_for(spool: Spool) -> None:
    patience = Patience(read_s=1, rate_min=10, rate_window_s=0.1)
    body = bytes(range(40))
    assert (
        fetch(spool, trickle(head(Content_Length=40) + body, every_s=0.01, at_first=38), patience=patience).body == body
    )


def test_a_slow_body_gives_way_where_others_wait_and_a_quick_one_does_not(spool: Spool) -> None:
    patience = Patience(read_s=1, rate_min=10, rate_crowded=10_000, rate_window_s=0.1)
    body = bytes(range(40))
    slow = trickle(head(Content_Length=40, ETag='"tag"') + body, every_s=0.01, at_first=38)
    with pytest.raises(GaveWay, match="others wait"):
        fetch(spool, slow, patience=patience, crowded=lambda: True)
    assert fetch(spool, good(bytes(20_000_000)), patience=patience, crowded=lambda: True).verified


def test_a_cancelled_transfer_stops_at_once(spool: Spool) -> None:
    stop = threading.Event()
    timer = threading.Timer(0.2, stop.set)
    timer.start()
    begun = time.monotonic()
    with pytest.raises(Cancelled):
        fetch(spool, silent(b"", 0.8), patience=Patience(read_s=30), cancelled=stop.is_set)
    assert time.monotonic() - begun < 2
    timer.join()


def test_a_connection_is_used_again(spool: Spool) -> None:
    with serving(good(BODY)) as server, fetching(server.origin) as fetcher:
        for _ in range(3):
            take(fetcher, server, spool)
        assert (server.connections, len(server.requests)) == (1, 3)


@pytest.mark.parametrize(
    "reply",
    [
        head(Content_Length=3) + b"abcd",
        head(Content_Length=3, Connection="close") + b"abc",
        b"HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\nabc",
    ],
)
def test_a_connection_of_doubtful_state_is_not_used_again(spool: Spool, reply: bytes) -> None:
    def stay(_: Request, send: Send) -> bool:
        send(reply)
        return True

    with serving(stay) as server, fetching(server.origin) as fetcher:
        take(fetcher, server, spool)
        time.sleep(0.05)
        take(fetcher, server, spool)
        assert server.connections == 2


def test_a_kept_connection_that_drops_at_re_use_is_replaced_once(spool: Spool) -> None:
    """The server hangs up only when the second request arrives, so no earlier look can tell."""

    def hang_up(_: Request, _send: Send) -> bool:
        return False

    with serving(good(BODY), hang_up, good(BODY)) as server, fetching(server.origin) as fetcher:
        assert take(fetcher, server, spool) == BODY
        assert take(fetcher, server, spool) == BODY
        assert (server.connections, len(server.requests)) == (2, 3)


def test_a_connection_that_was_closed_while_idle_is_not_tried(spool: Spool) -> None:
    with serving(head(Content_Length=3) + b"abc") as server, fetching(server.origin) as fetcher:
        take(fetcher, server, spool)
        time.sleep(0.1)
        take(fetcher, server, spool)
        assert (server.connections, len(server.requests)) == (2, 2)


def take(fetcher: Fetcher, server: FaultyServer, spool: Spool) -> bytes:
    intake = Intake(spool=spool, name="one", bytes_max=1_000_000, cancelled=lambda: False)
    fetcher.fetch(server.url(), intake, lambda: False)
    return bytes(intake.data())


def test_a_port_where_nobody_listens_may_pass(spool: Spool) -> None:
    with serving(good(BODY)) as server:
        origin = server.origin
    with fetching(origin) as fetcher, pytest.raises(SourceUnavailable, match=r"No connection to 127\.0\.0\.1"):
        fetcher.fetch(
            origin + "/x", Intake(spool=spool, name="one", bytes_max=1, cancelled=lambda: False), lambda: False
        )


def test_a_host_that_is_not_allowed_is_never_asked(spool: Spool) -> None:
    with serving(good(BODY)) as server, fetching("replicate.delivery") as fetcher, pytest.raises(Refused):
        fetcher.fetch(
            server.url(), Intake(spool=spool, name="one", bytes_max=1, cancelled=lambda: False), lambda: False
        )
    assert server.connections == 0
