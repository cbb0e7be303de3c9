"""The proof in short is made for real: a service of its own, killed under load, on this machine's disk."""

import hashlib
import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from receiver.cli.frame import run
from receiver.cli.prove import disk, load
from receiver.cli.prove.compare import Kept, Truth, compared
from receiver.runtime.settings import read
from tests.servers.commands import started

PROMISES = ("disk", "made on", "kills", "webhooks", "predictions", "outputs", "objects", "events")

PROOF_S_MAX = 180  # a tenth of it where nobody else is at work


def rows(told: str) -> dict[str, str]:
    """What the table says of each thing, its lines put together."""
    found: dict[str, str] = {}
    about = ""
    for line in told.splitlines()[1:]:
        about = next((name for name in PROMISES if line.startswith(f"{name} ")), about)
        found[about] = " ".join(f"{found.get(about, '')} {line.removeprefix(about)}".split())
    return found


def at_work_in(folder: Path) -> list[str]:
    """The processes whose working directory lies in a folder."""
    here = [link for link in Path("/proc").glob("[0-9]*/cwd") if link.parent.name != str(os.getpid())]
    return [str(link) for link in here if _target(link).startswith(f"{folder}/")]


def _target(link: Path) -> str:
    try:
        return str(link.readlink())
    except OSError:  # it has ended meanwhile
        return ""


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "KILLS", 1)
    monkeypatch.setattr(load, "PREDICTIONS", 10)


@pytest.mark.timeout(PROOF_S_MAX + 60)
def test_the_proof_is_made_and_leaves_nothing(bare):
    folder = bare / "here"
    with started(
        folder, "check", "--prove", REPLICATE_API_TOKEN="r8_a_token", OUTKEEP_URL="http://127.0.0.1:1"
    ) as proof:
        assert proof.process.stdout is not None
        out = proof.process.stdout.read().decode()
        assert proof.process.wait(PROOF_S_MAX) == 0, out + proof.told()
    told = rows(out)
    assert told.keys() == set(PROMISES)
    assert "5 by SIGKILL under load, 6 starts." in told["kills"]
    assert "one for each output and manifest" in told["objects"]
    assert all(len(line) <= 80 for line in out.splitlines())
    assert [path.name for path in folder.iterdir()] == ["stderr"]
    assert at_work_in(folder) == []


def test_ctrl_c_leaves_neither_processes_nor_files(bare):
    folder = bare / "here"
    with started(folder, "check", "--prove") as proof:
        ends = time.monotonic() + 30
        while "Killed 1 of 5" not in proof.told() or not at_work_in(folder):
            assert time.monotonic() < ends, proof.told()
            time.sleep(0.05)
        assert proof.end(signal.SIGINT) == 1
        assert "outkeep: The proof was broken off; it has left nothing behind." in proof.told()
    assert [path.name for path in folder.iterdir()] == ["stderr"]
    assert at_work_in(folder) == []


def test_a_bucket_folder_that_cannot_be_written_fails_with_its_setting(outkeep, bare):
    (bare / "plain").write_text("no folder")
    done = outkeep("check", "--prove", OUTKEEP_BUCKET_URL=f"file:{bare}/plain/objects")
    assert done.returncode == 1
    assert "can't be written: Not a directory. Look at OUTKEEP_BUCKET_URL." in rows(done.stdout)["disk"]
    assert "failure" in done.stdout
    assert "kills" not in done.stdout


def test_a_service_that_does_not_start_fails_with_its_last_words(outkeep, bare):
    (bare / "broken").mkdir()
    (bare / "broken" / "aiosqlite.py").write_text("raise OSError(5, 'The library is broken')")
    done = outkeep("check", "--prove", PYTHONPATH=os.pathsep.join((f"{bare}/broken", os.environ.get("PYTHONPATH", ""))))
    assert done.returncode == 1
    assert "The service of the proof did not start: outkeep: " in rows(done.stdout)["kills"]
    assert at_work_in(bare) == []


def test_wrong_settings_are_told_before_anything_is_done(outkeep):
    done = outkeep("check", "--prove", OUTKEEP_BUCKET_URL="nonsense")
    assert (done.returncode, done.stdout) == (1, "")
    assert "OUTKEEP_BUCKET_URL" in done.stderr


def test_a_ledger_and_a_bucket_on_servers_are_left_alone_and_that_is_said(short, monkeypatch, capsys):
    monkeypatch.setenv("OUTKEEP_DATABASE_URL", "postgresql://user:password@127.0.0.1:1/ledger")
    monkeypatch.setenv("OUTKEEP_BUCKET_URL", "s3://bucket")
    assert run(["check", "--prove"]) == 0
    told = rows(capsys.readouterr().out)["made on"]
    assert "an embedded ledger instead of the Postgres one and a folder instead of the S3 bucket" in told
    assert "warning" in told


def test_memory_that_calls_itself_a_disk_is_warned_of():
    (found,) = disk.probed(read({"OUTKEEP_DATABASE_URL": "sqlite:////dev/shm/l.db", "OUTKEEP_SPOOL_DIR": "/dev/shm",
                                 "OUTKEEP_BUCKET_URL": "file:///dev/shm"}))  # fmt: skip
    assert found.level == "warning"
    assert "/dev/shm (ledger, spool, bucket): that is memory" in found.says


def test_a_slow_disk_is_warned_of_with_what_mends_it(monkeypatch):
    monkeypatch.setattr(disk, "SLOW_MS", 0.0)
    levels = {(found.level, "use a local SSD" in found.says) for found in disk.probed(read({}))}
    assert levels == {("warning", True)}


TRUTH = Truth(frozenset({"msg_1"}), {"p1": {"output": hashlib.sha256(b"bytes").hexdigest()}})
FACTS = ("prediction.created", "prediction.completed", "output.archived", "prediction.archived")


def kept(objects: Path) -> Kept:
    """What a service keeps of it when all is well."""
    (objects / "p1").mkdir(parents=True)
    (objects / "p1/output.png").write_bytes(b"bytes")
    (objects / "p1/manifest.json").write_text("{}")
    output = {"path": "output", "key": "p1/output.png"}
    known = {"id": "p1", "archived_at": "now", "manifest_key": "p1/manifest.json", "outputs": [output]}
    events = [
        {"type": f"outkeep.{kind}", "subject": "p1", "sequence": f"{number:016d}", "data": {"output": output}}
        for number, kind in enumerate(FACTS, 1)
    ]
    return Kept(frozenset({"msg_1", "msg_2"}), {"p1": known}, events)


def _open(told: Kept, _objects: Path) -> Kept:
    return replace(told, predictions={"p1": told.predictions["p1"] | {"archived_at": None}})


def _cut(told: Kept, objects: Path) -> Kept:
    (objects / "p1/output.png").write_bytes(b"byte")
    return told


def _left_over(told: Kept, objects: Path) -> Kept:
    (objects / "p1/output.png.part").write_bytes(b"by")
    return told


def _twice(told: Kept, _objects: Path) -> Kept:
    return replace(told, events=[*told.events, told.events[-1] | {"sequence": f"{len(FACTS) + 1:016d}"}])


def _gap(told: Kept, _objects: Path) -> Kept:
    return replace(told, events=[*told.events[:-1], told.events[-1] | {"sequence": "0000000000000009"}])


@pytest.mark.parametrize(
    ("damage", "failing"),
    [
        (lambda told, _: told, []),
        (lambda told, _: replace(told, deliveries=frozenset({"msg_2"})), ["webhooks"]),
        (_open, ["predictions"]),
        (lambda told, _: replace(told, predictions={}), ["predictions", "outputs", "objects"]),
        (_cut, ["outputs"]),
        (_left_over, ["objects"]),
        (_twice, ["events"]),
        (_gap, ["events"]),
        (lambda told, _: replace(told, events=told.events[1:]), ["events"]),
    ],
)
def test_what_is_not_as_promised_is_found(tmp_path, damage: Callable[[Kept, Path], Kept], failing: list[str]):
    objects = tmp_path / "objects"
    told = damage(kept(objects), objects)
    found = list(compared(TRUTH, told, objects))
    assert [each.about for each in found if each.level == "failure"] == failing
    assert all("Not so for " in each.says for each in found if each.level == "failure")
