"""Looking whether everything is set up right, against a sandbox and real ledgers and buckets."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from receiver.runtime.check import check
from receiver.runtime.findings import Finding, Level
from receiver.sandbox.options import Options
from receiver.sandbox.server import Running, running
from tests.servers import postgres
from tests.servers.faulty_s3 import running_faulty_s3

TOKEN = "r8_the_only_token_that_is_taken_here"
OTHER_SECRET = "whsec_" + "A" * 32


@pytest.fixture
async def sandbox() -> AsyncIterator[Running]:
    async with running(Options(token=TOKEN, seed=1)) as up:
        yield up


def world(folder: Path, sandbox: Running, **more: str) -> dict[str, str]:
    return {
        "REPLICATE_API_TOKEN": TOKEN,
        "OUTKEEP_REPLICATE_URL": sandbox.api_url,
        "OUTKEEP_DATABASE_URL": f"sqlite:///{folder / 'ledger.db'}",
        "OUTKEEP_BUCKET_URL": f"file:{folder / 'objects'}",
        "OUTKEEP_SPOOL_DIR": str(folder / "spool"),
        "OUTKEEP_PORT": "1",  # nobody listens there
        **more,
    }


async def looked(environ: Mapping[str, str]) -> dict[str, Finding]:
    return {finding.about: finding async for finding in check(environ)}


@asynccontextmanager
async def answering(*answers: bytes) -> AsyncIterator[int]:
    """A server that gives the same raw answers in turn, path by path; gives its port."""
    left = list(answers)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(left.pop(0) if len(left) > 1 else left[0])
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


def reply(status: int, body: object = None, *headers: str) -> bytes:
    content = json.dumps(body).encode()
    head = [f"HTTP/1.1 {status} Said", f"Content-Length: {len(content)}", "Connection: close", *headers]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + content


HEALTHY = reply(200, {"status": "ok"})


async def test_a_good_set_up_is_ok_but_for_the_service_that_does_not_run(tmp_path, sandbox):
    found = await looked(world(tmp_path, sandbox))
    assert {about: finding.level for about, finding in found.items()} == {
        "settings": Level.OK,
        "ledger": Level.OK,
        "bucket": Level.OK,
        "spool": Level.OK,
        "replicate": Level.OK,
        "secret": Level.OK,
        "public url": Level.WARNING,
    }
    assert "conditional writes yes" in found["bucket"].says
    assert "outkeep serve" in found["public url"].says
    assert not [path for path in (tmp_path / "objects").rglob("*") if path.is_file()]


async def test_no_secret_is_told(tmp_path, sandbox):
    environ = world(
        tmp_path, sandbox, OUTKEEP_API_KEYS="app=a-key-of-twenty-characters", OUTKEEP_SINKS="http://x?secret=hush"
    )
    told = " ".join(finding.says for finding in (await looked(environ)).values())
    assert not [secret for secret in (TOKEN, "a-key-of", "hush", "whsec_") if secret in told]


async def test_an_unknown_name_gets_a_warning_with_a_guess(tmp_path, sandbox):
    found = [finding async for finding in check(world(tmp_path, sandbox, OUTKEEP_BUKET_URL="file:x"))]
    assert found[0].level == Level.WARNING
    assert "did you mean OUTKEEP_BUCKET_URL?" in found[0].says


async def test_a_wrong_setting_ends_the_look(tmp_path, sandbox):
    found = await looked(world(tmp_path, sandbox, OUTKEEP_WORKERS="many"))
    assert list(found) == ["settings"]
    assert found["settings"].level == Level.FAILURE
    assert "OUTKEEP_WORKERS is wrong" in found["settings"].says


async def test_a_keys_file_that_is_missing_is_a_failure(tmp_path, sandbox):
    found = await looked(world(tmp_path, sandbox, OUTKEEP_KEYS_FILE=str(tmp_path / "none.toml")))
    assert found["settings"].level == Level.FAILURE
    assert "OUTKEEP_KEYS_FILE" in found["settings"].says


async def test_sinks_are_told_to_be_of_no_use_yet(tmp_path, sandbox):
    assert (await looked(world(tmp_path, sandbox, OUTKEEP_SINKS="http://x/")))["sinks"].level == Level.FAILURE


async def test_a_ledger_that_cannot_be_opened_is_a_failure(tmp_path, sandbox):
    (tmp_path / "file").write_text("in the way")
    found = await looked(world(tmp_path, sandbox, OUTKEEP_DATABASE_URL=f"sqlite:///{tmp_path}/file/ledger.db"))
    assert found["ledger"].level == Level.FAILURE
    assert "OUTKEEP_DATABASE_URL" in found["ledger"].says
    assert found["bucket"].level == Level.OK  # one failure hides no other


async def test_a_folder_that_cannot_be_written_is_a_failure(tmp_path, sandbox):
    (tmp_path / "file").write_text("in the way")
    inside = str(tmp_path / "file" / "within")
    found = await looked(world(tmp_path, sandbox, OUTKEEP_BUCKET_URL=f"file:{inside}", OUTKEEP_SPOOL_DIR=inside))
    assert {found["bucket"].level, found["spool"].level} == {Level.FAILURE}
    assert "OUTKEEP_BUCKET_URL" in found["bucket"].says
    assert "OUTKEEP_SPOOL_DIR" in found["spool"].says


async def test_a_token_that_is_refused_is_a_failure_with_the_mend(tmp_path, sandbox):
    found = await looked(world(tmp_path, sandbox, REPLICATE_API_TOKEN="r8_wrong_token"))
    assert found["replicate"].level == Level.FAILURE
    assert "REPLICATE_API_TOKEN" in found["replicate"].says
    assert "secret" not in found


async def test_without_a_token_nothing_can_be_made(tmp_path, sandbox):
    blind = world(tmp_path, sandbox, REPLICATE_API_TOKEN="")
    del blind["REPLICATE_API_TOKEN"]
    assert (await looked(blind))["replicate"].level == Level.FAILURE
    assert (await looked(blind | {"OUTKEEP_WEBHOOK_SECRETS": sandbox.secret}))["replicate"].level == Level.WARNING


async def test_an_api_that_is_not_there_is_a_failure(tmp_path, sandbox):
    wrong = await looked(world(tmp_path, sandbox, OUTKEEP_REPLICATE_URL=f"{sandbox.url}/v7"))
    assert "OUTKEEP_REPLICATE_URL" in wrong["replicate"].says
    assert wrong["replicate"].level == Level.FAILURE


async def test_configured_secrets_are_compared_with_the_accounts(tmp_path, sandbox):
    right = await looked(world(tmp_path, sandbox, OUTKEEP_WEBHOOK_SECRETS=f"{OTHER_SECRET} {sandbox.secret}"))
    assert right["secret"].level == Level.OK
    wrong = await looked(world(tmp_path, sandbox, OUTKEEP_WEBHOOK_SECRETS=OTHER_SECRET))
    assert wrong["secret"].level == Level.FAILURE


async def test_a_secret_that_cannot_be_fetched_is_a_failure_unless_one_is_configured(tmp_path):
    async with running(Options(token=TOKEN, mischief={"secret": "404"})) as sandbox:
        assert (await looked(world(tmp_path, sandbox)))["secret"].level == Level.FAILURE
        configured = await looked(world(tmp_path, sandbox, OUTKEEP_WEBHOOK_SECRETS=OTHER_SECRET))
        assert configured["secret"].level == Level.WARNING


async def test_a_public_url_that_leads_to_a_service_is_ok(tmp_path, sandbox):
    async with answering(HEALTHY) as port:
        found = await looked(world(tmp_path, sandbox, OUTKEEP_PUBLIC_URL=f"http://127.0.0.1:{port}/prefix"))
    assert found["public url"].level == Level.OK


async def test_a_redirect_is_a_failure_since_replicate_follows_none(tmp_path, sandbox):
    async with answering(reply(301, None, "Location: /elsewhere")) as port:
        found = await looked(world(tmp_path, sandbox, OUTKEEP_PUBLIC_URL=f"http://127.0.0.1:{port}"))
    assert found["public url"].level == Level.FAILURE
    assert "follows none" in found["public url"].says


@pytest.mark.parametrize("answer", [reply(502, None), reply(200, {"status": "other"}), reply(200)[:-1] + b"!"])
async def test_a_public_url_that_leads_elsewhere_is_a_failure_while_the_service_runs(tmp_path, sandbox, answer):
    async with answering(HEALTHY, HEALTHY) as here, answering(answer) as there:
        environ = world(tmp_path, sandbox, OUTKEEP_PORT=str(here), OUTKEEP_PUBLIC_URL=f"http://127.0.0.1:{there}")
        found = await looked(environ)
    assert found["public url"].level == Level.FAILURE
    assert "answers" in found["public url"].says


async def test_a_public_url_that_nobody_answers_is_a_failure_while_the_service_runs(tmp_path, sandbox):
    async with answering(HEALTHY) as here:
        environ = world(tmp_path, sandbox, OUTKEEP_PORT=str(here), OUTKEEP_PUBLIC_URL="http://127.0.0.1:1")
        found = await looked(environ)
    assert "can't be reached (ConnectError)" in found["public url"].says
    assert found["public url"].level == Level.FAILURE


async def test_a_sqlite_ledger_in_use_is_asked_about_where_it_is_used(tmp_path, sandbox):
    async with answering(HEALTHY) as port:
        assert (await looked(world(tmp_path, sandbox, OUTKEEP_PORT=str(port))))["ledger"].level == Level.OK
    async with answering(HEALTHY, reply(503, None), HEALTHY) as port:
        assert (await looked(world(tmp_path, sandbox, OUTKEEP_PORT=str(port))))["ledger"].level == Level.FAILURE
    assert not (tmp_path / "ledger.db").exists()


async def test_plain_http_is_a_failure_when_the_real_replicate_should_call(tmp_path, sandbox):
    environ = world(
        tmp_path,
        sandbox,
        REPLICATE_API_TOKEN="",
        OUTKEEP_REPLICATE_URL="http://replicate.invalid/v1",
        OUTKEEP_API_KEYS="app=a-key-of-twenty-characters",
        OUTKEEP_HOST="0.0.0.0",
        OUTKEEP_PUBLIC_URL="http://outkeep.invalid",
    )
    found = await looked(environ)
    assert found["public url"].level == Level.FAILURE
    assert "not https" in found["public url"].says


async def test_a_loopback_url_means_that_replicate_is_asked_instead(tmp_path, sandbox):
    elsewhere = {"REPLICATE_API_TOKEN": "", "OUTKEEP_REPLICATE_URL": "http://replicate.invalid/v1"}
    found = await looked(world(tmp_path, sandbox, **elsewhere))
    assert found["public url"].level == Level.WARNING
    assert "every 2 s" in found["public url"].says


async def test_replicate_without_an_answer_is_a_failure_with_its_words(tmp_path):
    async with running(Options(token=TOKEN, mischief={"api": "402"})) as sandbox:
        found = await looked(world(tmp_path, sandbox))
    assert found["replicate"].level == Level.FAILURE
    assert "OUTKEEP_REPLICATE_URL" in found["replicate"].says


async def test_a_bucket_on_another_machine_is_told_by_its_setting(tmp_path, sandbox):
    found = await looked(world(tmp_path, sandbox, OUTKEEP_BUCKET_URL="file://elsewhere/x"))
    assert found["bucket"].level == Level.FAILURE
    assert "OUTKEEP_BUCKET_URL" in found["bucket"].says


async def test_a_bucket_that_honours_conditions_is_ok_and_a_missing_one_a_failure(tmp_path, sandbox, s3_environment):
    there = await looked(world(tmp_path, sandbox, OUTKEEP_BUCKET_URL=s3_environment.url()))
    assert there["bucket"].level == Level.OK
    missing = await looked(world(tmp_path, sandbox, OUTKEEP_BUCKET_URL="s3://no-such-bucket-here"))
    assert missing["bucket"].level == Level.FAILURE
    assert "OUTKEEP_BUCKET_URL" in missing["bucket"].says


async def test_a_bucket_that_is_not_there_or_refuses_is_told_by_the_setting_to_mend(
    tmp_path, sandbox, s3_environment, monkeypatch
):
    environ = world(tmp_path, sandbox, OUTKEEP_BUCKET_URL=s3_environment.url())
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush")
    refused = (await looked(environ))["bucket"].says
    assert "AWS_SECRET_ACCESS_KEY" in refused
    assert "OUTKEEP_BUCKET_URL" not in refused  # which is right
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:1")
    assert "AWS_ENDPOINT_URL_S3" in (await looked(environ))["bucket"].says


async def test_a_bucket_without_conditional_writes_is_a_warning(tmp_path, sandbox, monkeypatch):
    with running_faulty_s3() as server:
        server.conditions = "ignored"
        for name, value in {"ENDPOINT_URL_S3": server.endpoint, "ACCESS_KEY_ID": "x", "SECRET_ACCESS_KEY": "x"}.items():
            monkeypatch.setenv(f"AWS_{name}", value)
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        found = await looked(world(tmp_path, sandbox, OUTKEEP_BUCKET_URL="s3://bucket"))
    assert found["bucket"].level == Level.WARNING
    assert "conditional writes no" in found["bucket"].says


async def test_a_postgres_ledger_is_opened_and_written(tmp_path, sandbox):
    url = await postgres.server().database()
    found = await looked(world(tmp_path, sandbox, OUTKEEP_DATABASE_URL=url))
    assert found["ledger"] == Finding(
        Level.OK, "ledger", "It opens, its schema is up to date, and it can be written (postgresql)."
    )
    wrong = await looked(world(tmp_path, sandbox, OUTKEEP_DATABASE_URL=url.replace(postgres.PASSWORD, "hush-hush")))
    assert wrong["ledger"].level == Level.FAILURE
    assert "hush-hush" not in wrong["ledger"].says
