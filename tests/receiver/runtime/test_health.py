"""What is told to be down."""

import random
import time

import pytest

from receiver.replicate.client import Replicate
from receiver.runtime.health import Health
from receiver.sandbox.options import Options
from receiver.sandbox.server import running
from storage.buckets import open_bucket

TOKEN = "r8_the_only_token_that_is_taken_here"


async def failing(bucket_url: str, token: str = TOKEN) -> list[str]:
    async with running(Options(token=TOKEN)) as sandbox:
        asked = Replicate(base_url=sandbox.api_url, token=token, clock=time.monotonic, rng=random.Random(1))
        bucket = open_bucket(bucket_url)
        try:
            async with asked:
                return await Health(bucket=bucket, replicate=asked, clock=time.monotonic).failing()
        finally:
            await bucket.close()


async def test_all_is_well_though_nothing_is_kept_yet(tmp_path, s3_environment):
    assert await failing(s3_environment.url()) == []
    assert await failing(f"file:{tmp_path / 'objects'}") == []


async def test_a_bucket_that_does_not_exist_is_failing(s3_environment):
    assert await failing("s3://no-such-bucket-here/prefix") == ["bucket"]


@pytest.mark.parametrize("setting", ["AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID"])
async def test_a_bucket_that_refuses_our_key_is_failing(s3_environment, monkeypatch, setting):
    monkeypatch.setenv(setting, "wrong")
    assert await failing(s3_environment.url()) == ["bucket"]


async def test_a_token_that_is_refused_is_failing(tmp_path):
    assert await failing(f"file:{tmp_path / 'objects'}", token="r8_wrong_token") == ["replicate"]
