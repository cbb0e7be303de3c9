import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from receiver.core.delivery import DeliveryState
from receiver.core.files import REFUSED, FileRule
from receiver.core.links import Links
from receiver.core.prediction import FINAL, MOVES, PARTIAL, REMOVED, Decision, Prediction, Source, Update, decide, sift

LINKS = Links("https://keep.example")
RULE = FileRule(lambda url: url.startswith("https://replicate.delivery/"))
NOON_MS = 1_795_348_800_000


def told(status: str, at_ms: int = NOON_MS, source: Source = Source.WEBHOOK, **fields: Any) -> Update:
    return Update("p1", source, at_ms, {"id": "p1", "status": status, **fields})


def merge(known: Prediction | None, *updates: Update, rule: FileRule = RULE) -> Decision:
    decision: Decision | None = None
    for update in updates:
        decision = decide(known, sift(update, rule), links=LINKS)
        known = decision.prediction
    assert decision is not None
    return decision


def types(decision: Decision) -> list[str]:
    return [event.type.removeprefix("outkeep.") for event in decision.events]


def test_the_first_word_makes_the_prediction_known_and_tells_of_it():
    decision = merge(None, told("starting", input={"prompt": "a cat"}, created_at="2026-11-22T08:00:00.5Z"))
    assert decision.verdict is DeliveryState.APPLIED
    assert types(decision) == ["prediction.created"]
    assert decision.events[0].body["data"]["input"] == {"prompt": "a cat"}
    assert decision.prediction.created_ms == 1_795_334_400_500


def test_a_final_first_word_tells_both_that_it_was_created_and_completed():
    decision = merge(None, told("succeeded", output="https://replicate.delivery/a.png"))
    assert types(decision) == ["prediction.created", "prediction.completed"]
    assert [(found.path, found.source) for found in decision.found] == [("output", "https://replicate.delivery/a.png")]
    assert decision.prediction.told["output"] is None


def test_nothing_that_was_told_holds_a_url_of_replicates():
    output = {"image": "https://replicate.delivery/a.png", "more": ["https://replicate.delivery/b.png", 3, "text"]}
    decision = merge(None, told("succeeded", output=output))
    assert decision.prediction.told["output"] == {"image": None, "more": [None, 3, "text"]}
    assert "replicate.delivery" not in json.dumps([event.body for event in decision.events])


@pytest.mark.parametrize("end", sorted(FINAL))
def test_a_late_word_changes_nothing_after_the_end(end):
    known = merge(None, told(end, logs="all")).prediction
    decision = merge(known, told("processing", at_ms=NOON_MS + 5, logs="al"))
    assert decision.verdict is DeliveryState.STALE
    assert decision.prediction == known
    assert decision.reason == f"told processing after {end}"


@pytest.mark.parametrize("end", sorted(FINAL))
@pytest.mark.parametrize("other", sorted(FINAL))
def test_one_end_never_becomes_another(end, other):
    known = merge(None, told(end)).prediction
    assert merge(known, told(other)).prediction.status == end


def test_the_same_end_told_again_is_a_repeat_and_tells_nothing():
    known = merge(None, told("succeeded", output="https://replicate.delivery/a.png", logs="x")).prediction
    decision = merge(known, told("succeeded", output="https://replicate.delivery/a.png", logs="x"))
    assert (decision.verdict, decision.events) == (DeliveryState.REPEATED, ())


def test_an_end_told_again_fills_in_what_was_missing_and_overwrites_nothing():
    known = merge(None, told("succeeded", output=None, logs="first", metrics={})).prediction
    again = told("succeeded", output=["https://replicate.delivery/a.png"], logs="other", metrics={"predict_time": 1})
    decision = merge(known, again)
    assert decision.verdict is DeliveryState.APPLIED
    assert decision.prediction.told["logs"] == "first"
    assert decision.prediction.told["metrics"] == {"predict_time": 1}
    assert decision.prediction.told["output"] == [None]
    assert decision.found[0].path == "output.0"


def test_another_output_after_the_end_is_not_believed():
    known = merge(None, told("succeeded", output=["https://replicate.delivery/a.png"])).prediction
    decision = merge(known, told("succeeded", output=["https://replicate.delivery/a.png"] * 2))
    assert decision.found == ()
    assert decision.prediction.told["output"] == [None]


def test_removed_data_erases_nothing():
    known = merge(None, told("succeeded", output="hello", input={"a": 1}, logs="x")).prediction
    decision = merge(known, told("succeeded", output=None, input={}, logs=None, data_removed=True))
    assert decision.prediction.told["output"] == "hello"
    assert decision.prediction.told["input"] == {"a": 1}
    assert decision.prediction.told["data_removed"] is True


def test_an_output_that_was_removed_before_we_asked_is_lost_with_a_reason():
    decision = merge(None, told("succeeded", output=None, data_removed=True))
    assert [(found.path, found.lost) for found in decision.found] == [("output", REMOVED)]
    assert types(decision)[-1] == "output.lost"
    again = merge(decision.prediction, told("succeeded", output=None, data_removed=True))
    assert again.events == ()


@pytest.mark.parametrize("early", [["https://replicate.delivery/a.png"], "half a sent", {"text": "words"}])
def test_an_end_that_was_removed_loses_what_may_have_come_after_the_output_that_we_know(early):
    decision = merge(None, told("processing", output=early), told("succeeded", output=None, data_removed=True))
    assert [(found.path, found.lost) for found in decision.found] == [("output", REMOVED)]
    assert types(decision)[-1] == "output.lost"


def test_a_single_file_that_we_know_was_all_there_is():
    known = merge(None, told("processing", output="https://replicate.delivery/a.png")).prediction
    assert merge(known, told("succeeded", output=None, data_removed=True)).found == ()


def test_output_and_logs_never_shrink_while_it_runs():
    decision = merge(None, told("processing", output=["a", "b"], logs="12"), told("processing", output=["a"], logs="1"))
    assert decision.prediction.told["output"] == ["a", "b"]
    assert decision.prediction.told["logs"] == "12"
    assert decision.verdict is DeliveryState.REPEATED


def test_a_status_that_nobody_documented_is_kept_and_counts_as_open():
    decision = merge(None, told("starting"), told("queued"), told("processing"), told("succeeded"))
    assert decision.prediction.status == "succeeded"
    assert not merge(None, told("paused")).prediction.final


def test_going_back_to_starting_is_stale():
    assert merge(None, told("processing"), told("starting")).verdict is DeliveryState.STALE


def test_secrets_in_the_input_are_never_known():
    decision = merge(None, told("starting", input={"auth": "hunter22hunter22", "x": "r8_abcdefghijklmnop"}))
    assert decision.prediction.told["input"] == {"auth": "[redacted]", "x": "[redacted]"}


def test_the_webhook_that_replicate_echoes_is_not_kept():
    known = merge(None, told("starting", webhook="https://keep.example/webhooks/replicate/tok")).prediction
    assert "webhook" not in known.told


def test_a_file_on_a_foreign_host_is_lost_only_where_the_schema_says_file():
    url = "https://elsewhere.example/a.png"
    assert merge(None, told("succeeded", output=url)).found == ()
    rule = FileRule(RULE.allows, frozenset({"output"}))
    decision = merge(None, told("succeeded", output=url), rule=rule)
    assert decision.found[0].lost == REFUSED
    assert types(decision)[-1] == "output.lost"


def test_completion_is_never_later_than_we_heard_of_it():
    known = merge(None, told("succeeded", completed_at="2099-01-01T00:00:00Z")).prediction
    assert known.completed_ms == NOON_MS


def test_the_same_fact_has_the_same_id_every_time():
    first, second = merge(None, told("succeeded")), merge(None, told("succeeded", at_ms=NOON_MS + 77))
    assert [event.id for event in first.events] == [event.id for event in second.events]


def test_after_the_manifest_only_the_removal_is_noted():
    archived = Prediction("p1", {"status": "succeeded", "logs": None}, NOON_MS, NOON_MS, NOON_MS, archived_ms=NOON_MS)
    decision = merge(archived, told("succeeded", logs="late", output="https://replicate.delivery/x", data_removed=True))
    assert dict(decision.prediction.told) == {"status": "succeeded", "logs": None, "data_removed": True}
    assert decision.found == ()


STATUSES = st.sampled_from([*MOVES, "queued"])
OUTPUTS = st.one_of(st.none(), st.lists(st.sampled_from(["https://replicate.delivery/1", "t", "data:,x"]), max_size=3))


@given(st.lists(st.tuples(STATUSES, OUTPUTS), min_size=1, max_size=8))
def test_state_never_goes_back_whatever_is_told(words):
    known: Prediction | None = None
    seen: list[str] = []
    for status, output in words:
        decision = decide(known, sift(told(status, output=output), RULE), links=LINKS)
        if known is not None and known.final:
            assert decision.prediction.status == known.status
            if known.told.get("output") is not None:
                assert decision.prediction.told["output"] == known.told["output"]
        known = decision.prediction
        seen += [event.id for event in decision.events if event.type.endswith(("created", "completed"))]
        assert "replicate.delivery" not in json.dumps(dict(known.told))
    assert len(seen) == len(set(seen))


@pytest.mark.parametrize("output", ["https://replicate.delivery/a.png", ["https://replicate.delivery/a.png"]])
def test_files_told_after_an_end_without_output_are_news(output):
    known = merge(None, told("succeeded", output=None)).prediction
    decision = merge(known, told("succeeded", output=output))
    assert decision.verdict is DeliveryState.APPLIED
    assert [found.source for found in decision.found] == ["https://replicate.delivery/a.png"]
    assert types(decision) == []
    again = merge(decision.prediction, told("succeeded", output=output))
    assert again.verdict is DeliveryState.REPEATED


def test_a_moment_that_no_date_can_be_written_for_counts_as_untold():
    decision = merge(None, told("starting", created_at="9999-12-31T23:59:59-12:00"))
    assert decision.prediction.created_ms == NOON_MS


def test_a_success_told_without_its_output_after_a_part_of_it_takes_what_is_told_later():
    part, whole = (
        [f"https://replicate.delivery/{n}" for n in range(1)],
        [f"https://replicate.delivery/{n}" for n in range(3)],
    )
    silent = merge(None, told("processing", output=part), told("succeeded"))
    assert silent.prediction.told["output"] == [None]
    assert PARTIAL in silent.prediction.told
    assert PARTIAL in merge(silent.prediction, told("succeeded", output=None)).prediction.told
    heard = merge(silent.prediction, told("succeeded", output=whole))
    assert heard.verdict is DeliveryState.APPLIED
    assert heard.prediction.told["output"] == [None, None, None]
    assert PARTIAL not in heard.prediction.told
    assert [found.path for found in heard.found] == ["output.0", "output.1", "output.2"]
    assert merge(heard.prediction, told("succeeded", output=part)).prediction.told["output"] == [None, None, None]


@pytest.mark.parametrize("status", ["failed", "canceled", "aborted"])
def test_what_ended_otherwise_keeps_its_part_without_a_question(status):
    known = merge(None, told("processing", output=["https://replicate.delivery/0"]), told(status)).prediction
    assert known.told["output"] == [None]
    assert PARTIAL not in known.told


def test_the_ledger_holds_no_presigned_url_of_an_output_that_is_text():
    text = "https://b.s3.amazonaws.com/x?X-Amz-Signature=abc12345"
    assert "abc12345" not in json.dumps(dict(merge(None, told("succeeded", output=[text])).prediction.told))
