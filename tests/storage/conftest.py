from collections.abc import Iterator
from pathlib import Path

import pytest

from storage.folder import FolderBucket
from storage.spool import Spool

MIB = 1024 * 1024


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    made = Spool(tmp_path / "spool", 256 * MIB, disk_free_min=0, wait_s=0.3)
    yield made
    made.close()


@pytest.fixture
async def bucket(tmp_path: Path):
    made = FolderBucket(tmp_path / "bucket")
    yield made
    await made.close()
