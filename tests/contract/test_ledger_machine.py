"""Random histories of arrivals, claims, crashes and time, played against a model of what must hold."""

import asyncio
import tempfile
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, Phase, settings, strategies
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from receiver.core.delivery import DeliveryState
from receiver.core.output import OutputState
from receiver.ledger import Ledger, OutputClaim
from tests.contract.ledger_nouns import archive, delivery, event, file, given, prediction
from tests.servers.ledgers import make

LEASE_MS = 3_600_000  # longer than any history takes: leases run out when the machine says so
NAMES = strategies.sampled_from(["p1", "p2", "p3"])


class Histories(RuleBasedStateMachine):
    """The model: ids accepted and read, for every output its valid lease, the events told, the feed so far."""

    kind: ClassVar[str]

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.folder = tempfile.TemporaryDirectory()
        self.ledgers = self.runner.run(make(self.kind, Path(self.folder.name)))
        self.ledger: Ledger = self.runner.run(self.ledgers.open())
        self.unread: list[str] = []
        self.read: set[str] = set()
        self.states: dict[tuple[str, str], OutputState] = {}
        self.valid: dict[int, str] = {}
        self.claims: list[OutputClaim] = []
        self.told: list[str] = []
        self.fed: list[str] = []

    def teardown(self) -> None:
        self.runner.run(self.ledgers.close())
        self.runner.close()
        self.folder.cleanup()

    @rule(names=strategies.lists(strategies.integers(0, 30), min_size=1, max_size=6))
    def arrive(self, names: list[int]) -> None:
        async def accept() -> list[bool]:
            return list(await asyncio.gather(*(self.ledger.accept(delivery(f"msg_{name}")) for name in names)))

        known = {*self.unread, *self.read}
        fresh = [name for name in dict.fromkeys(f"msg_{name}" for name in names) if name not in known]
        assert sum(self.runner.run(accept())) == len(fresh)
        self.unread += fresh

    @rule(limit=strategies.integers(1, 4))
    def look(self, limit: int) -> None:
        assert self.runner.run(self._read(limit)) == self.unread[:limit]
        self.read |= set(self.unread[:limit])
        self.unread = self.unread[limit:]

    @rule(limit=strategies.integers(1, 4))
    def die_while_looking(self, limit: int) -> None:
        with pytest.raises(KeyError):
            self.runner.run(self._read(limit, die=True))

    async def _read(self, limit: int, *, die: bool = False) -> list[str]:
        waiting = await self.ledger.unread(limit)
        async with self.ledger.transaction() as tx:
            seen = [each.id for each in await tx.take(waiting)]
            await tx.mark([(name, DeliveryState.APPLIED, None, "p1") for name in seen])
            if die:
                raise KeyError
        return seen

    @rule(name=NAMES, count=strategies.integers(0, 3), status=strategies.sampled_from(["processing", "succeeded"]))
    def hear(self, name: str, count: int, status: str) -> None:
        files = [file(f"output.{place}") for place in range(count)]
        self.runner.run(given(self.ledger, prediction(name, status), files))
        for each in files:
            self.states.setdefault((name, each.path), OutputState.PENDING)

    @rule(limit=strategies.integers(1, 4))
    def claim(self, limit: int) -> None:
        claims = self.runner.run(self.ledger.claim_outputs(limit, lease_ms=LEASE_MS))
        free = sum(state == OutputState.PENDING for state in self.states.values()) - len(self.valid)
        assert len(claims) == min(limit, free)
        for each in claims:
            assert each.output.id not in self.valid
            self.valid[each.output.id] = each.lease
        self.claims += claims

    @rule(place=strategies.integers(0, 50), lost=strategies.booleans())
    def settle(self, place: int, *, lost: bool) -> None:
        async def lose(claim: OutputClaim) -> bool:
            async with self.ledger.transaction() as tx:
                return await tx.settle_lost(claim, "gone", 1)

        if not self.claims:
            return
        claim = self.claims[place % len(self.claims)]
        ours = self.runner.run(lose(claim) if lost else archive(self.ledger, claim))
        assert ours == (self.valid.get(claim.output.id) == claim.lease)
        if ours:
            del self.valid[claim.output.id]
            key = (claim.prediction.id, claim.output.path)
            self.states[key] = OutputState.LOST if lost else OutputState.ARCHIVED

    @rule(place=strategies.integers(0, 50))
    def hand_back(self, place: int) -> None:
        if self.claims:
            claim = self.claims[place % len(self.claims)]
            self.runner.run(self.ledger.hand_back([claim.lease]))
            if self.valid.get(claim.output.id) == claim.lease:
                del self.valid[claim.output.id]

    @rule()
    def renew(self) -> None:
        leases = [claim.lease for claim in self.claims]
        assert self.runner.run(self.ledger.renew(leases, lease_ms=LEASE_MS)) == set(self.valid.values())

    @rule()
    def wait(self) -> None:
        """All leases run out; whoever claims next takes over, the late are refused."""
        self.ledgers.forward(LEASE_MS)
        taken = {each.output.id: each for each in self.runner.run(self.ledger.claim_outputs(100, lease_ms=LEASE_MS))}
        assert set(self.valid) <= set(taken)
        self.valid = {number: each.lease for number, each in taken.items()}
        self.claims += taken.values()

    @rule()
    def restart(self) -> None:
        self.runner.run(self.ledgers.close())
        self.ledger = self.runner.run(self.ledgers.open())
        if self.kind == "sqlite":
            self.valid.clear()

    @rule(name=NAMES, count=strategies.integers(1, 3), again=strategies.booleans())
    def tell(self, name: str, count: int, *, again: bool) -> None:
        async def tell() -> None:
            async with self.ledger.transaction() as tx:
                await tx.tell([event(each, name) for each in [*self.told[:again], *fresh]])

        fresh = [f"e{len(self.told) + place}" for place in range(count)]
        self.runner.run(tell())
        self.told += fresh

    @rule(limit=strategies.integers(1, 4))
    def number(self, limit: int) -> None:
        numbered = self.runner.run(self.ledger.number_events(limit))
        assert numbered == min(limit, len(self.told) - len(self.fed))
        news = self.runner.run(self.ledger.feed(len(self.fed), 100))
        self.fed += [each.id for each in news]
        assert [each.sequence for each in news] == list(range(len(self.fed) - numbered + 1, len(self.fed) + 1))

    @invariant()
    def the_feed_tells_every_event_once_and_in_order(self) -> None:
        assert self.fed == self.told[: len(self.fed)]

    @invariant()
    def every_output_is_in_the_state_it_was_brought_to(self) -> None:
        known = self.runner.run(self.ledger.outputs_of(["p1", "p2", "p3"]))
        found = {(name, each.path): each.state for name, several in known.items() for each in several}
        assert found == self.states


def play(kind: str, histories: int) -> None:
    machine = type(f"Histories on {kind}", (Histories,), {"kind": kind})
    checks = (HealthCheck.too_slow, HealthCheck.filter_too_much)
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=histories,
            stateful_step_count=25,
            deadline=None,
            print_blob=True,
            phases=[Phase.generate],  # the first failure is told as it is: shrinking takes minutes on real databases
            database=None,
            suppress_health_check=checks,
        ),
    )


def test_any_history_keeps_the_promises_on_sqlite() -> None:
    play("sqlite", 20)


def test_any_history_keeps_the_promises_on_postgres() -> None:
    play("postgresql", 5)
