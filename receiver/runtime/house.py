"""The house: everything that a running service consists of, and how every flow in it is handed what it needs."""

from collections.abc import Callable
from dataclasses import dataclass

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
from receiver.ledger.ledger import Ledger
from receiver.replicate.client import Replicate
from receiver.replicate.secrets import SigningSecrets
from receiver.runtime.bell import Bell
from receiver.runtime.health import Health
from receiver.runtime.keys import Keys
from receiver.runtime.settings import Settings
from receiver.runtime.telemetry import Metrics
from storage.address import AllowedHosts
from storage.bucket import Bucket
from storage.spool import Spool


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


@dataclass(frozen=True, slots=True)
class Outside:
    """What lies outside this process, as its drivers, and what no flow may look up by itself: time and chance.

    `now_ms` counts from 1970, `clock` gives seconds that never go back; `chance` gives a number in [0, 1), `link` a new
    capability.
    """

    ledger: Ledger
    bucket: Bucket
    spool: Spool
    fetch: Fetch
    hosts: AllowedHosts
    replicate: Replicate
    signing: SigningSecrets
    version: str
    now_ms: Callable[[], int]
    clock: Callable[[], float]
    chance: Callable[[], float]
    link: Callable[[], str]


def furnished(settings: Settings, outside: Outside, *, keys: Keys) -> House:
    """Hand every flow what it needs."""
    ledger, now_ms = outside.ledger, outside.now_ms
    links, bell, metrics = Links(settings.public_url), Bell(), Metrics.fresh()
    patience = Patience(
        now_ms=now_ms, silence_ms=int(settings.reconcile_after_s * 1000), polls_only=not settings.asks_for_webhooks
    )
    observe = _observe(settings, outside, links=links, patience=patience, bell=bell)
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
        health=Health(bucket=outside.bucket, replicate=outside.replicate, clock=outside.clock),
        accept=_accept(outside, bell=bell, count=metrics.quarantined),
        create=_create(settings, outside, observe=observe),
        cancel=Cancel(replicate=outside.replicate, observe=observe, now_ms=now_ms),
        ask=ask,
        observe=observe,
        archive=_archive(outside, links=links, bell=bell, seen=metrics.attempt),
        conclude=_conclude(settings, outside, ask=ask, bell=bell),
        relay=Relay(ledger=ledger, ring=bell.ring),
        reconcile=Reconcile(ledger=ledger, ask=ask, patience=patience),
        deadlines=Deadlines(ledger=ledger, output_ttl_ms=int(settings.output_ttl_s * 1000), now_ms=now_ms),
        tidy=Tidy(ledger=ledger, spool=outside.spool, bucket=outside.bucket, now_ms=now_ms, ring=bell.ring),
        sweep=sweep,
        explain=Explain(ledger=ledger, sweep=sweep, now_ms=now_ms),
        rescue=Rescue(ledger=ledger, sweep=sweep, ring=bell.ring, now_ms=now_ms),
        replay=Replay(ledger=ledger, secrets=outside.signing, ring=bell.ring, clock=outside.clock),
    )


def _observe(settings: Settings, outside: Outside, *, links: Links, patience: Patience, bell: Bell) -> Observe:
    return Observe(
        ledger=outside.ledger,
        links=links,
        rule=FileRule(outside.hosts.allows),
        schemas=Schemas(outside.replicate, clock=outside.clock),
        patience=patience,
        output_ttl_ms=int(settings.output_ttl_s * 1000),
        link=outside.link,
        ring=bell.ring,
    )


def _accept(outside: Outside, *, bell: Bell, count: Callable[[str], None]) -> Accept:
    quarantine = Quarantine(ledger=outside.ledger, clock=outside.clock, chance=outside.link, count=count)
    return Accept(
        ledger=outside.ledger, secrets=outside.signing, quarantine=quarantine, now_ms=outside.now_ms, ring=bell.ring
    )


def _create(settings: Settings, outside: Outside, *, observe: Observe) -> Create:
    return Create(
        ledger=outside.ledger,
        replicate=outside.replicate,
        observe=observe,
        links=observe.links,
        token=outside.link,
        now_ms=outside.now_ms,
        asks_for_webhook=settings.asks_for_webhooks,
    )


def _archive(outside: Outside, *, links: Links, bell: Bell, seen: Seen) -> Archive:
    return Archive(
        ledger=outside.ledger,
        bucket=outside.bucket,
        fetch=outside.fetch,
        spool=outside.spool,
        links=links,
        now_ms=outside.now_ms,
        chance=outside.chance,
        ring=bell.ring,
        seen=seen,
    )


def _conclude(settings: Settings, outside: Outside, *, ask: Ask, bell: Bell) -> Conclude:
    return Conclude(
        ledger=outside.ledger,
        bucket=outside.bucket,
        links=ask.observe.links,
        ask=None if settings.replicate_token is None else ask,
        output_ttl_ms=int(settings.output_ttl_s * 1000),
        now_ms=outside.now_ms,
        version=outside.version,
        ring=bell.ring,
    )
