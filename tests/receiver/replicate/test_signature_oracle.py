"""The verifier against svix, which made the scheme, over generated cases."""

import base64
import time
from binascii import Error as Base64Error
from datetime import UTC, datetime

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from svix.webhooks import Webhook, WebhookVerificationError

from receiver.replicate.signature import TOLERANCE_S, Secret, Unverified, verify

ids = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters="."), min_size=1, max_size=256)
keys = st.binary(min_size=24, max_size=64)
junk = st.text(st.characters(min_codepoint=1, max_codepoint=255, exclude_characters=" "), max_size=50)
bodies = st.text(st.characters(exclude_categories=["Cs"]), max_size=300)


@settings(deadline=None)  # the machine is shared
@given(webhook_id=ids, key=keys, body=bodies, offset_s=st.integers(-290, 290), wrong=st.lists(keys, max_size=3))
def test_what_svix_signs_is_verified(webhook_id, key, body, offset_s, wrong):
    now_s = int(time.time())
    moment = datetime.fromtimestamp(now_s + offset_s, tz=UTC)
    entry = Webhook("whsec_" + base64.b64encode(key).decode()).sign(webhook_id, moment, body)
    headers = [
        (b"webhook-id", webhook_id.encode()),
        (b"webhook-timestamp", str(now_s + offset_s).encode()),
        (b"webhook-signature", entry.encode()),
    ]
    secrets = [*map(Secret, wrong), Secret(key)]
    assert verify(body=body.encode(), headers=headers, secrets=secrets, now_s=now_s).webhook_id == webhook_id


def mangled(draw, webhook_id, timestamp, body, entry):
    """The four parts, one of them changed, or none."""
    kind = draw(st.sampled_from(["none", "id", "time", "body", "flip", "list", "list with the good one", "junk"]))
    if kind == "id":
        webhook_id = draw(ids)
    elif kind == "time":
        timestamp = draw(st.integers(-400, 400).map(lambda s: str(int(time.time()) + s)) | junk | st.just("nan"))
    elif kind == "body":
        body = draw(bodies)
    elif kind == "flip":
        place = draw(st.integers(0, len(entry) - 1))
        entry = entry[:place] + draw(st.sampled_from("v1,AZaz09+/= .\t-_\xff")) + entry[place + 1 :]
    elif kind.startswith("list"):
        others = draw(st.lists(keys.map(lambda key: "v1," + base64.b64encode(key).decode()) | junk, max_size=6))
        place = draw(st.integers(0, len(others)))
        good = [entry] if kind.endswith("one") else []
        entry = " ".join([*others[:place], *good, *others[place:]])
    elif kind == "junk":
        entry = draw(junk)
    return webhook_id, timestamp, body, entry


@settings(max_examples=400, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(data=st.data(), webhook_id=ids, key=keys, body=bodies)
def test_svix_and_we_agree_wherever_our_grammar_is_met(data, webhook_id, key, body):
    now_s = int(time.time())
    oracle = Webhook("whsec_" + base64.b64encode(key).decode())
    entry = oracle.sign(webhook_id, datetime.fromtimestamp(now_s, tz=UTC), body)
    parts = mangled(data.draw, webhook_id, str(now_s), body, entry)
    given_id, timestamp, given_body, signature = parts
    names = ("webhook-id", "webhook-timestamp", "webhook-signature")
    values = (given_id, timestamp, signature)
    try:
        oracle.verify(given_body, dict(zip(names, values, strict=True)))
        theirs: bool | None = True
    except WebhookVerificationError:
        theirs = False
    except (ValueError, Base64Error, UnicodeError):
        theirs = None  # it stumbled: the verdict is ours alone
    raw = [(name.encode(), value.encode("latin-1")) for name, value in zip(names, values, strict=True)]
    try:
        verify(body=given_body.encode(), headers=raw, secrets=[Secret(key)], now_s=now_s)
        ours, why = True, None
    except Unverified as error:
        ours, why = False, error.reason
    on_the_edge = timestamp.isdigit() and abs(abs(int(timestamp) - now_s) - TOLERANCE_S) <= 2
    if theirs is False and not on_the_edge:
        assert not ours
    if (
        theirs is True
        and len(timestamp) == 10
        and timestamp.isdigit()
        and not on_the_edge
        and entry in signature.split(" ")
    ):
        assert ours, why
