import json
from dataclasses import replace

import pytest

from receiver.core import telling
from receiver.core.event import cursor, told
from receiver.core.links import Links
from receiver.core.output import Attempt, Output, OutputState, Stored
from receiver.core.prediction import PARTIAL, Prediction

LINKS = Links("https://keep.example/base")
STORED = Stored(
    key="2026/11/22/p1/output.0.webp", name="output.0.webp", size=3, sha256="ab" * 32, content_type="image/webp",
    header_type="image/webp", bytes_type="image/webp", url_ending="webp", width=1, height=2, duration_s=None,
    headers={"etag": '"x"'}, verified=True, archived_ms=1_795_334_403_456,
)  # fmt: skip
ARCHIVED = Output(
    1, "p1", "output.0", "https://replicate.delivery/a", OutputState.ARCHIVED, "L" * 22, 9, attempts=1, stored=STORED
)
PENDING = replace(ARCHIVED, id=2, path="output.1", state=OutputState.PENDING, stored=None)
LOST = replace(
    PENDING, state=OutputState.LOST, reason="gone: 404", history=(Attempt(5, "404"),), source="data:a/b;base64,xx"
)
PREDICTION = Prediction(
    "p1",
    {"status": "succeeded", "output": [None, None], "input": {}, "error": None},
    1_795_334_400_000,
    0,
    has_files=True,
)


def test_links_stand_in_their_places_and_nothing_else_does():
    assert telling.linked(PREDICTION, [ARCHIVED, PENDING], LINKS) == [
        f"https://keep.example/base/files/{'L' * 22}/output.0.webp",
        None,
    ]


def test_until_it_is_archived_a_success_is_told_as_processing():
    told_ = telling.replicate_prediction(PREDICTION, [ARCHIVED, PENDING], LINKS)
    assert (told_["status"], told_["output"], told_["completed_at"]) == ("processing", None, None)
    waiting = telling.replicate_prediction(PREDICTION, [ARCHIVED, PENDING], LINKS, waiting=True)
    assert waiting["status"] == "starting"


def test_once_archived_it_has_succeeded_with_its_lost_outputs_as_none():
    told_ = telling.replicate_prediction(replace(PREDICTION, archived_ms=7), [ARCHIVED, LOST], LINKS)
    assert told_["status"] == "succeeded"
    assert told_["output"][1] is None
    assert told_["error"] is None
    assert told_["urls"]["get"] == "https://keep.example/base/v1/predictions/p1"


def test_when_everything_is_lost_it_is_told_as_failed_with_the_reason():
    told_ = telling.replicate_prediction(replace(PREDICTION, archived_ms=7), [LOST, LOST], LINKS)
    assert told_["status"] == "failed"
    assert "gone: 404" in told_["error"]


@pytest.mark.parametrize(("waiting", "status"), [(True, "starting"), (False, "processing")])
def test_text_so_far_is_shown_while_it_runs_but_never_to_who_waits(waiting, status):
    running = replace(PREDICTION, told={"status": "processing", "output": ["a"]}, has_files=False)
    told_ = telling.replicate_prediction(running, [], LINKS, waiting=waiting)
    assert (told_["status"], told_["output"]) == (status, None if waiting else ["a"])


@pytest.mark.parametrize("unsaid", [{}, dict.fromkeys(("model", "version", "input", "logs", "metrics", "source"))])
def test_what_nobody_told_yet_is_empty_where_clients_take_no_null(unsaid):
    heard = replace(PREDICTION, told={"status": "processing", **unsaid})
    told_ = telling.replicate_prediction(heard, [], LINKS)
    assert {name: told_[name] for name in ("model", "version", "input", "logs", "metrics", "source")} == {
        "model": "", "version": "", "input": {}, "logs": "", "metrics": {}, "source": "api",
    }  # fmt: skip
    assert told_["created_at"] == "2026-11-22T08:00:00.000Z"
    assert (told_["output"], told_["error"], told_["started_at"], told_["completed_at"]) == (None, None, None, None)


def test_that_an_output_may_be_a_part_only_is_nobody_elses_business():
    heard = replace(PREDICTION, told={**PREDICTION.told, PARTIAL: True}, archived_ms=7)
    told_ = [telling.replicate_prediction(heard, [ARCHIVED], LINKS), telling.api_prediction(heard, [ARCHIVED], LINKS)]
    assert not [each for each in told_ if PARTIAL in each]
    assert PARTIAL.encode() not in telling.manifest(heard, [ARCHIVED], archived_ms=7, version="1")


@pytest.mark.parametrize("key", ["2026/11/22/p1/output.0.webp", "a/b/2026/11/22/p-1_x/manifest.json"])
def test_our_keys_are_known_with_any_prefix(key):
    assert telling.is_ours(key)


@pytest.mark.parametrize(
    "key", ["backup.tar", "2026/11/22/p1/photo.png", "2026/11/22/p1/output.0/x", "26/1/2/p1/output"]
)
def test_keys_of_others_are_not_ours(key):
    assert not telling.is_ours(key)


def test_failure_shows_at_once():
    failed = replace(PREDICTION, told={"status": "failed", "error": "boom"})
    assert telling.replicate_prediction(failed, [], LINKS)["error"] == "boom"


def test_the_manifest_is_the_same_every_time_and_says_what_proves_each_output():
    written = [telling.manifest(PREDICTION, [ARCHIVED, LOST], archived_ms=8, version="0.1.0") for _ in range(2)]
    assert written[0] == written[1]
    told_ = json.loads(written[0])
    assert told_["schema"] == "outkeep.manifest/1"
    assert told_["outputs"][0]["source"] == {"url": "https://replicate.delivery/a", "headers": {"etag": '"x"'}}
    assert told_["outputs"][1]["state"] == "lost"
    assert told_["outputs"][1]["source"]["url"] == "data:a/b"


def test_the_manifest_holds_odd_text_as_ascii():
    odd = replace(PREDICTION, told={"status": "failed", "error": "\ud800 \0 é"})
    assert telling.manifest(odd, [], archived_ms=1, version="1").isascii()


def test_events_of_archived_outputs_have_every_field_of_the_contract():
    event = telling.archived_output_event(PREDICTION, ARCHIVED, bucket="b", links=LINKS)
    assert set(event.body["data"]["output"]) == {"path", "url", "key", "bucket", "size", "sha256", "content_type"}
    assert told(replace(event, sequence=42))["sequence"] == "0000000000000042"
    assert event.body["dataschema"] == "https://keep.example/base/schemas/output.archived/1.json"


def test_only_what_is_archived_is_told_as_archived():
    with pytest.raises(ValueError, match="archived"):
        telling.archived_output_event(PREDICTION, PENDING, bucket="b", links=LINKS)


def test_a_second_revision_is_another_fact():
    first, second = (
        telling.archived_event(PREDICTION, [ARCHIVED], manifest_key="k", archived_ms=1, revision=number, links=LINKS)
        for number in (1, 2)
    )
    assert first.id != second.id
    assert (first.body["data"].get("revision"), second.body["data"]["revision"]) == (None, 2)
    assert cursor(0) == "0" * 16


def test_our_api_tells_a_prediction_with_its_outputs():
    told_ = telling.api_prediction(PREDICTION, [ARCHIVED, LOST], LINKS)
    assert [output["state"] for output in told_["outputs"]] == ["archived", "lost"]
    assert told_["outputs"][1]["problems"] == [{"at": "1970-01-01T00:00:00.005Z", "problem": "404"}]
    assert told_["status"] == "succeeded"
