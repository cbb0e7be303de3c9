"""Webhooks: who is told what and when, signed as Standard Webhooks, tried again as published."""

import asyncio
import hashlib
import socket
import struct
import time

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from tests.receiver.sandbox.conftest import TINY


def verified(secret, call):
    headers = {name: value for name, value in call.headers if name.startswith("webhook-")}
    return Webhook(secret).verify(call.body, headers)


def statuses(calls):
    return [call.told["status"] for call in calls]


async def test_start_and_completed_are_told_and_signed(api, hook):
    told = await api.make(hook=hook, events=["start", "completed"])
    await api.finished(told)
    calls = await hook.until(2)
    assert statuses(calls) == ["starting", "succeeded"]
    assert all(verified(api.running.secret, call)["id"] == told["id"] for call in calls)
    assert calls[0].header("webhook-id") != calls[1].header("webhook-id")
    assert calls[1].header("webhook-id").startswith("msg_")
    assert abs(int(calls[1].header("webhook-timestamp")) - time.time()) < 5
    assert calls[1].header("content-type") == "application/json"


async def test_a_webhook_is_echoed_and_its_query_is_kept(api, hook):
    told = await api.make(hook=hook, events=["completed"])
    assert told["webhook"] == hook.url
    assert told["webhook_events_filter"] == ["completed"]
    await hook.until(1)


async def test_without_a_filter_outputs_and_the_end_are_told(api, hook):
    await api.make(hook=hook)
    calls = await hook.until(2)
    assert statuses(calls) == ["processing", "succeeded"]


async def test_the_body_is_not_quite_what_get_answers(api, hook):
    told = await api.make(hook=hook, events=["start", "completed"])
    done = await api.finished(told)
    calls = await hook.until(2)
    assert "model" not in calls[0].told
    assert "urls" not in calls[0].told
    assert calls[0].told["started_at"] is None
    assert "data_removed" not in calls[1].told
    assert calls[1].told["output"] == done["output"]
    assert calls[1].told["metrics"] == done["metrics"]


async def test_a_growing_output_is_told_in_between_but_not_at_every_step(start, hook):
    api = await start(speed=0.05)
    told = {**TINY, "num_outputs": 40}
    await api.finished(await api.make("sandbox/slow", told, hook=hook, sandbox={"duration_s": 8}))
    await asyncio.sleep(0.1)
    lengths = [len(call.told["output"]) for call in hook.calls]
    assert lengths == sorted(lengths)
    assert 3 < len(lengths) < 25
    assert lengths[-1] == 40


async def test_logs_are_told_before_there_is_output(start, hook):
    api = await start(speed=0.05)
    told = {**TINY, "num_outputs": 4}
    await api.finished(
        await api.make("sandbox/four-images", told, hook=hook, events=["logs"], sandbox={"duration_s": 8})
    )
    await asyncio.sleep(0.1)
    assert len(hook.calls) > 1
    assert all(call.told["output"] is None and call.told["logs"] for call in hook.calls)


@pytest.mark.parametrize("status", [404, 500])
async def test_the_final_one_is_tried_again_with_the_same_id_and_body(api, hook, status):
    hook.statuses = [status, status]
    told = await api.make(hook=hook, events=["completed"])
    calls = await hook.until(3)
    assert len({call.header("webhook-id") for call in calls}) == 1
    assert len({call.body for call in calls}) == 1
    assert all(verified(api.running.secret, call) for call in calls)
    attempts = (await api.belief(told))["webhooks"]
    assert [attempt["status"] for attempt in attempts] == [status, status, 200]
    assert {attempt["body_sha256"] for attempt in attempts} == {hashlib.sha256(calls[0].body).hexdigest()}
    await asyncio.sleep(0.2)
    assert len(hook.calls) == 3


async def test_intermediate_ones_are_never_tried_again(api, hook):
    hook.statuses = [500]
    await api.make(hook=hook, events=["start"])
    await asyncio.sleep(0.3)
    assert len(hook.calls) == 1


async def test_a_redirect_is_not_followed_and_fails_in_silence(api, hook):
    hook.statuses, hook.location = [301], hook.url
    told = await api.make(hook=hook, events=["completed"])
    await api.finished(told)
    await asyncio.sleep(0.2)
    assert len(hook.calls) == 1


async def test_head_and_body_come_in_one_piece_or_in_two(api):
    pieces = []

    async def take(reader, writer):
        before = 0
        while head := await reader.readline():
            while (line := await reader.readline()) != b"\r\n":
                head += line
            await reader.readexactly(int(head.lower().partition(b"content-length: ")[2].split()[0]))
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
            pieces.append(segments(writer) - before)
            before += pieces[-1]
        writer.close()

    async with await asyncio.start_server(take, "127.0.0.1", 0) as server:
        hook = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        made = await asyncio.gather(*(api.make(hook=hook, events=["completed"]) for _ in range(24)))
        for told in made:
            async with asyncio.timeout(10):
                while not (attempts := (await api.belief(told))["webhooks"]):  # noqa: ASYNC110 - asked over HTTP
                    await asyncio.sleep(0.02)
            assert [attempt["status"] for attempt in attempts] == [200]
    assert 3 < pieces.count(1) < 21, pieces


def segments(writer):
    """With data in them that came so far on a connection; the loopback hardly ever joins them."""
    told = writer.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 160)
    return int(struct.unpack_from("=I", told, 152)[0])


async def test_it_gives_up_after_about_a_minute(start):
    api = await start(speed=0.001)
    told = await api.make(hook="http://127.0.0.1:1/nobody", events=["completed"])
    async with asyncio.timeout(5):
        while len((await api.belief(told))["webhooks"]) < 7:  # noqa: ASYNC110 - asked over HTTP
            await asyncio.sleep(0.02)
    await asyncio.sleep(0.1)
    attempts = (await api.belief(told))["webhooks"]
    assert len(attempts) == 7
    assert all(attempt["status"] is None and attempt["error"].startswith("ConnectError") for attempt in attempts)
    seconds = (attempts[-1]["at_ns"] - attempts[0]["at_ns"]) / 1e9
    assert 0.06 <= seconds < 1


async def test_a_slow_receiver_is_told_again(start, hook):
    api = await start(webhook_timeout_s=0.1)
    hook.silent_s = 0.3
    await api.make(hook=hook, events=["completed"])
    calls = await hook.until(2)
    assert calls[0].header("webhook-id") == calls[1].header("webhook-id")


async def test_cancel_is_told_and_an_abortion_is_not(api, hook):
    told = await api.make(hook=hook, events=["completed"], sandbox={"duration_s": 100})
    await api.http.post(f"/predictions/{told['id']}/cancel")
    assert statuses(await hook.until(1)) == ["canceled"]
    await api.run(hook=hook, events=["start", "completed"], sandbox={"status": "aborted"})
    await asyncio.sleep(0.1)
    assert statuses(hook.calls) == ["canceled", "starting"]


async def test_a_rotated_secret_signs_from_then_on(api, hook):
    old = (await api.http.get("/webhooks/default/secret")).json()["key"]
    assert old == api.running.secret
    new = (await api.control("/rotate-secret")).json()["key"]
    assert new != old
    assert (await api.http.get("/webhooks/default/secret")).json() == {"key": new}
    assert (await api.http.get(f"{api.running.url}/_sandbox")).json()["old_secrets"] == [old]
    await api.make(hook=hook, events=["completed"])
    call = (await hook.until(1))[0]
    verified(new, call)
    with pytest.raises(WebhookVerificationError):
        verified(old, call)


async def test_the_given_secret_is_the_one_that_signs(start, hook):
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    api = await start(secret=secret)
    await api.make(hook=hook, events=["completed"])
    verified(secret, (await hook.until(1))[0])


async def test_the_final_one_is_sent_again_on_request(api, hook):
    told = await api.make(hook=hook, events=["completed"])
    await hook.until(1)
    attempt = (await api.control(f"/predictions/{told['id']}/resend")).json()
    await api.control(f"/predictions/{told['id']}/resend", {"new_id": True})
    assert attempt["status"] == 200
    ids = [call.header("webhook-id") for call in hook.calls]
    assert ids[0] == ids[1] != ids[2]
    assert len({call.body for call in hook.calls}) == 1
    assert (await api.control("/predictions/nothing/resend")).status_code == 404
    silent = await api.run()
    assert (await api.control(f"/predictions/{silent['id']}/resend")).status_code == 404
