"""The whole job in one command: every output archived, byte for byte, and not one setting of ours looked at."""

import hashlib
import json
import logging
import re
import signal
from pathlib import Path

import httpx
import pytest

from receiver.cli import acts
from receiver.cli.acts import ACTS, Act, Played
from receiver.cli.frame import run
from tests.servers.commands import started

# Whatever of these is looked at stops the demo, or would show in it.
POISON = {
    "REPLICATE_API_TOKEN": "r8_a_real_token_of_somebody",
    "OUTKEEP_REPLICATE_URL": "http://127.0.0.1:1/v1",
    "OUTKEEP_DATABASE_URL": "nonsense",
    "OUTKEEP_BUCKET_URL": "nonsense",
    "OUTKEEP_URL": "http://127.0.0.1:1",
    "OUTKEEP_KEY": "a-key-of-somebody-else",
    "OUTKEEP_WORKERS": "nonsense",
    "OUTKEEP_LOG_FORMAT": "nonsense",
}


@pytest.fixture
def quiet():
    """What a command does to the logging of its process is undone."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def archived(folder: Path) -> dict[str, str]:
    """SHA-256 of each file in the bucket, by its key."""
    objects = folder / "objects"
    files = [path for path in objects.rglob("*") if path.is_file() and path.relative_to(objects).parts[0] != ".tmp"]
    return {str(path.relative_to(objects)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_once_archives_every_output_and_ends(outkeep, bare):
    (bare / ".env").write_text("".join(f"{name}={value}\n" for name, value in POISON.items()))
    done = outkeep("demo", "--once", "--dir", "kept", **POISON)
    assert done.returncode == 0, done.stderr
    kept = archived(bare / "kept")
    manifests = [
        json.loads((bare / "kept" / "objects" / key).read_text()) for key in kept if key.endswith("manifest.json")
    ]
    assert sorted(manifest["prediction"]["model"] for manifest in manifests) == sorted(act.model for act in ACTS)
    outputs = [output for manifest in manifests for output in manifest["outputs"]]
    assert {output["state"] for output in outputs} == {"archived"}
    assert {key: digest for key, digest in kept.items() if not key.endswith("manifest.json")} == {
        output["key"]: output["sha256"] for output in outputs
    }
    assert all(Path(output["key"]).name in done.stdout for output in outputs)
    assert all(len(line) <= 80 for line in done.stdout.splitlines()[1:])
    assert f"The data lies in {bare / 'kept'}." in done.stderr
    assert done.stdout.count("archived") == len(outputs)
    assert "a real token" not in done.stdout + done.stderr


def test_the_demo_goes_on_serving_what_the_sandbox_served_until_ctrl_c(bare):
    with started(bare, "demo", "--dir", "kept", **POISON) as demo:
        demo.wait_for("Ctrl-C ends it")
        served = httpx.get(re.search(r"Stand-in +(\S+)", demo.said)[1]).json()  # type: ignore[index]
        truth = {file["sha256"] for told in served["predictions"] for file in told["truth"] if "sha256" in file}
        kept = {digest for key, digest in archived(bare / "kept").items() if not key.endswith("manifest.json")}
        assert truth <= kept
        for name in ("Gallery", "Predictions", "Events", "A file"):
            url = re.search(rf"{name} +(\S+)", demo.said)[1]  # type: ignore[index]
            assert httpx.get(url).status_code == 200, url
        assert demo.end(signal.SIGINT) == 0
        assert f"The data lies in {bare / 'kept'}" in demo.told()
        assert "Traceback" not in demo.told()


def test_without_a_folder_nothing_is_left(outkeep):
    done = outkeep("demo", "--once")
    folder = re.search(r"(\S+) is removed; --dir PATH keeps the data\.", done.stderr)
    assert folder is not None
    assert not Path(folder[1]).exists()
    assert done.returncode == 0


def test_the_same_folder_can_be_shown_again(outkeep):
    assert [outkeep("demo", "--once", "--dir", "kept").returncode for _ in range(2)] == [0, 0]


def test_a_lost_output_is_status_1(monkeypatch, capsys, quiet):
    monkeypatch.setattr(acts, "ACTS", (Act("sandbox/foreign", "a file on somebody else's host"),))
    assert run(["demo", "--once"]) == 1
    assert "outkeep: sandbox/foreign lost output." in capsys.readouterr().err


def test_what_is_not_archived_in_time_is_named(monkeypatch, capsys, quiet):
    monkeypatch.setattr(acts, "PATIENCE_S", 0.2)
    never = Act("sandbox/image", "never ends", {"prompt": "x", "sandbox": {"status": "never"}})
    monkeypatch.setattr(acts, "ACTS", (never,))
    assert run(["demo", "--once"]) == 1
    assert "outkeep: sandbox/image is not archived (" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("prediction", "ends", "missing"),
    [
        (
            {"archived_at": "x", "status": "succeeded", "outputs": [{"path": "output", "state": "archived"}]},
            "succeeded",
            None,
        ),
        ({"archived_at": "x", "status": "failed", "outputs": []}, "failed", None),
        ({"archived_at": "x", "status": "failed", "outputs": []}, "succeeded", "m failed instead of succeeded"),
        ({"archived_at": None, "status": "processing"}, "succeeded", "m is not archived (processing)"),
        (
            {"archived_at": "x", "status": "succeeded", "outputs": [{"path": "output.1", "state": "lost"}]},
            "succeeded",
            "m lost output.1",
        ),
    ],
)
def test_what_is_missing_is_told(prediction, ends, missing):
    assert Played(Act("m", "shows", {}, ends), prediction).missing() == missing
