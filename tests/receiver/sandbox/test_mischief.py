"""The vocabulary of misbehaviour, and that of the API."""

import asyncio
import re
import time

import httpx
import pytest

from receiver.sandbox import mischief
from receiver.sandbox.mischief import Prank
from tests.receiver.sandbox.conftest import TINY

BODY = {"version": "sandbox/image", "input": TINY}


def test_words_have_counts_and_values():
    read = mischief.read(
        {"webhook": ["once:wrong_secret", "3x:delay:2.5", "drop"], "files": ["404", ["once:500"], "ok"]}
    )
    assert read.webhook == (Prank("wrong_secret", None, 1), Prank("delay", 2.5, 3), Prank("drop"))
    assert [read.file(index) for index in range(4)] == [(Prank("404"),), (Prank("500", None, 1),), (Prank("ok"),), ()]


def test_a_single_text_for_files_holds_for_all():
    read = mischief.read({"files": "truncated"})
    assert read.file(0) == read.file(99) == (Prank("truncated"),)
    assert mischief.read({"files": None}).file(0) == ()


@pytest.mark.parametrize(
    "told",
    [
        [],
        {"webhooks": "drop"},
        {"webhook": "404"},
        {"webhook": "nonsense"},
        {"webhook": True},
        {"webhook": {"drop": 1}},
        {"webhook": ["drop"] * 65},
        {"files": ["404"] * 65},
        {"files": "twice:404"},
        {"files": "0x:404"},
        {"files": "604"},
        {"api": "truncate"},
        {"status": "done"},
        {"status": 5},
        {"wait": "late"},
        {"error": 5},
        {"duration_s": -1},
        {"duration_s": True},
        {"duration_s": "1"},
        {"logs_bytes": 1e12},
    ],
)
def test_what_makes_no_sense_is_refused_with_a_sentence(told):
    with pytest.raises(ValueError, match="sandbox"):
        mischief.read(told)


def test_an_unknown_kind_is_answered_with_those_that_are_known():
    with pytest.raises(ValueError, match=r"webhok is not known, kinds are webhook, .*files, .*duration_s"):
        mischief.read({"webhok": "drop"})


def test_every_word_stands_in_the_documentation():
    told = set(re.findall(r"[a-z_0-9]+", mischief.__doc__))
    words = mischief.WEBHOOK | mischief.FILES | mischief.CREATE | mischief.LIST | set(mischief.STATUSES)
    assert words <= told


async def test_asking_for_one_prediction_can_fail(api):
    told = await api.make(sandbox={"api": ["once:429:3", "once:500", "once:404", "once:401", "once:402", "once:403"]})
    answers = [await api.http.get(f"/predictions/{told['id']}") for _ in range(7)]
    assert [answer.status_code for answer in answers] == [429, 500, 404, 401, 402, 403, 200]
    assert answers[0].json()["retry_after"] == 3
    assert answers[0].headers["retry-after"] == "3"
    assert all(isinstance(answer.json()["detail"], str) for answer in answers[:6])


async def test_an_answer_of_the_api_can_be_torn_cut_late_or_another(api):
    words = ["once:reset", "once:truncated", "once:hang:0.2", "once:html", "once:redirect"]
    told = await api.make(sandbox={"api": words})
    url = f"/predictions/{told['id']}"
    for _ in range(2):
        with pytest.raises(httpx.TransportError):
            await api.http.get(url)
    began = time.monotonic()
    with pytest.raises(httpx.TransportError):
        await api.http.get(url)
    assert time.monotonic() - began >= 0.2
    assert (await api.http.get(url)).headers["content-type"].startswith("text/html")
    assert (await api.http.get(url)).status_code == 302
    assert (await api.http.get(url)).status_code == 200
    cancel = await api.make(sandbox={"api": "503"})
    assert (await api.http.post(f"/predictions/{cancel['id']}/cancel")).status_code == 503


async def test_a_create_can_be_refused_or_its_answer_lost(api):
    refused = {**BODY, "input": {**TINY, "sandbox": {"create": "once:429"}}}
    assert (await api.http.post("/predictions", json=refused)).status_code == 429
    assert (await api.http.post("/predictions", json=refused)).status_code == 201
    lost = {**BODY, "input": {**TINY, "sandbox": {"create": "lost"}}}
    with pytest.raises(httpx.TransportError):
        await api.http.post("/predictions", json=lost)
    assert len((await api.http.get("/predictions")).json()["results"]) == 2
    await api.control("/mischief", {"create": "no_location"})
    answer = await api.http.post("/predictions", json=BODY)
    assert answer.status_code == 201
    assert "location" not in answer.headers


async def test_the_whole_api_the_list_and_the_secret_can_fail(api):
    told = await api.run()
    await api.control("/mischief", {"api": "2x:502"})
    assert [(await api.http.get("/account")).status_code for _ in range(3)] == [502, 502, 200]
    await api.control("/mischief", {"secret": "once:503", "list": ["once:hide", "once:500"]})
    secret = [(await api.http.get("/webhooks/default/secret")).status_code for _ in range(2)]
    assert secret == [503, 200]
    assert (await api.http.get("/predictions")).json()["results"] == []
    assert (await api.http.get("/predictions")).status_code == 500
    assert [item["id"] for item in (await api.http.get("/predictions")).json()["results"]] == [told["id"]]


@pytest.mark.parametrize("status", ["succeeded", "failed", "canceled", "aborted"])
async def test_a_prediction_ends_as_asked(api, status):
    done = await api.run(sandbox={"status": status})
    assert done["status"] == status
    assert (done["output"] is not None) == (status == "succeeded")
    assert (done["error"] is not None) == (status == "failed")
    assert (done["started_at"] is None) == (status == "aborted")


async def test_one_that_never_ends_can_be_canceled(api):
    told = await api.make(sandbox={"status": "never", "duration_s": 0})
    async with asyncio.timeout(5):
        while not (await api.http.get(f"/predictions/{told['id']}")).json()["output"]:  # noqa: ASYNC110 - asked over HTTP
            await asyncio.sleep(0.01)
    await api.http.post(f"/predictions/{told['id']}/cancel")
    assert (await api.finished(told))["status"] == "canceled"


async def test_error_logs_output_and_times_are_as_asked(start):
    api = await start(speed=1.0)
    asked = {"error": "no luck", "logs_bytes": 5000, "queue_s": 0, "duration_s": 0.05}
    done = await api.run(sandbox=asked)
    assert (done["status"], done["error"]) == ("failed", "no luck")
    assert len(done["logs"]) > 5000
    assert 0.05 <= done["metrics"]["predict_time"] < 1
    done = await api.run(sandbox={"output": ["just text", None, 1e300], **asked, "error": None})
    assert done["output"] == ["just text", None, 1e300]
    await api.control("/mischief", {"output": None, "duration_s": 0, "status": "succeeded"})
    assert (await api.run())["output"] is None


async def test_an_output_of_any_shape_can_hold_files(api):
    asked = {"a": ["file:png", {"b": "file:wav"}, "file:png"], "c": "inline:svg", "d": "file:nonsense"}
    done = await api.run(sandbox={"output": asked})
    truth = (await api.belief(done))["truth"]
    assert [file["path"] for file in truth] == ["output.a.0", "output.a.1.b", "output.a.2", "output.c"]
    assert len({file["sha256"] for file in truth}) == 4
    assert (await api.http.get(done["output"]["a"][1]["b"])).headers["content-type"] == "audio/wav"
    assert done["output"]["c"].startswith("data:image/svg+xml;base64,")
    assert done["output"]["d"] == "file:nonsense"


async def test_asking_can_tell_what_was_true_before(api):
    told = await api.make(sandbox={"stale_get": 0.4, "queue_s": 0, "duration_s": 0})
    await api.http.post("/predictions", json=BODY, headers={"prefer": "wait"})
    stale = (await api.http.get(f"/predictions/{told['id']}")).json()
    assert (stale["status"], stale["output"]) == ("processing", None)
    assert (await api.belief(told))["status"] == "succeeded"
    assert (await api.finished(told))["output"]


async def test_general_mischief_without_sense_is_refused(api):
    answer = await api.control("/mischief", {"webhook": "nonsense"})
    assert answer.status_code == 422
    assert "nonsense" in answer.json()["detail"]


async def test_a_late_create_has_made_its_prediction_before_it_answers(api):
    late = {**BODY, "input": {**TINY, "sandbox": {"create": "late:0.3"}}}
    answer = asyncio.create_task(api.http.post("/predictions", json=late))
    await asyncio.sleep(0.1)
    listed = (await api.http.get("/predictions")).json()["results"]
    assert not answer.done()
    assert (await answer).json()["id"] == listed[0]["id"]


async def test_the_items_of_the_list_can_lack_what_is_large(api):
    told = await api.run()
    await api.control("/mischief", {"list": "lean"})
    (item,) = (await api.http.get("/predictions")).json()["results"]
    assert (item["id"], item["status"]) == (told["id"], "succeeded")
    assert item.keys().isdisjoint({"input", "output", "logs"})
