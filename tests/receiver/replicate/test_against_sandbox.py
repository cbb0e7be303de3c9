"""The client, the verifier and the payload against the stand-in for Replicate, which shares no code with them."""

import asyncio
import time

import httpx
import pytest

from receiver.core.prediction import FINAL, Source
from receiver.replicate.errors import NotFound, Rejected, Throttled, Unauthenticated, Unavailable
from receiver.replicate.payload import Unreadable, read_delivery, read_update
from receiver.replicate.secrets import SigningSecrets
from receiver.replicate.signature import Reason, Secret, Unverified, verify
from receiver.sandbox.options import Options
from receiver.sandbox.server import running

IMAGE = {"prompt": "a cat", "width": 8, "height": 8}


@pytest.fixture
async def sandbox(stack):
    return await stack.enter_async_context(running(Options(seed=3, speed=0.05)))


@pytest.fixture
async def client(client_of, sandbox):
    return await client_of(sandbox.url, token=sandbox.token)


async def finished(client, prediction_id):
    async with asyncio.timeout(10):
        while (told := await client.get(prediction_id))["status"] not in FINAL:  # noqa: ASYNC110 - asked over HTTP
            await asyncio.sleep(0.02)
    return told


async def test_a_prediction_is_created_got_and_listed(client):
    told = await client.create(model="black-forest-labs/flux-schnell", input={**IMAGE, "num_outputs": 2})
    update = read_update(told, source=Source.CREATE, received_ms=0)
    assert update.prediction_id == told["id"]
    assert update.status == "starting"
    done = await finished(client, told["id"])
    assert done["status"] == "succeeded"
    assert len(done["output"]) == 2
    page = await client.list()
    assert [item["id"] for item in page.results] == [told["id"]]


async def test_a_long_list_is_walked_newest_first(client):
    created = [(await client.create(model="sandbox/image", input=IMAGE))["id"] for _ in range(3)]
    listed = [item["id"] async for page in client.pages() for item in page.results]
    assert listed == created[::-1]


async def test_a_running_prediction_is_canceled(client):
    told = await client.create(model="sandbox/image", input={**IMAGE, "sandbox": {"duration_s": 100}})
    await client.cancel(told["id"])
    assert (await finished(client, told["id"]))["status"] == "canceled"


async def test_a_no_is_sorted_by_what_to_do(client, sandbox):
    with pytest.raises(NotFound):
        await client.get("nothingofthisname")
    with pytest.raises(Rejected) as rejected:
        await client.create(model="black-forest-labs/flux-schnell", input={})
    assert rejected.value.status == 422
    assert "prompt" in rejected.value.detail
    await general(sandbox, api="401")
    with pytest.raises(Unauthenticated):
        await client.account()


async def general(sandbox, **mischief):
    async with httpx.AsyncClient(trust_env=False) as direct:
        (await direct.post(f"{sandbox.url}/_sandbox/mischief", json=mischief)).raise_for_status()


@pytest.mark.parametrize("api", ["3x:500", "2x:503:1", "once:reset", "once:truncated", "2x:429:1"])
async def test_a_replicate_that_fails_for_a_moment_is_asked_again(client, sandbox, api):
    told = await client.create(model="sandbox/image", input=IMAGE)
    await general(sandbox, api=api)
    assert (await client.get(told["id"]))["id"] == told["id"]


@pytest.mark.parametrize("create", ["once:500", "once:lost", "once:reset"])
async def test_a_create_without_a_clear_answer_is_made_once_at_most(client, sandbox, create):
    await general(sandbox, create=create)
    with pytest.raises(Unavailable) as caught:
        await client.create(model="sandbox/image", input=IMAGE)
    assert caught.value.maybe_done
    await general(sandbox)
    assert len((await client.list()).results) <= 1


async def test_a_throttled_create_is_made_in_the_end(client, sandbox, passing):
    await general(sandbox, create="2x:429:5")
    assert (await client.create(model="sandbox/image", input=IMAGE))["id"]
    assert sum(passing.slept) >= 10
    await general(sandbox, create="429:60")
    with pytest.raises(Throttled):
        await client.create(model="sandbox/image", input=IMAGE)


async def calls_of(scripted, client, said, *, count=1, **asked):
    """What the sandbox calls us with, once there are `count` calls."""
    server = await scripted(said(200))
    await client.create(
        model="sandbox/image",
        input={**IMAGE, "sandbox": asked},
        webhook=f"{server.url}/hook",
        webhook_events_filter=["completed"],
    )
    return await server.heard_of(count)


def verdict(heard, secrets):
    try:
        return verify(body=heard.body, headers=heard.raw, secrets=secrets, now_s=int(time.time()))
    except Unverified as error:
        return error.reason


async def test_a_signed_call_is_verified_and_read(scripted, client, said):
    secrets = [await client.webhook_secret()]
    (heard,) = await calls_of(scripted, client, said)
    verified = verify(body=heard.body, headers=heard.raw, secrets=secrets, now_s=int(time.time()))
    assert verified.webhook_id == heard.headers["webhook-id"]
    update = read_update(
        read_delivery(heard.body), source=Source.WEBHOOK, received_ms=0, delivery_id=verified.webhook_id
    )
    assert update.status == "succeeded"
    assert update.told["output"].startswith("http")


@pytest.mark.parametrize(
    ("webhook", "reason"),
    [
        ("wrong_secret", Reason.UNEXPLAINED),
        ("unsigned", Reason.HEADER_MISSING),
        ("svix", Reason.HEADER_MISSING),
        ("two_ids", Reason.HEADER_REPEATED),
        ("stale:600", Reason.TIMESTAMP_OUTSIDE),
        ("forge", Reason.UNEXPLAINED),
    ],
)
async def test_a_call_that_is_not_covered_is_refused(scripted, client, said, webhook, reason):
    secrets = [await client.webhook_secret()]
    heard = await calls_of(scripted, client, said, webhook=webhook)
    assert verdict(heard[0], secrets) is reason


async def test_odd_json_is_processed_and_garbage_is_told_apart(scripted, client, said):
    secrets = [await client.webhook_secret()]
    (odd,) = await calls_of(scripted, client, said, webhook="odd")
    assert verdict(odd, secrets).webhook_id
    assert read_update(read_delivery(odd.body), source=Source.WEBHOOK, received_ms=0).status == "succeeded"
    (garbage,) = await calls_of(scripted, client, said, webhook="garbage")
    assert verdict(garbage, secrets).webhook_id
    with pytest.raises(Unreadable):
        read_delivery(garbage.body)


async def test_a_rotated_secret_is_learnt(scripted, client, said, sandbox, passing):
    keeper = SigningSecrets(fetch=client.webhook_secret, clock=passing)
    before = await keeper.known()
    async with httpx.AsyncClient(trust_env=False) as direct:
        told = (await direct.post(f"{sandbox.url}/_sandbox/rotate-secret")).json()
    passing.now_s += 60
    (heard,) = await calls_of(scripted, client, said)
    assert verdict(heard, await keeper.known()) is Reason.UNEXPLAINED
    assert await keeper.refetched()
    assert await keeper.known() == (Secret.parse(told["key"]), *before)
    assert verdict(heard, await keeper.known()).webhook_id


async def test_models_account_and_hardware_are_there(client):
    assert (await client.model("black-forest-labs", "flux-schnell"))["name"] == "flux-schnell"
    assert (await client.account())["username"]
    assert {"sku", "name"} <= set((await client.hardware())[0])


async def test_a_version_can_be_found_and_run(client):
    newest = (await client.versions("replicate", "hello-world")).results[0]["id"]
    assert (await client.version("replicate", "hello-world", newest))["openapi_schema"]
    for named in (
        {"version": newest},
        {"version": f"replicate/hello-world:{newest}"},
        {"model": f"replicate/hello-world:{newest}"},
    ):
        told = await client.create(input={"text": "Alice"}, prefer="wait=5", **named)
        assert told["output"] == "hello Alice"
