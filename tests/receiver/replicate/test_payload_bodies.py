"""Bodies that are odd but clear are read, what can't be understood is told apart, and nothing else is ever raised."""

import codecs
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from receiver.replicate.payload import DEPTH_MAX, DIGITS_MAX, Unreadable, read_delivery, read_json

BODY = b'{"id": "abc", "status": "processing"}'


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"", "no JSON"),
        (b"   ", "no JSON"),
        (b"not json", "no JSON"),
        (b'{"id": "abc"', "no JSON"),
        (b'{"id": "abc"} trailing', "no JSON"),
        (b"\xff\xfe\xfd", "no JSON"),
        (b"\x00", "no JSON"),
        (b"\x1f\x8b\x08\x00", "no JSON"),
        (b'{"id": "abc", "output": "\\\xff"}', "no JSON"),
        (b"null", "no object"),
        (b"[]", "no object"),
        (b'"abc"', "no object"),
        (b"5", "no object"),
        (b"NaN", "no object"),
        (b"{}", "no usable id"),
        (b'{"id": null}', "no usable id"),
        (b'{"id": 5}', "no usable id"),
        (b'{"id": ""}', "no usable id"),
        (b'{"id": "a/b"}', "no usable id"),
        (b'{"id": "../../etc"}', "no usable id"),
        (b'{"id": "abc\\n"}', "no usable id"),
        (b'{"id": "\\u0661"}', "no usable id"),
        (b'{"id": "abc\\u0000"}', "no usable id"),
        (json.dumps({"id": "a" * 65}).encode(), "no usable id"),
        (b'{"id": "abc", "output": ' + b"[" * DEPTH_MAX + b"]" * DEPTH_MAX + b"}", "deeper"),
        (b'{"id": "abc", "output": ' + b"[" * 200_000 + b"]" * 200_000 + b"}", "deeper"),
        (b'{"a":' * 200_000, "deeper"),
        (b"[" * 200_000, "deeper"),
    ],
)
def test_what_can_not_be_understood_is_told_apart(body, why):
    with pytest.raises(Unreadable, match=why) as caught:
        read_delivery(body)
    assert caught.value.reason == str(caught.value)
    assert caught.value.reason.endswith(".")


def test_the_deepest_body_that_is_taken():
    levels = DEPTH_MAX - 1
    body = b'{"id": "abc", "output": ' + b"[" * levels + b"]" * levels + b"}"
    assert read_delivery(body)["id"] == "abc"


@pytest.mark.parametrize(
    ("raw", "value"),
    [
        (b"NaN", None),
        (b"Infinity", None),
        (b"-Infinity", None),
        (b"1e400", "1e400"),
        (b"-1e400", "-1e400"),
        (b"1e-400", 0.0),
        (b"18446744073709551616", 2**64),
        (b"-9223372036854775809", -(2**63) - 1),
        (b"9" * DIGITS_MAX, int("9" * DIGITS_MAX)),
        (b"9" * 5000, "9" * 5000),
        (b'"\\u0000"', "\\u0000"),
        (b'"a\x00b"', "a\\u0000b"),
        (b'"line\nline"', "line\nline"),
        (b'"\\ud800"', "\\ud800"),
        (b'"\\udc00x"', "\\udc00x"),
        (b'"\\ud83d\\ude00"', "😀"),
        ('"é"'.encode(), "é"),
        (b'"caf\xe9"', "caf\\udce9"),
        (b'"\xed\xa0\x80"', "\\udced\\udca0\\udc80"),
        (b'{"\\u0000": 1, "\\ud800": 2}', {"\\u0000": 1, "\\ud800": 2}),
        (b'{"a": 1, "a": 2}', {"a": 2}),
    ],
)
def test_odd_but_clear_bodies_are_processed(raw, value):
    told = read_delivery(b'{"id": "abc", "status": "succeeded", "output": ' + raw + b"}")
    assert told["output"] == value
    assert holdable(told)


@pytest.mark.parametrize("mark", [codecs.BOM_UTF8, codecs.BOM_UTF8 * 2])
def test_a_byte_order_mark_is_no_obstacle(mark):
    assert read_delivery(mark + BODY)["id"] == "abc"


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le"])
def test_other_encodings_of_unicode_are_understood(encoding):
    assert read_delivery(json.dumps({"id": "abc", "output": "é"}, ensure_ascii=False).encode(encoding))["output"] == "é"


def test_half_a_character_in_another_encoding_is_no_json():
    with pytest.raises(Unreadable):
        read_delivery(BODY.decode().encode("utf-16") + b"\x00")


def test_the_last_of_two_ids_counts():
    assert read_delivery(b'{"id": "abc", "id": "def"}')["id"] == "def"


def holdable(value):
    """Valid JSON, valid UTF-8, and nothing that PostgreSQL's jsonb refuses."""
    text = json.dumps(value, allow_nan=False)
    json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
    return "\\u0000" not in text.replace("\\\\", "") and json.loads(text) == value


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters()), inner, max_size=4),
    max_leaves=20,
)


@settings(deadline=None)  # the machine is shared
@given(value=json_values)
def test_whatever_python_writes_as_json_becomes_holdable(value):
    assert holdable(read_json(json.dumps(value).encode()))


@settings(deadline=None)  # the machine is shared
@given(body=st.binary() | json_values.map(lambda value: json.dumps(value).encode()), cut=st.integers(0, 40))
def test_no_bytes_make_it_raise_anything_but_unreadable(body, cut):
    try:
        told = read_json(body[cut:])
    except Unreadable:
        return
    assert holdable(told)
