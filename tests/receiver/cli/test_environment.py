"""The environment and `.env`."""

import os

import pytest

from receiver.cli.environment import called, environment
from receiver.core.errors import Misconfigured


def test_who_called_by_uv_is_told_to_do_so_again(monkeypatch):
    monkeypatch.delenv("UV_RUN_RECURSION_DEPTH", raising=False)
    assert called() == "outkeep"
    monkeypatch.setenv("UV_RUN_RECURSION_DEPTH", "1")
    assert called() == "uv run outkeep"


def test_the_environment_wins_over_the_file(bare, monkeypatch):
    monkeypatch.setenv("OUTKEEP_PORT", "9000")
    (bare / ".env").write_text(
        "OUTKEEP_PORT=1\nOUTKEEP_HOST='::1'\n# note\nexport OUTKEEP_WORKERS=2\nlonely\n", "utf-8"
    )
    told = environment()
    assert (told["OUTKEEP_PORT"], told["OUTKEEP_HOST"], told["OUTKEEP_WORKERS"]) == ("9000", "::1", "2")
    assert "lonely" not in told
    assert "OUTKEEP_HOST" not in os.environ


def test_nothing_in_the_file_is_filled_in(bare):
    (bare / ".env").write_text("OUTKEEP_API_KEYS=app=pa$HOME${HOME}ssword\n", "utf-8")
    assert environment()["OUTKEEP_API_KEYS"] == "app=pa$HOME${HOME}ssword"


def test_what_is_boto3s_goes_where_boto3_looks(bare, monkeypatch):
    monkeypatch.setenv("AWS_REGION", "from-outside")
    (bare / ".env").write_text("AWS_REGION=from-file\nAWS_ENDPOINT_URL_S3=http://127.0.0.1:1\n", "utf-8")
    environment()
    assert os.environ["AWS_REGION"] == "from-outside"
    assert os.environ["AWS_ENDPOINT_URL_S3"] == "http://127.0.0.1:1"


def test_a_byte_order_mark_is_no_part_of_a_name(bare):
    (bare / ".env").write_text("OUTKEEP_PORT=1\n", "utf-8-sig")
    assert environment()["OUTKEEP_PORT"] == "1"


def test_no_file_is_fine_and_a_folder_of_that_name_too(bare):
    assert "OUTKEEP_PORT" not in environment()
    (bare / ".env").mkdir()
    assert "OUTKEEP_PORT" not in environment()


def test_a_file_that_is_no_text_is_told_in_a_sentence(bare):
    (bare / ".env").write_bytes(b"OUTKEEP_PORT=\xff\n")
    with pytest.raises(Misconfigured, match=r"\.env can't be read: it is not UTF-8 text"):
        environment()
