"""The one place that chooses ledger, bucket and clock, and hands every flow what it needs."""

import random
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version

from receiver.core.errors import LedgerOutdated, LedgerUnavailable, Misconfigured
from receiver.core.files import FileRule
from receiver.core.links import Links
from receiver.core.output import risky_before_ms
from receiver.flows.accept import Accept
from receiver.flows.archive import Archive, Fetch, Seen
from receiver.flows.asking import Patience
from receiver.flows.conclude import Conclude
from receiver.flows.create import Cancel, Create
from receiver.flows.deadlines import Deadlines
from receiver.flows.explain import Explain
from receiver.flows.observe import Observe
from receiver.flows.quarantine import Quarantine
from receiver.flows.reconcile import Ask, Reconcile
from receiver.flows.relay import Relay
from receiver.flows.replay import Replay
from receiver.flows.rescue import Rescue
from receiver.flows.schemas import Schemas
from receiver.flows.sweep import Sweep
from receiver.flows.tidy import Tidy
from receiver.ledger.ledger import Ledger, migrate
from receiver.replicate.client import Replicate
from receiver.replicate.secrets import SigningSecrets
from receiver.replicate.signature import Secret
from receiver.runtime.bell import Bell
from receiver.runtime.health import Health
from receiver.runtime.keys import Keys
from receiver.runtime.settings import Settings
from receiver.runtime.telemetry import Metrics
from storage.address import AllowedHosts
from storage.archive import archive
from storage.bucket import Bucket
from storage.buckets import open_bucket
from storage.errors import StorageError
from storage.fetch import Fetcher
from storage.spool import Spool

LINK_BYTES = 16  # 128 random bits, 22 characters: what makes a permanent link a capability


@dataclass(frozen=True, slots=True)
class House:
    """Everything that a running service consists of."""

    settings: Settings
    links: Links
    now_ms: Callable[[], int]
    ledger: Ledger
    bucket: Bucket
    bell: Bell
    keys: Keys
    metrics: Metrics
    health: Health
    accept: Accept
    create: Create
    cancel: Cancel
    ask: Ask
    observe: Observe
    archive: Archive
    conclude: Conclude
    relay: Relay
    reconcile: Reconcile
    sweep: Sweep
    deadlines: Deadlines
    tidy: Tidy
    rescue: Rescue
    explain: Explain
    replay: Replay

    def risky_before_ms(self) -> int:
        """Outputs that vanish before this are at risk, unless they are in the bucket or in a spool."""
        return risky_before_ms(self.now_ms(), self.deadlines.output_ttl_ms)

    async def failing(self) -> list[str]:
        """What is down though webhooks still come in: bucket, replicate."""
        return await self.health.failing()


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
        outside = await _outside(settings, stack)
        house = _furnished(settings, outside, now_ms=now_ms, keys=keys, ledger=ledger)
        stack.push_async_callback(house.accept.quarantine.close)
        yield house


@dataclass(frozen=True, slots=True)
class _Outside:
    """The drivers of everything that lies outside this process, except the ledger."""

    bucket: Bucket
    spool: Spool
    fetch: Fetch
    hosts: AllowedHosts
    replicate: Replicate
    signing: SigningSecrets


async def _outside(settings: Settings, stack: AsyncExitStack) -> _Outside:
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
        rng=random.SystemRandom(),
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
    return _Outside(bucket=bucket, spool=spool, fetch=fetch, hosts=hosts, replicate=replicate, signing=signing)


def _furnished(
    settings: Settings, outside: _Outside, *, now_ms: Callable[[], int], keys: Keys, ledger: Ledger
) -> House:
    """Hand every flow what it needs."""
    links, bell, metrics = Links(settings.public_url), Bell(), Metrics.fresh()
    patience = Patience(
        now_ms=now_ms, silence_ms=int(settings.reconcile_after_s * 1000), polls_only=not settings.asks_for_webhooks
    )
    observe = _observe(settings, outside, ledger=ledger, links=links, patience=patience, bell=bell)
    ask = Ask(replicate=outside.replicate, observe=observe, now_ms=now_ms)
    sweep = Sweep(ledger=ledger, ask=ask, output_ttl_ms=int(settings.output_ttl_s * 1000), now_ms=now_ms)
    return House(
        settings=settings,
        links=links,
        now_ms=now_ms,
        ledger=ledger,
        bucket=outside.bucket,
        bell=bell,
        keys=keys,
        metrics=metrics,
        health=Health(bucket=outside.bucket, replicate=outside.replicate, clock=time.monotonic),
        accept=_accept(outside, ledger=ledger, now_ms=now_ms, bell=bell, count=metrics.quarantined),
        create=_create(settings, outside, observe=observe, now_ms=now_ms),
        cancel=Cancel(replicate=outside.replicate, observe=observe, now_ms=now_ms),
        ask=ask,
        observe=observe,
        archive=_archive(outside, ledger=ledger, links=links, now_ms=now_ms, bell=bell, seen=metrics.attempt),
        conclude=_conclude(settings, outside, ask=ask, bell=bell),
        relay=Relay(ledger=ledger, ring=bell.ring),
        reconcile=Reconcile(ledger=ledger, ask=ask, patience=patience),
        deadlines=Deadlines(ledger=ledger, output_ttl_ms=int(settings.output_ttl_s * 1000), now_ms=now_ms),
        tidy=Tidy(ledger=ledger, spool=outside.spool, bucket=outside.bucket, now_ms=now_ms),
        sweep=sweep,
        explain=Explain(ledger=ledger, sweep=sweep, now_ms=now_ms),
        rescue=Rescue(ledger=ledger, sweep=sweep, ring=bell.ring, now_ms=now_ms),
        replay=Replay(ledger=ledger, secrets=outside.signing, ring=bell.ring, clock=time.monotonic),
    )


def _observe(
    settings: Settings, outside: _Outside, *, ledger: Ledger, links: Links, patience: Patience, bell: Bell
) -> Observe:
    return Observe(
        ledger=ledger,
        links=links,
        rule=FileRule(outside.hosts.allows),
        schemas=Schemas(outside.replicate, clock=time.monotonic),
        patience=patience,
        output_ttl_ms=int(settings.output_ttl_s * 1000),
        link=link,
        ring=bell.ring,
    )


def _accept(
    outside: _Outside, *, ledger: Ledger, now_ms: Callable[[], int], bell: Bell, count: Callable[[str], None]
) -> Accept:
    quarantine = Quarantine(ledger=ledger, clock=time.monotonic, chance=link, count=count)
    return Accept(ledger=ledger, secrets=outside.signing, quarantine=quarantine, now_ms=now_ms, ring=bell.ring)


def _create(settings: Settings, outside: _Outside, *, observe: Observe, now_ms: Callable[[], int]) -> Create:
    return Create(
        ledger=observe.ledger,
        replicate=outside.replicate,
        observe=observe,
        links=observe.links,
        token=link,
        now_ms=now_ms,
        asks_for_webhook=settings.asks_for_webhooks,
    )


def _archive(
    outside: _Outside, *, ledger: Ledger, links: Links, now_ms: Callable[[], int], bell: Bell, seen: Seen
) -> Archive:
    return Archive(
        ledger=ledger,
        bucket=outside.bucket,
        fetch=outside.fetch,
        spool=outside.spool,
        links=links,
        now_ms=now_ms,
        chance=random.SystemRandom().random,
        ring=bell.ring,
        seen=seen,
    )


def _conclude(settings: Settings, outside: _Outside, *, ask: Ask, bell: Bell) -> Conclude:
    return Conclude(
        ledger=ask.observe.ledger,
        bucket=outside.bucket,
        links=ask.observe.links,
        ask=None if settings.replicate_token is None else ask,
        output_ttl_ms=int(settings.output_ttl_s * 1000),
        now_ms=ask.now_ms,
        version=program_version(),
        ring=bell.ring,
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
