"""What holds for the whole port: health, schemas, the page, unknown routes, errors and the public URL's path."""

import asyncio
import json
import logging
import re
from html import unescape
from urllib.parse import urlsplit

import httpx
import jsonschema
import pytest

from receiver.core import event as events
from receiver.core.errors import LedgerUnavailable
from receiver.core.links import Links
from receiver.core.schemas import schema
from receiver.web import app as app_module
from receiver.web import health
from receiver.web.app import create_app
from tests.receiver.web.conftest import told


async def test_the_process_answers_anybody(site):
    site.client.headers.pop("authorization")
    answer = await site.get("/healthz")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


async def test_what_is_down_beside_the_ledger_only_degrades(site):
    async with asyncio.timeout(10):
        while (answer := await site.get("/readyz")).json() == {"status": "ok"}:
            assert answer.elapsed.total_seconds() < 1.5
    assert answer.status_code == 200
    assert answer.json() == {"status": "degraded", "failing": ["replicate"]}


async def test_all_well_is_told_shortly(stage):
    assert (await stage.get("/readyz")).json() == {"status": "ok"}


async def test_a_ledger_that_takes_nothing_is_503_and_asked_at_a_bounded_rate(site, monkeypatch):
    asked = []

    async def down():
        asked.append(1)
        raise LedgerUnavailable("down")

    monkeypatch.setattr(site.house.ledger, "ready", down)
    for _ in range(5):
        answer = await site.get("/readyz")
        assert (answer.status_code, answer.json()["failing"]) == (503, ["ledger"])
    assert len(asked) == 1
    monkeypatch.setattr(health, "READY_S", 0.0)
    await site.get("/readyz")
    assert len(asked) == 2


async def test_metrics_count_webhooks_and_states_for_those_with_a_key(site):
    await site.hear(told("p1"), "msg_1")
    await site.post("/webhooks/replicate", content=b"{}")
    answer = await site.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert 'outkeep_webhooks_total{outcome="accepted"} 1.0' in answer.text
    assert 'outkeep_webhooks_total{outcome="header_missing"} 1.0' in answer.text
    assert 'outkeep_known{kind="deliveries",state="applied"} 1.0' in answer.text
    site.client.headers.pop("authorization")
    assert (await site.get("/metrics")).status_code == 401


async def test_real_events_follow_their_schemas(stage):
    await stage.made("sandbox/layers")
    await stage.made("sandbox/fails")
    await stage.made("sandbox/foreign")
    await stage.made("sandbox/numbers")
    found = (await stage.get("/events?limit=1000")).json()["events"]
    assert {event["type"] for event in found} == set(events.TYPES)
    stage.client.headers.pop("authorization")
    for event in found:
        answer = await stage.get(urlsplit(event["dataschema"]).path)
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "application/schema+json"
        assert answer.json()["$id"] == event["dataschema"]
        jsonschema.Draft202012Validator.check_schema(answer.json())
        jsonschema.validate(event["data"], answer.json())


def test_a_schema_refuses_what_lacks_its_parts():
    told_schema = schema("output.archived", Links("https://x.example")) or {}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"prediction": {}, "output": {}}, told_schema)


async def test_other_schemas_do_not_exist(site):
    for name in ("nothing", "outkeep.output.archived", ".."):
        assert (await site.get(f"/schemas/{name}/1.json")).status_code == 404
    assert (await site.get("/schemas/output.archived/2.json")).status_code == 404


@pytest.mark.parametrize(
    "path", ["/nothing", "/ui/login", "/streams/x", "/api/predictions/", "/healthz/", "/files", "//", "/events/"]
)
async def test_an_unknown_route_is_404_and_never_a_redirect(site, path):
    answer = await site.client.send(site.client.build_request("GET", f"{site.url}{path}"), follow_redirects=False)
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json() == {"title": "Not found", "detail": answer.json()["detail"], "status": 404}


@pytest.mark.parametrize(
    ("path", "allow"),
    [
        ("/healthz", "GET, HEAD"),
        ("/api/predictions", "GET, HEAD"),
        ("/", "GET, HEAD"),
        ("/files/abcdefghijklmnopqrstuv/x", "GET, HEAD, OPTIONS"),
    ],
)
async def test_a_wrong_method_hears_the_right_ones(site, path, allow):
    answer = await site.client.put(path)
    assert (answer.status_code, answer.headers["allow"]) == (405, allow)


async def test_a_ledger_that_is_down_is_told_without_its_secrets(site, monkeypatch):
    async def down(**_):
        raise LedgerUnavailable("connection to postgresql://user:password@db failed")

    monkeypatch.setattr(site.house.ledger, "predictions", down)
    for path in ("/api/predictions", "/v1/predictions", "/"):
        answer = await site.get(path)
        assert answer.status_code == 503
        assert int(answer.headers["retry-after"]) > 0
        assert "password" not in answer.text


async def test_a_mistake_of_ours_is_500_without_a_word_of_it(site, monkeypatch, caplog):
    async def broken(**_):
        raise ZeroDivisionError("the secret of the day")

    monkeypatch.setattr(site.house.ledger, "predictions", broken)
    with caplog.at_level(logging.ERROR):
        answer = await site.get("/api/predictions")
    assert answer.status_code == 500
    assert answer.headers["content-type"] == "application/problem+json"
    assert "secret" not in answer.text
    assert "Traceback" not in answer.text
    assert "could not be answered" in caplog.text


async def test_under_pressure_the_api_is_shed_and_webhooks_are_not(site, monkeypatch):
    monkeypatch.setattr(app_module, "REQUESTS_MAX", 0)
    answer = await site.get("/api/predictions")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert (await site.get("/healthz")).status_code == 200
    answer = await site.post("/webhooks/replicate", content=b"{}", headers=site.signed(b"{}"))
    assert answer.status_code == 200


@pytest.mark.parametrize("prefix", ["", "/out/keep"])
async def test_the_path_of_the_public_url_may_be_kept_or_taken_off_by_a_proxy(build, prefix):
    site = await build(OUTKEEP_PUBLIC_URL="https://x.example/out/keep")
    answer = await site.post(f"{prefix}/webhooks/replicate", content=b"{}", headers=site.signed(b"{}"))
    assert answer.status_code == 200
    assert (await site.get(f"{prefix}/healthz")).status_code == 200
    assert (await site.get(f"{prefix}/v1/predictions")).json()["results"] == []
    assert (await site.get(f"{prefix}/v1/a%2Fb")).status_code == 400
    assert (await site.get(prefix or "/")).status_code == 200
    assert (await site.get("/out/keeper/healthz")).status_code == 404


async def test_the_page_shows_what_was_kept(stage):
    picture = await stage.made("sandbox/image", prompt="hills under a quiet sky")
    sound = await stage.made("sandbox/audio")
    drawing = await stage.made("sandbox/drawing")
    await stage.made("sandbox/four-images", num_outputs=10)
    await stage.made("sandbox/foreign")
    await stage.made("sandbox/fails")
    numbers = await stage.made("sandbox/numbers")
    answer = await stage.get("/")
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; img-src 'self' http://127.0.0.1:9;")
    assert "unsafe" not in policy
    assert "<script" not in answer.text
    assert f'<img src="{picture["outputs"][0]["url"]}"' in answer.text
    assert f'<audio src="{sound["outputs"][0]["url"]}"' in answer.text
    assert f'<a href="{drawing["outputs"][0]["url"]}"' in answer.text
    assert f'src="{drawing["outputs"][0]["url"]}"' not in answer.text
    assert ">output.svg</a>" in answer.text  # by the name it is saved under
    assert f'{{"score": {numbers["output"]["score"]}' in unescape(answer.text)
    assert "<p></p>" not in answer.text
    assert "hills under a quiet sky" in answer.text
    assert "and 2 more" in answer.text
    assert "CUDA out of memory" in answer.text
    assert 'class="lost"' in answer.text
    assert "/api/predictions" in answer.text
    assert stage.sandbox.url not in answer.text


async def test_each_prediction_has_the_page_that_is_handed_out_for_it(stage):
    made = await stage.made("sandbox/four-images", num_outputs=10, prompt="ten hills")
    told = (await stage.get(f"/v1/predictions/{made['id']}")).json()
    path = told["urls"]["web"].removeprefix(stage.house.links.public_url)
    assert told["urls"]["web"] in (await stage.get("/")).text
    page = await stage.get(path)
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert page.text.count("<img") == 10
    assert "ten hills" in page.text
    for unknown in ("nope", "x" * 65, "%2e%2e"):
        assert (await stage.get(f"/ui/predictions/{unknown}")).status_code == 404


async def test_the_page_says_what_is_lost_and_until_when_what_is_not_kept_yet_may_be_had(stage):
    lost = await stage.made("sandbox/foreign")
    assert "output: lost (refused)" in (await stage.get(f"/ui/predictions/{lost['id']}")).text
    wanted = {"input": {"sandbox": {"files": "500"}}}
    waiting = (await stage.post("/v1/models/sandbox/image/predictions", json=wanted)).json()["id"]
    while not (await stage.get("/api/outputs", params={"prediction": waiting})).json()["items"]:
        await stage.house.ask(waiting)
    assert "output: pending<" in (await stage.get(f"/ui/predictions/{waiting}")).text
    await stage.house.archive.step(8)
    page = (await stage.get(f"/ui/predictions/{waiting}")).text
    assert re.search(r"output: pending, attempts: 1, vanishes \d{4}-\d\d-\d\d \d\d:\d\d UTC<", page)


async def test_the_page_takes_prompts_for_text(site):
    evil = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>\ud800\u0000"
    await site.hear(told("p1", model=evil, error=evil, status="failed", input={"prompt": evil}), "msg_1")
    await site.hear(told("p2", input={"prompt": {"a": [1]}}, status=evil), "msg_2")
    await site.hear(told("p3", input=None), "msg_3")
    answer = await site.get("/")
    assert answer.status_code == 200
    assert "<script" not in answer.text
    assert "<img" not in answer.text
    assert "&lt;script&gt;" in answer.text


async def test_an_empty_page_says_what_to_do(site):
    assert "Nothing is kept yet" in (await site.get("/")).text


async def test_odd_text_breaks_no_answer(site):
    odd = "\ud800 \u0000 é 🐈"
    await site.hear(told("p1", logs=odd, input={"prompt": odd, odd: 1}, output=[odd]), "msg_1")
    for path in (
        "/api/predictions",
        "/api/predictions/p1",
        "/v1/predictions/p1",
        "/events",
        "/",
        "/api/deliveries/msg_1",
    ):
        assert (await site.get(path)).status_code == 200, path


async def test_other_servers_may_run_the_application_too(site):
    sent, waiting = [], [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]

    async def receive():
        return waiting.pop(0)

    async def send(message):
        sent.append(message["type"])

    await create_app(site.house)({"type": "lifespan"}, receive, send)
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    transport = httpx.ASGITransport(create_app(site.house))
    async with httpx.AsyncClient(transport=transport, base_url="http://x.example") as client:
        assert (await client.get("/healthz")).json() == {"status": "ok"}


async def test_json_never_holds_what_is_not_json(site):
    await site.hear(told("p1", metrics={"predict_time": float("nan"), "big": 10**400}), "msg_1")
    found = (await site.get("/api/predictions/p1")).text
    assert "NaN" not in found
    json.loads(found)
