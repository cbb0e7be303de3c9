"""deliveries and replay, spoken to a running service that has taken, refused and not understood some calls."""

import hashlib
import json
import re

import httpx
import pytest

from receiver.cli.frame import run
from tests.receiver.cli.conftest import KEY
from tests.servers.commands import started

NOTHING = {"let_in": 0, "read_again": 0, "still_refused": 0, "already_here": 0, "unknown": []}


@pytest.fixture
def forged(client, capsys):
    """The id under which a call is kept that nobody signed."""
    body = json.dumps({"id": "p1", "logs": "long \x1b[31m" * 1000, "input": {"token": "very-secret"}})
    headers = {"webhook-id": "msg_1", "webhook-timestamp": "1614265330", "webhook-signature": "v1,x"}
    assert httpx.post(f"{client.url}/webhooks/replicate", content=body, headers=headers).status_code == 401
    for _ in range(200):
        assert run(["deliveries", "--state", "quarantined", "--json"]) == 0
        items = json.loads(capsys.readouterr().out)["items"]
        if items and items[0]["reason"].startswith("its timestamp"):
            return str(items[0]["id"])
    raise AssertionError("it is not there")


@pytest.fixture
def made(client, capsys):
    """The id of a prediction that is archived."""
    assert run(["predict", "sandbox/image", "-i", "prompt=a cat", "--wait", "--json"]) == 0
    return str(json.loads(capsys.readouterr().out)["id"])


def test_deliveries_are_a_table_of_80_columns_with_whole_ids(forged, made, capsys):
    assert run(["deliveries"]) == 0
    told = capsys.readouterr().out
    assert all(len(line) <= 80 for line in told.splitlines())
    assert re.search(rf"{re.escape(forged)} +\d\d-\d\d \d\d:\d\d +quarantined +its timestamp is", told)
    assert re.search(r"msg_\w+ +\d\d-\d\d \d\d:\d\d +(applied|accepted|repeated|stale)", told)
    assert made in told


def test_deliveries_are_filtered_and_paged(made, capsys):
    assert run(["deliveries", "--prediction", made, "--json"]) == 0
    items = json.loads(capsys.readouterr().out)["items"]
    assert {item["prediction"] for item in items} == {made}
    assert run(["deliveries", "--prediction", made, "--limit", "1"]) == 0
    told = capsys.readouterr()
    assert items[0]["id"] in told.out
    cursor = told.err.split("--after ")[1].strip()
    assert run(["deliveries", "--prediction", made, "--limit", "1", "--after", cursor]) == 0
    assert items[1]["id"] in capsys.readouterr().out


def test_one_delivery_is_shown_without_secrets_and_cut(forged, capsys):
    assert run(["deliveries", forged]) == 0
    told = capsys.readouterr()
    for part in (forged, "quarantined", "its timestamp is over 5 minutes off", "webhook-id: msg_1", '"id": "p1"'):
        assert part in told.out
    assert "webhook-signature: [redacted]" in told.out
    assert "very-secret" not in told.out
    assert "\x1b" not in told.out
    assert "--json has more" in told.err
    assert run(["deliveries", forged, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["body"]["logs"] == "long \x1b[31m" * 1000


def test_a_dry_run_counts_and_changes_nothing(forged, capsys):
    assert run(["replay", forged, "--dry-run"]) == 0
    told = capsys.readouterr()
    assert re.search(r"^ +1  not verified", told.out, re.MULTILINE)
    assert told.err.startswith("Nothing was changed")
    assert run(["replay", forged, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == NOTHING | {"dry_run": False, "still_refused": 1}


def test_what_was_signed_is_read_again(made, capsys):
    run(["deliveries", "--prediction", made, "--json"])
    before = json.loads(capsys.readouterr().out)["items"]
    ids = [item["id"] for item in before]
    assert run(["replay", *ids, *ids, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == NOTHING | {"dry_run": False, "read_again": len(ids)}
    assert (
        run(["replay", "--state", "applied", "--since", "2026-01-01T00:00:00Z", "--until", "2026-01-02T00:00:00Z"]) == 0
    )
    assert re.search(r"^ +0  signed, and read again$", capsys.readouterr().out, re.MULTILINE)


def test_a_delivery_that_is_not_there_is_told_in_one_sentence(client, capsys):
    assert run(["deliveries", "nosuch"]) == 1
    told = capsys.readouterr()
    assert told.out == ""
    assert len(told.err.splitlines()) == 1
    assert told.err.startswith("outkeep: There is no delivery 'nosuch' at http")


@pytest.mark.parametrize(
    "arguments",
    [
        ["deliveries", "--state", "nonsense"],
        ["replay", "--state", "nonsense"],
        ["replay", "--state", "accepted"],
        ["replay", "--since", "yesterday"],
        ["replay", "--since", ""],
        ["replay", "--until", "2026-02-30T00:00:00Z"],
    ],
)
def test_a_wrong_value_is_wrong_usage_before_anybody_is_asked(arguments, capsys):
    assert run(arguments) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert re.fullmatch(rf"outkeep: Invalid value for '{arguments[1]}': .*\n", told.err), told.err


def test_what_is_chosen_may_be_told_by_how_long_ago_it_came(forged, capsys):
    assert run(["replay", "--state", "quarantined", "--since", "1h", "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["still_refused"] >= 1
    assert run(["replay", "--state", "quarantined", "--until", "1h", "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == NOTHING | {"dry_run": True}


def test_a_replay_that_is_broken_off_tells_how_far_it_came(up, tmp_path, monkeypatch, capsys):
    digest = hashlib.sha256(KEY.encode()).hexdigest()
    entry = f'name = "a"\nsha256 = "{digest}"\nscopes = ["admin"]\nlimits = {{ requests_per_minute = 1 }}'
    (tmp_path / "keys.toml").write_text(f"[[keys]]\n{entry}\n")
    environ = {**up.world.environ, "OUTKEEP_KEYS_FILE": str(tmp_path / "keys.toml")}
    with started(tmp_path / "own", "serve", "--port", "0", **environ) as service:
        monkeypatch.setenv("OUTKEEP_URL", service.wait_for(r"listens on (http://[^;,\s]+)")[1])
        monkeypatch.setenv("OUTKEEP_KEY", KEY)
        assert run(["replay", *(f"msg_{place}" for place in range(1_001))]) == 1
        assert service.end() == 0
    told = capsys.readouterr()
    assert re.search(r"^ +0  verified, and let in as deliveries$", told.out, re.MULTILINE)
    assert re.fullmatch(r"outkeep: .*throttled.* That is how far it came; .*\n", told.err), told.err


def test_an_id_that_is_not_there_is_named_after_the_counts(forged, capsys):
    assert run(["replay", forged, "nosuch"]) == 1
    told = capsys.readouterr()
    assert re.search(r"^ +1  not verified", told.out, re.MULTILINE)
    assert told.err == "outkeep: There is no delivery nosuch.\n"


@pytest.mark.parametrize(
    "arguments", [["replay"], ["replay", "msg_1", "--state", "applied"], ["deliveries", "msg_1", "--limit", "3"]]
)
def test_it_has_to_be_clear_which_are_meant(arguments, capsys):
    assert run(arguments) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
