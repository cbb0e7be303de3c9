"""The client against servers that answer as recorded, and as nobody should."""

import json

import pytest

from receiver.replicate.client import Page
from receiver.replicate.errors import Rejected, ReplicateError, Unavailable
from receiver.replicate.signature import Secret

CREATED = {"id": "hdwst0bb05rgp0cf0p29mzk2am", "status": "starting", "error": None, "logs": "", "novelty": [1, "é"]}
VERSION = "5c7d5dc6dd8bf75c1acaa8565735e7986bc5b66206b55cca93cb72c9bf15ccaa"


@pytest.mark.parametrize(
    ("named", "path", "in_body"),
    [
        ({"version": VERSION}, "/v1/predictions", {"version": VERSION}),
        ({"version": "o/n"}, "/v1/predictions", {"version": "o/n"}),
        ({"version": f"o/n:{VERSION}"}, "/v1/predictions", {"version": f"o/n:{VERSION}"}),
        ({"model": f"o/n:{VERSION}"}, "/v1/predictions", {"version": f"o/n:{VERSION}"}),
        ({"model": "black-forest-labs/flux-1.1-pro"}, "/v1/models/black-forest-labs/flux-1.1-pro/predictions", {}),
        ({"deployment": "acme/image_maker"}, "/v1/deployments/acme/image_maker/predictions", {}),
    ],
)
async def test_a_prediction_is_created_in_every_way(scripted, client_of, said, token, named, path, in_body):
    server = await scripted(said(201, CREATED))
    client = await client_of(server.url)
    told = await client.create(
        input={"prompt": "猫"}, webhook="https://example.com/w", webhook_events_filter=("start", "completed"), **named
    )
    assert told == CREATED
    (heard,) = server.heard
    assert (heard.method, heard.target) == ("POST", path)
    assert heard.headers["authorization"] == f"Bearer {token}"
    assert heard.headers["content-type"] == "application/json"
    assert heard.headers["user-agent"] == "outkeep"
    assert heard.told == {
        **in_body,
        "input": {"prompt": "猫"},
        "webhook": "https://example.com/w",
        "webhook_events_filter": ["start", "completed"],
    }


async def test_waiting_and_deadlines_are_asked_for_in_headers(scripted, client_of, said):
    server = await scripted(said(201, CREATED))
    client = await client_of(server.url)
    await client.create(version="v", input={}, prefer="wait=10", cancel_after="1h30m45s", extra={"stream": True})
    assert server.heard[0].headers["prefer"] == "wait=10"
    assert server.heard[0].headers["cancel-after"] == "1h30m45s"
    assert server.heard[0].told == {"version": "v", "input": {}, "stream": True}
    await client.create(version="v", input={}, prefer="wait")
    assert "cancel-after" not in server.heard[1].headers


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"version": "v", "model": "o/n"},
        {"version": "v", "prefer": "respond-async"},
        {"version": "v", "prefer": "wait=0"},
        {"version": "v", "prefer": "wait=10\r\nX-Y: z"},
        {"version": "v", "cancel_after": ""},
        {"version": "v", "cancel_after": "5 minutes"},
        {"version": "v", "input": {"a": {1, 2}}},
        {"version": "v", "input": {"a": float("nan")}},
    ],
)
async def test_a_wrong_create_never_leaves_the_house(scripted, client_of, wrong):
    server = await scripted()
    client = await client_of(server.url)
    with pytest.raises(Rejected) as caught:
        await client.create(**{"input": {}, **wrong})
    assert caught.value.status == 422
    assert server.heard == []


async def test_get_and_cancel_speak_of_one_prediction(scripted, client_of, said):
    server = await scripted(said(200, CREATED))
    client = await client_of(server.url)
    assert await client.get("abc") == CREATED
    assert await client.cancel("abc") == CREATED
    assert [(heard.method, heard.target, heard.body) for heard in server.heard] == [
        ("GET", "/v1/predictions/abc", b""),
        ("POST", "/v1/predictions/abc/cancel", b""),
    ]


async def test_models_versions_account_and_hardware_are_read(scripted, client_of, said):
    hardware = [{"sku": "cpu", "name": "CPU"}, "odd", {"sku": "gpu-t4", "name": "Nvidia T4 GPU"}]
    versions = {"next": None, "previous": None, "results": [{"id": "v1", "openapi_schema": None}]}
    server = await scripted(
        said(200, {"owner": "o"}),
        said(200, {"id": "v1"}),
        said(200, versions),
        said(200, {"type": "user"}),
        said(200, hardware),
    )
    client = await client_of(server.url)
    assert await client.model("o", "n") == {"owner": "o"}
    assert await client.version("o", "n", "v1") == {"id": "v1"}
    assert await client.versions("o", "n") == Page(({"id": "v1", "openapi_schema": None},), None, None)
    assert await client.account() == {"type": "user"}
    assert await client.hardware() == (hardware[0], hardware[2])
    assert [heard.target for heard in server.heard] == [
        "/v1/models/o/n",
        "/v1/models/o/n/versions/v1",
        "/v1/models/o/n/versions",
        "/v1/account",
        "/v1/hardware",
    ]


async def test_pages_follow_the_cursor_and_never_the_url(scripted, client_of, said):
    elsewhere = "https://evil.example/v1/predictions?cursor=cD0y%2BMDIz&created_after=2026-11-22T08%3A00%3A00Z"
    first = {"next": elsewhere, "previous": None, "results": [{"id": "a"}, {"id": "b"}]}
    last = {"next": None, "previous": "https://api.replicate.com/v1/predictions?cursor=x", "results": [{"id": "c"}]}
    server = await scripted(said(200, first), said(200, last))
    client = await client_of(server.url)
    pages = [
        page async for page in client.pages(created_after="2026-11-22T08:00:00Z", created_before="2026-11-23T08:00:00Z")
    ]
    assert [item["id"] for page in pages for item in page.results] == ["a", "b", "c"]
    assert pages[1].previous == "cursor=x"
    assert [heard.target for heard in server.heard] == [
        "/v1/predictions?created_after=2026-11-22T08%3A00%3A00Z&created_before=2026-11-23T08%3A00%3A00Z",
        "/v1/predictions?cursor=cD0y%2BMDIz&created_after=2026-11-22T08%3A00%3A00Z",
    ]


async def test_cursors_that_run_in_a_circle_are_no_complete_list(scripted, client_of, said):
    server = await scripted(said(200, {"next": "https://api.replicate.com/v1/predictions?cursor=again", "results": []}))
    client = await client_of(server.url)
    pages = client.pages()
    assert [await anext(pages), await anext(pages)]
    with pytest.raises(Unavailable, match="no end"):
        await anext(pages)


async def test_a_list_of_too_many_pages_is_no_complete_list(scripted, client_of, said, monkeypatch):
    monkeypatch.setattr("receiver.replicate.client.PAGES_MAX", 3)
    pages = [
        said(200, {"next": f"https://api.replicate.com/v1/predictions?cursor={n}", "results": []}) for n in range(9)
    ]
    client = await client_of((await scripted(*pages)).url)
    with pytest.raises(Unavailable, match="no end"):
        assert [page async for page in client.pages()]


async def test_an_endless_cursor_is_rejected(client_of):
    with pytest.raises(Rejected, match="cursor"):
        await (await client_of("http://127.0.0.1:9")).list(at="&".join(["a=1"] * 30))


@pytest.mark.parametrize("next_page", [5, "https://api.replicate.com/v1/predictions", "http://[", ["x"]])
async def test_a_next_page_that_makes_no_sense_is_not_the_end(scripted, client_of, said, next_page):
    server = await scripted(said(200, {"next": next_page, "results": []}))
    with pytest.raises(Unavailable, match="next page"):
        await (await client_of(server.url)).list()


@pytest.mark.parametrize("end", [{"next": None}, {"next": ""}, {}, {"previous": 5}])
async def test_without_a_next_page_the_list_ends_and_odd_entries_hide_nothing(scripted, client_of, said, end):
    server = await scripted(said(200, {**end, "results": [None, {"id": "a"}, 3]}))
    client = await client_of(server.url)
    assert await client.list(source="web") == Page(({"id": "a"},), None, None)
    assert server.heard[0].target == "/v1/predictions?source=web"


@pytest.mark.parametrize("body", [[], "text", {"results": None}, {}, {"results": {"id": "a"}}, b"<html>", b""])
async def test_a_list_that_is_none_is_unavailable(scripted, client_of, said, body):
    server = await scripted(said(200, body))
    client = await client_of(server.url)
    with pytest.raises(Unavailable):
        await client.list()


async def test_the_webhook_secret_comes_parsed(scripted, client_of, said):
    server = await scripted(said(200, {"key": "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"}))
    client = await client_of(server.url)
    assert await client.webhook_secret() == Secret.parse("whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD")
    assert server.heard[0].target == "/v1/webhooks/default/secret"


@pytest.mark.parametrize(
    "told", [{}, {"key": None}, {"key": "whsec_dG9vIHNob3J0"}, {"key": "C2FVsBQIhrscChlQIMV+b5sSYspob7oD"}]
)
async def test_a_webhook_secret_that_is_none_is_told_without_it(scripted, client_of, said, told):
    server = await scripted(said(200, told))
    client = await client_of(server.url)
    with pytest.raises(Unavailable) as caught:
        await client.webhook_secret()
    assert "dG9v" not in str(caught.value)
    assert "C2FV" not in str(caught.value)


async def test_odd_json_comes_back_holdable(scripted, client_of, said):
    server = await scripted(said(200, b'{"id": "abc", "output": NaN, "logs": "\\u0000\xff", "metrics": {"n": 1e999}}'))
    client = await client_of(server.url)
    assert await client.get("abc") == {"id": "abc", "output": None, "logs": "\\u0000\\udcff", "metrics": {"n": "1e999"}}


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"null", b"[" * 100_000])
async def test_a_success_that_is_no_object_may_have_been_one(scripted, client_of, said, body):
    server = await scripted(said(201, body))
    client = await client_of(server.url)
    with pytest.raises(Unavailable) as caught:
        await client.create(version="v", input={})
    assert caught.value.maybe_done
    assert caught.value.status == 201
    assert len(server.heard) == 1


async def test_any_other_call_passes_on_what_is_meant_for_replicate_only(scripted, client_of, said, token):
    server = await scripted(said(202, b"bytes", x_thing="1", X_Thing="2"))
    client = await client_of(server.url)

    async def pieces():
        yield b"one "
        yield b"two"

    answer = await client.request(
        "POST",
        "/files",
        query=[("a", "1 2"), ("a", "&")],
        headers={"Authorization": "Bearer of-somebody", "Host": "evil", "Cookie": "x", "Content-Type": "text/plain"},
        content=pieces(),
    )
    assert (answer.status, answer.body, answer.headers["x-thing"]) == (202, b"bytes", "1, 2")
    (heard,) = server.heard
    assert heard.target in ("/v1/files?a=1+2&a=%26", "/v1/files?a=1%202&a=%26")
    assert heard.body == b"one two"
    assert heard.headers["authorization"] == f"Bearer {token}"
    assert heard.headers["content-type"] == "text/plain"
    assert heard.headers["host"] == server.url.removeprefix("http://")
    assert "cookie" not in heard.headers
    assert "bytes" not in repr(answer)


async def test_without_a_token_no_authorization_is_sent(scripted, client_of):
    server = await scripted()
    await (await client_of(server.url, token=None)).account()
    assert "authorization" not in server.heard[0].headers


async def test_proxies_and_netrc_of_the_environment_are_not_used(
    scripted, client_of, said, monkeypatch, tmp_path, token
):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login a password b")
    monkeypatch.setenv("NETRC", str(netrc))
    server = await scripted(said(200, {"type": "user"}))
    assert await (await client_of(server.url)).account() == {"type": "user"}
    assert server.heard[0].headers["authorization"] == f"Bearer {token}"


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_a_redirect_is_refused_and_the_token_stays(scripted, client_of, said, status):
    other = await scripted()
    server = await scripted(said(status, location=f"{other.url}/v1/account"))
    client = await client_of(server.url)
    with pytest.raises(Rejected) as caught:
        await client.account()
    assert caught.value.status == status
    assert other.heard == []


async def test_nothing_is_connected_before_the_first_call_and_closing_twice_is_fine(client_of):
    client = await client_of("http://127.0.0.1:9")
    await client.aclose()
    await client.aclose()


async def test_every_error_is_a_sentence(scripted, client_of, said):
    server = await scripted(said(422, {"title": "Input validation failed", "detail": "- input: prompt is required\n"}))
    with pytest.raises(ReplicateError) as caught:
        await (await client_of(server.url)).account()
    assert str(caught.value) == "Replicate answered 422 (Input validation failed: - input: prompt is required)."
    assert json.dumps(caught.value.body)
