"""Replicate's API as spoken by us: the same words, with an end only where everything is kept."""

import asyncio
import json

import pytest

from receiver.core.errors import UpstreamError
from receiver.web import gateway
from tests.receiver.web.conftest import told

IMAGE = "/v1/models/sandbox/image/predictions"


async def create(stage, path=IMAGE, *, headers=None, **given):
    return await stage.post(path, json={"input": given}, headers=headers)


def has_no_foreign_url(stage, answer):
    return stage.sandbox.url not in answer.text


@pytest.mark.parametrize("prefix", ["", "/v1", "/v1/v1"])
async def test_a_prediction_is_created_and_read_under_every_prefix(stage, prefix):
    answer = await create(stage, f"{prefix}/models/sandbox/image/predictions", prompt="a cat")
    assert answer.status_code == 201
    made = answer.json()
    public = stage.house.links.public_url
    assert answer.headers["location"] == f"{public}/v1/predictions/{made['id']}"
    assert made["urls"]["get"] == f"{public}/v1/predictions/{made['id']}"
    assert made["input"]["prompt"] == "a cat"
    assert made["output"] is None
    assert "preference-applied" not in answer.headers
    again = await stage.get(f"{prefix}/predictions/{made['id']}")
    assert again.json()["id"] == made["id"]
    assert (await stage.house.ledger.prediction(made["id"])).key_name == "app"


async def test_a_version_and_a_deployment_are_passed_on(stage):
    answer = await stage.post("/v1/predictions", json={"version": "sandbox/image", "input": {}})
    assert answer.status_code == 201
    answer = await stage.post("/v1/deployments/nobody/nothing/predictions", json={"input": {}})
    assert answer.status_code == 404
    assert answer.json()["status"] == 404
    assert answer.headers["content-type"] == "application/problem+json"


async def test_it_has_succeeded_only_once_it_is_archived(stage):
    prediction_id = (await create(stage)).json()["id"]
    for _ in range(300):
        await stage.house.ask(prediction_id)
        if (await stage.house.ledger.prediction(prediction_id)).final:
            break
        await asyncio.sleep(0.01)
    answer = await stage.get(f"/v1/predictions/{prediction_id}")
    assert (answer.json()["status"], answer.json()["output"], answer.json()["completed_at"]) == (
        "processing",
        None,
        None,
    )
    assert has_no_foreign_url(stage, answer)
    await stage.finish(prediction_id)
    answer = await stage.get(f"/v1/predictions/{prediction_id}")
    assert answer.json()["status"] == "succeeded"
    assert answer.json()["output"].startswith(f"{stage.house.links.public_url}/files/")
    assert has_no_foreign_url(stage, answer)


@pytest.mark.parametrize(
    ("prefer", "applied"),
    [
        ("wait", "wait"),
        ("wait=30", "wait=30"),
        ("respond-async, wait=99", "wait=60"),
        ("return=minimal, wait", "wait"),
        ("Wait = 1000", "wait=60"),
    ],
)
async def test_who_prefers_to_wait_gets_the_archived_end(worker, prefer, applied):
    answer = await create(worker, headers={"Prefer": prefer})
    assert answer.status_code == 201
    assert answer.headers["preference-applied"] == applied
    assert answer.json()["status"] == "succeeded"
    assert answer.json()["output"].startswith(worker.house.links.public_url)
    assert (await worker.house.ledger.prediction(answer.json()["id"])).archived_ms is not None


async def test_a_failure_is_told_at_once(worker):
    answer = await create(worker, "/v1/models/sandbox/fails/predictions", headers={"Prefer": "wait"})
    assert answer.json()["status"] == "failed"
    assert "CUDA" in answer.json()["error"]


async def test_a_wait_that_is_over_too_soon_is_told_as_starting(stage):
    answer = await create(stage, headers={"Prefer": "wait=1"}, sandbox={"duration_s": 3000})
    assert (answer.status_code, answer.json()["status"], answer.json()["output"]) == (201, "starting", None)


async def test_too_many_waits_at_once_are_answered_at_once(stage, monkeypatch):
    monkeypatch.setattr(gateway, "WAITS_MAX", 0)
    answer = await create(stage, headers={"Prefer": "wait=60"}, sandbox={"duration_s": 3000})
    assert (answer.status_code, answer.json()["status"]) == (201, "starting")


@pytest.mark.parametrize(
    "prefer", ["wait=0", "wait=abc", "respond-async", "return=minimal", "wait=", "wait=-5", "waiting"]
)
async def test_a_preference_that_can_not_be_honoured_is_ignored(stage, prefer):
    answer = await create(stage, headers={"Prefer": prefer})
    assert answer.status_code == 201
    assert "preference-applied" not in answer.headers


async def test_a_waiting_client_that_leaves_or_a_stop_ends_the_wait(stage):
    waiting = asyncio.ensure_future(create(stage, headers={"Prefer": "wait=60"}, sandbox={"duration_s": 3000}))
    while not (await stage.house.ledger.predictions()).items:  # noqa: ASYNC110 - the ledger has no bell of its own
        await asyncio.sleep(0.01)
    await stage.app.close()
    answer = await asyncio.wait_for(waiting, 5)
    assert answer.json()["status"] == "starting"


async def test_a_prediction_is_canceled_through_us(stage):
    prediction_id = (await create(stage, sandbox={"duration_s": 3000})).json()["id"]
    answer = await stage.post(f"/v1/predictions/{prediction_id}/cancel")
    assert answer.status_code == 200
    assert answer.json()["id"] == prediction_id
    assert (await stage.post("/v1/predictions/unknownunknownunknown/cancel")).status_code == 404


async def test_what_stands_behind_the_id_of_a_prediction_keeps_nobody_from_it(stage):
    prediction_id = (await create(stage)).json()["id"]
    assert (await stage.get(f"/v1/predictions/{prediction_id}?t=1795414399")).status_code == 200


async def test_a_deadline_is_passed_on(stage):
    answer = await create(stage, headers={"Cancel-After": "30s"})
    assert answer.json()["deadline"]
    answer = await create(stage, headers={"Cancel-After": "soon"})
    assert answer.status_code == 400


async def test_an_id_that_we_do_not_know_is_asked_for_upstream(stage):
    made = await stage.house.create("/models/sandbox/image/predictions", {"input": {}}, key_name=None)
    other = await stage.get(f"/v1/predictions/{made.id}")
    assert other.status_code == 200
    answer = await stage.get("/v1/predictions/neverheardofthis")
    assert answer.status_code == 404
    assert answer.json()["status"] == 404


async def test_the_list_is_newest_first_and_its_pages_are_absolute(site):
    for number in range(103):
        moment = f"2026-11-22T08:{number // 60:02d}:{number % 60:02d}.000Z"
        body = json.dumps(told(f"p{number}", created_at=moment)).encode()
        await site.post("/webhooks/replicate", content=body, headers=site.signed(body, f"msg_{number}"))
    while await site.house.observe.step():
        pass
    first = (await site.get("/v1/predictions", params={"created_after": "2026-11-22T08:00:01Z"})).json()
    assert [first["results"][0]["id"], len(first["results"]), first["previous"]] == ["p102", 100, None]
    public = site.house.links.public_url
    assert first["next"].startswith(f"{public}/v1/predictions?")
    second = (await site.get(first["next"].removeprefix(public))).json()
    assert [item["id"] for item in second["results"]] == ["p2", "p1"]
    assert second["next"] is None
    assert (await site.get("/predictions?source=web")).json()["results"] == []
    assert (await site.get("/v1/predictions?cursor=nonsense!")).status_code == 400


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"\xff", 400),
        (b'{"input": NaN}', 400),
        (b'{"input": 1e999}', 400),
        (b"[" * 200_000, 400),
        (b'{"input":' * 150 + b"1" + b"}" * 150, 400),
        (b"[]", 422),
        (b'"text"', 422),
        (b"null", 422),
    ],
)
async def test_a_body_that_is_no_json_object_is_refused_in_replicates_shape(site, content, status):
    answer = await site.post(IMAGE, content=content)
    assert answer.status_code == status
    assert answer.json()["status"] == status
    assert {"title", "detail"} <= set(answer.json())


async def test_a_compressed_body_is_refused(site):
    assert (await site.post(IMAGE, content=b"{}", headers={"Content-Encoding": "gzip"})).status_code == 415


async def test_a_long_body_is_read_and_a_too_long_one_refused(stage):
    answer = await create(stage, prompt="x" * 1_000_000)
    assert answer.status_code == 201
    answer = await stage.post(IMAGE, content=b" " * (33 * 1024 * 1024))
    assert answer.status_code == 413
    assert answer.json()["status"] == 413


@pytest.mark.parametrize(
    ("path", "statuses"),
    [
        ("/v1/predictions/../account", {400, 404}),
        ("/v1/predictions/%2e%2e/account", {400}),
        ("/v1/predictions/a%2Fb", {400}),
        ("/v1/predictions/p1%00", {400}),
        ("/v1/predictions/", {400}),
        ("/v1//predictions/p1", {400}),
        ("/v1/predictions/p1;x", {400}),
        ("/v1/predictions/p1%0d%0aX: y", {400}),
        ("/v1/predictions/" + "x" * 65, {404}),
        ("/v1/predictions/p1/unlisted", {404}),
        ("/v1/account", {404}),
        ("/v1/v1/v1/predictions", {404}),
        ("/v1", {404}),
        ("/v1/models/o/n/versions", {404}),
    ],
)
async def test_a_path_that_is_malformed_or_unlisted_is_refused(site, path, statuses):
    answer = await site.get(path)
    assert answer.status_code in statuses
    assert answer.json()["status"] == answer.status_code
    assert answer.headers["content-type"] == "application/problem+json"


async def test_a_wrong_method_hears_which_ones_are_right(site):
    answer = await site.client.put("/v1/predictions")
    assert answer.status_code == 405
    assert answer.headers["allow"] == "GET, HEAD, POST"


async def test_what_replicate_refuses_is_told_in_its_own_words(stage):
    answer = await stage.post(IMAGE, json={"input": {"width": "wide"}})
    assert answer.status_code == 422
    assert answer.json()["status"] == 422
    answer = await create(stage, sandbox={"create": "429:600"})
    assert answer.status_code == 429
    assert int(answer.headers["retry-after"]) >= 1
    assert answer.json()["retry_after"] >= 1


async def test_replicate_out_of_reach_is_a_bad_gateway(site):
    answer = await site.get("/v1/predictions/neverheardofthis")
    assert answer.status_code == 502
    assert answer.json()["status"] == 502


def test_a_status_that_is_no_error_is_a_bad_gateway_too():
    from receiver.web.app import _upstream

    problem = _upstream(UpstreamError(302, {"title": "Found"}))
    assert (problem.status, problem.body["status"]) == (502, 502)
