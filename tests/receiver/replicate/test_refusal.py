"""An answer outside 2xx becomes the error that says what to do, whatever its body."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from receiver.replicate.errors import NotFound, Rejected, ReplicateError, Throttled, Unauthenticated, Unavailable
from receiver.replicate.refusal import RETRY_AFTER_S_MAX, refusal


def of(status=429, body=None, **headers):
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return refusal(
        status=status, headers={name.replace("_", "-"): value for name, value in headers.items()}, body=content
    )


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (301, Rejected),
        (304, Rejected),
        (400, Rejected),
        (401, Unauthenticated),
        (402, Rejected),
        (403, Unauthenticated),
        (404, NotFound),
        (408, Unavailable),
        (409, Rejected),
        (410, NotFound),
        (413, Rejected),
        (422, Rejected),
        (429, Throttled),
        (500, Unavailable),
        (503, Unavailable),
        (524, Unavailable),
    ],
)
def test_the_status_decides_what_to_do(status, kind):
    error = of(status)
    assert type(error) is kind
    assert error.status == status
    assert error.maybe_done == (kind is Unavailable)
    assert str(error) == f"Replicate answered {status}."


def test_title_detail_and_body_are_carried():
    body = {
        "detail": "- input: prompt is required\n",
        "status": 422,
        "title": "Input validation failed",
        "invalid_fields": [{"type": "required", "field": "input", "description": "prompt is required"}],
    }
    error = of(422, body)
    assert (error.title, error.detail, error.body) == (body["title"], body["detail"], body)


@pytest.mark.parametrize(
    "body", [b"", b"<html>Bad gateway", b"[1]", b'"text"', b"[" * 10_000, b"\xff", {"title": 5, "detail": []}]
)
def test_a_body_that_is_no_problem_leaves_the_texts_empty(body):
    error = of(502, body)
    assert (error.title, error.detail) == ("", "")
    assert error.body in (None, {"title": 5, "detail": []})


def test_an_endless_detail_is_cut_in_the_sentence():
    assert len(str(of(400, {"detail": "x" * 1_000_000}))) < 600
    assert len(of(400, {"detail": "x" * 1_000_000}).detail) == 10_000


def test_secrets_in_a_body_are_redacted():
    error = of(400, {"detail": "Bearer r8_abcdefghijklmnop is not valid", "auth": "hunter22hunter22"})
    assert "r8_abcdefgh" not in f"{error} {error.detail} {error.body}"
    assert "hunter22" not in f"{error} {error.body}"


@pytest.mark.parametrize(
    ("body", "headers", "wait_s"),
    [
        ({}, {}, None),
        ({}, {"retry_after": "7"}, 7),
        ({}, {"retry_after": "0.5"}, 0.5),
        ({}, {"retry_after": " 7 "}, 7),
        ({}, {"retry_after": "-1"}, None),
        ({}, {"retry_after": "nan"}, None),
        ({}, {"retry_after": "inf"}, None),
        ({}, {"retry_after": "soon"}, None),
        ({}, {"retry_after": "99999999"}, RETRY_AFTER_S_MAX),
        ({"retry_after": 5}, {}, 5),
        ({"retry_after": 5.5}, {"retry_after": "2"}, 5.5),
        ({"retry_after": "6"}, {}, 6),
        ({"retry_after": True}, {}, None),
        ({"retry_after": None}, {}, None),
        ({"retry_after": [5]}, {}, None),
        ({"retry_after": int("9" * 500)}, {}, None),
        ({"detail": "Request was throttled. Your rate limit resets in ~30s."}, {}, 30),
        ({"detail": "Your rate limit resets in 3s."}, {"retry_after": "1"}, 3),
        ({}, {"retry_after": "Sun, 22 Nov 2026 08:00:30 GMT", "date": "Sun, 22 Nov 2026 08:00:00 GMT"}, 30),
        ({}, {"retry_after": "Sun, 22 Nov 2026 08:00:00 GMT", "date": "Sun, 22 Nov 2026 08:00:30 GMT"}, 0),
        ({}, {"retry_after": "Sun, 22 Nov 2026 08:00:30 GMT"}, None),
        ({}, {"retry_after": "Sun, 22 Nov 2026 08:00:30 -0000", "date": "Sun, 22 Nov 2026 08:00:00 GMT"}, None),
        ({}, {"retry_after": "Sun, 99 Nov 2026 08:00:30 GMT", "date": "Sun, 22 Nov 2026 08:00:00 GMT"}, None),
    ],
)
def test_the_longest_wait_that_was_asked_for_counts(body, headers, wait_s):
    assert of(429, body, **headers).retry_after_s == wait_s


@settings(deadline=None)  # the machine is shared
@given(status=st.integers(300, 599), body=st.binary(), header=st.text(), date=st.text())
def test_no_answer_makes_it_raise(status, body, header, date):
    assert isinstance(of(status, body, retry_after=header, date=date), ReplicateError)
