"""What Replicate sends, documented or not, becomes something that the ledger can hold."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from receiver.core.prediction import Source
from receiver.replicate.payload import (
    NAME_LENGTH_MAX,
    NO_STATUS,
    STATUS_LENGTH_MAX,
    Unreadable,
    read_delivery,
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


def test_an_update_needs_a_usable_id_too():
    with pytest.raises(Unreadable):
        update_of({"status": "succeeded"})


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters()), inner, max_size=4),
    max_leaves=20,
)


@settings(deadline=None)  # the machine is shared
@given(fields=st.dictionaries(st.sampled_from([*DOCUMENTED, "webhook", "other"]), json_values))
def test_fields_of_any_type_make_an_update(fields):
    told = read_delivery(json.dumps({**fields, "id": "abc"}).encode())
    update = update_of(told)
    assert update.status
    assert isinstance(update.told.get("metrics") or {}, dict)
    assert isinstance(update.told.get("input") or {}, dict)
    assert isinstance(update.told.get("logs") or "", str)
    assert isinstance(update.told.get("created_at") or "", str)
    assert json.loads(json.dumps(update.told, allow_nan=False)) == update.told
