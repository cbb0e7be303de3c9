"""What Replicate sends, documented or not, becomes something that the ledger can hold."""

import codecs
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from receiver.core.prediction import Source
from receiver.replicate.payload import (
    DEPTH_MAX,
    DIGITS_MAX,
    NAME_LENGTH_MAX,
    NO_STATUS,
    STATUS_LENGTH_MAX,
    Unreadable,
    read_delivery,
    read_json,
    read_update,
)

DOCUMENTED = {
    "id": "gm3qorzdhgbfurvjtvhg6dckhu",
    "model": "replicate/hello-world",
    "version": "5c7d5dc6dd8bf75c1acaa8565735e7986bc5b66206b55cca93cb72c9bf15ccaa",
    "input": {"text": "Alice"},
    "logs": "",
    "output": "hello Alice",
    "error": None,
    "status": "succeeded",
    "created_at": "2023-09-08T16:19:34.765994Z",
    "source": "api",
    "data_removed": False,
    "started_at": "2023-09-08T16:19:34.779176Z",
    "completed_at": "2023-09-08T16:19:34.791859Z",
    "metrics": {"predict_time": 0.012683},
    "urls": {
        "web": "https://replicate.com/p/gm3qorzdhgbfurvjtvhg6dckhu",
        "get": "https://api.replicate.com/v1/predictions/gm3qorzdhgbfurvjtvhg6dckhu",
        "cancel": "https://api.replicate.com/v1/predictions/gm3qorzdhgbfurvjtvhg6dckhu/cancel",
    },
}
START_WEBHOOK = {
    "id": "ufawqhfynnddngldkgtslldrkq",
    "version": "5c7d5dc6dd8bf75c1acaa8565735e7986bc5b66206b55cca93cb72c9bf15ccaa",
    "created_at": "2022-04-26T22:13:06.224088Z",
    "started_at": None,
    "completed_at": None,
    "status": "starting",
    "input": {"text": "Alice"},
    "output": None,
    "error": None,
    "logs": None,
    "metrics": {},
}
CREATE_REPLY = {
    "id": "hdwst0bb05rgp0cf0p29mzk2am",
    "model": "stability-ai/sdxl",
    "version": "39ed52f2",
    "input": {"height": 512, "seed": 42069},
    "logs": "",
    "error": None,
    "status": "starting",
    "created_at": "2024-04-22T11:15:15.329Z",
    "urls": {"get": "https://api.replicate.com/v1/predictions/hdwst0bb05rgp0cf0p29mzk2am"},
}
CANCELED = {**START_WEBHOOK, "status": "canceled", "logs": None, "webhook_completed": None, "version": "hidden"}

OUTPUTS = [
    "https://replicate.delivery/pbxt/abc/out-0.webp",
    ["https://replicate.delivery/a.png", "https://replicate.delivery/b.png"],
    {"image": "https://replicate.delivery/a.png", "masks": ["https://replicate.delivery/m.png"], "score": 0.5},
    {"frames": [{"image": "https://replicate.delivery/a.png", "at": 1}], "meta": {"n": [1, [2, [3]]]}},
    ["\n\n", "Fuzzy", ", gentle", " beasts", ""],
    "data:image/png;base64,iVBORw0KGgo=",
    ["data:application/octet-stream;base64,AA=="],
    None,
    0,
    1.5,
    True,
    [1, 2, [3.25, None, False]],
    [],
    {},
    "",
    "Look at https://replicate.delivery/pbxt/abc/out-0.webp, it is a cat.",
    "🐈 naïve 猫",
]


def body_of(**fields):
    return json.dumps({"id": "abc", "status": "processing", **fields}).encode()


def update_of(told, **more):
    return read_update(told, source=Source.WEBHOOK, received_ms=1_700_000_000_000, **more)


@pytest.mark.parametrize("told", [DOCUMENTED, START_WEBHOOK, CREATE_REPLY, CANCELED])
def test_documented_bodies_are_kept_as_told(told):
    read = read_delivery(json.dumps(told).encode())
    assert read == told
    update = update_of(read, delivery_id="msg_1")
    assert update.told == told
    assert (update.prediction_id, update.status, update.delivery_id) == (told["id"], told["status"], "msg_1")
    assert update.received_ms == 1_700_000_000_000
    assert update.source is Source.WEBHOOK


@pytest.mark.parametrize("output", OUTPUTS)
def test_every_shape_of_output_is_kept(output):
    assert update_of(read_delivery(body_of(output=output))).told["output"] == output


def test_undocumented_fields_and_statuses_are_kept():
    update = update_of(read_delivery(body_of(status="paused", novelty={"a": [1]}, webhook_completed=None)))
    assert update.status == "paused"
    assert update.told["novelty"] == {"a": [1]}
    assert update.told["webhook_completed"] is None


@pytest.mark.parametrize(
    "moment",
    [
        "2023-09-08T16:19:34Z",
        "2023-09-08T16:19:34.1Z",
        "2023-09-08T16:19:34.123456789Z",
        "2023-09-08T16:19:34.12345678+05:45",
        "yesterday",
    ],
)
def test_timestamps_are_kept_as_told(moment):
    assert update_of(read_delivery(body_of(created_at=moment))).told["created_at"] == moment


@pytest.mark.parametrize("status", [None, 5, "", [], {}, True, 1e9])
def test_a_status_that_is_no_text_counts_as_open(status):
    assert update_of(read_delivery(body_of(status=status))).status == NO_STATUS


def test_a_missing_status_counts_as_open_and_an_endless_one_is_cut():
    assert update_of({"id": "abc"}).told == {"id": "abc", "status": NO_STATUS}
    assert update_of({"id": "abc", "status": "x" * 10_000}).status == "x" * STATUS_LENGTH_MAX


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("metrics", [1]),
        ("metrics", "fast"),
        ("input", ["a"]),
        ("urls", "https://replicate.com"),
        ("model", {"owner": "a"}),
        ("version", 5),
        ("version", "v" * (NAME_LENGTH_MAX + 1)),
        ("created_at", 1_700_000_000),
        ("completed_at", []),
        ("source", 1.5),
        ("data_removed", "true"),
        ("data_removed", 1),
    ],
)
def test_a_field_of_the_wrong_type_says_nothing(name, value):
    assert name not in update_of(read_delivery(body_of(**{name: value}))).told


@pytest.mark.parametrize(
    ("value", "text"),
    [(5, "5"), (1.5, "1.5"), (["a"], '["a"]'), ({"code": 1}, '{"code": 1}'), (False, "false"), ("", "")],
)
def test_logs_and_errors_become_text(value, text):
    told = update_of(read_delivery(body_of(logs=value, error=value))).told
    assert (told["logs"], told["error"]) == (text, text)


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
    assert update_of(read_delivery(body)).prediction_id == "abc"


def test_an_update_needs_a_usable_id_too():
    with pytest.raises(Unreadable):
        update_of({"status": "succeeded"})


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
    assert read_delivery(mark + body_of())["id"] == "abc"


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le"])
def test_other_encodings_of_unicode_are_understood(encoding):
    assert read_delivery(json.dumps({"id": "abc", "output": "é"}, ensure_ascii=False).encode(encoding))["output"] == "é"


def test_half_a_character_in_another_encoding_is_no_json():
    with pytest.raises(Unreadable):
        read_delivery(body_of().decode().encode("utf-16") + b"\x00")


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


@given(value=json_values)
def test_whatever_python_writes_as_json_becomes_holdable(value):
    assert holdable(read_json(json.dumps(value).encode()))


@given(body=st.binary() | json_values.map(lambda value: json.dumps(value).encode()), cut=st.integers(0, 40))
def test_no_bytes_make_it_raise_anything_but_unreadable(body, cut):
    try:
        told = read_json(body[cut:])
    except Unreadable:
        return
    assert holdable(told)


@given(fields=st.dictionaries(st.sampled_from([*DOCUMENTED, "webhook", "other"]), json_values))
def test_fields_of_any_type_make_an_update(fields):
    told = read_delivery(json.dumps({**fields, "id": "abc"}).encode())
    update = update_of(told)
    assert update.status
    assert isinstance(update.told.get("metrics") or {}, dict)
    assert isinstance(update.told.get("input") or {}, dict)
    assert isinstance(update.told.get("logs") or "", str)
    assert isinstance(update.told.get("created_at") or "", str)
    assert holdable(update.told)
