"""`POST /api/deliveries/replay` over HTTP: who may, what it takes, what it says."""

import hashlib
import json

import pytest

from tests.receiver.web.conftest import SECRET, signed, told

PATH = "/api/deliveries/replay"
NOTHING = {"let_in": 0, "read_again": 0, "still_refused": 0, "already_here": 0, "unknown": [], "next": None}


async def refused(site, webhook_id="msg_f"):
    """A forged call, on record."""
    assert (await site.client.post("/webhooks/replicate", headers=signed(b"other", webhook_id))).status_code == 401
    await site.house.accept.quarantine._task
    return (await site.get("/api/deliveries?state=quarantined&limit=1")).json()["items"][0]["id"]


async def test_a_dry_run_says_how_many_and_the_run_does_it(site):
    await site.hear(told("p1"), "msg_1")
    await site.hear(told("p2"), "msg_2")
    await refused(site)
    chosen = {"received_after": "2026-01-01T00:00:00Z"}
    answer = await site.post(PATH, json=chosen | {"dry_run": True})
    assert answer.status_code == 200
    assert answer.json() == NOTHING | {"dry_run": True, "read_again": 2, "still_refused": 1}
    assert (await site.get("/api/deliveries?state=accepted")).json()["items"] == []
    done = (await site.post(PATH, json=chosen)).json()
    assert done == NOTHING | {"dry_run": False, "read_again": 2, "still_refused": 1}
    assert len((await site.get("/api/deliveries?state=accepted")).json()["items"]) == 2
    await site.house.observe.step()
    assert (await site.post(PATH, json={"state": "applied", "received_before": "2026-01-01T00:00:00Z"})).json() == (
        NOTHING | {"dry_run": False}
    )


async def test_deliveries_are_named_and_unknown_ones_come_back(site):
    call = await refused(site)
    await site.hear(told("p1"), "msg_1")
    answer = await site.post(PATH, content=json.dumps({"ids": [call, "msg_1", "msg_9", "\x00\ud800"]}))
    assert answer.json() == NOTHING | {
        "dry_run": False, "read_again": 1, "still_refused": 1, "unknown": ["msg_9", "\x00\ud800"]
    }  # fmt: skip


async def test_a_call_that_came_out_of_its_time_is_refused_for_ever(site):
    site.clock.ahead_ms = -600_000
    assert (await site.client.post("/webhooks/replicate", content=b"{}", headers=signed(b"{}"))).status_code == 401
    await site.house.accept.quarantine._task
    site.clock.ahead_ms = 0
    assert (await site.post(PATH, json={"state": "quarantined"})).json()["still_refused"] == 1
    (call,) = (await site.get("/api/deliveries")).json()["items"]
    assert call["reason"] == "its timestamp is over 5 minutes off"


async def test_moments_may_be_told_by_how_long_ago_they_were(site):
    await site.hear(told("p1"), "msg_1")
    for chosen, count in (({"received_after": "1h"}, 1), ({"received_before": "1h"}, 0)):
        assert (await site.post(PATH, json=chosen | {"dry_run": True})).json()["read_again"] == count
    site.clock.ahead_ms = 7_200_000
    for chosen, count in (({"received_after": "1h"}, 0), ({"received_before": "1h"}, 1)):
        assert (await site.post(PATH, json=chosen | {"dry_run": True})).json()["read_again"] == count


@pytest.mark.parametrize("dry_run", [True, False])
async def test_without_any_secret_nobody_says_that_a_call_is_not_verified(build, dry_run):
    site = await build(OUTKEEP_WEBHOOK_SECRETS="", REPLICATE_API_TOKEN="r8_" + "x" * 37)
    assert (await site.client.post("/webhooks/replicate", content=b"{}", headers=signed(b"{}"))).status_code == 503
    await site.house.accept.quarantine._task
    answer = await site.post(PATH, json={"state": "quarantined", "dry_run": dry_run})
    assert answer.status_code == 503
    assert "OUTKEEP_WEBHOOK_SECRETS" in answer.json()["detail"]
    assert "retry-after" in answer.headers
    (call,) = (await site.get("/api/deliveries?state=quarantined")).json()["items"]
    assert call["reason"] == "no signing secret was known yet"


@pytest.mark.parametrize(
    ("body", "parameter"),
    [
        ({}, "ids"),
        ({"dry_run": True}, "ids"),
        ({"after": "0.1"}, "ids"),
        ({"ids": []}, "ids"),
        ({"ids": "msg_1"}, "ids"),
        ({"ids": [1]}, "ids"),
        ({"ids": [""]}, "ids"),
        ({"ids": ["x" * 513]}, "ids"),
        ({"ids": ["x"] * 1001}, "ids"),
        ({"ids": ["x"], "state": "applied"}, "ids"),
        ({"state": "unverified"}, "state"),
        ({"state": ["applied"]}, "state"),
        ({"state": "quarantined", "dry_run": "yes"}, "dry_run"),
        ({"state": "quarantined", "limit": 1}, "limit"),
        ({"state": "quarantined", "after": "nonsense"}, "after"),
        ({"state": "quarantined", "after": 1}, "after"),
        ({"received_after": "yesterday"}, "received_after"),
        ({"received_before": 1}, "received_before"),
    ],
)
async def test_a_wrong_field_is_named_and_nothing_happens(site, body, parameter):
    answer = await site.post(PATH, json=body)
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["parameter"] == parameter


async def test_it_takes_a_key_with_the_scope_admin(build, tmp_path):
    keys = {"reader": "read", "maker": "create"}
    entries = [
        f'[[keys]]\nname = "{name}"\nsha256 = "{hashlib.sha256(name.encode() * 5).hexdigest()}"\nscopes = ["{scope}"]\n'
        for name, scope in keys.items()
    ]
    (tmp_path / "keys.toml").write_text("\n".join(entries))
    site = await build(OUTKEEP_KEYS_FILE=str(tmp_path / "keys.toml"))
    for name in keys:
        answer = await site.post(PATH, json={"ids": ["x"]}, headers={"Authorization": f"Bearer {name * 5}"})
        assert answer.status_code == 403
    assert (await site.post(PATH, json={"ids": ["x"]}, headers={"Authorization": ""})).status_code == 401
    assert (await site.post(PATH, json={"ids": ["x"]})).json()["unknown"] == ["x"]


async def test_the_address_is_also_that_of_a_delivery_called_replay(site):
    assert (await site.get(PATH)).status_code == 404
    await site.post("/webhooks/replicate", content=b"{}", headers=signed(b"{}", "replay", SECRET))
    assert (await site.get(PATH)).json()["id"] == "replay"
    assert (await site.post(PATH, content=b"no json")).status_code == 400
