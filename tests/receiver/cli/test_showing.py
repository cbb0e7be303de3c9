"""How things look: harmless, within 80 columns, ids whole."""

import json

import pytest

from receiver.cli.progress import Progress, Row, row
from receiver.cli.showing import FOLDED, ID, SHORT, as_json, console, extent, moment, plain, size, table


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain ü 猫 ✓\n\tnext", "plain ü 猫 ✓\n\tnext"),
        ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
        ("a\rb", "a\\x0db"),
        ("\x9b31m", "\\x9b31m"),
        ("abc\u202egnp", "abc\\u202egnp"),
        ("\ud800", "\\ud800"),
        ("\x00", "\\x00"),
    ],
)
def test_text_from_outside_commands_no_terminal(text, shown):
    assert plain(text) == shown


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (None, ""),
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (48_120, "48.1 kB"),
        (999_949, "999.9 kB"),
        (999_950, "1.0 MB"),
        (20_000_000_000, "20.0 GB"),
        (3_000_000_000_000, "3.0 TB"),
    ],
)
def test_sizes_are_short(count, shown):
    assert size(count) == shown


@pytest.mark.parametrize(
    ("told", "shown"),
    [
        ("2026-11-22T08:00:03.456Z", "2026-11-22 08:00:03"),
        (None, ""),
        (3, ""),
        ("yesterday\x1b", "yesterday\\x1b"),
    ],
)
def test_moments_are_short(told, shown):
    assert moment(told) == shown


def test_an_extent_is_in_pixels_or_seconds_where_known():
    assert extent({"width": 640, "height": 480, "duration_s": 2}) == "640×480"
    assert extent({"width": None, "height": None, "duration_s": 2.04}) == "2.0 s"
    assert extent({}) == ""


def test_json_is_one_ascii_line_whatever_is_in_it():
    told = as_json({"text": "\ud800 ü\n"})
    assert told.isascii()
    assert "\n" not in told
    assert json.loads(told)["text"] == "\ud800 ü\n"
    with pytest.raises(ValueError, match="JSON"):
        as_json(float("nan"))


def test_a_table_fits_80_columns_and_breaks_no_id(capsys):
    number = "k" * 26
    columns = (("id", ID), ("status", SHORT), ("created (UTC)", SHORT), ("model", FOLDED))
    rows = [
        (number, "succeeded", "2026-11-22 08:00:03", "a-very-long-owner-name/and-a-model-name-that-is-longer-still")
    ]
    table("Title", columns, rows, states=(1,))
    lines = capsys.readouterr().out.splitlines()
    assert all(len(line) <= 80 for line in lines)
    assert number in lines[2]
    assert "succeeded" in lines[2]
    folded = "".join(line[len(lines[2]) - len(lines[2][lines[2].index("a-very") :]) :].strip() for line in lines[2:])
    assert folded == rows[0][-1]


def test_progress_in_a_pipe_says_each_change_once(capsys):
    with Progress() as progress:
        progress.show([Row("a", "starting"), Row("b", "starting")])
        progress.show([Row("a", "starting"), Row("b", "processing", "1 of 4 outputs archived")])
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.splitlines() == ["a: starting", "b: starting", "b: processing (1 of 4 outputs archived)"]


def test_progress_on_a_terminal_is_drawn_over_and_leaves_nothing(monkeypatch, capsys):
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("TERM", "xterm")
    assert console(stderr=True).is_terminal
    with Progress() as progress:
        progress.show([Row("some/model", "processing", "2 of 4"), Row("b", "archived", "1 output"), Row("c", "failed")])
    told = capsys.readouterr().err
    assert "some/model" in told
    assert "\x1b[?25l" in told
    assert told.rindex("\x1b[?25h") > told.rindex("some/model")  # the cursor is given back


ARCHIVED = {"state": "archived"}
PENDING = {"state": "pending"}


@pytest.mark.parametrize(
    ("prediction", "line"),
    [
        ({"status": "starting"}, "m: starting"),
        ({"status": "succeeded", "outputs": [ARCHIVED, PENDING]}, "m: succeeded (1 of 2 outputs archived)"),
        ({"status": "succeeded", "archived_at": "x", "outputs": [ARCHIVED]}, "m: archived (1 output)"),
        ({"status": "succeeded", "archived_at": "x", "outputs": []}, "m: archived (no files, kept in the ledger)"),
        ({"status": "failed", "archived_at": "x", "error": "CUDA\x1b"}, "m: failed (CUDA\\x1b)"),
        ({"status": "canceled", "archived_at": "x", "error": None}, "m: canceled"),
        (
            {"status": "succeeded", "archived_at": "x", "outputs": [ARCHIVED, {"state": "lost", "reason": "404"}]},
            "m: lost (1 of 2: 404)",
        ),
    ],
)
def test_a_row_tells_how_far_a_prediction_is(prediction, line):
    assert row("m", prediction).line() == line
