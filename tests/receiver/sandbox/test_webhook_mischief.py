"""Each misbehaviour of webhooks does what it says."""

import asyncio
import json
import time

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

FINAL_ONLY = ["completed"]


def good(api, call):
    headers = {name: value for name, value in call.headers if name.startswith("webhook-")}
    try:
        Webhook(api.running.secret).verify(call.body, headers, json_parse=False)
    except WebhookVerificationError:
        return False
    return True


async def told(api, hook, count, *pranks, events=None):
    await api.make(hook=hook, events=events or FINAL_ONLY, sandbox={"webhook": list(pranks)})
    return await hook.until(count)


async def test_never_and_drop_lose_what_they_say(api, hook):
    for prank in ("never", "drop"):
        await api.run(hook=hook, events=["start", "completed"], sandbox={"webhook": prank})
    await asyncio.sleep(0.1)
    assert [call.told["status"] for call in hook.calls] == ["starting"]


async def test_repeat_comes_again_with_the_same_id_or_new_ones(api, hook):
    same = [call.header("webhook-id") for call in await told(api, hook, 3, "repeat:3")]
    assert len(set(same)) == 1
    hook.calls.clear()
    new = [call.header("webhook-id") for call in await told(api, hook, 2, "repeat_new:2")]
    assert len(set(new)) == 2
    hook.calls.clear()
    twins = await told(api, hook, 2, "twin")
    assert twins[0].header("webhook-id") == twins[1].header("webhook-id")


async def test_reorder_tells_the_end_first(api, hook):
    calls = await told(api, hook, 3, "reorder", events=["start", "output", "completed"])
    assert [call.told["status"] for call in calls] == ["succeeded", "starting", "processing"]


async def test_delay_is_in_real_seconds(api, hook):
    began = time.monotonic()
    await told(api, hook, 1, "delay:0.3")
    assert time.monotonic() - began >= 0.3


async def test_a_forged_one_comes_before_the_true_one(api, hook):
    forged, true = await told(api, hook, 2, "forge")
    assert not good(api, forged)
    assert good(api, true)
    assert forged.told["output"].endswith("/pbxt/forged/out-0.png")


@pytest.mark.parametrize("prank", ["wrong_secret", "unsigned", "stale:600", "svix"])
async def test_a_bad_signature_does_not_verify(api, hook, prank):
    assert not good(api, (await told(api, hook, 1, prank))[0])


async def test_after_a_rotation_the_old_secret_can_still_be_used(api, hook):
    await api.control("/rotate-secret")
    call = (await told(api, hook, 1, "old_secret"))[0]
    assert not good(api, call)
    headers = {name: value for name, value in call.headers if name.startswith("webhook-")}
    assert Webhook(api.running.sandbox.old_secrets[-1]).verify(call.body, headers)


async def test_once_harms_the_first_try_only(api, hook):
    hook.statuses = [401]
    first, second = await told(api, hook, 2, "once:wrong_secret")
    assert not good(api, first)
    assert good(api, second)


async def test_unsigned_and_svix_change_the_names(api, hook):
    bare = (await told(api, hook, 1, "unsigned"))[0]
    assert bare.header("webhook-id") is None
    other = (await told(api, hook, 2, "svix"))[1]
    assert other.header("svix-id")
    assert other.header("webhook-id") is None


async def test_two_ids_are_two_headers(api, hook):
    call = (await told(api, hook, 1, "two_ids"))[0]
    assert len([name for name, _value in call.headers if name == "webhook-id"]) == 2


@pytest.mark.parametrize(("prank", "error"), [("garbage", json.JSONDecodeError), ("deep:50000", RecursionError)])
async def test_a_body_without_sense_is_signed_all_the_same(api, hook, prank, error):
    call = (await told(api, hook, 1, prank))[0]
    assert good(api, call)
    with pytest.raises(error):
        json.loads(call.body)


async def test_an_odd_body_holds_all_that_ledgers_refuse(api, hook):
    call = (await told(api, hook, 1, "odd"))[0]
    assert good(api, call)
    assert b"NaN" in call.body
    assert call.told["odd"][2:4] == ["\0", "\ud800"]
    assert call.told["odd"][-1] > 2**64


async def test_a_huge_body_has_logs_of_that_size(api, hook):
    call = (await told(api, hook, 1, "huge:300000"))[0]
    assert len(call.told["logs"]) == 300_000
    assert good(api, call)


async def test_no_retry_tries_once(api, hook):
    hook.statuses = [500]
    await told(api, hook, 1, "no_retry")
    await asyncio.sleep(0.2)
    assert len(hook.calls) == 1


async def test_a_slow_body_arrives_whole(api, hook):
    began = time.monotonic()
    call = (await told(api, hook, 1, "slow:0.3"))[0]
    assert time.monotonic() - began >= 0.3
    assert good(api, call)
    assert call.header("content-length") == str(len(call.body))


async def test_the_final_one_can_come_without_output(api, hook):
    assert (await told(api, hook, 1, "no_output"))[0].told["output"] is None
    gone = (await told(api, hook, 2, "data_removed"))[1]
    assert gone.told["output"] is None
    assert (await api.http.get(f"/predictions/{gone.told['id']}")).json()["data_removed"] is True


async def test_general_mischief_holds_until_it_is_ended(api, hook):
    await api.control("/mischief", {"webhook": "wrong_secret"})
    await api.run(hook=hook, events=FINAL_ONLY)
    await api.control("/mischief", {})
    await api.run(hook=hook, events=FINAL_ONLY)
    calls = await hook.until(2)
    assert [good(api, call) for call in calls] == [False, True]


async def test_what_a_prediction_asks_for_goes_before_the_general(start, hook):
    api = await start(mischief={"webhook": "never"})
    await api.run(hook=hook, events=FINAL_ONLY, sandbox={"webhook": "ok"})
    assert good(api, (await hook.until(1))[0])
