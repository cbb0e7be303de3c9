"""serve, work, migrate and sandbox as processes: what they say, how they end, what they refuse."""

import re
import signal
import socket
import time

import httpx
import pytest

from receiver.cli import running
from receiver.cli.frame import Failure, run
from tests.servers import postgres
from tests.servers.commands import sandboxed, started

KEY = {"OUTKEEP_API_KEYS": "tester=a-key-that-is-long-enough"}
LISTENS = r"Outkeep listens on (http://[^;,\s]+)"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    with sandboxed(tmp_path_factory.mktemp("sandbox")) as up:
        yield up


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_serve_says_one_line_answers_and_ends_in_time(bare, world, number):
    with started(bare / "s", "serve", "--port", "0", **world.environ) as service:
        url = service.wait_for(LISTENS + r"; outputs go to file:///\S+\n")[1]
        assert httpx.get(f"{url}/healthz").json() == {"status": "ok"}
        began = time.monotonic()
        assert service.end(number) == 0
        assert time.monotonic() - began < 10
        assert service.said.count("\n") == 1
        assert "Traceback" not in service.told()


def test_serve_reads_the_file_in_the_working_directory(bare):
    (bare / "s").mkdir()
    port = running.free_port("127.0.0.1")
    (bare / "s" / ".env").write_text(f"OUTKEEP_PORT={port}\nOUTKEEP_BUKET_URL=file:x\n")
    with started(bare / "s", "serve") as service:
        assert service.wait_for(LISTENS)[1] == f"http://127.0.0.1:{port}"
        assert service.end() == 0
        assert "OUTKEEP_BUKET_URL is not a setting; did you mean OUTKEEP_BUCKET_URL?" in service.told()


def test_serve_tells_where_it_is_reached_when_that_is_elsewhere(bare, world):
    elsewhere = {**world.environ, **KEY, "OUTKEEP_PUBLIC_URL": "https://outkeep.example.com/files"}
    with started(bare / "s", "serve", "--host", "127.0.0.1", "--port", "0", **elsewhere) as service:
        service.wait_for(LISTENS + ", reached at https://outkeep.example.com/files; ")


def refused(outkeep, *arguments, **environ):
    """What a command says that must not start."""
    done = outkeep(*arguments, **environ)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("outkeep: ")
    assert len(done.stderr.splitlines()) == 1
    return done.stderr


def test_a_taken_port_is_one_sentence(outkeep):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert f"OUTKEEP_PORT {port} is taken" in refused(outkeep, "serve", "--port", port)
        assert "can't be listened on: " in refused(outkeep, "sandbox", "--port", port)


def test_an_address_that_is_not_ours_is_one_sentence(outkeep):
    told = refused(
        outkeep, "serve", "--host", "192.0.2.1", "--port", "0", OUTKEEP_PUBLIC_URL="https://x.example", **KEY
    )
    assert "OUTKEEP_HOST '192.0.2.1' can't be listened on" in told


def test_a_folder_that_cannot_be_written_is_one_sentence(outkeep, bare):
    (bare / "file").write_text("in the way")
    for name in ("file", "file/within"):
        said = refused(outkeep, "serve", "--port", "0", OUTKEEP_SPOOL_DIR=name)
        assert f"OUTKEEP_SPOOL_DIR is wrong: '{name}'" in said
    wrong = {
        "OUTKEEP_DATABASE_URL": ["sqlite:///file/ledger.db", "sqlite:///file", f"sqlite:///{bare}"],
        "OUTKEEP_BUCKET_URL": ["file:file", "file:file/within", "file:/proc/within"],
    }
    for setting, values in wrong.items():
        for value in values:
            assert setting in refused(outkeep, "serve", "--port", "0", **{setting: value})
    assert "OUTKEEP_DATABASE_URL" in refused(outkeep, "migrate", OUTKEEP_DATABASE_URL="sqlite:///file/ledger.db")
    assert "--dir can't be used: Not a directory" in refused(outkeep, "demo", "--dir", "file/within")


@pytest.mark.parametrize("arguments", [["work"], ["serve", "--no-worker"]])
def test_a_sqlite_ledger_has_one_process(outkeep, bare, arguments):
    assert "A SQLite ledger has one process" in refused(outkeep, *arguments)
    assert not (bare / "outkeep-data").exists()


def test_a_second_service_on_the_same_sqlite_ledger_is_refused(outkeep, bare, world):
    with started(bare, "serve", "--port", "0", **world.environ) as service:
        service.wait_for(LISTENS)
        assert "in use by another process" in refused(outkeep, "serve", "--port", "0")


@pytest.mark.parametrize(
    ("environ", "told"),
    [
        ({"OUTKEEP_HOST": "0.0.0.0"}, "OUTKEEP_PUBLIC_URL is missing"),
        ({"OUTKEEP_PUBLIC_URL": "https://outkeep.example.com"}, "OUTKEEP_API_KEYS is missing"),
        ({"OUTKEEP_API_KEYS": "tester=hush"}, "OUTKEEP_API_KEYS is wrong: its value (not shown)"),
        ({"OUTKEEP_WEBHOOK_SECRETS": "whsec_hush"}, "OUTKEEP_WEBHOOK_SECRETS is wrong: its value (not shown)"),
        ({"OUTKEEP_DATABASE_URL": "mysql://user:hush@host/x"}, "OUTKEEP_DATABASE_URL is wrong: its value (not shown)"),
        ({"OUTKEEP_BUCKET_URL": "gs://bucket"}, "OUTKEEP_BUCKET_URL is wrong: 'gs://bucket' is not file:PATH"),
        ({"OUTKEEP_KEYS_FILE": "none.toml"}, "OUTKEEP_KEYS_FILE"),
        (
            {"OUTKEEP_DATABASE_URL": "postgresql://user:hush@127.0.0.1:1/x"},
            "OUTKEEP_DATABASE_URL: Postgres at 127.0.0.1:1 can't be used",
        ),
    ],
)
def test_a_wrong_setting_stops_the_start_with_one_sentence(outkeep, environ, told):
    said = refused(outkeep, "serve", **environ)
    assert told in said
    assert "hush" not in said


def test_a_token_that_replicate_refuses_is_told_to_who_asks(bare, outkeep):
    with (
        sandboxed(bare / "sandbox", "--mischief", "create=401") as world,
        started(bare / "s", "serve", "--port", "0", **world.environ) as service,
    ):
        url = service.wait_for(LISTENS)[1]
        done = outkeep("predict", "sandbox/image", "-i", "prompt=x", OUTKEEP_URL=url)
    assert done.returncode == 1
    assert "REPLICATE_API_TOKEN" in done.stderr


def test_check_says_a_line_for_each_thing_and_fails_when_one_does(capsys, monkeypatch):
    monkeypatch.setenv("OUTKEEP_PORT", "1")
    assert run(["check"]) == 1
    told = capsys.readouterr().out.splitlines()
    assert told[0].startswith("ok      settings:   ")
    assert any(line.startswith("failure replicate:  Set REPLICATE_API_TOKEN") for line in told)


def test_check_is_well_while_a_service_runs(bare, world, outkeep):
    with started(bare, "serve", "--port", "0", **world.environ) as service:
        port = service.wait_for(LISTENS)[1].rpartition(":")[2]
        done = outkeep("check", **world.environ, OUTKEEP_PORT=port)
        assert done.returncode == 0, done.stdout
        assert {line.split()[0] for line in done.stdout.splitlines()} == {"ok"}


def test_migrate_says_that_all_is_well_and_may_be_repeated(capsys):
    for _ in range(2):
        assert run(["migrate"]) == 0
        assert capsys.readouterr().out == "The ledger's schema is up to date.\n"


async def test_web_and_workers_on_postgres_share_the_work(bare, world):
    url = await postgres.server().database()
    shared = {
        **world.environ,
        "OUTKEEP_DATABASE_URL": url,
        "OUTKEEP_BUCKET_URL": f"file:{bare / 'objects'}",
        "OUTKEEP_PORT": str(running.free_port("127.0.0.1")),
    }
    with started(bare / "web", "serve", "--no-worker", **shared) as web:
        service = web.wait_for(LISTENS)[1]
        with started(bare / "worker", "work", **shared) as worker:
            worker.wait_for(r"Outkeep works, 8 outputs at once; they go to file:///\S+/objects\n")
            made = [*started_prediction(service)]
            assert re.fullmatch(r"http://127\.0\.0\.1:\d+/files/\S{22}/output\.webp", made[0])
            assert worker.end() == 0
        assert web.end() == 0
        assert "Traceback" not in web.told() + worker.told()


def started_prediction(url):
    """The links of a prediction that is made and archived there."""
    told = httpx.post(f"{url}/v1/models/sandbox/image/predictions", json={"input": {"prompt": "x"}})
    number = told.json()["id"]
    for _ in range(200):
        prediction = httpx.get(f"{url}/api/predictions/{number}").json()
        if prediction["archived_at"]:
            return [output["url"] for output in prediction["outputs"]]
        time.sleep(0.1)
    raise AssertionError(prediction)


def test_the_sandbox_misbehaves_as_asked(bare):
    with sandboxed(bare, "--mischief", "create=429:7", "--mischief", "create=ok", "--retention", "5") as world:
        headers = {"Authorization": "Bearer any"}
        answer = httpx.get(f"{world.sandbox_url}/_sandbox").json()
        assert answer["retention_s"] == 5
        url = f"{world.sandbox_url}/v1/models/sandbox/image/predictions"
        assert httpx.post(url, headers=headers, json={"input": {"prompt": "x"}}).status_code == 429


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_sandbox_ends_when_told_to(bare, number):
    with started(bare, "sandbox", "--port", "0") as sandbox:
        sandbox.wait_for("outkeep serve")
        assert sandbox.end(number) == 0


def test_a_free_port_needs_an_address_of_ours():
    assert 0 < running.free_port("127.0.0.1") < 65536
    with pytest.raises(Failure, match=r"OUTKEEP_HOST '192\.0\.2\.1' can't be listened on"):
        running.free_port("192.0.2.1")
