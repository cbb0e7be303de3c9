import io
import json
import logging

import pytest

from receiver.runtime import logs
from receiver.runtime.telemetry import Metrics


@pytest.fixture
def root():
    before = logging.getLogger().handlers[:], logging.getLogger().level
    yield
    logging.getLogger().handlers[:] = before[0]
    logging.getLogger().setLevel(before[1])


def logged(form: str, message: str, **facts: object) -> str:
    stream = io.StringIO()
    logs.configure(form, stream=stream)
    logging.getLogger("outkeep.test").info(message, extra=facts)
    return stream.getvalue()


def test_json_lines_have_the_facts_as_fields(root):
    told = json.loads(logged("json", "archived", prediction="p1", size=3))
    assert (told["level"], told["message"], told["prediction"], told["size"]) == ("info", "archived", "p1", 3)
    assert told["time"].endswith("Z")


def test_lines_for_people_are_plain(root):
    assert logged("console", "archived", prediction="p1")[9:] == "info    archived  prediction=p1\n"


def test_auto_is_json_where_no_terminal_is(root):
    assert logged("auto", "x").startswith("{")


@pytest.mark.parametrize("form", ["json", "console"])
def test_no_secret_gets_through_not_even_in_a_traceback(root, form):
    stream = io.StringIO()
    logs.configure(form, stream=stream)
    try:
        int("r8_abcdefghijklmnopqrstuvwxyz")
    except ValueError:
        logging.getLogger("outkeep.test").exception("with r8_abcdefghijklmnopqrstuvwxyz")
    assert "ValueError" in stream.getvalue()
    assert "r8_abc" not in stream.getvalue()


def test_libraries_that_print_whole_urls_are_silent(root):
    stream = io.StringIO()
    logs.configure("json", stream=stream)
    logging.getLogger("httpx").info("HTTP Request: GET https://x/?X-Amz-Signature=abc")
    assert stream.getvalue() == ""


def test_metrics_tell_what_the_ledger_holds_and_what_happened():
    metrics = Metrics.fresh()
    metrics.webhook("accepted")
    metrics.attempt("archived", 5000)
    metrics.attempt("retry", 0)
    counts = {
        "deliveries": {"applied": 3}, "outputs": {"pending": 1}, "predictions_open": 2, "events_unnumbered": 0,
        "last_sequence": 9, "pending_expires_ms": 61_000, "at_risk": 4,
    }  # fmt: skip
    told = metrics.render(counts, now_ms=1000).decode()
    assert 'outkeep_webhooks_total{outcome="accepted"} 1.0' in told
    assert 'outkeep_archive_attempts_total{outcome="retry"} 1.0' in told
    assert 'outkeep_known{kind="outputs",state="pending"} 1.0' in told
    assert "outkeep_next_deadline_seconds 60.0" in told
    assert "outkeep_outputs_at_risk 4.0" in told
    assert "outkeep_output_bytes_sum 5000.0" in told
    assert "+Inf" in metrics.render(counts | {"pending_expires_ms": None}, now_ms=0).decode().splitlines()[-1]
