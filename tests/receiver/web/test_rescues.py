"""`POST /api/rescue` over HTTP: who may, what it takes, what it says."""

import asyncio
import hashlib

import pytest

from tests.receiver.flows.test_asking import misbehave

PATH = "/api/rescue"


async def test_a_rescue_says_what_it_set_going_and_where_it_looked(stage):
    known = await stage.made("sandbox/numbers")
    answer = await stage.post(PATH, json={"since": "2020-01-01T00:00:00Z"})
    assert answer.status_code == 200
    assert answer.json() == {
        "since": "2020-01-01T00:00:00.000Z",
        "found": [],
        "updated": [],
        "running": [],
        "settled": 1,
        "tried_again": [],
        "gone": [],
        "next": None,
        "trouble": None,
    }
    assert known["status"] == "succeeded"
    assert (await stage.post(PATH, json={})).json()["settled"] == 1
    assert (await stage.post(PATH, json={"before": "2020-01-01T00:00:00Z"})).json()["settled"] == 0


@pytest.mark.parametrize(
    ("body", "parameter"),
    [
        ({"since": "yesterday"}, "since"),
        ({"since": 7}, "since"),
        ({"since": ""}, "since"),
        ({"before": "1h"}, "before"),
        ({"until": "1h"}, "until"),
    ],
)
async def test_what_makes_no_sense_is_named(site, body, parameter):
    answer = await site.post(PATH, json=body)
    assert (answer.status_code, answer.json()["parameter"]) == (422, parameter)


async def test_without_replicate_the_answer_says_so(stage):
    await misbehave(stage, list=["401"])
    answer = await stage.post(PATH, json={})
    assert answer.status_code == 502
    assert "REPLICATE_API_TOKEN" in answer.json()["detail"]


async def test_one_rescue_at_a_time_and_by_whoever_has_the_scope(build, tmp_path):
    key = "only-creates-predictions"
    digest = hashlib.sha256(key.encode()).hexdigest()
    keys = tmp_path / "keys.toml"
    keys.write_text(f'[[keys]]\nname = "maker"\nsha256 = "{digest}"\nscopes = ["read", "create"]\n')
    site = await build(sandbox=True, OUTKEEP_KEYS_FILE=str(keys))
    assert (await site.post(PATH, json={}, headers={"Authorization": f"Bearer {key}"})).status_code == 403
    async with site.house.rescue._turn:
        assert (await asyncio.wait_for(site.post(PATH, json={}), 5)).status_code == 409
    assert (await site.post(PATH, json={})).status_code == 200
