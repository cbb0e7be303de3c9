"""Permanent links: the bytes as archived, for anybody who has the link."""

import hashlib

import httpx
import pytest

from receiver.web.files import is_shown


async def picture(stage, model="sandbox/image", **given):
    """An archived output, its path on our own site, and its bytes in the bucket."""
    output = (await stage.made(model, **given))["outputs"][0]
    path = httpx.URL(output["url"]).path
    return output, path, (stage.folder / "objects" / output["key"]).read_bytes()


async def test_a_link_gives_the_bytes_and_says_what_they_are(stage):
    output, path, data = await picture(stage)
    for authorization in (None, "Bearer nonsense", "Token r8_another"):
        stage.client.headers.pop("authorization", None)
        headers = {"Authorization": authorization} if authorization else {}
        answer = await stage.get(path, headers=headers)
        assert answer.status_code == 200
        assert answer.content == data
        assert hashlib.sha256(answer.content).hexdigest() == output["sha256"]
        told = answer.headers
        assert told["content-type"] == output["content_type"]
        assert told["content-length"] == str(output["size"])
        assert told["etag"] == f'"{output["sha256"]}"'
        assert told["content-disposition"].startswith("inline")
        assert told["x-content-type-options"] == "nosniff"
        assert told["access-control-allow-origin"] == "*"
        assert told["cross-origin-resource-policy"] == "cross-origin"
        assert told["x-robots-tag"] == "noindex"
        assert "immutable" in told["cache-control"]
        assert told["accept-ranges"] == "bytes"
        assert "content-security-policy" not in told


async def test_head_says_the_same_without_the_bytes(stage):
    output, path, _ = await picture(stage)
    whole, short = await stage.get(path), await stage.client.head(path, headers={"Range": "bytes=0-1"})
    assert short.status_code == 200
    assert short.content == b""
    assert short.headers["content-length"] == str(output["size"])
    assert {k: v for k, v in short.headers.items() if k != "date"} == {
        k: v for k, v in whole.headers.items() if k != "date"
    }


async def test_a_range_gives_a_part(stage):
    output, path, data = await picture(stage)
    size = output["size"]
    for wanted, expected in [("bytes=0-9", (0, 10)), ("bytes=5-", (5, size)), ("bytes=-7", (size - 7, size))]:
        answer = await stage.get(path, headers={"Range": wanted, "If-Range": f'"{output["sha256"]}"'})
        start, end = expected
        assert answer.status_code == 206
        assert answer.content == data[start:end]
        assert answer.headers["content-range"] == f"bytes {start}-{end - 1}/{size}"
    assert (await stage.get(path, headers={"Range": "bytes=0-1", "If-Range": '"x"'})).status_code == 200
    assert (await stage.get(path, headers=[("Range", "bytes=0-1"), ("Range", "bytes=0-1")])).status_code == 200


async def test_a_range_outside_is_416(stage):
    output, path, _ = await picture(stage)
    answer = await stage.get(path, headers={"Range": f"bytes={output['size']}-"})
    assert answer.status_code == 416
    assert answer.headers["content-range"] == f"bytes */{output['size']}"
    assert answer.headers["content-type"] == "application/problem+json"


async def test_who_has_it_already_is_told_so(stage):
    output, path, _ = await picture(stage)
    answer = await stage.get(path, headers={"If-None-Match": f'W/"{output["sha256"]}"', "Range": "bytes=0-1"})
    assert answer.status_code == 304
    assert answer.content == b""
    assert answer.headers["etag"] == f'"{output["sha256"]}"'


async def test_a_preflight_is_answered_without_a_key(stage):
    _, path, _ = await picture(stage)
    stage.client.headers.pop("authorization")
    answer = await stage.client.options(path, headers={"Origin": "https://x.example"})
    assert answer.status_code == 204
    assert answer.headers["access-control-allow-origin"] == "*"


async def test_another_name_or_an_unknown_link_is_not_found(stage):
    _, path, _ = await picture(stage)
    stage.client.headers.pop("authorization")
    link = path.split("/")[2]
    for wrong in (f"/files/{link}/output.png.exe", f"/files/{link[::-1]}/output.png", f"/files/{link}/%2e%2e"):
        answer = await stage.get(wrong)
        assert answer.status_code == 404
        assert answer.headers["content-type"] == "application/problem+json"
    # A slash at the end, or a link that is too short, is no permanent link: a stranger hears of no more than that.
    assert (await stage.get(path + "/")).status_code == 401
    assert (await stage.get(f"/files/{link[:-1]}/output.png")).status_code == 401


async def test_an_output_that_is_not_archived_yet_is_not_found(stage):
    created = await stage.post("/v1/models/sandbox/image/predictions", json={"input": {}})
    prediction_id = created.json()["id"]
    for _ in range(200):
        await stage.house.ask(prediction_id)
        if known := await stage.house.ledger.outputs(prediction_id):
            break
    assert (await stage.get(f"/files/{known[0].link}/output.png")).status_code == 404
    done = await stage.finish(prediction_id)
    assert (await stage.get(httpx.URL(done["outputs"][0]["url"]).path)).status_code == 200


async def test_what_could_act_in_a_browser_is_an_attachment_in_a_sandbox(stage):
    # The stand-in's error page is HTML, whatever it is called.
    output, path, _ = await picture(stage, sandbox={"files": ["html"]})
    assert output["content_type"].startswith("text/html")
    answer = await stage.get(path)
    assert answer.headers["content-disposition"].startswith("attachment")
    assert answer.headers["content-security-policy"] == "sandbox"
    assert answer.headers["x-content-type-options"] == "nosniff"


async def test_an_object_that_somebody_removed_is_not_found_and_not_cached(stage):
    output, path, _ = await picture(stage)
    (stage.folder / "objects" / output["key"]).unlink()
    answer = await stage.get(path)
    assert answer.status_code == 404
    assert answer.headers["cache-control"] == "no-store"


async def test_an_object_that_shrank_is_never_given_as_whole(stage):
    output, path, data = await picture(stage, "sandbox/big", bytes=1_000_000)
    (stage.folder / "objects" / output["key"]).chmod(0o644)
    (stage.folder / "objects" / output["key"]).write_bytes(data[:600_000])
    with pytest.raises(httpx.RemoteProtocolError):
        await stage.get(path)
    (stage.folder / "objects" / output["key"]).write_bytes(b"")
    answer = await stage.get(path)
    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) > 0


async def test_a_reader_that_leaves_frees_its_place(stage):
    _, path, _ = await picture(stage, "sandbox/big", bytes=20_000_000)
    async with stage.client.stream("GET", path) as answer:
        assert answer.status_code == 200
    files = next(route.endpoint for route in stage.app._routes.routes if route.path.startswith("/files"))
    from tests.receiver.web.conftest import until

    await until(lambda: files._readers == 0)


@pytest.mark.parametrize(
    ("content_type", "shown"),
    [
        ("image/png", True),
        ("image/webp", True),
        ("audio/x-wav", True),
        ("video/mp4", True),
        ("Image/PNG; charset=binary", True),
        ("image/svg+xml", False),
        ("text/html", False),
        ("application/pdf", False),
        ("application/xhtml+xml", False),
        ("audio/x-mpegurl", False),
        ("video/x+xml", False),
        ("model/gltf-binary", False),
        ("", False),
    ],
)
def test_only_pixels_sound_and_film_are_shown_in_place(content_type, shown):
    assert is_shown(content_type) is shown
