"""The frame: what every command has in common."""

import json
import os
import subprocess
import sys

import click
import pytest

from receiver.cli import frame
from receiver.cli.frame import COMMANDS, Failure, run, sentence
from receiver.core.errors import LedgerUnavailable, Misconfigured
from storage.errors import BucketMisconfigured

HEAVY = ("httpx", "rich", "sqlalchemy", "starlette", "boto3", "botocore", "uvicorn", "asyncio", "svix", "alembic")


def test_help_loads_nothing_heavy():
    code = "import sys, receiver.cli.frame as f; f.run(['--help']); print(); print(__import__('json').dumps(list(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = json.loads(done.stdout.splitlines()[-1])
    assert not [name for name in loaded if name.split(".")[0] in HEAVY]
    assert not [name for name in loaded if name.startswith("receiver.cli.commands")]
    assert all(name in done.stdout for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_every_command_has_an_example(name, capsys):
    assert run([name, "--help"]) == 0
    told = capsys.readouterr().out
    assert "Example" in told
    assert f"outkeep {name}" in told.partition("Example")[2]
    assert "--debug" in told


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_a_command_loads_neither_web_nor_drivers(name):
    code = f"import sys, receiver.cli.frame as f; f.run(['{name}', '--help']); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {module.split(".")[0] for module in done.stdout.splitlines()[-1].split()}
    assert not loaded & {"httpx", "sqlalchemy", "starlette", "boto3", "uvicorn", "svix", "rich"}


def test_a_bare_call_shows_the_help(capsys):
    assert run([]) == 0
    assert "Usage: outkeep" in capsys.readouterr().out


def test_the_version_is_the_distributions(outkeep):
    from importlib.metadata import version

    done = outkeep("--version")
    assert (done.returncode, done.stdout) == (0, f"outkeep {version('outkeep')}\n")


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["--nonsense"],
        ["predict"],
        ["show"],
        ["list", "--limit", "0"],
        ["list", "--limit", "1001"],
        ["events", "--limit", "0"],
        ["serve", "--port", "65536"],
        ["serve", "surplus"],
        ["sandbox", "--speed", "0"],
        ["sandbox", "--mischief", "files"],
        ["sandbox", "--mischief", "files=nonsense"],
        ["sandbox", "--mischief", "nonsense=1"],
        ["predict", "no model at all"],
        ["predict", "owner/name", "-i", "novalue"],
        ["demo", "--dir", __file__],
    ],
)
def test_wrong_usage_is_one_sentence_and_status_2(arguments, capsys):
    assert run(arguments) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("outkeep: ")
    assert len(told.err.splitlines()) == 1
    assert "--help)." in told.err


def test_an_error_is_one_sentence_without_a_traceback(outkeep):
    done = outkeep("serve", OUTKEEP_PORT="http")
    assert done.returncode == 1
    assert (
        done.stderr == "outkeep: OUTKEEP_PORT is wrong: 'http' is not a port from 0 to 65535 (0 takes any free one).\n"
    )


def test_debug_shows_where_an_error_comes_from(outkeep):
    done = outkeep("serve", "--debug", OUTKEEP_PORT="http")
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("outkeep: OUTKEEP_PORT is wrong")


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (Failure("So it is."), "So it is."),
        (Misconfigured("Two\nlines\x1b[31m."), "Two lines\\x1b[31m."),
        (LedgerUnavailable("The disk is full."), "The disk is full."),
        (BucketMisconfigured("No such bucket."), "No such bucket."),
        (click.ClickException("Not so."), "Not so."),
        (PermissionError(13, "Permission denied", "/x"), "The system said no: Permission denied (/x)."),
        (OSError(24, "Too many open files"), "The system said no: Too many open files."),
        (KeyError("hunter2"), "Something went wrong that should not (KeyError); --debug shows where."),
        (ExceptionGroup("two", [Failure("The first."), Failure("The second.")]), "The first."),
    ],
)
def test_every_error_is_told_in_one_sentence(error, told):
    assert sentence(error) == told


def test_an_error_of_somebody_else_does_not_tell_its_text(monkeypatch, capsys):
    monkeypatch.setattr(frame.outkeep, "invoke", lambda _ctx: (_ for _ in ()).throw(RuntimeError("r8_verysecret")))
    assert run(["list"]) == 1
    assert "r8_verysecret" not in capsys.readouterr().err


def test_a_traceback_tells_no_secret(monkeypatch, capsys):
    monkeypatch.setattr(frame.outkeep, "invoke", lambda _ctx: (_ for _ in ()).throw(RuntimeError("r8_verysecret")))
    assert run(["list", "--debug"]) == 1
    told = capsys.readouterr().err
    assert "RuntimeError: [redacted]" in told
    assert "r8_verysecret" not in told


def test_ctrl_c_ends_quietly(monkeypatch, capsys):
    monkeypatch.setattr(frame.outkeep, "invoke", lambda _ctx: (_ for _ in ()).throw(KeyboardInterrupt))
    assert run(["list"]) == 130
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "arguments", [["--help"], ["demo", "--once"]], ids=" ".join
)  # click writes one, rich the other
def test_a_reader_who_leaves_early_is_no_error(arguments):
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as pipe:
        done = subprocess.run(
            [sys.executable, "-c", "from receiver.cli import main; main()", *arguments],
            stdout=pipe,
            stderr=subprocess.PIPE,
            check=False,
        )
    assert done.returncode == 141
    assert b"outkeep:" not in done.stderr
    assert b"Traceback" not in done.stderr


def test_a_terminal_without_unicode_does_not_end_a_command(outkeep):
    done = outkeep("show", "gm3q\u2713", PYTHONIOENCODING="ascii")
    assert done.returncode == 1
    assert "UnicodeEncodeError" not in done.stderr
