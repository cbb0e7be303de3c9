"""The sandbox as a server: tokens, limits, its own routes, start and end."""

import asyncio
import subprocess
import sys
import time

import httpx
import pytest

from receiver.sandbox.app import create_app
from receiver.sandbox.options import Options
from receiver.sandbox.sandbox import Sandbox
from receiver.sandbox.server import running
from tests.receiver.sandbox.conftest import TINY

UNAUTHENTICATED = {
    "title": "Unauthenticated",
    "detail": "You did not pass a valid authentication token",
    "status": 401,
}


async def test_a_token_is_asked_for_and_only_the_right_one_counts(start):
    api = await start(token="r8_right")
    for told in ("", "Bearer", "Bearer r8_wrong", "Basic r8_right"):
        answer = await api.http.get("/predictions", headers={"authorization": told})
        assert (answer.status_code, answer.json()) == (401, UNAUTHENTICATED)
    for told in ("Bearer r8_right", "Token r8_right", "bearer r8_right"):
        assert (await api.http.get("/predictions", headers={"authorization": told})).status_code == 200


async def test_any_token_counts_when_none_was_set_but_there_must_be_one(api):
    assert (await api.http.get("/account", headers={"authorization": "Bearer x"})).status_code == 200
    assert (await api.http.get("/account", headers={"authorization": ""})).status_code == 401


async def test_the_recorded_rate_limit_headers_are_there(api):
    told = await api.run()
    create = await api.http.post("/predictions", json={"version": "sandbox/image", "input": TINY})
    get = await api.http.get(f"/predictions/{told['id']}")
    models = await api.http.get("/hardware")
    assert [a.headers["ratelimit-remaining"] for a in (create, get, models)] == ["599", "59999", "2999"]
    assert get.headers["ratelimit-reset"] == "1"


async def test_limits_bite_when_asked_to(start):
    api = await start(rate_limits=True)
    body = {"version": "sandbox/image", "input": {**TINY, "sandbox": {"status": "aborted"}}}
    answers = [await api.http.post("/predictions", json=body) for _ in range(25)]
    refused = [answer for answer in answers if answer.status_code == 429]
    assert answers[0].status_code == 201
    assert refused
    assert refused[0].json()["retry_after"] == int(refused[0].headers["retry-after"]) >= 1
    assert "Request was throttled" in refused[0].json()["detail"]


async def test_unlisted_paths_and_methods_have_the_api_s_shape(api):
    for method, path, status in (("GET", "/nothing", 404), ("PUT", "/predictions", 405), ("GET", "/predictions/", 404)):
        answer = await api.http.request(method, path)
        assert answer.status_code == status
        assert answer.json()["status"] == status


async def test_what_the_sandbox_believes_can_be_asked(api, hook):
    told = await api.run("sandbox/layers", hook=hook, events=["completed"])
    await hook.until(1)
    belief = await api.belief(told)
    assert [file["path"] for file in belief["truth"]] == [
        *("output.image", "output.mask", "output.depth.0", "output.depth.1"),
    ]
    assert belief["webhooks"][0]["event"] == "completed"
    assert belief["webhooks"][0]["status"] == 200
    page = (await api.http.get(told["urls"]["web"])).json()
    assert page["id"] == told["id"]
    assert (await api.http.get(f"{api.running.url}/p/nothing")).status_code == 404
    about = (await api.http.get(f"{api.running.url}/_sandbox")).json()
    assert about["predictions"] == 1
    assert "sandbox/image" in about["models"]


async def test_truth_outlives_the_data(api):
    told = await api.run("sandbox/data-uri")
    other = await api.run()
    before = (await api.belief(told))["truth"]
    assert before[0]["url"] == "data:image/png"
    assert (await api.control("/expire", {"prediction": told["id"]})).json() == {"removed": [told["id"]]}
    assert (await api.belief(told))["truth"] == before
    assert (await api.belief(other))["data_removed"] is False
    assert (await api.control("/expire")).json() == {"removed": [other["id"]]}
    for wrong in (-1, "x", True):
        assert (await api.control("/expire", {"advance_s": wrong})).status_code == 400


async def test_a_body_for_the_sandbox_must_be_an_object(api):
    for body in (b"[]", b"{"):
        answer = await api.http.post(f"{api.running.url}/_sandbox/mischief", content=body)
        assert answer.status_code == 400


async def test_a_seed_is_drawn_when_none_is_given(start):
    first, second = await start(seed=None), await start(seed=None)
    assert (await first.make())["id"] != (await second.make())["id"]


async def test_it_ends_at_once_whatever_hangs(start, hook):
    hook.silent_s = 0.5
    async with running(Options(seed=1)) as sandbox:
        headers = {"authorization": "Bearer x"}
        async with httpx.AsyncClient(base_url=sandbox.api_url, headers=headers, trust_env=False) as client:
            body = {"version": "sandbox/image", "input": {"sandbox": {"api": "hang", "queue_s": 1000}}}
            waiting = asyncio.create_task(client.post("/predictions", json=body, headers={"prefer": "wait"}))
            told = (await client.post("/predictions", json={**body, "webhook": hook.url})).json()
            hanging = asyncio.create_task(client.get(f"/predictions/{told['id']}"))
            await asyncio.sleep(0.1)
            began = time.monotonic()
            sandbox.sandbox.stopped.set()
            await asyncio.wait({waiting, hanging})
            assert hanging.exception() is not None
            assert waiting.result().json()["status"] == "starting"
    assert time.monotonic() - began < 2


async def test_a_taken_port_is_an_error(api):
    port = int(api.running.url.rpartition(":")[2])
    with pytest.raises(OSError, match="in use"):
        async with running(Options(), port=port):
            raise AssertionError


async def test_it_listens_on_ipv6_too():
    async with running(Options(), "::1") as sandbox, httpx.AsyncClient(trust_env=False) as client:
        assert sandbox.url.startswith("http://[::1]:")
        assert (await client.get(f"{sandbox.url}/_sandbox")).status_code == 200


async def test_it_runs_under_any_server():
    app = create_app(Options(public_url="http://testserver", seed=1, speed=0))
    wire = httpx.ASGITransport(app)
    headers = {"authorization": "Bearer x"}
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=wire, base_url="http://testserver/v1", headers=headers) as client,
    ):
        body = {"version": "sandbox/image", "input": {**TINY, "sandbox": {"api": "reset"}}}
        told = (await client.post("/predictions", json=body, headers={"prefer": "wait"})).json()
        assert (await client.get(told["output"])).status_code == 200
        assert (await client.get(f"/predictions/{told['id']}")).status_code == 502


def test_counters_are_bounded(monkeypatch):
    monkeypatch.setattr("receiver.sandbox.sandbox.COUNTS_MAX", 3)
    sandbox = Sandbox(Options(mischief={"api": "once:500"}))
    struck = [sandbox.strike(f"scope {number}", sandbox.general.api) for number in range(10)]
    assert all(struck)
    assert len(sandbox._counts) == 3
    assert sandbox.strike("scope 9", sandbox.general.api) is None


def test_the_stand_in_imports_nothing_of_ours_and_no_signer_before_it_runs():
    code = (
        "import sys, receiver.sandbox.server\n"
        "ours = [m for m in sys.modules if m.startswith(('storage', 'receiver.')) and 'receiver.sandbox' not in m]\n"
        "print(ours, 'svix' in sys.modules, 'standardwebhooks' in sys.modules)"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    assert told.stdout.strip() == "[] False False"


@pytest.mark.parametrize("secret", ["whsec_", "whsec_***", "c2VjcmV0", "whsec_abc"])
def test_a_secret_that_cannot_sign_stops_the_start(secret):
    with pytest.raises(ValueError, match="whsec_"):
        create_app(Options(secret=secret))


async def test_it_ends_in_the_middle_of_a_big_file():
    began = time.monotonic()
    async with running(Options(seed=1, speed=0)) as sandbox:
        headers = {"authorization": "Bearer x"}
        async with httpx.AsyncClient(base_url=sandbox.api_url, headers=headers, trust_env=False) as client:
            await client.post("/predictions", json={"version": "sandbox/big", "input": {"bytes": 60_000_000_000}})
            await asyncio.sleep(0.1)
    await asyncio.get_running_loop().shutdown_default_executor()
    assert time.monotonic() - began < 5
