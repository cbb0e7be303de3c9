"""The one place that chooses ledger, bucket, clock and chance."""

import random
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from functools import partial
from importlib.metadata import version

from receiver.core.errors import LedgerOutdated, LedgerUnavailable, Misconfigured
from receiver.flows.archive import Fetch
from receiver.ledger.ledger import Ledger, migrate
from receiver.replicate.client import Replicate
from receiver.replicate.secrets import SigningSecrets
from receiver.replicate.signature import Secret
from receiver.runtime.house import House, Outside, furnished
from receiver.runtime.keys import Keys
from receiver.runtime.settings import Settings
from storage.address import AllowedHosts
from storage.archive import archive
from storage.bucket import Bucket
from storage.buckets import open_bucket
from storage.errors import StorageError
from storage.fetch import Fetcher
from storage.spool import Spool

LINK_BYTES = 16  # 128 random bits, 22 characters: what makes a permanent link a capability


def clock_ms() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000


def program_version() -> str:
    return version("outkeep")


@asynccontextmanager
async def open_house(settings: Settings, *, now_ms: Callable[[], int] = clock_ms) -> AsyncIterator[House]:
    """Open ledger, bucket and connections; close them at the end. Raises Misconfigured, LedgerUnavailable."""
    if settings.sinks:
        raise Misconfigured("OUTKEEP_SINKS can't be used yet: this version tells events by its feed (GET /events).")
    async with AsyncExitStack() as stack:
        keys = Keys.load(settings)
        ledger = await open_ledger(settings, now_ms=now_ms)
        stack.push_async_callback(ledger.close)
        outside = await _outside(settings, stack, ledger=ledger, now_ms=now_ms)
        house = furnished(settings, outside, keys=keys)
        stack.push_async_callback(house.accept.quarantine.close)
        yield house


async def _outside(settings: Settings, stack: AsyncExitStack, *, ledger: Ledger, now_ms: Callable[[], int]) -> Outside:
    chance = random.SystemRandom()
    agent = f"outkeep/{program_version()}"
    bucket = bucket_of(settings)
    stack.push_async_callback(bucket.close)
    hosts = AllowedHosts.parse(settings.output_hosts)
    fetcher = Fetcher(hosts, threads=settings.workers, user_agent=agent)
    stack.callback(fetcher.close)
    replicate = Replicate(
        base_url=settings.replicate_url,
        token=settings.replicate_token,
        clock=time.monotonic,
        rng=chance,
        user_agent=agent,
    )
    stack.push_async_callback(replicate.aclose)
    signing = SigningSecrets(
        configured=[Secret.parse(text) for text in settings.webhook_secrets],
        fetch=replicate.webhook_secret,
        clock=time.monotonic,
    )
    stack.push_async_callback(signing.aclose)
    spool = _spool(settings)
    fetch: Fetch = partial(archive, bucket=bucket, spool=spool, fetcher=fetcher, bytes_max=settings.output_bytes_max)
    return Outside(
        ledger=ledger,
        bucket=bucket,
        spool=spool,
        fetch=fetch,
        hosts=hosts,
        replicate=replicate,
        signing=signing,
        version=program_version(),
        now_ms=now_ms,
        clock=time.monotonic,
        chance=chance.random,
        link=link,
    )


def link() -> str:
    """A new capability: 22 characters out of 128 random bits."""
    return secrets.token_urlsafe(LINK_BYTES)


async def open_ledger(settings: Settings, *, now_ms: Callable[[], int] = clock_ms) -> Ledger:
    """The ledger of the settings. Raises Misconfigured, LedgerUnavailable; the sentence names the setting."""
    with _naming("OUTKEEP_DATABASE_URL"):
        return await Ledger.open(settings.database_url, now_ms=now_ms)


async def migrate_ledger(settings: Settings) -> bool:
    """Bring its schema up to date; False if it was. Raises like `open_ledger`."""
    with _naming("OUTKEEP_DATABASE_URL"):
        return await migrate(settings.database_url)


def bucket_of(settings: Settings) -> Bucket:
    """The bucket of the settings. Raises Misconfigured; the sentence names the setting."""
    try:
        return open_bucket(settings.bucket_url)
    except StorageError as error:
        raise Misconfigured(f"OUTKEEP_BUCKET_URL can't be used: {error}") from error


def _spool(settings: Settings) -> Spool:
    try:
        spool = Spool(settings.spool_dir, settings.spool_bytes_max)
        spool.identity()
    except OSError as error:
        says = f"{str(settings.spool_dir)!r} is no folder that can be written ({error.strerror})"
        raise Misconfigured(f"OUTKEEP_SPOOL_DIR is wrong: {says}.") from error
    return spool


@contextmanager
def _naming(setting: str) -> Iterator[None]:
    """An error that does not say what to mend says where to look."""
    try:
        yield
    except (Misconfigured, LedgerUnavailable) as error:
        told = str(error)
        if setting in told or isinstance(error, LedgerOutdated):  # whose mend is a command
            raise
        raise type(error)(f"{told.rstrip('.')}. Look at {setting}.") from error
