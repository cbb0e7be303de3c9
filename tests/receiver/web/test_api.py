"""`/api`: the ledger as JSON."""

import json

import pytest

from receiver.core.prediction import MOVES
from receiver.web.api import STATUSES
from tests.receiver.web.conftest import signed, told


async def test_one_prediction_comes_with_all_that_is_known_of_it(stage):
    made = await stage.made("sandbox/layers", prompt="hills")
    answer = await stage.get(f"/api/predictions/{made['id']}")
    assert answer.headers["cache-control"] == "no-store"
    found = answer.json()
    assert {output["path"] for output in found["outputs"]} == {
        "output.image", "output.mask", "output.depth.0", "output.depth.1"
    }  # fmt: skip
    assert found["status"] == "succeeded"
    assert found["archived_at"]
    assert found["key_name"] == "app"
    assert found["manifest_key"].endswith("/manifest.json")
    assert found["output"]["image"] == next(o["url"] for o in found["outputs"] if o["path"] == "output.image")
    assert found["updates"][0]["source"] == "create"
    assert set(found["updates"][0]) == {"received_at", "source", "status", "delivery"}
    types = [event["type"] for event in found["events"]]
    assert types[0] == "outkeep.prediction.created"
    assert types[-1] == "outkeep.prediction.archived"
    assert found["deliveries"] == []
    assert stage.sandbox.url not in answer.text


async def test_a_webhook_shows_as_delivery_and_as_update(site):
    await site.hear(told("p1"), "msg_1")
    found = (await site.get("/api/predictions/p1")).json()
    (delivery,) = found["deliveries"]
    assert {name: delivery[name] for name in ("id", "state", "reason", "prediction")} == {
        "id": "msg_1", "state": "applied", "reason": None, "prediction": "p1"
    }  # fmt: skip
    assert found["updates"][0]["delivery"] == "msg_1"
    assert found["updates"][0]["source"] == "webhook"


async def test_predictions_are_listed_newest_first_a_page_at_a_time(site):
    for number in range(5):
        await site.hear(told(f"p{number}", created_at=f"2026-11-22T08:00:0{number}Z"), f"msg_{number}")
    page = (await site.get("/api/predictions?limit=3")).json()
    assert [item["id"] for item in page["items"]] == ["p4", "p3", "p2"]
    rest = (await site.get("/api/predictions", params={"limit": 3, "after": page["next"]})).json()
    assert [item["id"] for item in rest["items"]] == ["p1", "p0"]
    assert rest["next"] is None


async def test_predictions_are_filtered(site):
    await site.hear(told("p1", model="a/b", created_at="2026-11-22T08:00:00Z"), "msg_1")
    await site.hear(told("p2", status="failed", error="no", created_at="2026-11-23T08:00:00Z"), "msg_2")
    await site.house.conclude.step()

    async def ids(**wanted):
        return [item["id"] for item in (await site.get("/api/predictions", params=wanted)).json()["items"]]

    assert await ids(status="failed") == ["p2"]
    assert await ids(model="a/b") == ["p1"]
    assert await ids(key="app") == []
    assert await ids(archived="true") == ["p2"]
    assert await ids(archived="false") == ["p1"]
    assert await ids(created_after="2026-11-23T00:00:00+00:00") == ["p2"]
    assert await ids(created_before="2026-11-23T00:00:00Z") == ["p1"]
    found = await site.get("/api/predictions?created_after=2026-11-23T00:00:00+00:00")
    assert len(found.json()["items"]) == 1


@pytest.mark.parametrize(
    ("path", "parameter"),
    [
        ("/api/predictions?status=nonsense", "status"),
        ("/api/predictions?limit=0", "limit"),
        ("/api/predictions?limit=1001", "limit"),
        ("/api/predictions?limit=x", "limit"),
        ("/api/predictions?after=nonsense!", "after"),
        ("/api/predictions?after=", "after"),
        ("/api/predictions?archived=yes", "archived"),
        ("/api/predictions?created_after=yesterday", "created_after"),
        ("/api/predictions?model=" + "x" * 600, "model"),
        ("/api/predictions?nothing=1", "nothing"),
        ("/api/predictions?limit=1&limit=2", "limit"),
        ("/api/deliveries?state=lost", "state"),
        ("/api/deliveries?state=unverified", "state"),
        ("/api/deliveries?after=%00", "after"),
        ("/api/outputs?state=gone", "state"),
        ("/api/outputs?at_risk=1", "at_risk"),
        ("/api/outputs?at_risk=true&state=lost", "at_risk"),
        ("/api/predictions/p1?x=1", "x"),
        ("/events?limit=0", "limit"),
        ("/events?wait=61", "wait"),
        ("/events?after=abc", "after"),
        ("/events?after=-1", "after"),
        ("/events?after=12345678901234567", "after"),
        ("/events?type=outkeep.nothing", "type"),
    ],
)
async def test_a_wrong_parameter_is_named(site, path, parameter):
    answer = await site.get(path)
    assert answer.status_code == 400
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["parameter"] == parameter
    assert repr(parameter) in answer.json()["detail"]
    assert "one of ." not in answer.json()["detail"]


def test_every_status_that_replicate_knows_can_be_asked_for():
    assert set(STATUSES) == set(MOVES)


async def test_too_many_parameters_are_refused(site):
    answer = await site.get("/api/predictions?" + "&".join(f"x{number}=1" for number in range(100)))
    assert answer.status_code == 400


async def test_odd_text_in_a_filter_finds_nothing_and_breaks_nothing(site):
    for odd in ("%00", "%ED%A0%80", "%F0%9F%90%88", "'--"):
        answer = await site.get(f"/api/predictions?model={odd}")
        assert (answer.status_code, answer.json()["items"]) == (200, [])


@pytest.mark.parametrize(
    "path", ["/api/predictions/unknown", "/api/deliveries/unknown", "/api/predictions/%00", "/api", "/api/predictions/"]
)
async def test_what_there_is_not_is_404(site, path):
    answer = await site.get(path)
    assert answer.status_code == 404
    assert answer.json()["status"] == 404


async def test_deliveries_are_listed_by_state_and_prediction(site):
    await site.hear(told("p1"), "msg_1")
    await site.post("/webhooks/replicate", content=b"no json", headers=site.signed(b"no json", "msg_2"))
    await site.house.observe.step()
    page = (await site.get("/api/deliveries")).json()
    assert [item["id"] for item in page["items"]] == ["msg_2", "msg_1"]
    quarantined = (await site.get("/api/deliveries?state=quarantined")).json()["items"]
    assert [(item["id"], bool(item["reason"])) for item in quarantined] == [("msg_2", True)]
    assert [item["id"] for item in (await site.get("/api/deliveries?prediction=p1")).json()["items"]] == ["msg_1"]


async def test_a_call_that_was_not_verified_is_shown_with_what_it_claimed(site):
    await site.hear(told("p1"), "msg_1")
    body = json.dumps(told("p2", input={"api_key": "very-secret-1"})).encode()
    headers = signed(b"other", "msg_1") | {"Cookie": "very-secret-2"}
    assert (await site.client.post("/webhooks/replicate/tok", content=body, headers=headers)).status_code == 401
    await site.house.accept.quarantine._task
    (item,) = (await site.get("/api/deliveries?state=quarantined")).json()["items"]
    assert item["id"].startswith("unverified.")
    assert item["state"] == "quarantined"
    assert item["reason"] == "signed with no secret that we know"
    answer = await site.get(f"/api/deliveries/{item['id']}")
    shown = answer.json()
    assert (shown["state"], shown["size"], shown["body"]["id"]) == ("quarantined", len(body), "p2")
    assert dict(shown["headers"])["webhook-id"] == "msg_1"
    assert dict(shown["headers"])["webhook-signature"] == "[redacted]"
    assert "very-secret" not in answer.text
    assert [each["id"] for each in (await site.get("/api/predictions")).json()["items"]] == ["p1"]


async def test_one_delivery_is_shown_redacted(site):
    body = json.dumps(
        told("p1", input={"api_key": "very-secret-1", "url": "https://x.example/?sig=very-secret-2"})
    ).encode()
    headers = site.signed(body, "msg/1?a") | {"Authorization": "Bearer very-secret-3", "X-Note": "r8_verysecret4444"}
    await site.post("/webhooks/replicate", content=body, headers=headers)
    answer = await site.get("/api/deliveries/msg%2F1%3Fa")
    assert answer.status_code == 200
    shown = answer.json()
    assert shown["body"]["id"] == "p1"
    assert shown["size"] == len(body)
    assert "very-secret" not in answer.text
    assert "verysecret" not in answer.text
    assert dict(shown["headers"])["webhook-signature"] == "[redacted]"


@pytest.mark.parametrize(
    "body", [b"\xff\x00 r8_verysecret4444", b'{"a": NaN}', b"[" * 5000, b'"' + b"x" * 1_100_000 + b'"']
)
async def test_a_body_that_can_not_be_shown_as_json_is_shown_as_text(site, body):
    await site.post("/webhooks/replicate", content=body, headers=site.signed(body))
    answer = await site.get("/api/deliveries/msg_1")
    assert answer.status_code == 200
    assert "body" not in answer.json()
    assert len(answer.json()["text"]) <= 1024 * 1024
    assert "verysecret" not in answer.text


@pytest.mark.parametrize("more", [b'"metrics": NaN', b'"logs": "' + b"x" * 1_100_000 + b'"', b"no end"])
async def test_secrets_in_a_body_that_can_not_be_read_are_not_shown(site, more):
    given = {
        "Api-Key": 'very-secret\\" very-secret',
        "auth": "very-secret-2",
        "image": "https://x.example/i.png?a=1\\u0026X-Amz-Signature=very-secret",
        "other": "https:\\/\\/me:very-secret@x.example",
    }
    members = ", ".join(f'"{name}" : "{value}"' for name, value in given.items())
    body = f'{{"id": "p1", "input": {{{members}}}, '.encode() + more + b"}"
    await site.post("/webhooks/replicate", content=body, headers=site.signed(body))
    answer = await site.get("/api/deliveries/msg_1")
    assert "very-secret" not in answer.text
    assert answer.json()["text"].startswith('{"id": "p1", "input": {"Api-Key" : "[redacted]", "auth" : "[redacted]", ')


async def test_a_body_that_begins_like_a_data_uri_is_searched_for_secrets(site):
    body = b"data: r8_verysecret4444"
    await site.post("/webhooks/replicate", content=body, headers=site.signed(body) | {"CF-Access-Jwt-Assertion": "ey"})
    shown = (await site.get("/api/deliveries/msg_1")).json()
    assert shown["text"] == "data: [redacted]"
    assert dict(shown["headers"])["cf-access-jwt-assertion"] == "[redacted]"


async def test_outputs_at_risk_are_those_that_vanish_soon(build):
    site = await build(OUTKEEP_OUTPUT_HOSTS="http://127.0.0.1:9", OUTKEEP_OUTPUT_TTL_S="3600")
    url = "http://127.0.0.1:9/out.png"
    await site.hear(told("p1", status="succeeded", output=[url, url], completed_at="2026-11-22T08:00:00Z"), "msg_1")
    # Completed long ago: the hour is over, and every minute counts.
    risky = (await site.get("/api/outputs?at_risk=true")).json()["items"]
    assert [item["path"] for item in risky] == ["output.1", "output.0"]
    assert (await site.get("/api/outputs?at_risk=false&state=pending&prediction=p1")).json()["items"] == risky
    assert (await site.get("/api/outputs?state=archived")).json()["items"] == []
    assert url not in (await site.get("/api/outputs")).text
    from receiver.core.clock import iso

    await site.hear(told("p2", status="succeeded", output=url, completed_at=iso(site.clock())), "msg_2")
    assert len((await site.get("/api/outputs?at_risk=true")).json()["items"]) == 2
    site.clock.ahead_ms = 29 * 60_000
    assert len((await site.get("/api/outputs?at_risk=true")).json()["items"]) == 2
    site.clock.ahead_ms = 31 * 60_000
    assert len((await site.get("/api/outputs?at_risk=true")).json()["items"]) == 3
    assert "outkeep_outputs_at_risk 3.0" in (await site.get("/metrics")).text
