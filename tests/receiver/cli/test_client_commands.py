"""predict, show, list and events, spoken to a running service that keeps what a sandbox makes."""

import json
import re
import signal
import subprocess
import time

import httpx
import pytest

from receiver.cli.frame import run
from tests.servers.commands import OUTKEEP, started

LINK = re.compile(r"http://127\.0\.0\.1:\d+/files/[A-Za-z0-9_-]{22}/output\.\d\.png")


@pytest.fixture
def made(client, capsys):
    """The id of a prediction of four images, archived."""
    assert run(["predict", "sandbox/four-images", "-i", "prompt=a cat", "--wait", "--json"]) == 0
    return str(json.loads(capsys.readouterr().out)["id"])


def test_predict_prints_the_id_alone(client, capsys):
    assert run(["predict", "sandbox/image", "-i", "prompt=a cat"]) == 0
    told = capsys.readouterr()
    assert re.fullmatch(r"[a-z0-9]{26}\n", told.out)
    assert told.err == ""


def test_predict_prints_what_replicate_would_have_answered(client, capsys):
    assert run(["predict", "sandbox/image", "-i", "prompt=a cat", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["status"], told["input"]["prompt"]) == ("starting", "a cat")


def test_predict_waits_for_links_that_give_the_files(client, capsys):
    assert run(["predict", "sandbox/four-images", "-i", "prompt=a cat", "--wait"]) == 0
    told = capsys.readouterr()
    links = told.out.split()
    assert len(links) == 4
    assert all(LINK.fullmatch(link) for link in links)
    assert httpx.get(links[3]).content.startswith(b"\x89PNG")
    assert "archived (4 outputs)" in told.err


def test_predict_gives_a_file_to_the_model(client, bare, capsys):
    (bare / "note.txt").write_text("hello")
    assert run(["predict", "sandbox/image", "-i", "prompt=@note.txt", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["input"]["prompt"] == "data:text/plain;base64,aGVsbG8="


def test_predict_prints_text_as_text(client, capsys):
    assert run(["predict", "meta/meta-llama-3-8b-instruct", "-i", "prompt=x", "-i", "max_tokens=3", "--wait"]) == 0
    assert len(capsys.readouterr().out.split()) == 3


def test_predict_prints_other_output_as_json(client, capsys):
    assert run(["predict", "sandbox/numbers", "-i", "prompt=x", "--wait"]) == 0
    assert json.loads(capsys.readouterr().out)["label"] == "cat"


def test_predict_by_version(client, capsys):
    models = httpx.get(
        f"{client.world.sandbox_url}/v1/models/replicate/hello-world", headers={"Authorization": "Bearer any"}
    )
    version = models.json()["latest_version"]["id"]
    for model in (version, f"replicate/hello-world:{version}"):
        assert run(["predict", model, "-i", "text=Bob", "--wait"]) == 0
        assert capsys.readouterr().out == "hello Bob\n"


def test_a_prediction_that_fails_is_status_1_with_its_error(client, capsys):
    assert run(["predict", "sandbox/fails", "-i", "message=Out of luck.", "--wait"]) == 1
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.splitlines()[-1] == "outkeep: The prediction failed: Out of luck."


def test_a_lost_output_is_status_1_with_its_reason(client, capsys):
    assert run(["predict", "sandbox/foreign", "-i", "prompt=x", "--wait"]) == 1
    told = capsys.readouterr()
    assert told.out == ""
    assert "lost (1 of 1: refused" in told.err
    assert "outkeep: output was lost: refused" in told.err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["predict", "no/such"], r"Replicate knows no 'no/such': look at its spelling, or name a version"),
        (["predict", "replicate/hello-world"], r"only some run without"),
        (["predict", "deployments/no/such"], r"Replicate knows no 'deployments/no/such'"),
        (["predict", "0" * 64], r"The service refused: .*version"),
        (["predict", "sandbox/image", "-i", "width=[]"], r"The service refused: .*width"),
        (["show", "nosuch"], r"Nothing is known of a prediction 'nosuch'"),
        (["show", "../predictions"], r"Nothing is known|The service refused"),
    ],
)
def test_what_the_service_refuses_is_told_in_one_sentence(client, capsys, arguments, sentence):
    assert run(arguments) == 1
    told = capsys.readouterr()
    assert told.out == ""
    assert len(told.err.splitlines()) == 1
    assert re.search(sentence, told.err), told.err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["list", "--status", "nonsense"], r"The service refused: .*status.* one of starting, processing"),
        (["list", "--after", "nonsense"], r"The service refused: .*after"),
        (["list", "--created-after", "yesterday"], r"The service refused: .*created_after"),
        (["deliveries", "--after", "nonsense"], r"The service refused: .*after"),
        (["events", "--after", "nonsense"], r"The service refused: .*cursor"),
        (["events", "--type", "nonsense"], r"The service refused: .*type"),
    ],
)
def test_wrong_usage_that_only_the_service_sees_is_wrong_usage_too(client, capsys, arguments, sentence):
    assert run(arguments) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert len(told.err.splitlines()) == 1
    assert re.search(sentence, told.err), told.err


def test_a_missing_or_wrong_key_is_told(client, monkeypatch, capsys):
    monkeypatch.setenv("OUTKEEP_KEY", "not-the-key-but-as-long")
    assert run(["list"]) == 1
    assert "does not know this key: set OUTKEEP_KEY" in capsys.readouterr().err
    monkeypatch.delenv("OUTKEEP_KEY")
    assert run(["list"]) == 1
    assert "asks for a key: set OUTKEEP_KEY" in capsys.readouterr().err


def test_show_tells_outputs_deliveries_and_events(made, capsys):
    assert run(["show", made]) == 0
    told = capsys.readouterr().out
    for part in (
        made,
        "sandbox/four-images",
        "a cat",
        "output.3",
        "image/png",
        "512×512",
        "webhook",
        "applied",
        "outkeep.prediction.archived",
    ):
        assert part in told
    assert len(LINK.findall(told)) == 4
    tables = [line for line in told.splitlines() if not line.startswith("  http")]
    assert all(len(line) <= 80 for line in tables)


def test_show_as_json_is_what_the_api_tells(made, capsys):
    assert run(["show", made, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert {"outputs", "deliveries", "events", "updates"} <= told.keys()


def test_show_tells_why_an_output_was_lost(client, capsys):
    run(["predict", "sandbox/foreign", "-i", "prompt=\x1b[31mred", "--wait", "--json"])
    number = json.loads(capsys.readouterr().out)["id"]
    assert run(["show", number]) == 0
    told = capsys.readouterr().out
    assert "  output: refused" in told
    assert "\x1b" not in told


def test_show_tells_what_was_tried_in_vain(client, capsys):
    run(["predict", "sandbox/image", "-i", "prompt=x", "-i", 'sandbox={"files": "once:500"}', "--wait", "--json"])
    number = json.loads(capsys.readouterr().out)["id"]
    assert run(["show", number]) == 0
    assert re.search(r"  \d{4}-\d\d-\d\d \d\d:\d\d:\d\d output: .*500", capsys.readouterr().out)


def test_show_cuts_what_is_long(client, capsys):
    run(["predict", "sandbox/numbers", "-i", f"prompt={'long ' * 500}", "--wait", "--json"])
    number = json.loads(capsys.readouterr().out)["id"]
    assert run(["show", number]) == 0
    told = capsys.readouterr().out
    assert "(2499 characters, --json has all)" in told
    assert '"label": "cat"' in told


def test_list_is_a_table_of_80_columns_with_whole_ids(made, capsys):
    assert run(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    row = next(line for line in lines if line.startswith(made))
    assert re.search(r"succeeded +4/4 +\d\d-\d\d \d\d:\d\d +sandbox/four-images", row)
    assert all(len(line) <= 80 for line in lines)


def test_list_filters_and_pages(made, capsys):
    assert (
        run(["list", "--model", "sandbox/four-images", "--status", "succeeded", "--archived", "--limit", "1", "--json"])
        == 0
    )
    page = json.loads(capsys.readouterr().out)
    assert [item["id"] for item in page["items"]] == [made]
    assert run(["list", "--limit", "1"]) == 0
    cursor = capsys.readouterr().err.split("--after ")[1].strip()
    assert run(["list", "--limit", "1", "--after", cursor]) == 0
    assert made not in capsys.readouterr().out
    assert run(["list", "--key", "nobody", "--open", "--created-after", "2026-01-01T00:00:00Z"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_events_are_one_cloudevent_a_line(made, capsys):
    assert run(["events"]) == 0
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    mine = [event["type"] for event in told if event["subject"] == made]
    assert mine[0] == "outkeep.prediction.created"
    assert mine[-1] == "outkeep.prediction.archived"
    assert [event["sequence"] for event in told] == sorted(event["sequence"] for event in told)


def test_events_start_after_a_cursor_and_end_at_a_limit(made, capsys):
    run(["events", "--limit", "3"])
    first = [json.loads(line)["sequence"] for line in capsys.readouterr().out.splitlines()]
    assert len(first) == 3
    run(["events", "--after", first[0], "--limit", "2"])
    assert [json.loads(line)["sequence"] for line in capsys.readouterr().out.splitlines()] == first[1:]
    run(["events", "--type", "outkeep.output.archived", "--limit", "2"])
    assert {json.loads(line)["type"] for line in capsys.readouterr().out.splitlines()} == {"outkeep.output.archived"}
    run(["events", "--after", "latest"])
    assert capsys.readouterr().out == ""


def test_a_reader_who_leaves_early_ends_the_feed_quietly(made):
    with subprocess.Popen([*OUTKEEP, "events"], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.wait(30) == 141
        assert process.stderr is not None
        assert process.stderr.read() == b""


def test_follow_tells_what_happens_next_until_ctrl_c(client, bare, capsys):
    keyed = {"OUTKEEP_URL": client.url, "OUTKEEP_KEY": "a-key-that-is-long-enough"}
    with started(bare / "follow", "events", "--follow", "--after", "latest", **keyed) as follow:
        deadline = time.monotonic() + 20
        while not follow.said and time.monotonic() < deadline:  # it may not have begun to follow yet
            run(["predict", "sandbox/numbers", "-i", "prompt=x"])
            number = capsys.readouterr().out.strip()
            try:
                follow.wait_for(number, seconds=2)
            except TimeoutError:
                continue
        assert json.loads(follow.said.splitlines()[0])["subject"] == number
        assert follow.end(signal.SIGINT) == 130
        assert follow.told() == ""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_waiting_can_be_left_and_says_how_to_come_back(client, bare, number):
    keyed = {"OUTKEEP_URL": client.url, "OUTKEEP_KEY": "a-key-that-is-long-enough"}
    endless = ["sandbox/image", "-i", "prompt=x", "-i", 'sandbox={"status": "never"}', "--wait"]
    with started(bare / "predict", "predict", *endless, **keyed) as predict:
        deadline = time.monotonic() + 20
        while "sandbox/image: " not in predict.told() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert predict.end(number) == 128 + number
        assert re.search(r"The prediction goes on without us: outkeep show [a-z0-9]{26}\n$", predict.told())
