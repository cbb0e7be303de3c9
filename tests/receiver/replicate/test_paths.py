"""No name, path or base URL leads a call, and the token with it, anywhere but below the API."""

import random

import pytest

from receiver.core.errors import Misconfigured
from receiver.replicate.client import Replicate
from receiver.replicate.errors import NotFound, Rejected


@pytest.mark.parametrize(
    "bad", ["", ".", "..", "a/b", "a%2fb", "a?b", "a#b", "a b", "é", "a\n", "../account", "x" * 129]
)
async def test_an_id_that_nothing_can_have_is_not_asked_for(scripted, client_of, bad):
    server = await scripted()
    client = await client_of(server.url)
    asks = [
        client.get(bad),
        client.cancel(bad),
        client.model(bad, "n"),
        client.version("o", "n", bad),
        client.versions("o", bad),
        client.create(model=f"o/{bad}", input={}),
        client.create(deployment=f"o/{bad}", input={}),
        client.create(deployment="o", input={}),
    ]
    for ask in asks:
        with pytest.raises(NotFound, match="was not asked"):
            await ask
    assert server.heard == []


@pytest.mark.parametrize(
    "path",
    [
        "",
        "predictions",
        "/",
        "//evil.example/v1",
        "/a//b",
        "/a/../b",
        "/a/%2e%2e/b",
        "/a/%2E./b",
        "/./a",
        "/a%2fb",
        "/a%5cb",
        "/a?b=c",
        "/a#b",
        "/a b",
        "/a%",
        "/a%zz",
        "/a\r\n",
        "/a%0d%0a",
        "/é",
        "/@evil/" + "a" * 2000,
        "http://evil.example/",
    ],
)
async def test_a_path_that_may_leave_the_api_is_rejected(scripted, client_of, path):
    server = await scripted()
    client = await client_of(server.url)
    with pytest.raises(Rejected) as caught:
        await client.request("GET", path)
    assert caught.value.status == 400
    assert server.heard == []


async def test_ordinary_paths_are_taken_as_they_are(scripted, client_of):
    server = await scripted()
    client = await client_of(server.url)
    for path in ("/search", "/models/o/n-1.2_x/readme", "/collections/a%20b", "/files/NGZiNm==/download"):
        await client.request("GET", path)
        assert server.heard[-1].target == "/v1" + path


@pytest.mark.parametrize(
    "url",
    [
        "",
        "api.replicate.com/v1",
        "ftp://api.replicate.com",
        "https://user:pw@api.replicate.com/v1",
        "https://api.replicate.com/v1?x=1",
        "https://api.replicate.com/v1#x",
        "https:///v1",
        "https://[::1/v1",
        "https://api.replicate.com:65536/v1",
        "https://api.replicate.com/../v1//x y",
    ],
)
def test_a_base_url_that_can_not_be_one_is_told_at_once(url, passing):
    with pytest.raises(Misconfigured) as caught:
        Replicate(base_url=url, token="t", clock=passing, rng=random.Random(1))
    assert "pw" not in str(caught.value)


@pytest.mark.parametrize("token", ["", "two words", "line\nbreak", "é", "r8_x\x00"])
def test_a_token_that_can_not_be_sent_is_told_without_it(token, passing):
    with pytest.raises(Misconfigured) as caught:
        Replicate(base_url="http://127.0.0.1/v1", token=token, clock=passing, rng=random.Random(1))
    assert not token or token not in str(caught.value)


@pytest.mark.parametrize(
    "asked",
    [
        {"headers": {"X-Thing": "é"}},
        {"headers": {"X-Thing": "a\r\nX-Other: b"}},
        {"headers": {"X Thing": "a"}},
        {"query": [("a", "\ud800")]},
        {"query": [("a", "x" * 70_000)]},
    ],
)
async def test_what_is_no_http_is_rejected_and_not_repeated(scripted, client_of, passing, asked):
    server = await scripted()
    with pytest.raises(Rejected, match="was not asked"):
        await (await client_of(server.url)).request("GET", "/account", **asked)
    assert server.heard == []
    assert passing.slept == []
