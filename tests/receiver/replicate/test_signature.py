"""The verifier against the documented vector, and against everything that a stranger may send."""

import base64
import hmac
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from receiver.replicate.signature import (
    ENTRIES_MAX,
    TOLERANCE_S,
    Reason,
    Secret,
    Unverified,
    Verified,
    verify,
)

KNOWN = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"  # the test vector of svix and of both official clients
KNOWN_ID, KNOWN_TIME, KNOWN_BODY = b"msg_p5jXN8AQM9LWM0D4loKWxJek", b"1614265330", b'{"test": 2432232314}'
KNOWN_SIGNATURE = b"v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
OTHER = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"
WRONG = b"v1," + base64.b64encode(bytes(32))


def check(
    *,
    body=KNOWN_BODY,
    webhook_id=KNOWN_ID,
    timestamp=KNOWN_TIME,
    signature=KNOWN_SIGNATURE,
    secrets=(KNOWN,),
    now_s=int(KNOWN_TIME),
    more=(),
):
    headers = [
        (b"host", b"example.com"),
        (b"webhook-id", webhook_id),
        (b"webhook-timestamp", timestamp),
        (b"webhook-signature", signature),
        *more,
    ]
    return verify(body=body, headers=headers, secrets=[Secret.parse(text) for text in secrets], now_s=now_s)


def reason_of(**call):
    with pytest.raises(Unverified) as caught:
        check(**call)
    assert caught.value.reason in str(caught.value)
    return caught.value.reason


def test_the_documented_vector_is_verified():
    assert check() == Verified(webhook_id=KNOWN_ID.decode(), timestamp_s=1614265330)


@pytest.mark.parametrize("name", [b"webhook-id", b"webhook-timestamp", b"webhook-signature"])
def test_each_header_is_needed_exactly_once(name):
    headers = [
        (b"webhook-id", KNOWN_ID),
        (b"webhook-timestamp", KNOWN_TIME),
        (b"webhook-signature", KNOWN_SIGNATURE),
    ]
    without = [header for header in headers if header[0] != name]
    twice = [*headers, *[header for header in headers if header[0] == name]]
    shouted = [*headers, *[(header[0].upper(), header[1]) for header in headers if header[0] == name]]
    secrets = [Secret.parse(KNOWN)]
    with pytest.raises(Unverified) as missing:
        verify(body=KNOWN_BODY, headers=without, secrets=secrets, now_s=int(KNOWN_TIME))
    assert missing.value.reason is Reason.HEADER_MISSING
    for repeated_headers in (twice, shouted):
        with pytest.raises(Unverified) as repeated:
            verify(body=KNOWN_BODY, headers=repeated_headers, secrets=secrets, now_s=int(KNOWN_TIME))
        assert repeated.value.reason is Reason.HEADER_REPEATED


def test_svix_names_count_for_nothing():
    foreign = ((b"svix-id", b"x"), (b"svix-timestamp", b"0"), (b"svix-signature", WRONG))
    assert check(more=foreign)
    headers = [(b"svix-id", KNOWN_ID), (b"svix-timestamp", KNOWN_TIME), (b"svix-signature", KNOWN_SIGNATURE)]
    with pytest.raises(Unverified) as caught:
        verify(body=KNOWN_BODY, headers=headers, secrets=[Secret.parse(KNOWN)], now_s=int(KNOWN_TIME))
    assert caught.value.reason is Reason.HEADER_MISSING


@pytest.mark.parametrize(
    "webhook_id",
    [b"", b"a" * 257, b"msg.1", b"msg 1", b"msg\t1", b" msg", b"msg\x00", b"msg\x7f", b"msg\xff", "é".encode(), b"\n"],
)
def test_an_id_outside_visible_ascii_is_refused(webhook_id):
    assert reason_of(webhook_id=webhook_id, signature=signed(webhook_id)) is Reason.ID_MALFORMED


@pytest.mark.parametrize("webhook_id", [b"a", b"a" * 256, b"!~/\\\"'%,;"])
def test_any_other_visible_id_is_taken(webhook_id):
    assert check(webhook_id=webhook_id, signature=signed(webhook_id)).webhook_id == webhook_id.decode()


@pytest.mark.parametrize(
    "timestamp",
    [
        b"",
        b"161426533",
        b"01614265330",
        b"+161426533",
        b"-161426533",
        b"1614265e30",
        b"161426533.",
        b" 161426533",
        b"1614265330 ",
        b"1_61426533",
        "١٢٣٤٥".encode(),
        b"\x00" * 10,
        b"\xff" * 10,
    ],
)
def test_a_timestamp_is_ten_digits(timestamp):
    assert reason_of(timestamp=timestamp) is Reason.TIMESTAMP_MALFORMED


def test_five_minutes_either_way_are_tolerated_and_not_a_second_more():
    now_s = int(KNOWN_TIME)
    assert check(now_s=now_s + TOLERANCE_S)
    assert check(now_s=now_s - TOLERANCE_S)
    assert reason_of(now_s=now_s + TOLERANCE_S + 1) is Reason.TIMESTAMP_OUTSIDE
    assert reason_of(now_s=now_s - TOLERANCE_S - 1) is Reason.TIMESTAMP_OUTSIDE
    assert reason_of(timestamp=b"0000000000", signature=signed(timestamp=b"0000000000")) is Reason.TIMESTAMP_OUTSIDE


def test_malformed_entries_are_skipped_not_raised():
    mess = [b"", b"v1", b"v1,", b"v1,!", b"v1,\xff\xfe", b"v1,a,b", b"v2," + KNOWN_SIGNATURE[3:], b",", b"\x00", WRONG]
    assert check(signature=b" ".join([*mess, KNOWN_SIGNATURE]))
    assert reason_of(signature=b" ".join(mess)) is Reason.UNEXPLAINED
    assert reason_of(signature=b" ".join(mess[:-1])) is Reason.SIGNATURE_MALFORMED


@pytest.mark.parametrize(
    "signature",
    [
        KNOWN_SIGNATURE.replace(b"v1", b"V1"),
        KNOWN_SIGNATURE.replace(b"v1", b"v2"),
        KNOWN_SIGNATURE.replace(b"v1", b"v1a"),
        KNOWN_SIGNATURE.replace(b"v1,", b""),
        KNOWN_SIGNATURE.rstrip(b"="),
        KNOWN_SIGNATURE + b"=",
        KNOWN_SIGNATURE.replace(b",", b", "),
        KNOWN_SIGNATURE.replace(b"+", b"-").replace(b"/", b"_"),
        KNOWN_SIGNATURE.replace(b"OE=", b"OF="),  # the same 32 bytes to a lax decoder
        KNOWN_SIGNATURE.replace(b"g0", b"g\n0"),
        KNOWN_SIGNATURE + b"\t" + WRONG,
        KNOWN_SIGNATURE + b"," + WRONG,
        KNOWN_SIGNATURE.lower(),
        b"",
        b"\x00\xff",
    ],
)
def test_only_canonical_base64_behind_a_lower_case_v1_counts(signature):
    assert reason_of(signature=signature) in {Reason.SIGNATURE_MALFORMED, Reason.UNEXPLAINED}


def test_the_list_is_read_up_to_a_bound():
    assert check(signature=b" ".join([WRONG] * (ENTRIES_MAX - 1) + [KNOWN_SIGNATURE]))
    assert reason_of(signature=b" ".join([WRONG] * ENTRIES_MAX + [KNOWN_SIGNATURE])) is Reason.UNEXPLAINED
    started = time.perf_counter()
    assert reason_of(signature=b" ".join([WRONG] * 200_000)) is Reason.UNEXPLAINED
    assert time.perf_counter() - started < 0.5


def test_any_of_several_secrets_verifies():
    assert check(secrets=(OTHER, KNOWN))
    assert check(secrets=(KNOWN, OTHER))
    assert reason_of(secrets=(OTHER,)) is Reason.UNEXPLAINED
    assert reason_of(secrets=()) is Reason.UNEXPLAINED


@pytest.mark.parametrize("body", [b"", b"\x00", b"\xff\xfe", KNOWN_BODY + b" ", KNOWN_BODY.replace(b"2432", b"2433")])
def test_another_body_is_refused_and_its_own_signature_accepted(body):
    assert reason_of(body=body) is Reason.UNEXPLAINED
    assert check(body=body, signature=signed(body=body))


@pytest.mark.parametrize("size", [24, 25, 26, 64])
def test_a_secret_of_24_to_64_bytes_is_parsed(size):
    key = bytes(range(size))
    assert Secret.parse("whsec_" + base64.b64encode(key).decode()) == Secret(key)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "whsec_",
        "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "WHSEC_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        " whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n",
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLa-_",
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaé=",
        "whsec_" + base64.b64encode(bytes(23)).decode(),
        "whsec_" + base64.b64encode(bytes(65)).decode(),
        "whsec_" + base64.b64encode(bytes(25)).decode().rstrip("="),
        "whsec_" + base64.b64encode(bytes(25)).decode()[:-3] + "B==",
    ],
)
def test_a_bad_secret_is_told_in_a_sentence_without_it(text):
    with pytest.raises(ValueError, match=r"\.$") as caught:
        Secret.parse(text)
    assert text.removeprefix("whsec_")[:8] not in str(caught.value) or len(text) < 8
    assert caught.value.__cause__ is None


def test_a_secret_never_shows_its_key():
    secret = Secret.parse(KNOWN)
    assert "redacted" in f"{secret} {secret!r} {[secret]}"
    assert KNOWN.removeprefix("whsec_") not in f"{secret} {secret!r}"
    assert repr(secret.key) not in repr(secret)


def test_equal_keys_are_equal_secrets():
    assert Secret.parse(KNOWN) == Secret.parse(KNOWN)
    assert len({Secret.parse(KNOWN), Secret.parse(KNOWN), Secret.parse(OTHER)}) == 2


def signed(webhook_id=KNOWN_ID, timestamp=KNOWN_TIME, body=KNOWN_BODY):
    key = base64.b64decode(KNOWN.removeprefix("whsec_"))
    return b"v1," + base64.b64encode(hmac.digest(key, webhook_id + b"." + timestamp + b"." + body, "sha256"))


@settings(deadline=None)  # the machine is shared
@given(
    headers=st.lists(
        st.tuples(
            st.sampled_from([b"webhook-id", b"webhook-timestamp", b"webhook-signature", b"svix-id"]) | st.binary(),
            st.binary() | st.sampled_from([KNOWN_ID, KNOWN_TIME, KNOWN_SIGNATURE]),
        ),
        max_size=5,
    ),
    body=st.binary(),
)
def test_nothing_but_unverified_is_ever_raised(headers, body):
    try:
        verify(body=body, headers=headers, secrets=[Secret.parse(KNOWN)], now_s=int(KNOWN_TIME))
    except Unverified:
        return
    assert body == KNOWN_BODY
