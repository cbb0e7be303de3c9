"""Creating predictions: every way, every header, and what is refused."""

import asyncio

import pytest

from receiver.sandbox.catalogue import MODELS
from tests.receiver.sandbox.conftest import TINY

SDXL = next(model for model in MODELS if model.name == "sdxl")
IMAGE = {"input": TINY}


@pytest.mark.parametrize("version", [SDXL.version, f"stability-ai/sdxl:{SDXL.version}", "sandbox/image"])
async def test_a_version_is_named_in_three_ways(api, version):
    told = await api.make(version)
    assert told["status"] == "starting"
    assert (await api.finished(told))["status"] == "succeeded"


async def test_an_official_model_is_run_by_its_name_and_hides_its_version(api):
    answer = await api.http.post("/models/black-forest-labs/flux-schnell/predictions", json=IMAGE)
    assert answer.status_code == 201
    assert answer.json()["version"] == "hidden"
    assert answer.headers["location"] == answer.json()["urls"]["get"]
    assert len(answer.json()["id"]) == 26


async def test_a_model_that_is_not_official_is_not_run_by_its_name(api):
    assert (await api.http.post("/models/stability-ai/sdxl/predictions", json=IMAGE)).status_code == 404
    assert (await api.http.post("/models/nobody/nothing/predictions", json=IMAGE)).status_code == 404
    assert (await api.http.post("/deployments/sandbox/nothing/predictions", json=IMAGE)).status_code == 404


@pytest.mark.parametrize("version", ["stability-ai/sdxl", "0" * 64, "sandbox/nothing", "sandbox/image:" + "0" * 64, ""])
async def test_an_unknown_version_is_refused_in_the_words_of_production(api, version):
    answer = await api.http.post("/predictions", json={"version": version, **IMAGE})
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json() == {
        "title": "Invalid version or not permitted",
        "detail": "The specified version does not exist (or perhaps you don't have permission to use it?)",
        "status": 422,
    }


async def test_a_missing_input_is_told_as_in_production(api):
    answer = await api.http.post("/predictions", json={"version": "black-forest-labs/flux-schnell", "input": {}})
    assert answer.json() == {
        "detail": "- input: prompt is required\n",
        "status": 422,
        "title": "Input validation failed",
        "invalid_fields": [{"type": "required", "field": "input", "description": "prompt is required"}],
    }


@pytest.mark.parametrize(
    ("more", "field"),
    [
        ({"foo": 1}, "foo"),
        ({"input": None}, "input"),
        ({"input": {"width": "wide"}}, "input.width"),
        ({"input": {"width": True}}, "input.width"),
        ({"input": {"width": 4}}, "input.width"),
        ({"input": {"width": 4096}}, "input.width"),
        ({"input": {"output_format": "bmp"}}, "input.output_format"),
        ({"input": {"prompt": [1]}}, "input.prompt"),
        ({"input": {"sandbox": {"webhook": "nonsense"}}}, "input.sandbox"),
        ({"input": {"sandbox": 5}}, "input.sandbox"),
        ({"webhook": "ftp://example.com/x"}, "webhook"),
        ({"webhook": "nonsense"}, "webhook"),
        ({"webhook": "http://[bad"}, "webhook"),
        ({"webhook": 5}, "webhook"),
        ({"webhook_events_filter": ["begin"]}, "webhook_events_filter"),
        ({"webhook_events_filter": "start"}, "webhook_events_filter"),
        ({"stream": "yes"}, "stream"),
        ({"version": 5}, "version"),
    ],
)
async def test_what_is_not_in_the_schema_is_refused(api, more, field):
    answer = await api.http.post("/predictions", json={"version": "sandbox/image", "input": {}, **more})
    assert answer.status_code == 422
    assert [item["field"] for item in answer.json()["invalid_fields"]] == [field]


async def test_a_body_without_input_or_without_sense_is_refused(api):
    no_input = await api.http.post("/predictions", json={"version": "sandbox/image"})
    assert no_input.json()["detail"] == "- input: input is required\n"
    for body in (b"{", b"[]", b'{"input": NaN}', b"[" * 100_000):
        assert (await api.http.post("/predictions", content=body)).status_code == 400


async def test_text_that_utf_8_cannot_hold_is_echoed_escaped(api):
    body = b'{"version": "sandbox/numbers", "input": {"prompt": "\\ud800 \xc3\xa9"}}'
    answer = await api.http.post("/predictions", content=body)
    assert b"\\ud800" in answer.content
    assert answer.json()["input"]["prompt"] == "\ud800 \xe9"


async def test_null_in_the_input_means_the_default(api):
    told = await api.run("sandbox/image", {**TINY, "output_format": None})
    assert told["input"]["output_format"] == "webp"


async def test_prefer_wait_gives_the_finished_prediction(api):
    told = await api.http.post("/predictions", json={"version": "sandbox/image", **IMAGE}, headers={"prefer": "wait"})
    assert told.headers["preference-applied"] == "wait"
    assert told.json()["status"] == "succeeded"
    assert told.json()["completed_at"]


async def test_a_wait_that_ends_says_starting_whatever_the_model_does(api):
    slow = {"version": "sandbox/slow", "input": {**TINY, "sandbox": {"duration_s": 150}}}
    told = await api.http.post("/predictions", json=slow, headers={"prefer": "wait=1"})
    assert told.status_code == 201
    assert told.headers["preference-applied"] == "wait=1"
    assert told.json()["status"] == "starting"
    assert not told.json().get("output")
    now = (await api.http.get(f"/predictions/{told.json()['id']}")).json()
    assert now["status"] == "processing"


async def test_an_early_answer_has_outputs_and_is_still_processing(start):
    api = await start(speed=4.0)
    sandbox = {"wait": "early", "queue_s": 0, "duration_s": 0}
    body = {"version": "sandbox/image", "input": {**TINY, "sandbox": sandbox}}
    told = (await api.http.post("/predictions", json=body, headers={"prefer": "wait"})).json()
    assert told["status"] == "processing"
    assert told["output"].startswith("http")
    assert "completed_at" not in told


@pytest.mark.parametrize("prefer", ["respond-async", "wait=0", "wait=x"])
async def test_another_preference_counts_for_nothing(api, prefer):
    told = await api.http.post("/predictions", json={"version": "sandbox/image", **IMAGE}, headers={"prefer": prefer})
    assert "preference-applied" not in told.headers


async def test_a_deadline_before_the_start_aborts_and_later_cancels(api):
    early = await api.make(sandbox={"queue_s": 100}, headers={"cancel-after": "5"})
    late = await api.make(sandbox={"queue_s": 0, "duration_s": 3000}, headers={"cancel-after": "0h0m5s"})
    assert early["deadline"]
    assert (await api.finished(early))["status"] == "aborted"
    done = await api.finished(late)
    assert done["status"] == "canceled"
    assert done["metrics"]["predict_time"] > 0


@pytest.mark.parametrize("told", ["4", "25h", "soon", "", "5 minutes", "1d"])
async def test_a_deadline_out_of_range_is_refused(api, told):
    answer = await api.http.post(
        "/predictions", json={"version": "sandbox/image", **IMAGE}, headers={"cancel-after": told}
    )
    assert answer.status_code == 422


@pytest.mark.parametrize("told", ["30", "30s", "5m", "2h", "1h30m45s"])
async def test_every_documented_duration_is_understood(api, told):
    await api.make(headers={"cancel-after": told})


async def test_creates_and_files_follow_from_the_seed(start):
    first, second, other = await start(), await start(), await start(seed=8)
    told = [await one.run("sandbox/image", {"width": 16, "height": 16}) for one in (first, second, other)]
    ids = [item["id"] for item in told]
    assert ids[0] == ids[1] != ids[2]
    hashes = [
        (await one.belief(item))["truth"][0]["sha256"] for one, item in zip((first, second, other), told, strict=True)
    ]
    assert hashes[0] == hashes[1] != hashes[2]
    assert first.running.secret == second.running.secret != other.running.secret


async def test_a_canceled_prediction_stays_canceled(api):
    told = await api.make(sandbox={"duration_s": 100})
    canceled = (await api.http.post(f"/predictions/{told['id']}/cancel")).json()
    assert canceled["status"] == "canceled"
    assert canceled["logs"] is None
    assert canceled["completed_at"]
    await asyncio.sleep(0.05)
    assert (await api.http.post(f"/predictions/{told['id']}/cancel")).json()["status"] == "canceled"
    assert (await api.http.post("/predictions/nothing/cancel")).status_code == 404
