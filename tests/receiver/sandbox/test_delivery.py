"""Files as the real host serves them, and each misbehaviour of it."""

import base64
import gzip
import hashlib
import time

import httpx
import pytest

from receiver.sandbox.delivery import ranged
from receiver.sandbox.recipes import crc32c
from tests.receiver.sandbox.conftest import TINY


async def served(api, prank, model="sandbox/image", told=None):
    """The URL of an output with that misbehaviour, and its true facts."""
    done = await api.run(model, told, sandbox={"files": prank})
    truth = (await api.belief(done))["truth"][0]
    return truth["url"], truth


async def fetched(api, prank, **more):
    url, truth = await served(api, prank)
    return await api.http.get(url, **more), truth


def whole(answer, truth):
    return hashlib.sha256(answer.content).hexdigest() == truth["sha256"]


async def test_a_file_has_the_headers_of_the_real_host(api):
    answer, truth = await fetched(api, None)
    md5 = hashlib.md5(answer.content).digest()
    crc = base64.b64encode(crc32c(answer.content).to_bytes(4, "big")).decode()
    assert whole(answer, truth)
    assert len(answer.content) == truth["size"]
    assert answer.headers["etag"] == f'"{md5.hex()}"'
    assert answer.headers["x-goog-hash"] == f"crc32c={crc}, md5={base64.b64encode(md5).decode()}"
    assert answer.headers["content-type"] == "image/webp"
    assert answer.headers["accept-ranges"] == "bytes"
    assert answer.headers["cache-control"] == "public,max-age=3600"
    assert answer.headers["access-control-allow-origin"] == "*"
    assert answer.headers["last-modified"].endswith("GMT")


def test_crc32c_is_castagnoli_s():
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(b"6789", crc32c(b"12345")) == 0xE3069283


async def test_no_token_is_needed_and_head_tells_the_same(api):
    url, truth = await served(api, None)
    async with httpx.AsyncClient(trust_env=False) as stranger:
        head, get = await stranger.head(url), await stranger.get(url)
    assert head.content == b""
    assert head.headers["content-length"] == str(truth["size"])
    assert head.headers["etag"] == get.headers["etag"]


async def test_ranges_and_conditions_work(api):
    url, truth = await served(api, None)
    full = (await api.http.get(url)).content
    etag = f'"{truth["md5"]}"'
    part = await api.http.get(url, headers={"range": "bytes=10-19"})
    assert (part.status_code, part.content) == (206, full[10:20])
    assert part.headers["content-range"] == f"bytes 10-19/{len(full)}"
    rest = await api.http.get(url, headers={"range": "bytes=20-", "if-range": etag})
    assert rest.content == full[20:]
    other = await api.http.get(url, headers={"range": "bytes=20-", "if-range": '"other"'})
    assert (other.status_code, other.content) == (200, full)
    assert (await api.http.get(url, headers={"range": "bytes=-5"})).content == full[-5:]
    far = await api.http.get(url, headers={"range": "bytes=999999-"})
    assert (far.status_code, far.headers["content-range"]) == (416, f"bytes */{len(full)}")
    assert (await api.http.get(url, headers={"if-none-match": etag})).status_code == 304


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ("bytes=0-9", (0, 10)),
        ("bytes=5-", (5, 100)),
        ("bytes=90-200", (90, 100)),
        ("bytes=-10", (90, 100)),
        ("bytes=-200", (0, 100)),
        ("bytes=-0", (100, 100)),
        ("bytes=100-", (100, 100)),
        ("bytes=9-5", None),
        ("bytes=0-1,5-6", None),
        ("bytes=-", None),
        ("items=0-9", None),
        ("bytes=x-y", None),
        ("", None),
    ],
)
def test_a_range_is_read_as_the_standard_says(told, expected):
    assert ranged(told, 100) == expected


@pytest.mark.parametrize("status", [404, 403, 410, 429, 500, 503])
async def test_a_status_is_answered_as_asked(api, status):
    answer, _truth = await fetched(api, f"{status}:7")
    assert answer.status_code == status
    assert answer.headers["retry-after"] == "7"


async def test_once_and_then_all_is_well(api):
    url, truth = await served(api, [["once:500", "2x:404"]])
    assert [(await api.http.get(url)).status_code for _ in range(4)] == [500, 404, 404, 200]
    assert whole(await api.http.get(url), truth)


async def test_each_output_has_its_own_misbehaviour(api):
    done = await api.run("sandbox/four-images", TINY, sandbox={"files": ["404", "ok", "once:500"]})
    assert [(await api.http.get(url)).status_code for url in done["output"]] == [404, 200, 500, 200]


@pytest.mark.parametrize("prank", ["truncated", "reset"])
async def test_a_cut_body_breaks_off_and_can_be_resumed(api, prank):
    url, truth = await served(api, f"once:{prank}")
    with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
        await api.http.get(url)
    assert whole(await api.http.get(url), truth)


async def test_slow_and_stalled_files_come_whole_in_the_end(api):
    for prank in ("slow:0.3", "stall:0.3"):
        url, truth = await served(api, prank)
        began = time.monotonic()
        assert whole(await api.http.get(url), truth)
        assert time.monotonic() - began >= 0.25


async def test_a_hanging_file_says_nothing(api):
    url, _truth = await served(api, "hang:0.2")
    began = time.monotonic()
    with pytest.raises(httpx.HTTPError):
        await api.http.get(url)
    assert time.monotonic() - began >= 0.2


async def test_a_body_may_lack_its_length(api):
    chunked, truth = await fetched(api, "no_length")
    assert "content-length" not in chunked.headers
    assert whole(chunked, truth)
    closed, truth = await fetched(api, "closed")
    assert not {"content-length", "transfer-encoding"} & set(closed.headers)
    assert whole(closed, truth)
    early, truth = await fetched(api, "closed_early")
    assert len(early.content) == truth["size"] // 2
    url, _truth = await served(api, "no_length")
    assert "content-length" not in (await api.http.head(url)).headers


async def test_a_wrong_length_is_seven_bytes_short(api):
    answer, truth = await fetched(api, "wrong_length")
    assert len(answer.content) == int(answer.headers["content-length"]) == truth["size"] - 7


async def test_a_corrupt_file_differs_in_one_byte(api):
    answer, truth = await fetched(api, "corrupt")
    assert len(answer.content) == truth["size"]
    assert not whole(answer, truth)
    assert answer.headers["etag"] == f'"{truth["md5"]}"'


async def test_hashes_can_lie_or_lack(api):
    wrong, truth = await fetched(api, "wrong_md5")
    assert whole(wrong, truth)
    assert wrong.headers["etag"] != f'"{truth["md5"]}"'
    odd, truth = await fetched(api, "odd_etag")
    assert len(odd.headers["etag"]) == 34
    assert odd.headers["etag"] != f'"{truth["md5"]}"'
    assert "x-goog-hash" not in odd.headers
    none, truth = await fetched(api, "no_hash")
    assert not {"etag", "x-goog-hash"} & set(none.headers)
    stored, truth = await fetched(api, "stored_gzip")
    assert whole(stored, truth)
    assert stored.headers["x-goog-stored-content-encoding"] == "gzip"
    assert base64.b64encode(bytes.fromhex(truth["md5"])).decode() not in stored.headers["x-goog-hash"]


async def test_gzip_comes_though_nobody_asked(api):
    url, truth = await served(api, "gzip")
    async with api.http.stream("GET", url, headers={"accept-encoding": "identity"}) as answer:
        raw = b"".join([piece async for piece in answer.aiter_raw()])
    assert answer.headers["content-encoding"] == "gzip"
    assert hashlib.sha256(gzip.decompress(raw)).hexdigest() == truth["sha256"]


async def test_an_answer_may_be_something_else(api):
    page, _truth = await fetched(api, "html")
    assert page.headers["content-type"].startswith("text/html")
    empty, _truth = await fetched(api, "empty")
    assert (empty.status_code, empty.content) == (200, b"")
    other, truth = await fetched(api, "wrong_type")
    assert other.headers["content-type"] == "application/octet-stream"
    assert whole(other, truth)


async def test_ranges_can_be_unknown_or_wrong(api):
    part = {"range": "bytes=10-19"}
    unknown, truth = await fetched(api, "no_range", headers=part)
    assert unknown.status_code == 200
    assert whole(unknown, truth)
    url, truth = await served(api, "bad_range")
    wrong = await api.http.get(url, headers=part)
    assert wrong.headers["content-range"].startswith("bytes 10-19/")
    assert wrong.content == (await api.http.get(url)).content[:10]


async def test_redirects_lead_to_the_file_in_circles_or_inside(api):
    good, truth = await fetched(api, "redirect", follow_redirects=True)
    assert len(good.history) == 1
    assert whole(good, truth)
    url, _truth = await served(api, "redirect_loop")
    assert (await api.http.get(url)).headers["location"] == url
    private, _truth = await fetched(api, "redirect_private")
    assert private.headers["location"].startswith("http://169.254.169.254/")


async def test_a_file_can_expire_early(api):
    url, _truth = await served(api, "expires:0.5")
    assert (await api.http.get(url)).status_code == 200
    gone, _truth = await fetched(api, "expires:0")
    assert gone.status_code == 404


async def test_general_mischief_spoils_every_file(api):
    done = await api.run("sandbox/four-images")
    await api.control("/mischief", {"files": "once:503"})
    first = [(await api.http.get(url)).status_code for url in done["output"]]
    again = [(await api.http.get(url)).status_code for url in done["output"]]
    assert (first, again) == ([503] * 4, [200] * 4)
    assert all(file["served"] == 2 for file in (await api.belief(done))["truth"])


async def test_a_big_file_is_never_in_memory_and_keeps_its_hash(api):
    url, truth = await served(api, None, "sandbox/big", {"bytes": 30_000_001})
    digest, pieces = hashlib.sha256(), 0
    async with api.http.stream("GET", url) as answer:
        async for piece in answer.aiter_raw():
            digest.update(piece)
            pieces += 1
    assert digest.hexdigest() == truth["sha256"]
    assert "crc32c" not in answer.headers["x-goog-hash"]
    tail = await api.http.get(url, headers={"range": "bytes=29999990-"})
    assert len(tail.content) == 11
    async with api.http.stream("GET", url) as left:
        await anext(left.aiter_raw())  # the server must notice that nobody listens any more


async def test_nothing_is_at_other_paths(api):
    for path in ("/pbxt/none/out-0.png", "/plain/pbxt/none/out-0.png", "/nonsense"):
        assert (await api.http.get(api.running.url + path)).status_code == 404
