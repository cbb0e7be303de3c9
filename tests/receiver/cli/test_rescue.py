"""`outkeep rescue` against a service that says anything: what it has heard it tells, however the rest goes."""

import json

import pytest

from receiver.cli.frame import run
from tests.receiver.cli.test_service import answering

GOING = {
    "since": "2026-11-22T08:00:00.000Z", "found": [], "updated": [], "running": [], "settled": 0, "tried_again": [],
    "gone": [], "next": None, "trouble": None,
}  # fmt: skip
KNOWN = {
    "id": "p1", "status": "succeeded", "archived_at": "2026-11-22T08:00:00.000Z",
    "outputs": [{"path": "output", "state": "archived", "url": "http://127.0.0.1/files/x/output.png"}],
}  # fmt: skip


def said(told: object, status: int = 200) -> tuple[int, bytes]:
    return status, json.dumps(told).encode()


@pytest.fixture
def rescue(monkeypatch, capsys):
    """Run the command against answers in turn; gives exit status, standard output, standard error, paths asked for."""

    def make(*answers: tuple[int, bytes]):
        with answering(*answers) as (url, heard):
            monkeypatch.setenv("OUTKEEP_URL", url)
            status = run(["rescue", "--json"])
        told = capsys.readouterr()
        return status, json.loads(told.out), told.err, heard

    return make


def test_a_service_without_time_for_us_is_asked_again(rescue):
    shed = said({"title": "Service unavailable", "detail": "Webhooks come first."}, 503)
    status, told, _, heard = rescue(said(GOING | {"found": ["p1"]}), shed, shed, said(KNOWN))
    assert (status, told["pending"]) == (0, [])
    assert [each["prediction"] for each in told["saved"]] == ["p1"]
    assert len(heard) == 4


def test_a_list_that_does_not_go_on_is_left_and_told(rescue):
    """However its pages begin anew: every answer goes on before the one ahead of it, or there is no end."""
    parts = [said(GOING | {"next": f"2026-11-22T0{hour}:00:00.000Z"}) for hour in (7, 6, 7)]
    status, told, err, heard = rescue(*parts)
    assert (status, told["complete"], len(heard)) == (1, False, 3)
    assert "does not go on" in err


def test_what_the_service_left_out_is_told(rescue):
    trouble = "The account's list could not be read: Replicate refused our own token."
    status, told, err, _ = rescue(said(GOING | {"found": ["p1"], "trouble": trouble}), said(KNOWN))
    assert (status, told["complete"], len(told["saved"])) == (1, False, 1)
    assert err.splitlines()[-1] == f"outkeep: {trouble}"
