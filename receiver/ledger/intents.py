"""Requests to create a prediction, kept before they are sent."""

from collections.abc import Collection, Mapping

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from receiver.ledger.database import Database
from receiver.ledger.nouns import Intent, IntentState
from receiver.ledger.room import Room
from receiver.ledger.tables import intents

OPEN_MAX = 1_000  # handed out at once
_OPEN = (IntentState.ASKED, IntentState.UNCLEAR)
_COLUMNS = tuple(
    intents.c[name] for name in ("token", "made_ms", "key_name", "path", "request", "state", "prediction_id")
)


class Intending:
    """Part of a transaction."""

    def __init__(self, database: Database, connection: AsyncConnection) -> None:
        self._database = database
        self._connection = connection

    async def intend(self, intent: Intent) -> None:
        """Keep that we are about to ask."""
        await self._connection.execute(
            sa.insert(intents).values(
                token=intent.token,
                made_ms=intent.made_ms,
                key_name=intent.key_name,
                path=intent.path,
                request=None if intent.request is None else dict(intent.request),
                state=intent.state,
                prediction_id=intent.prediction_id,
            )
        )

    async def resolve_intent(self, token: str, *, state: str, prediction_id: str | None) -> None:
        """Keep what became of it. What is known already is not forgotten for the sake of a later doubt."""
        await self._connection.execute(
            sa.update(intents)
            .where(intents.c.token == token, intents.c.state != IntentState.KNOWN)
            .values(state=state, prediction_id=prediction_id)
        )

    async def intended(self, token: str) -> Intent | None:
        """The intent with this token."""
        found = await self._connection.execute(sa.select(*_COLUMNS).where(intents.c.token == token))
        row = found.first()
        return None if row is None else Intent(*row)

    async def key_names(self, tokens: Collection[str]) -> dict[str, str | None]:
        """Which API key made the requests with these tokens; unknown tokens are left out."""
        if not tokens:
            return {}
        found = await self._connection.execute(
            sa.select(intents.c.token, intents.c.key_name).where(intents.c.token.in_(list(tokens)))
        )
        return dict(found.all())

    async def explain(self, told: Mapping[str, str]) -> None:
        """Keep which predictions (by token) came of intents that are still open."""
        if not told:
            return
        found = await self._connection.execute(
            sa.select(intents.c.token).where(intents.c.token.in_(list(told)), intents.c.state.in_(_OPEN))
        )
        for token in sorted(found.scalars()):
            await self.resolve_intent(token, state=IntentState.KNOWN, prediction_id=told[token])

    async def explained(self, prediction_ids: Collection[str], *, since_ms: int) -> set[str]:
        """Those of these predictions that came of an intent made since then."""
        found = await self._connection.execute(
            sa.select(intents.c.prediction_id).where(
                intents.c.state == IntentState.KNOWN,
                intents.c.made_ms >= since_ms,
                intents.c.prediction_id.in_(list(prediction_ids)),
            )
        )
        return set(found.scalars())


class Intents(Room):
    """Part of the ledger: the same, each in a transaction of its own."""

    async def intend(self, intent: Intent) -> None:
        """Keep that we are about to ask."""
        async with self._database.write() as connection:
            await Intending(self._database, connection).intend(intent)

    async def resolve_intent(self, token: str, *, state: str, prediction_id: str | None) -> None:
        """Keep what became of it, as `Intending.resolve_intent`."""
        async with self._database.write() as connection:
            await Intending(self._database, connection).resolve_intent(token, state=state, prediction_id=prediction_id)

    async def intent(self, token: str) -> Intent | None:
        """The intent with this token."""
        async with self._database.read() as connection:
            return await Intending(self._database, connection).intended(token)

    async def open_intents(self, older_than_ms: int) -> list[Intent]:
        """Those made before `older_than_ms` of which we do not know what became, oldest first, at most OPEN_MAX."""
        async with self._database.read() as connection:
            found = await connection.execute(
                sa.select(*_COLUMNS)
                .where(intents.c.state.in_(_OPEN), intents.c.made_ms < older_than_ms)
                .order_by(intents.c.made_ms, intents.c.token)
                .limit(OPEN_MAX)
            )
            return [Intent(*row) for row in found]
